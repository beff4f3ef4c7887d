"""The screen of `fastmgr top` in a browser: each page that is opened is a screen of its own.

What a screen shows is shown to whoever can open the page, without a key. So it listens on this host
alone, unless that is said to be meant, and pages of other sites cannot open it: a browser says from
which site a page comes, and by which name it has found this one.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import ipaddress
import shlex
import socket
import sys
from contextlib import suppress
from typing import Any

from aiohttp import WSCloseCode, web
from textual_serve.app_service import AppService
from textual_serve.server import Server, to_int

from fastmgr.cli import options as common
from fastmgr.cli.options import Refusal, said, shown

__all__ = ["Pages", "serve"]

#: The largest screen that is drawn: what a browser sends is limited by nothing else.
COLUMNS, ROWS = 1000, 400
#: How many pages can be open at once, each of which has a process.
MOST = 20
#: What is raised where a message is none that the page's script sends.
UNKNOWN = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<link rel="stylesheet" href="/static/css/xterm.css">
<script src="/static/js/textual.js"></script>
<style>
body {{ margin: 0; background: #121212; }}
#ended {{ display: none; color: #ddd; font: 16px sans-serif; padding: 2em; }}
body.-closed #ended {{ display: block; }}
body.-closed #terminal {{ display: none; }}
#terminal {{ width: 100vw; height: 100vh; }}
</style>
<p id="ended">The screen has ended. <a href="/" style="color: #8cf">Open it again</a></p>
<div id="terminal" class="textual-terminal" data-session-websocket-url="ws://{host}/ws"
     data-font-size="{size}"></div>
<script>
addEventListener("load", () => document.querySelector(".xterm-helper-textarea").focus());
</script>
</html>
"""


def serve(options: argparse.Namespace) -> int:
    """Serve pages until the user ends it; return the exit status."""
    if not isinstance(options.web, tuple):
        raise Refusal(f"--web: HOST:PORT is needed, as 127.0.0.1:8789, not {options.web!r}")
    host, port = options.web
    is_open = refuse_exposure(host, options.web_without_key)
    common.read_key(options.authkey_file)  # so that a wrong one is found now
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise Refusal(
            f"--web: it cannot listen at {shown(options.web)}: {said(error)}", 1
        ) from None
    with listener:
        port = listener.getsockname()[1]
        print(f"http://{host}:{port} shows {shown(options.address)}; Ctrl-C ends it", flush=True)
        names = None if is_open else {host, "localhost", "127.0.0.1"}
        pages = Pages(command(options), shown(options.address), names)
        # A page that is open is not waited for.
        web.run_app(pages.made(), sock=listener, print=None, access_log=None, shutdown_timeout=1.0)
    return 0


def refuse_exposure(host: str, is_meant: bool) -> bool:
    """Return whether other hosts can reach the address; `Refusal` where that is not meant."""
    try:
        found = socket.gethostbyname(host)
    except OSError as error:
        raise Refusal(f"--web {host}: the host is not known: {error.strerror}") from None
    is_open = not ipaddress.ip_address(found).is_loopback
    if is_open and not is_meant:
        raise Refusal(
            f"--web: {host} can be reached from other hosts, and whoever opens the page sees all "
            "names, processes and hosts without a key; use 127.0.0.1 and a tunnel (ssh -L), or say "
            "--web-without-key"
        )
    return is_open


def command(options: argparse.Namespace) -> str:
    """Return the command of the shell that runs one screen."""
    words = [sys.executable, "-m", "fastmgr", "top", "--interval", str(options.interval)]
    if options.authkey_file is not None:
        words += ["--authkey-file", options.authkey_file]
    # No shell is left between this process and the screen's.
    return f"exec {shlex.join([*words, '--', shown(options.address)])}"


class Drawing(AppService):
    """The process that draws the screen of one page, and ends with it.

    It also ends with this process, whatever ends that: `screen.end_with_stdin`.
    """

    async def start(self, width: int, height: int) -> None:
        await super().start(bounded(width, COLUMNS), bounded(height, ROWS))

    async def set_terminal_size(self, width: int, height: int) -> None:
        await super().set_terminal_size(bounded(width, COLUMNS), bounded(height, ROWS))

    async def run(self) -> None:
        """Pass on what it draws; the page is told when it has ended by itself."""
        with suppress(ConnectionError):  # the browser has gone
            await super().run()
        if self._task is not None:
            await self.remote_close()

    async def stop(self) -> None:
        """End the process. It has nothing to put right, and may not be able to read a request."""
        task, self._task = self._task, None
        if task is None or self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.kill()
        task.cancel()
        await asyncio.wait([task])
        await self._process.communicate()  # reads what was not passed on, and waits


def bounded(size: Any, most: int) -> int:
    """Return how many lines or columns are drawn where a browser asks for `size`."""
    return min(max(int(size), 1), most)


class Pages(Server):
    """Pages, and a process for each, which draws its screen.

    Parameters
    ----------
    command : str
        What draws a screen.
    title : str
    names : set of str or None
        The names of this host by which a browser may have come; None for any.
    """

    def __init__(self, command: str, title: str, names: set[str] | None) -> None:
        super().__init__(command, title=f"fastmgr top {title}")
        self.names = names
        self.open = 0

    async def made(self) -> web.Application:
        """Return what serves them."""

        @web.middleware
        async def refuse_others(request: web.Request, handler: Any) -> web.StreamResponse:
            if not self.is_from_here(request):
                raise web.HTTPForbidden(text="this page is for browsers on this host\n")
            response: web.StreamResponse = await handler(request)
            return response

        app = web.Application(middlewares=[refuse_others])
        app.router.add_get("/", self.page)
        app.router.add_get("/ws", self.handle_websocket)
        app.router.add_static("/static", self.statics_path)
        return app

    def is_from_here(self, request: web.Request) -> bool:
        """Whether a browser has come by a name of this host, and from a page of this one's."""
        site = f"http://{request.host}"
        named = self.names is None or request.url.host in self.names
        return named and request.headers.get("Origin", site) == site

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Draw the screen of a page until the page is closed or the screen ends."""
        if self.open >= MOST:
            raise web.HTTPServiceUnavailable(text=f"{MOST} pages are open already: close one\n")
        self.open += 1
        websocket = web.WebSocketResponse(heartbeat=15)
        drawing = Drawing(
            self.command,
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=websocket.close,  # type: ignore[arg-type]
            download_manager=self.download_manager,
        )
        try:
            await websocket.prepare(request)
            size = {"width": 80, "height": 24}
            asked = {name: to_int(request.query.get(name, ""), size[name]) for name in size}
            await drawing.start(**asked)
            await self._process_messages(websocket, drawing)
        except ConnectionError:
            pass  # the browser has gone
        except UNKNOWN:
            await websocket.close(code=WSCloseCode.UNSUPPORTED_DATA)
        finally:
            self.open -= 1
            await drawing.stop()
        return websocket

    async def page(self, request: web.Request) -> web.Response:
        """Return the page, in which a script draws what the screen's process sends."""
        size = request.query.get("fontsize", "16")
        text = PAGE.format(
            title=html.escape(self.title),
            host=html.escape(request.host),
            size=size if size.isdecimal() else "16",
        )
        return web.Response(text=text, content_type="text/html")
