"""A browser without a window, driven by chromedriver over HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from typing import Any

from support.processes import SANITIZED
from support.waiting import poll

#: Whether there is one, which no sanitizer is loaded into.
FOUND = not SANITIZED and all(map(shutil.which, ("chromium", "chromedriver")))
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--window-size=1200,720",
]  # fmt: skip


class Browser:
    """One session of a browser."""

    def __init__(self, port: int, folder: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": [*FLAGS, f"--user-data-dir={folder}"]},
        }
        made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.url += f"/session/{made['sessionId']}"

    def ask(self, method: str, path: str, what: Any = None) -> Any:
        """Send a command of WebDriver; return its value."""
        data = None if what is None else json.dumps(what).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def open(self, url: str) -> None:
        self.ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """Return what a script of the page returns."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def wait_for(self, class_: str) -> None:
        """Wait until the page's body has a class."""
        poll(lambda: class_ in self.run("return document.body.className"), class_)

    def press(self, keys: str) -> None:
        """Press keys where the page has its focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": actions}]})

    def picture(self) -> bytes:
        """Return what is seen, as PNG."""
        return base64.b64decode(self.ask("GET", "/screenshot"))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser, until the block ends."""
    command = ["chromedriver", "--port=0"]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver,
    ):
        try:
            assert driver.stdout is not None
            found = (re.search(r"successfully on port (\d+)", line) for line in driver.stdout)
            port = next(match[1] for match in found if match)
            shown = Browser(int(port), folder)
            try:
                yield shown
            finally:
                shown.ask("DELETE", "")
        finally:
            driver.terminate()
