"""What a server logs: one line for each fact, as text or as JSON, to standard error or a file."""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import sys
import threading
from datetime import datetime, timezone
from multiprocessing import util
from typing import Any

__all__ = ["FORMATS", "LEVELS", "Logs"]

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

#: How messages of multiprocessing begin that say nothing of the server.
_OF_NO_INTEREST = ("process shutting down", "created temp directory")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _time_of(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level_of(record: logging.LogRecord) -> str:
    """Return the name of a message's level; multiprocessing has one of its own, without a name."""
    return "WARNING" if record.levelno == util.SUBWARNING else record.levelname


def _one_line(text: str) -> str:
    """Return a text without what would begin another line, or change the terminal."""
    lines = " | ".join(line for line in text.splitlines() if line.strip())
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], lines)


class Text(logging.Formatter):
    """Time, level and message."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return f"{_time_of(record)} {_level_of(record)} {_one_line(message)}"


class Json(logging.Formatter):
    """An object with time, level, logger, process, thread, message; and what else the fact has."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time_of(record),
            "level": _level_of(record).lower(),
            "logger": record.name,
            "process": record.process,
            "thread": record.threadName,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class _File(logging.handlers.WatchedFileHandler):
    """A file in whose place another may be put; while it cannot be opened, standard error.

    Whoever logs is not to fail for it: it may be the loop.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8")
        self.instead = logging.StreamHandler(sys.stderr)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        super().setFormatter(fmt)
        self.instead.setFormatter(fmt)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.instead.emit(record)


class Logs:
    """Where this process logs; what users' code logs goes there, too.

    Parameters
    ----------
    level : str
        One of `LEVELS`, in lower case.
    form : str
        One of `FORMATS`.
    path : str, optional
        A file, to which lines are added; standard error by default.

    Raises
    ------
    OSError
        The file cannot be opened.
    """

    def __init__(self, level: str, form: str, path: str | None) -> None:
        self.handler: logging.Handler = logging.StreamHandler(sys.stderr)
        if path is not None:
            self.handler = _File(path)
        if level != "debug":
            self.handler.addFilter(lambda record: not str(record.msg).startswith(_OF_NO_INTEREST))
        self.handler.setFormatter(Json() if form == "json" else Text())
        own = util.get_logger()  # of multiprocessing, by which fastmgr logs
        own.propagate = True
        for logger in (logging.getLogger(), own):
            logger.setLevel(util.SUBWARNING if level == "warning" else level.upper())
        logging.getLogger().addHandler(self.handler)
        logging.captureWarnings(True)
        threading.excepthook = _log_uncaught

    def reopen(self) -> str:
        """Let go of a file that was renamed, and begin another of the name; say what was done."""
        if isinstance(self.handler, logging.handlers.WatchedFileHandler):
            self.handler.acquire()
            try:
                self.handler.reopenIfNeeded()
                self.handler.stream = self.handler.stream or self.handler._open()
            except OSError as error:
                path = self.handler.baseFilename
                return f"the log cannot be opened, standard error has it: {error.strerror}: {path}"
            finally:
                self.handler.release()
        return "the log is opened anew"


def _log_uncaught(error: threading.ExceptHookArgs) -> None:
    """Log what has ended a thread."""
    if issubclass(error.exc_type, SystemExit):
        return
    name = error.thread.name if error.thread is not None else "a thread"
    caught: Any = (error.exc_type, error.exc_value, error.exc_traceback)
    logging.getLogger("fastmgr").error("%s ended by an error", name, exc_info=caught)
