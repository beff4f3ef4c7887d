"""Run a selection of CPython's tests in this process and log what happens as JSON lines.

The runner starts this file by path inside a prepared environment.  Spawned children import it
again as their main module, so importing it does nothing.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import types
import unittest
from collections.abc import Iterator
from multiprocessing import process
from typing import Any


class Log:
    """Send events to the runner, each with the time and the size of standard error by then."""

    def __init__(self, descriptor: int) -> None:
        # Only forked children may keep it, and these do not log.
        os.set_inheritable(descriptor, False)
        self._file = open(descriptor, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._pid = os.getpid()

    def close(self) -> None:
        self._file.close()

    def write(self, event: str, **fields: object) -> None:
        if os.getpid() == self._pid:
            # Standard error is a regular file: its size tells which test wrote what.
            common = {"event": event, "stderr": os.fstat(2).st_size, "time": time.monotonic()}
            self._file.write(json.dumps({**common, **fields}) + "\n")


class Result(unittest.TextTestResult):
    """A text result that also logs; a subtest counts as its test."""

    log: Log

    @staticmethod
    def _id(test: unittest.TestCase) -> str:
        return getattr(test, "test_case", test).id()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.log.write("start", id=test.id())

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.log.write("stop", id=test.id())

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.log.write("success", id=self._id(test))

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self.log.write("success", id=self._id(test))

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self.log.write("failure", id=self._id(test), text="unexpected success")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self.log.write("failure", id=self._id(test), text=self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self.log.write("error", id=self._id(test), text=self.errors[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            text = (self.failures + self.errors)[-1][1]
            self.log.write("failure", id=self._id(test), text=f"{subtest}: {text}")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.log.write("skip", id=self._id(test), text=reason)


def flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def matches(test: unittest.TestCase, patterns: list[str]) -> bool:
    """Whether one of the patterns is for the class and method of a test."""
    name = ".".join(test.id().split(".")[-2:])
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def load_module(name: str) -> types.ModuleType | None:
    """Import a test module, or return None if this installation does not ship it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return None
        raise


def chosen(test_id: str, only: list[str] | None) -> bool:
    """Whether a run wants a test; `only` has tests, classes and modules."""
    return only is None or any(f"{test_id}.".startswith(f"{prefix}.") for prefix in only)


def left_out(test_id: str, without: list[str]) -> bool:
    """Whether a run is to be without a test; `without` has `Class` and `Class.method`."""
    _module, name, method = test_id.rsplit(".", 2)
    return name in without or f"{name}.{method}" in without


def module_in_use(stock: bool) -> str:
    """Return an empty string if `multiprocessing.managers` is what this run is about."""
    import multiprocessing.managers

    module = sys.modules["multiprocessing.managers"]
    if multiprocessing.managers is not module:
        return "the package attribute and sys.modules disagree on multiprocessing.managers"
    replaced = not os.path.samefile(
        str(module.__file__), os.path.join(os.path.dirname(multiprocessing.__file__), "managers.py")
    )
    if stock:
        if replaced or "fastmgr" in sys.modules:
            return f"the stock run used {module!r}"
        return ""
    if not replaced or module is not sys.modules.get("fastmgr.managers"):
        return f"the tests used {module!r} instead of fastmgr.managers"
    return ""


def await_all_children() -> None:
    """Have the fixtures of manager tests wait until no child is left.

    They wait until there is one at most, which they take for the manager's own process.  Where an
    engine keeps the objects there is none: the one may be a test's, that ends a moment later.
    """
    from test._test_multiprocessing import ManagerMixin

    original = ManagerMixin.tearDownClass.__func__

    def tear_down(cls: type) -> None:
        end = time.monotonic() + 5
        while process.active_children() and time.monotonic() < end:
            time.sleep(0.01)
        original(cls)

    ManagerMixin.tearDownClass = classmethod(tear_down)


def run(job: dict[str, Any], log: Log) -> None:
    sys.path[:0] = job["path"]
    # Before the test modules, which bind the manager classes when they are imported.
    log.write("module", text=module_in_use(job["stock"]))

    if job["hosted"]:
        await_all_children()
    suite = unittest.TestSuite()
    selected: list[str] = []
    for selection in job["selections"]:
        module = load_module(selection["module"])
        if module is None:
            log.write("missing", id=selection["module"])
            continue
        for name in selection["names"]:
            # The test modules tolerate a failing import of these by testing less.
            if getattr(module, name) is None:
                raise ImportError(f"{module.__name__} could not import {name}")
        loader = unittest.TestLoader()
        for test in flatten(loader.loadTestsFromModule(module)):
            if matches(test, selection["patterns"]) and matches(test, [job["match"]]):
                selected.append(test.id())
                if chosen(test.id(), job["only"]) and not left_out(test.id(), job["without"]):
                    suite.addTest(test)
        if loader.errors:
            raise ImportError("\n".join(map(str, loader.errors)))
    log.write("selected", ids=selected)

    from test import support

    threads, processes = set(threading._dangling), set(process._dangling)  # type: ignore[attr-defined]
    Result.log = log
    runner = unittest.TextTestRunner(stream=sys.stdout, verbosity=2, resultclass=Result)
    runner.run(suite)

    support.gc_collect()
    dangling = [
        str(item)
        for item in (set(threading._dangling) - threads) | (set(process._dangling) - processes)  # type: ignore[attr-defined]
    ]
    log.write("module", text=module_in_use(job["stock"]))
    log.write("end", altered=support.environment_altered, dangling=dangling)


def main() -> None:
    # The runner aborts all processes of a run that hangs: tracebacks, but no core dumps.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A shell that starts a program in the background makes it ignore this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    with contextlib.closing(Log(job["log"])) as log:
        run(job, log)


if __name__ == "__main__":
    main()
