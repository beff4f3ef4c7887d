"""Tests that misbehave, each in one way, for the tests of the harness itself."""

from __future__ import annotations

import importlib
import multiprocessing.managers
import multiprocessing.process
import os
import signal
import subprocess
import sys
import threading
import unittest
from pathlib import Path

from test import support


class Sample(unittest.TestCase):
    def fine(self) -> None:
        pass

    def fails(self) -> None:
        self.assertEqual(1, 2)

    def fails_in_subtest(self) -> None:
        for number in range(2):
            with self.subTest(number=number):
                self.assertEqual(number, 0)

    def raises(self) -> None:
        raise OSError("an error")

    def warns(self) -> None:
        support.print_warning("a warning")

    def warns_on_stdout(self) -> None:
        print("Warning -- a warning")

    def alters_environment(self) -> None:
        support.environment_altered = True

    def leaks_object(self) -> None:
        # What the tear-down of CPython's own classes does.
        with multiprocessing.Manager() as manager:
            kept = manager.list()
            if manager._number_of_objects():  # type: ignore[attr-defined]
                support.print_warning("Shared objects which still exist")
            del kept

    def writes_to_stderr(self) -> None:
        print("a traceback", file=sys.stderr)

    def child_writes_to_stderr(self) -> None:
        subprocess.run(["sh", "-c", "echo noise >&2"], check=True)

    def leaves_process(self) -> None:
        subprocess.Popen(["sleep", "60"])
        # Its finalizer would only warn.
        subprocess.Popen.__del__ = lambda self: None  # type: ignore[attr-defined]

    def leaves_thread(self) -> None:
        threading.Thread(target=threading.Event().wait, daemon=True).start()

    def leaves_file(self) -> None:
        Path(os.environ["TMPDIR"], "left").touch()

    def hangs(self) -> None:
        signal.pause()

    def is_slow(self) -> None:
        threading.Event().wait(0.2)

    def crashes(self) -> None:
        os._exit(3)

    def is_killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def skips(self) -> None:
        self.skipTest("everywhere")

    def skips_with_fastmgr(self) -> None:
        if "fastmgr" in sys.modules:
            self.skipTest("only here")

    def restores_stock(self) -> None:
        sys.meta_path[:] = [item for item in sys.meta_path if type(item).__name__ != "Hook"]
        del sys.modules["multiprocessing.managers"]
        importlib.import_module("multiprocessing.managers")

    def fails_once(self) -> None:
        attempts = Path(os.environ["HARNESS_ATTEMPTS"])
        with attempts.open("a") as file:
            file.write("x")
        self.assertNotEqual(attempts.read_text(), "x")


class ClassSkips(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        if "fastmgr" in sys.modules:
            raise unittest.SkipTest("only here")

    def test(self) -> None:
        pass


def load_tests(*arguments: object) -> unittest.TestSuite:
    names = [name for name, value in vars(Sample).items() if callable(value)]
    return unittest.TestSuite([*map(Sample, names), ClassSkips("test")])
