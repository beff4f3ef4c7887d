"""The live screen of `fastmgr top`, in a terminal or behind a browser: what is seen, as widgets.

A thread of its own asks the server, which may take its time, and posts what it said to the screen.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import signal
import threading
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.css.query import NoMatches
from textual.events import Resize
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Sparkline, Static, TabbedContent, TabPane

from fastmgr.cli.options import Refusal, shown
from fastmgr.cli.reports import Source, about_deadlock, about_thing, about_waits
from fastmgr.cli.tables import TABLES, UNCOUNTED, Sight, Table
from fastmgr.cli.top import DRIVER
from fastmgr.cli.units import as_number

__all__ = ["Top", "show"]

#: How many reports are remembered, for the sparklines.
HISTORY = 120
#: Lines below which a terminal has no room for a sparkline.
LOW = 20
#: How many rows a table has on the screen; where there are more, the first in its order.
MOST = 300
#: Seconds after which a server that says nothing, where a report is due, is said to be silent.
SILENT = 3.0


def show(options: argparse.Namespace) -> int:
    """Show the screen until the user leaves it; return the exit status."""
    source = Source(options)
    if DRIVER in os.environ:
        threading.Thread(target=end_with_stdin, name="fastmgr-end", daemon=True).start()
    else:  # a page in a browser says itself that there is no server
        source.report()
    app = Top(source, shown(options.address), options.interval)
    app.run()
    return app.return_code or 0


def end_with_stdin() -> None:
    """End this process when its standard input ends: the process is gone that shows its screen.

    Its other threads may be drawing, or may be waiting for somebody to read what they have drawn.
    """
    look = select.poll()
    look.register(0, 0)  # the end is told in any case, and what comes before it is not
    look.poll()
    os._exit(1)


def _padded(rates: list[float | None]) -> list[float]:
    """Return rates as a sparkline takes them: as many as are remembered, the newest at the end."""
    return [0.0] * (HISTORY - len(rates)) + [rate or 0.0 for rate in rates]


class Seen(Message):
    """The server has answered."""

    def __init__(self, sight: Sight) -> None:
        super().__init__()
        self.sight = sight


class Lost(Message):
    """The server does not answer, and is asked again."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why


class Feed(threading.Thread):
    """Asks a server again and again, and posts what it says."""

    def __init__(self, app: Top, source: Source, interval: float) -> None:
        super().__init__(name="fastmgr-top", daemon=True)  # the server may be silent at the end
        self.app = app
        self.source = source
        self.interval = interval
        self.by = "calls"  # which objects it asks for, where there are very many
        self.ended = threading.Event()

    def run(self) -> None:
        before = None
        while not self.ended.is_set():
            try:
                report = self.source.report(self.by)
            except Refusal as error:
                self.app.post_message(Lost(str(error)))
            else:
                self.app.post_message(Seen(Sight(report, before)))
                before = report
            self.ended.wait(self.interval)
        self.source.close()


class Listing(DataTable[Text]):
    """One table, in the order of a column, whose cursor stays with its row."""

    def __init__(self, table: Table) -> None:
        super().__init__(id=table.name, cursor_type="row", zebra_stripes=True)
        self.table = table
        self.order = table.column(table.order)
        self.is_reversed = False
        self.sight: Sight | None = None

    def sort_by(self, heading: str) -> None:
        """Sort by a column; by the same one again the other way round."""
        self.is_reversed = heading == self.order.heading and not self.is_reversed
        self.order = self.table.column(heading)
        self.refill()

    def sort_by_next(self) -> None:
        """Sort by the next column to the right."""
        headings = [column.heading for column in self.table.columns]
        self.sort_by(headings[(headings.index(self.order.heading) + 1) % len(headings)])

    @property
    def chosen(self) -> Any:
        """The key of the row under the cursor; None where there is none."""
        if not self.row_count:
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    def refill(self) -> None:
        """Show what is seen now; the cursor stays with its row."""
        if self.sight is None:
            return
        chosen, left = self.chosen, self.scroll_x
        rows = self.order.sorted(self.sight.rows(self.table), self.is_reversed)[:MOST]
        self.clear(columns=True)
        for column in self.table.columns:
            mark = ""
            if column is self.order:
                mark = " ▲" if column.is_text != self.is_reversed else " ▼"
            heading = Text(column.heading + mark, justify="left" if column.is_text else "right")
            self.add_column(heading, key=column.heading)
        place = 0
        for number, row in enumerate(rows):
            key = repr(self.table.key(row.now))
            place = number if key == chosen else place
            self.add_row(
                *(
                    Text(
                        column.shown(column.value(row)),
                        "bold red" if row.is_deadlocked else "",
                        justify="left" if column.is_text else "right",
                    )
                    for column in self.table.columns
                ),
                key=key,
            )
        self.move_cursor(row=place, animate=False)
        self.scroll_to(x=left, animate=False)


class Detail(Screen[None]):
    """All that is known of one object, client or lock, and who waits for it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,backspace", "leave", "Back")]

    def __init__(self, table: Table, key: str, history: deque[Sight]) -> None:
        super().__init__()
        self.table = table
        self.key = key
        self.history = history

    def compose(self) -> ComposeResult:
        yield Sparkline([], id="rate")
        with VerticalScroll():
            yield Static(id="about")
        yield Footer()

    def on_mount(self) -> None:
        self.refill()

    def refill(self) -> None:
        """Show what is seen now."""
        rows = [
            next((r for r in s.rows(self.table) if repr(self.table.key(r.now)) == self.key), None)
            for s in self.history
        ]
        rates = self.query_one(Sparkline)
        rates.display = self.table.part != "locks"
        if rates.display:
            rates.data = _padded([row and row.rate("calls") for row in rows])
        row = rows[-1] if rows else None
        text = "it is not there any more"
        if row is not None:
            text = "\n".join(
                f"{column.heading:>12}  {column.shown(column.value(row))}"
                for column in self.table.columns
            )
            text += "\n\n" + "\n".join(about_thing(row.now, self.history[-1].report))
        self.query_one("#about", Static).update(Text(text))

    def action_leave(self) -> None:
        """Go back to the tables."""
        self.app.pop_screen()


class Top(App[None]):
    """The screen: facts of the server, what is wrong, and tables."""

    TITLE = "fastmgr top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: 1; padding: 0 1; text-style: bold; }
    #facts { height: auto; min-height: 1; max-height: 15%; padding: 0 1; }
    #alarm { height: auto; min-height: 1; max-height: 30%; padding: 0 1; }
    #alarm { background: $error; color: $text; }
    Sparkline { height: 2; margin: 0 1; }
    TabbedContent { height: 1fr; }
    TabPane { padding: 0; }
    #about, #waits { padding: 0 1; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
        Binding("o", "tab('objects')", "Objects"),
        Binding("c", "tab('clients')", "Clients"),
        Binding("l", "tab('locks')", "Locks"),
        Binding("w", "tab('waits')", "Waits"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("p", "pause", "Pause"),
    ]

    def __init__(self, source: Source, address: str, interval: float) -> None:
        super().__init__()
        self.animation_level = "none"
        self.address = address
        self.history: deque[Sight] = deque(maxlen=HISTORY)
        self.paused = False
        self.heard = monotonic()
        self.feed = Feed(self, source, interval)

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Static(id="facts", markup=False)
        yield Sparkline([], id="calls")
        yield Static(id="alarm", markup=False)
        with TabbedContent():
            for table in TABLES:
                with TabPane(table.name.capitalize(), id=f"tab-{table.name}"):
                    yield Listing(table)
            with TabPane("Waits", id="tab-waits"), VerticalScroll():
                yield Static(id="waits", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#alarm").display = False
        self._head(f"asking {self.address} …")
        for number in (signal.SIGTERM, signal.SIGHUP):
            if threading.current_thread() is threading.main_thread():
                asyncio.get_running_loop().add_signal_handler(number, self.exit)
        self.action_tab("objects")
        self.set_interval(1.0, self.tell_of_silence)
        self.feed.start()

    def on_resize(self, event: Resize) -> None:
        """Leave the room to the tables where there is little."""
        self._base.query_one("#calls").display = event.size.height >= LOW

    def on_unmount(self) -> None:
        self.feed.ended.set()

    # -- what the server says ---------------------------------------------------------------

    @on(Seen)
    def take(self, message: Seen) -> None:
        """Show what the server has said."""
        self.heard = monotonic()
        if self.paused:
            return
        self.history.append(message.sight)
        with suppress(NoMatches, IndexError):  # the screen has begun to end
            self._show(message.sight)

    def _show(self, sight: Sight) -> None:
        facts = sight.facts()
        self._head(f"fastmgr {sight.report.version} at {self.address}")
        rates = _padded([one.server.rate("calls") for one in self.history])
        self._first("#facts").update(
            " · ".join([*facts, f"highest {as_number(max(rates))} calls/s"])
        )
        self._base.query_one("#calls", Sparkline).data = rates
        self._alarm("\n".join(line for one in sight.deadlocks for line in about_deadlock(one)))
        for listing in self._base.query(Listing):
            listing.sight = sight
        if self._listing is not None:
            self._listing.refill()
        notes = [UNCOUNTED] if any(one.in_memory for one in sight.report.objects) else []
        self._first("#waits").update("\n".join([*about_waits(sight.report), "", *notes]))
        if isinstance(self.screen, Detail) and self.screen.is_mounted:
            self.screen.refill()

    def tell_of_silence(self) -> None:
        """Say that what is shown is old, before the server has had all its time to answer."""
        silent = monotonic() - self.heard
        if silent > SILENT + self.feed.interval:
            with suppress(NoMatches, IndexError):
                self._head(f"at {self.address}: no answer for {silent:.0f} s")

    @on(Lost)
    def lose(self, message: Lost) -> None:
        """Say that the server does not answer; what it has said last stays."""
        with suppress(NoMatches, IndexError):
            stays = " What is shown is what the server said last." if self.history else ""
            self._alarm(f"{message.why}; trying again.{stays}")

    @property
    def _base(self) -> Screen[Any]:
        return self.screen_stack[0]

    def _first(self, name: str) -> Static:
        return self._base.query_one(name, Static)

    def _head(self, text: str) -> None:
        self._first("#head").update(text + (" (paused)" if self.paused else ""))

    def _alarm(self, text: str) -> None:
        alarm = self._first("#alarm")
        alarm.display = bool(text)
        alarm.update(text)

    # -- what the user does -----------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether a key does something now, and is named at the bottom."""
        return action not in ("tab", "sort", "reverse") or not isinstance(self.screen, Detail)

    @property
    def _listing(self) -> Listing | None:
        """The table that is seen."""
        name = self._base.query_one(TabbedContent).active.removeprefix("tab-")
        return next((one for one in self._base.query(Listing) if one.id == name), None)

    def action_tab(self, name: str) -> None:
        """Show another table."""
        self._base.query_one(TabbedContent).active = f"tab-{name}"
        if self._listing is not None:
            self._listing.focus()

    @on(TabbedContent.TabActivated)
    def fill(self) -> None:
        """Show what is seen now in a table that was hidden."""
        if self._listing is not None:
            self._listing.refill()

    def _ask_for_order(self) -> None:
        """Have the next report tell of the objects that come first on the screen."""
        self.feed.by = self._base.query_one("#objects", Listing).order.by

    def action_sort(self) -> None:
        """Sort the table that is seen by its next column."""
        if self._listing is not None:
            self._listing.sort_by_next()
            self._ask_for_order()

    def action_reverse(self) -> None:
        """Sort the table that is seen the other way round."""
        if self._listing is not None:
            self._listing.sort_by(self._listing.order.heading)

    def action_pause(self) -> None:
        """Keep what is seen, or go on."""
        self.paused = not self.paused
        self._head(f"at {self.address}")

    @on(DataTable.HeaderSelected)
    def sort_by_heading(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked."""
        if isinstance(event.data_table, Listing):
            event.data_table.sort_by(str(event.column_key.value))
            self._ask_for_order()

    @on(DataTable.RowSelected)
    def look_closer(self, event: DataTable.RowSelected) -> None:
        """Show all that is known of the row under the cursor."""
        if isinstance(event.data_table, Listing) and event.row_key.value is not None:
            self.push_screen(Detail(event.data_table.table, event.row_key.value, self.history))
