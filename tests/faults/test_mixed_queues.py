"""Clients of every kind, and code in the server, on one queue; signals whose handlers raise.

Nothing comes twice, nothing is lost, and the items of one producer come in their order.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from multiprocessing import managers as stock
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support import DEADLINE, KEY, ProbeManager
from support.forwarding import forwarder
from support.places import STOCK_PROXIES, with_ring
from support.signals import Interrupt

from fastmgr import managers
from fastmgr.managers import Server

SECONDS = 2  # in which there are a million items
SEED = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))
FORK: Any = multiprocessing.get_context("fork")
KINDS = ("ring", "ring", "off", "tcp", "stock")
MANY = 20

pytestmark = pytest.mark.timeout(120)

Item = tuple[Any, ...]


def proxy_of(kind: str, address: Any, ident: str) -> Any:
    """A proxy of the queue, made as a client of that kind makes it."""
    if kind == "off":
        os.environ["FASTMGR_ARENA"] = "off"
    if kind == "stock":
        token = stock.Token("Queue", address, ident)
        return STOCK_PROXIES["Queue"](token, "pickle", authkey=KEY)
    made = managers.AutoProxy(managers.Token("Queue", address, ident), "pickle", authkey=KEY)
    return with_ring(made) if kind == "ring" else made


def item_of(number: int, sent: int) -> Item:
    """An item; some have no room in a ring, and some need pickle."""
    if sent % 101 == 50:
        return number, sent, "x" * 150_000
    return (number, sent, Path("pickled")) if sent % 101 == 70 else (number, sent)


def produce(q: Any, number: int, end: float) -> int:
    """Put items in many ways until it is time; how many."""
    rng, sent = random.Random(f"{SEED}/{number}"), 0
    while time.monotonic() < end:
        many = rng.randrange(1, 2 * MANY)
        way = rng.randrange(4)
        try:
            if way == 0:
                q.put_many([item_of(number, sent + i) for i in range(many)], timeout=0.01)
                sent += many
                continue
            if way == 1:
                q.put(item_of(number, sent))
            elif way == 2:
                q.put(item_of(number, sent), timeout=0.001)
            else:
                q.put_nowait(item_of(number, sent))
            sent += 1
        except queue.Full as error:
            sent += getattr(error, "put", 0)
    return sent


def consume(q: Any, number: int, is_over: Callable[[], bool]) -> list[tuple[int, int]]:
    """Get items in many ways until there are none, and will be none."""
    rng, got = random.Random(f"{SEED}/{number}"), []
    ways: list[Callable[[], list[Item]]] = [
        lambda: [q.get(timeout=0.001)],
        lambda: [q.get_nowait()],
        lambda: q.get_many(rng.randrange(1, 2 * MANY), timeout=0.1),
        lambda: q.get_many(10**6, timeout=0.001),
    ]
    while True:
        over = is_over()
        try:
            got += [item[:2] for item in rng.choice(ways)()]
        except queue.Empty:
            if over:
                return got


class InsideServer(Server):
    """A user's, whose code puts and gets as well."""

    public: ClassVar[list[str]] = [*Server.public, "begin", "sent", "got"]

    def begin(self, c: Any, ident: str, end: float) -> None:
        q = self.id_to_obj[ident][0]
        self.told: dict[str, Any] = {}
        self.over = threading.Event()

        def puts() -> None:
            self.told["sent"] = produce(q, 100, end)

        def gets() -> None:
            self.told["got"] = consume(q, 101, self.over.is_set)

        self.workers = [threading.Thread(target=work, daemon=True) for work in (puts, gets)]
        for worker in self.workers:
            worker.start()

    def sent(self, c: Any) -> int:
        self.workers[0].join(DEADLINE)
        return int(self.told["sent"])

    def got(self, c: Any) -> list[tuple[int, int]]:
        self.over.set()
        self.workers[1].join(DEADLINE)
        found: list[tuple[int, int]] = self.told["got"]
        return found


class InsideManager(ProbeManager):
    _Server = InsideServer


def be_client(
    kind: str, number: int, address: Any, ident: str, end: float, over: Any, told: Any
) -> None:
    q = proxy_of(kind, address, ident)
    told.put((number, consume(q, number, over.is_set) if number % 2 else produce(q, number, end)))


@pytest.mark.parametrize("maxsize", [0, 5])
def test_clients_of_every_kind_on_one_queue(maxsize: int) -> None:
    print(f"FASTMGR_SEED={SEED}")
    over, told = FORK.Event(), FORK.Queue()
    with InsideManager(authkey=KEY) as manager, forwarder(manager.address) as by_tcp:
        q = manager.Queue(maxsize)
        control, ident, end = manager._session.control, q._token.id, time.monotonic() + SECONDS
        control("begin", (ident, end))
        processes = []
        for number in range(2 * len(KINDS)):
            kind = KINDS[number // 2]
            address = by_tcp if kind == "tcp" else manager.address
            args = (kind, number, address, ident, end, over, told)
            processes.append(FORK.Process(target=be_client, args=args))
            processes[-1].start()
        wait = SECONDS + DEADLINE
        sent = dict([(100, control("sent")), *(told.get(timeout=wait) for _ in KINDS)])
        over.set()
        got = dict([(101, control("got")), *(told.get(timeout=wait) for _ in KINDS)])
        for process in processes:
            process.join(DEADLINE)
        assert q.empty()
    print({number: len(items) for number, items in got.items()}, sent)
    assert all(sent.values()), "who found nothing to do has shown nothing"
    expected = {(number, i) for number, count in sent.items() for i in range(count)}
    counts = Counter(chain.from_iterable(got.values()))
    assert counts.keys() == expected and max(counts.values()) == 1
    for items in got.values():
        last: dict[int, int] = {}
        for number, i in items:
            assert last.get(number, -1) < i
            last[number] = i


def echo(q: Any, back: Any) -> None:
    with_ring(q)
    with_ring(back)
    while (item := q.get()) is not None:
        back.put(item)


class Alarmed:
    """Makes calls in which an alarm may come whose handler raises."""

    def __init__(self) -> None:
        self.rng = random.Random(SEED)
        self.armed = False
        self.raised = 0
        self.before = signal.signal(signal.SIGALRM, self.handle)

    def handle(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise Interrupt

    def call(self, function: Callable[..., object], *args: object) -> bool:
        """Whether the call has returned."""
        signal.setitimer(signal.ITIMER_REAL, self.rng.random() * 0.0008 + 1e-6)
        try:
            try:
                self.armed = True
                function(*args)
                self.armed = False
            except (queue.Full, queue.Empty):
                self.armed = False
                return False
        except Interrupt:
            self.raised += 1
            return False
        return True

    def end(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


@pytest.mark.parametrize("maxsize", [0, 3])
@pytest.mark.parametrize("many", [1, MANY])
def test_handlers_that_raise_take_nothing(many: int, maxsize: int) -> None:
    print(f"FASTMGR_SEED={SEED}")
    sent: set[int] = set()
    got: list[int] = []
    number = 0
    with ProbeManager(authkey=KEY) as manager:
        q, back = with_ring(manager.Queue(maxsize)), with_ring(manager.Queue(maxsize))
        echoes = [FORK.Process(target=echo, args=(q, back)) for _ in range(2)]
        for process in echoes:
            process.start()
        alarmed, end = Alarmed(), time.monotonic() + 1
        while time.monotonic() < end:
            items = range(number, number + many)
            number += many
            if alarmed.call(q.put_many, items, True, 0.01):
                sent.update(items)
            # What a `get` returns is in `got` before any handler can run.
            gets = back.get_many if many > 1 else back.get
            args = [[many], [True], [0.003]][many == 1 :]
            found = map(gets, *args)
            alarmed.call(got.extend, chain.from_iterable(found) if many > 1 else found)
        alarmed.end()
        ender = threading.Thread(target=q.put_many, args=([None] * len(echoes),))
        ender.start()
        while any(process.is_alive() for process in echoes) or not back.empty():
            with contextlib.suppress(queue.Empty):
                got.append(back.get(timeout=0.1))
        ender.join()
    print(f"{alarmed.raised} interrupts; {len(got)} of {number} items")
    assert len(got) == len(set(got)) and sent <= set(got) and alarmed.raised
