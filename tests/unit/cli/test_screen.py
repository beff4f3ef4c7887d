"""The live screen, on made-up reports: tables, keys, alarms, and servers that come back."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE
from support.reports import CLIENTS, report

pytest.importorskip("textual")

from textual.widgets import Sparkline, Static, TabbedContent

from fastmgr.cli.options import Refusal
from fastmgr.cli.screen import HISTORY, Detail, Listing, Top

FAST = 0.01
#: Seconds from one report to the next; each costs a drawing.
INTERVAL = 0.1


class FakeSource:
    """Says what it is told to, the last of it for ever; a str is why it says nothing."""

    def __init__(self, *says: Any) -> None:
        self.rest: Iterator[Any] = iter(says)
        self.last: Any = None
        self.by: list[str] = []

    def report(self, by: str = "calls") -> Any:
        self.by.append(by)
        self.last = next(self.rest, self.last)
        if isinstance(self.last, str):
            raise Refusal(self.last, 1)
        return self.last

    def close(self) -> None:
        pass


class Seat:
    """Who sits before a screen: presses keys, and reads."""

    def __init__(self, app: Top, pilot: Any) -> None:
        self.app = app
        self.pilot = pilot

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the screen shows something."""

        async def wait() -> None:
            while not condition():
                await self.pilot.pause(FAST)

        await asyncio.wait_for(wait(), DEADLINE)

    def text(self, name: str) -> str:
        """What a widget says."""
        widget = self.app.screen.query_one(name, Static)
        return str(widget.render()) if widget.display else ""

    @property
    def listing(self) -> Listing:
        shown = self.app.query_one(TabbedContent).active.removeprefix("tab-")
        return self.app.query_one(f"#{shown}", Listing)

    def column(self, number: int = 0) -> list[str]:
        """What is in a column of the table that is seen, line by line."""
        return [
            str(self.listing.get_row_at(row)[number]).strip()
            for row in range(self.listing.row_count)
        ]


def sit(
    source: FakeSource, do: Callable[[Seat], Awaitable[None]], size: tuple[int, int] = (140, 40)
) -> None:
    """Sit before a screen."""

    async def run() -> None:
        app = Top(source, "/socket", INTERVAL)  # type: ignore[arg-type]
        async with app.run_test(size=size) as pilot:
            seat = Seat(app, pilot)
            await seat.until(lambda: seat.text("#head"))
            await do(seat)

    asyncio.run(run())


def test_what_is_shown() -> None:
    async def do(seat: Seat) -> None:
        await seat.until(lambda: "20 calls/s" in seat.text("#facts"))
        assert "fastmgr 9.9 at /socket" in seat.text("#head")
        assert seat.column() == ["b1", "hits", "a1"]
        assert "deadlock: 2 threads" in seat.text("#alarm")
        assert "highest 20 calls/s" in seat.text("#facts")
        rates = seat.app.query_one("#calls", Sparkline).data
        assert rates is not None and len(rates) == HISTORY and max(rates) == 20.0
        await seat.press("c")
        assert seat.column() == ["one", "other"]
        await seat.press("l")
        assert seat.column() == ["a1", "table", "jobs"]
        await seat.press("w")
        assert "third (4002) waits for Lock a1" in seat.text("#waits")
        assert "memory: shared" in seat.text("#waits")

    sit(FakeSource(report(10.0), report(14.0, calls=80)), do)


def test_orders() -> None:
    async def do(seat: Seat) -> None:
        await seat.until(lambda: seat.listing.row_count)
        await seat.press("r")
        assert seat.column() == ["a1", "hits", "b1"]
        assert "calls ▲" in [str(one.label) for one in seat.listing.columns.values()]
        await seat.press("s")
        assert seat.listing.order.heading == "errors" and not seat.listing.is_reversed
        await seat.pilot.click(seat.listing, offset=(2, 0))  # the first heading
        await seat.until(lambda: seat.column() == ["a1", "b1", "hits"])

    sit(FakeSource(report()), do)


def test_a_server_that_cannot_tell_of_all_objects_is_asked_for_those_that_come_first() -> None:
    async def do(seat: Seat) -> None:
        await seat.until(lambda: seat.listing.row_count)
        await seat.press("s")
        await seat.until(lambda: source.by[-1] == "errors")
        await seat.press("c", "r")  # of the order of clients the server need not know
        count = len(source.by)
        await seat.until(lambda: source.by[count:])
        assert source.by[-1] == "errors"

    source = FakeSource(report())
    sit(source, do)


def test_cursor_stays_with_its_row() -> None:
    async def do(seat: Seat) -> None:
        await seat.until(lambda: seat.listing.row_count)
        await seat.press("down", "r")
        assert seat.column()[seat.listing.cursor_row] == "hits"
        await seat.press("down", "r")
        assert seat.column()[seat.listing.cursor_row] == "b1" and seat.listing.cursor_row == 0

    sit(FakeSource(report()), do)


def test_detail_of_a_lock() -> None:
    async def do(seat: Seat) -> None:
        await seat.until(lambda: seat.listing.row_count)
        await seat.press("l", "enter")
        assert isinstance(seat.app.screen, Detail)
        assert "1. waits: other (4001)" in seat.text("#about")
        await seat.press("escape")
        assert not isinstance(seat.app.screen, Detail)

    sit(FakeSource(report()), do)


def test_a_process_that_is_two_clients() -> None:
    """As one that speaks the stdlib's dialect besides."""
    clients = [dataclasses.replace(CLIENTS[0], number=number) for number in (1, 2)]

    async def do(seat: Seat) -> None:
        await seat.press("c")
        await seat.until(lambda: seat.column() == ["one", "one"])

    sit(FakeSource(report(clients=tuple(clients))), do)


def test_detail_of_what_goes_away() -> None:
    async def do(seat: Seat) -> None:
        await seat.until(lambda: seat.listing.row_count)
        await seat.press("enter")
        await seat.until(lambda: "1,000" in seat.text("#about"))
        source.rest = iter([report(11.0, objects=())])
        await seat.until(lambda: "not there any more" in seat.text("#about"))

    source = FakeSource(report())
    sit(source, do)


def test_server_that_goes_away_and_comes_back() -> None:
    async def do(seat: Seat) -> None:
        await seat.until(lambda: seat.listing.row_count)
        source.rest = iter(["/socket: nobody serves there"])
        await seat.until(lambda: "nobody serves there; trying again" in seat.text("#alarm"))
        assert seat.column() == ["b1", "hits", "a1"]
        source.rest = iter([report(0.1, started=2e9, locks=(), objects=())])
        await seat.until(lambda: not seat.text("#alarm") and not seat.listing.row_count)

    source = FakeSource(report())
    sit(source, do)


def test_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmgr.cli.screen.SILENT", 0.1)
    said = threading.Event()

    class Silent(FakeSource):
        def report(self, by: str = "calls") -> Any:
            if self.by:  # it has been asked before
                said.wait(DEADLINE)
            return super().report(by)

    async def do(seat: Seat) -> None:
        await seat.until(lambda: "no answer for" in seat.text("#head"))
        assert seat.listing.row_count
        said.set()
        await seat.until(lambda: "fastmgr 9.9 at" in seat.text("#head"))

    sit(Silent(report()), do)


def test_pause() -> None:
    async def do(seat: Seat) -> None:
        await seat.until(lambda: seat.listing.row_count)
        await seat.press("p")
        assert "paused" in seat.text("#head")
        source.rest = iter([empty])
        await seat.until(lambda: source.last is empty)
        await seat.pilot.pause(FAST)
        assert seat.listing.row_count == 3
        await seat.press("p")
        await seat.until(lambda: not seat.listing.row_count)

    source, empty = FakeSource(report()), report(11.0, objects=())
    sit(source, do)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_leaving(key: str) -> None:
    async def do(seat: Seat) -> None:
        await seat.press(key)
        await seat.until(lambda: seat.app.return_code == 0)

    sit(FakeSource(report()), do)


def test_sizes_with_room_for_nothing() -> None:
    async def do(seat: Seat) -> None:
        await seat.until(lambda: seat.listing.row_count)
        for size in [(1, 1), (20, 5), (200, 1), (1, 60)]:
            await seat.pilot.resize_terminal(*size)
            await seat.press("c", "w", "l", "enter", "escape", "o")
        await seat.pilot.resize_terminal(140, 40)
        await seat.until(lambda: seat.listing.region.height > 2)
        assert seat.column() == ["b1", "hits", "a1"]

    sit(FakeSource(report()), do)


@pytest.mark.parametrize("size", [(40, 12), (60, 14)])
def test_small_terminals(size: tuple[int, int]) -> None:
    """The table has lines, though much is to be said above it."""

    async def do(seat: Seat) -> None:
        await seat.until(lambda: seat.listing.row_count)
        await seat.pilot.pause()
        assert seat.listing.region.height >= 2
        assert not seat.app.query_one("#calls").display

    sit(FakeSource(report()), do, size)
