"""The screen in a browser, and who is not shown it."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE, KEY
from support.browser import FOUND, browser
from support.services import environment

pytest.importorskip("textual_serve")

from fastmgr.cli.options import Refusal
from fastmgr.cli.web import refuse_exposure

Say = Callable[..., tuple[int, str]]


@pytest.fixture
def page(manager: Any) -> Iterator[str]:
    """Where there is a page."""
    command = [sys.executable, "-m", "fastmgr", "top", manager.address, "--web", "127.0.0.1:0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment({"FASTMGR_AUTHKEY": KEY.decode()}),
    ) as server:
        try:
            assert server.stdout is not None
            said = re.match(r"(http://127\.0\.0\.1:\d+) shows ", server.stdout.readline())
            assert said
            yield said[1]
        finally:
            server.terminate()
            server.wait(DEADLINE)


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
