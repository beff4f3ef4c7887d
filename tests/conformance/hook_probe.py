"""Prove that the hook replaces `multiprocessing.managers` in every kind of process."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import subprocess
import sys
import unittest
from collections.abc import Callable
from multiprocessing.connection import Connection

STATEMENTS = """
import multiprocessing.managers as used, fastmgr, sys
import multiprocessing
assert used is fastmgr.managers, used
assert sys.modules["multiprocessing.managers"] is fastmgr.managers
assert multiprocessing.managers is fastmgr.managers
from multiprocessing.managers import SyncManager
assert SyncManager is fastmgr.managers.SyncManager
"""


def check() -> str:
    """Return what is wrong in this process, or an empty string."""
    try:
        exec(STATEMENTS, {})
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ""


def check_manager() -> str:
    """The same, and `multiprocessing.Manager()` must make fastmgr's."""
    with multiprocessing.Manager() as manager:
        import fastmgr

        if not isinstance(manager, fastmgr.managers.SyncManager):
            return f"multiprocessing.Manager() returned a {type(manager)!r}"
    return check()


def check_child(method: str) -> str:
    return in_child(method, check)


def send(connection: Connection, function: Callable[..., str], args: tuple[str, ...]) -> None:
    connection.send(function(*args))
    connection.close()


def in_child(method: str, function: Callable[..., str], *args: str) -> str:
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=send, args=(sender, function, args))
    child.start()
    sender.close()
    with receiver:
        reply: str = receiver.recv()
    child.join()
    return reply


class Probe:
    """Reports from a manager's server process."""

    def check(self) -> str:
        return check()


METHODS = multiprocessing.get_all_start_methods()


class TestHook(unittest.TestCase):
    def tearDown(self) -> None:
        # A forked child cannot use the fork server of its parent.
        multiprocessing.util._cleanup_tests()  # type: ignore[attr-defined]

    def run_isolated(self, statements: str, *options: str) -> None:
        child = subprocess.run(
            [sys.executable, *options, "-c", statements], capture_output=True, text=True
        )
        self.assertEqual((child.returncode, child.stdout, child.stderr), (0, "", ""))

    def test_here(self) -> None:
        self.assertEqual(check_manager(), "")

    def test_children(self) -> None:
        for method in METHODS:
            with self.subTest(method=method):
                self.assertEqual(in_child(method, check_manager), "")

    def test_grandchildren(self) -> None:
        for method in METHODS:
            for nested in METHODS:
                with self.subTest(method=method, nested=nested):
                    self.assertEqual(in_child(method, check_child, nested), "")
                self.tearDown()

    def test_servers(self) -> None:
        from multiprocessing.managers import BaseManager

        BaseManager.register("Probe", Probe)
        for method in METHODS:
            with (
                self.subTest(method=method),
                BaseManager(ctx=multiprocessing.get_context(method)) as manager,
            ):
                self.assertEqual(manager.Probe().check(), "")  # type: ignore[attr-defined]

    def test_isolated(self) -> None:
        # As test.support.script_helper.assert_python_ok() starts them.
        self.run_isolated(STATEMENTS, "-I")
        self.run_isolated(STATEMENTS, "-I", "-X", "faulthandler")
        self.run_isolated(STATEMENTS)

    def test_lazy(self) -> None:
        # Processes that use no manager must not load anything because of the hook.
        self.run_isolated("import sys, multiprocessing; assert 'fastmgr' not in sys.modules", "-I")
