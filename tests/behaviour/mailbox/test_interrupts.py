"""Calls by mail that a signal interrupts."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll
from support.mail import MailManager
from support.mailboxes import REQUEST, SLEEPS, Box, Call, fresh_box

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the mailbox in /proc"),
]


class Interrupt(Exception):
    """What the handler of a signal raises."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGUSR1 raises Interrupt in the main thread."""

    def interrupt(*_: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def waiters(manager: Any) -> int:
    return manager.Keeper().waiters()


def interrupted(call: Call, ready: Call) -> bool:
    """Whether the call was interrupted by a signal, sent when `ready()` first is true."""
    main = threading.main_thread().ident
    assert main is not None
    over = threading.Event()
    sent = threading.Event()

    def send() -> None:
        while not over.is_set():
            if ready():
                signal.pthread_kill(main, signal.SIGUSR1)
                sent.set()
                return
            over.wait(0.001)

    thread = threading.Thread(target=send, daemon=True)
    try:
        thread.start()
        call()
    except Interrupt:
        return True
    finally:
        # One that comes late is waited for, where it hurts nobody.
        with contextlib.suppress(Interrupt):
            over.set()
            thread.join(DEADLINE)
    assert not thread.is_alive()
    return False


def test_a_signal_while_a_call_by_mail_waits(manager: MailManager) -> None:
    q, d = manager.Queue(), manager.dict(n=0)
    asleep_by_mail: list[bool] = []
    with interruptible():
        for i in range(100):
            # What was interrupted is out of step: a new channel takes its place.
            box = fresh_box(d)
            looks = 0

            def waits(box: Box = box) -> bool:
                nonlocal looks
                looks += 1
                by_mail = box.state & (REQUEST | SLEEPS) == REQUEST | SLEEPS
                # The server may have been asleep, and the call gone over the socket.
                if by_mail or looks > 50:
                    asleep_by_mail.append(by_mail)
                    return True
                return False

            assert interrupted(lambda box=box: (box.until_carried(lambda: len(d)), q.get()), waits)
            assert d.incr("n") == i + 1
            assert d["n"] == i + 1
            # Nobody waits for this any more.
            poll(lambda: in_thread(waiters, manager) == 0, "the server knows")
            q.put(i)
            assert q.get(True, DEADLINE) == i
            if sum(asleep_by_mail) == 3:
                return
    assert any(asleep_by_mail)


def test_signals_at_any_moment_of_calls(manager: MailManager) -> None:
    d = manager.dict(n=0)
    rng = random.Random(5)
    done = [0]

    def calls() -> None:
        while True:
            d.incr("n")
            done[0] += 1

    count = 25
    with interruptible():
        for _ in range(count):
            aim = done[0] + rng.randrange(200)
            assert interrupted(calls, lambda aim=aim: done[0] >= aim)
    # One may have been served of which the result was never seen.
    assert done[0] <= d["n"] <= done[0] + count
    box = fresh_box(d)
    n = d["n"]
    assert [box.until_carried(lambda: d.incr("n")) > n for _ in range(50)] == [True] * 50
