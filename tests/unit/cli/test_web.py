"""The screen in a browser, and who is not shown it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, asleep, kill, poll, process_gone, stopped
from support.browser import FOUND, browser
from support.processes import children
from support.services import environment

pytest.importorskip("textual_serve")

from aiohttp import ClientSession, ClientWebSocketResponse, WSServerHandshakeError

from fastmgr.cli.options import Refusal
from fastmgr.cli.web import COLUMNS, MOST, ROWS, refuse_exposure

Say = Callable[..., tuple[int, str]]


@contextlib.contextmanager
def serving(address: str) -> Iterator[tuple[str, int]]:
    """Where there is a page, and which process has it; it says nothing of what goes wrong."""
    command = [sys.executable, "-m", "fastmgr", "top", address, "--web", "127.0.0.1:0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment({"FASTMGR_AUTHKEY": KEY.decode()}),
    ) as server:
        try:
            assert server.stdout is not None
            said = re.match(r"(http://127\.0\.0\.1:\d+) shows ", server.stdout.readline())
            assert said
            yield said[1], server.pid
        finally:
            server.terminate()
            server.wait(DEADLINE)
        assert server.stdout.read() == ""


@pytest.fixture
def served(manager: Any) -> Iterator[tuple[str, int]]:
    with serving(manager.address) as where:
        yield where


@pytest.fixture
def page(served: tuple[str, int]) -> str:
    return served[0]


Drawn = Callable[[bytes], Awaitable[None]]


def visit(
    page: str, do: Callable[[ClientWebSocketResponse, Drawn], Awaitable[None]], query: str = ""
) -> None:
    """Open a page as a browser does; what is drawn can be waited for."""

    async def run() -> None:
        async with ClientSession() as browser, browser.ws_connect(f"{page}/ws{query}") as screen:

            async def drawn(text: bytes) -> None:
                seen = b""
                while text not in seen:
                    seen = seen[-len(text) :] + await screen.receive_bytes()

            await do(screen, drawn)

    asyncio.run(asyncio.wait_for(run(), DEADLINE))


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_pages_of_other_sites_are_refused(page: str) -> None:
    assert status(page) == 200
    assert status(f"{page}/static/js/textual.js") == 200
    assert status(page, Host="other.example") == 403  # a name that was made to lead here
    assert status(f"{page}/ws", Origin="http://other.example") == 403
    assert status(f"{page}/static/") == 403


@pytest.mark.skipif(not FOUND, reason="no chromium with chromedriver")
def test_screen_in_a_browser(page: str, manager: Any, objects: Any) -> None:
    with browser() as shown:
        shown.open(page)
        shown.wait_for("-first-byte")
        shown.press("q")
        shown.wait_for("-closed")
        assert "The screen has ended" in shown.run("return document.body.innerText")


@pytest.mark.parametrize("moment", ["when it starts", "when it draws"])
def test_screens_end_with_the_web_server_that_is_killed(
    served: tuple[str, int], moment: str
) -> None:
    async def do(screen: ClientWebSocketResponse, drawn: Drawn) -> None:
        if moment == "when it draws":
            await drawn(b"fastmgr ")
        poll(lambda: children(pid), "a screen's process")
        found.extend(children(pid))
        kill(pid)

    page, pid = served
    found: list[int] = []
    visit(page, do)
    poll(lambda: all(map(process_gone, found)), "the screen has ended")
    assert len(found) == 1


def test_screens_end_with_the_web_server_while_they_wait_for_it(served: tuple[str, int]) -> None:
    """They have drawn more than a pipe has room for, or are at work for long."""

    async def do(screen: ClientWebSocketResponse, drawn: Drawn) -> None:
        await drawn(b"fastmgr ")
        found.extend(children(pid))
        with stopped(pid):
            kill(pid)

    page, pid = served
    found: list[int] = []
    visit(page, do, "?width=1000&height=400")
    poll(lambda: all(map(process_gone, found)), "the screen has ended")


def test_sizes_that_nobody_sees(served: tuple[str, int]) -> None:
    """A screen as large as a browser says would be drawn for hours."""

    async def do(screen: ClientWebSocketResponse, drawn: Drawn) -> None:
        await drawn(f"\x1b[{ROWS};1H".encode())
        for width, height in [(1, 1), (-5, 0), (10**12, 10**12), (20, 5), (COLUMNS, 20)]:
            await screen.send_json(["resize", {"width": width, "height": height}])
        await drawn(b"calls/s")
        await screen.send_json(["stdin", "q"])
        async for _ in screen:
            pass

    visit(served[0], do, f"?width={10**12}&height={10**12}")
    poll(lambda: not children(served[1]), "the screen has ended")


@pytest.mark.parametrize(
    "message",
    ["", "{}", "[]", "[1", '["resize", {}]', '["stdin", 1]', '["resize", null]',
     '["resize", {"width": Infinity, "height": "a"}]'],
)  # fmt: skip
def test_messages_that_are_none(page: str, message: str) -> None:
    async def do(screen: ClientWebSocketResponse, drawn: Drawn) -> None:
        await screen.send_str(message)
        async for _ in screen:
            pass
        assert screen.close_code == 1003

    visit(page, do)


def test_pages_that_are_opened_and_closed_again_and_again(served: tuple[str, int]) -> None:
    async def leave(screen: ClientWebSocketResponse, drawn: Drawn) -> None:
        pass

    async def stay(screen: ClientWebSocketResponse, drawn: Drawn) -> None:
        await drawn(b"fastmgr ")
        assert len(children(served[1])) == 1

    for _ in range(30):
        visit(served[0], leave)
    visit(served[0], stay)
    poll(lambda: not children(served[1]), "no screen is left")


def test_more_pages_than_can_be_open(served: tuple[str, int]) -> None:
    page, pid = served

    async def fill() -> None:
        async with ClientSession() as browser, contextlib.AsyncExitStack() as pages:
            for _ in range(MOST):
                await pages.enter_async_context(browser.ws_connect(f"{page}/ws"))
            with pytest.raises(WSServerHandshakeError, match="503"):
                await browser.ws_connect(f"{page}/ws")

    asyncio.run(asyncio.wait_for(fill(), DEADLINE))
    poll(lambda: not children(pid), "no screen is left")


@pytest.mark.skipif(not Path("/proc/self/wchan").exists(), reason="needs what a process waits in")
def test_browser_that_never_reads(served: tuple[str, int]) -> None:
    """Its screen waits for it, and ends when it goes."""
    page, pid = served
    port = int(page.rpartition(":")[2])
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", port))
        asked = [
            "GET /ws?width=1000&height=400 HTTP/1.1", f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "",
        ]  # fmt: skip
        silent.sendall("\r\n".join(asked).encode())
        poll(lambda: children(pid), "a screen")
        screen = children(pid)[0]
        widths = itertools.cycle((1000, 999))

        def waits() -> bool:
            if "pipe" in Path(f"/proc/{screen}/wchan").read_text():
                return True
            if asleep(screen):  # it has drawn, and draws all of it anew
                text = b'["resize", {"width": %d, "height": 400}]' % next(widths)
                silent.sendall(b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text)
            return False

        poll(waits, "it waits until somebody reads")
    poll(lambda: not children(pid), "the screen has ended")


def test_addresses_that_others_can_reach() -> None:
    assert not refuse_exposure("127.0.0.1", False) and not refuse_exposure("localhost", False)
    with pytest.raises(Refusal, match="--web-without-key"):
        refuse_exposure("0.0.0.0", False)
    assert refuse_exposure("0.0.0.0", True)


def test_addresses_that_are_none(manager: Any, say: Say) -> None:
    status, said = say("top", manager.address, "--web", "/tmp/socket")
    assert status == 2 and "HOST:PORT is needed" in said
    with pytest.raises(SystemExit):
        say("top", manager.address, "--web", "8789")
