"""One line for each fact, as text and as JSON."""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from typing import Any

import pytest
from support import TESTS, Script

from fastmgr.cli.logs import Json, Logs, Text


def record(message: str, *args: Any, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("fastmgr", logging.INFO, "", 1, message, args, more.get("exc_info"))
    made.created = 1.5
    if "facts" in more:
        made.facts = more["facts"]
    return made


def caught() -> Any:
    try:
        raise ValueError("first line\nsecond line")
    except ValueError:
        return sys.exc_info()


def test_text() -> None:
    assert Text().format(record("%s serves", "it")) == "1970-01-01T00:00:01.500Z INFO it serves"
    shown = Text().format(record("broken", exc_info=caught()))
    assert "\n" not in shown and "broken | Traceback" in shown
    assert shown.endswith("ValueError: first line | second line")


def test_text_of_peers_begins_no_line_and_changes_no_terminal() -> None:
    shown = Text().format(record("from %s", "\x1b[2J\r\n2026-01-01 INFO all is well"))
    assert shown.splitlines() == [shown] and "\x1b" not in shown and r"\x1b[2J" in shown


def test_json() -> None:
    fields = json.loads(Json().format(record("it serves", facts={"address": "a:1"})))
    assert fields["time"] == "1970-01-01T00:00:01.500Z"
    assert (fields["level"], fields["logger"]) == ("info", "fastmgr")
    assert (fields["message"], fields["address"]) == ("it serves", "a:1")
    shown = Json().format(record("broken", exc_info=caught()))
    assert "\n" not in shown
    assert json.loads(shown)["exception"].endswith("ValueError: first line\nsecond line")


def log_all() -> list[dict[str, Any]]:
    from multiprocessing import util

    Logs("info", "json", "/dev/stdout")
    util.debug("not shown")
    util.info("process shutting down")
    util.info("of fastmgr")
    logging.getLogger("shop").warning("of a user")
    warnings.warn("beware", stacklevel=1)
    for error in (ZeroDivisionError, SystemExit):
        thread = threading.Thread(target=exec, args=(f"raise {error.__name__}",), name="worker")
        thread.start()
        thread.join()
    return []


def test_all_that_a_process_logs_is_there() -> None:
    with Script(log_all) as script:
        facts = [script.line() for _ in range(4)]
        assert script.line() == []
    loggers = [fact["logger"] for fact in facts]
    assert loggers == ["multiprocessing", "shop", "py.warnings", "fastmgr"]
    assert facts[3]["message"] == "worker ended by an error"
    assert "ZeroDivisionError" in facts[3]["exception"]


def log_warnings() -> list[dict[str, Any]]:
    from multiprocessing import util

    Logs("warning", "json", "/dev/stdout")
    util.info("not shown")
    util.sub_warning("calls are cut off")
    return []


def test_warnings_of_multiprocessing_are_warnings() -> None:
    with Script(log_warnings) as script:
        fact = script.line()
        assert script.line() == []
    assert (fact["level"], fact["message"]) == ("warning", "calls are cut off")


def test_file_that_cannot_be_opened() -> None:
    with pytest.raises(OSError):
        Logs("info", "text", str(TESTS))
