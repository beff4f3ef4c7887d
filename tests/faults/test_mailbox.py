"""Whatever becomes of either end of a mailbox, or is written into it, hurts nobody else.

``FASTMGR_MAIL_SECONDS=60`` has clients hammer and scribble for a minute instead of moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    Address,
    ProbeManager,
    Script,
    asleep,
    grown,
    in_thread,
    kill,
    poll,
    process_gone,
    rss_bytes,
    say,
    stopped,
)
from support.frames import HEADER, ONEWAY, OP_CALL, OP_GOODBYE, OP_RELEASE, SEGMENTED
from support.mailboxes import (
    MAILBOX,
    OPEN,
    PAGE,
    REPLY,
    REQUEST,
    ROOM,
    SLEEPS,
    Box,
    MailPeer,
    boxes,
    fresh_box,
)
from support.places import with_ring

from fastmgr import managers
from fastmgr.managers import Token

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the mailbox in /proc"),
]

SECONDS = float(os.environ.get("FASTMGR_MAIL_SECONDS", "2"))
MOST_GROWTH = 48 << 20
#: What a call says when the server is gone.
GONE = (EOFError, ConnectionError)


class Adder:
    """A user's class: its calls are served by a thread."""

    def __init__(self) -> None:
        self.total = 0
        self.lock = threading.Lock()

    def add(self, number: int) -> int:
        with self.lock:
            self.total += number
            return self.total

    def echo(self, value: Any) -> Any:
        return value


class MailManager(ProbeManager):
    """With what these tests have in the server."""


MailManager.register("Adder", Adder)


@pytest.fixture
def manager() -> Iterator[MailManager]:
    with MailManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def doomed() -> Iterator[MailManager]:
    """One whose server is killed."""
    manager = MailManager(authkey=KEY)
    manager.start()
    try:
        yield manager
    finally:
        kill(manager._process.pid)
        in_thread(manager.shutdown)


def proxy_of(address: Any, typeid: str, ident: str) -> Any:
    token = Token(typeid, address, ident)
    proxytype = MailManager._registry[typeid][3]
    if typeid == "Adder":
        return managers.AutoProxy(token, "pickle", authkey=KEY)
    return proxytype(token, "pickle", authkey=KEY)


def proxies_of(address: Any, objects: list[list[str]]) -> list[Any]:
    return [proxy_of(address, typeid, ident) for typeid, ident in objects]


def named(*proxies: Any) -> list[list[str]]:
    """What `proxies_of` needs in another process."""
    return [[proxy._token.typeid, proxy._token.id] for proxy in proxies]


# The mailbox


def waits_by_mail(state: int) -> bool:
    """A request is there and the client has gone to sleep."""
    return state & (REQUEST | SLEEPS | REPLY) == REQUEST | SLEEPS


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def connections(pid: int) -> int:
    """How many sockets a process has."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            count += os.readlink(link).startswith("socket:")
    return count


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have used of processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def expect_quiet(pid: int) -> None:
    """Wait until a process without work does nothing: no thread of it spins."""

    def quiet() -> bool:
        before = cpu_seconds(pid)
        time.sleep(0.25)  # what is looked at is what it does in this time
        return cpu_seconds(pid) - before <= 0.03

    poll(quiet, "the server is at rest")


# Clients


def talk(box: Box) -> None:
    """For each line that is read say the state of the mailbox, in a thread."""

    def answer() -> None:
        while sys.stdin.readline():
            say(box.state)

    threading.Thread(target=answer, daemon=True).start()


def victim(address: Address, objects: list[list[str]], what: str) -> None:
    """Have the lock, and call until the end."""
    d, q, lock, adder = proxies_of(address, objects)
    assert lock.acquire()
    box = fresh_box(d)
    talk(box)
    say("ready")
    while what == "dict":
        d.incr("n")
    while what == "Adder":
        adder.add(1)
    while True:
        say("gets")
        box.until_carried(lambda: len(d))
        q.get()  # by mail as well, unless the server has fallen asleep before it


def ask(script: Script) -> Any:
    script.tell()
    return script.line()


@pytest.mark.parametrize("what", ["dict", "Adder", "Queue"])
def test_clients_that_are_killed_with_a_call_in_the_mailbox(
    manager: MailManager, what: str
) -> None:
    d, q, lock, adder = manager.dict(n=0), manager.Queue(), manager.Lock(), manager.Adder()
    server = manager._process.pid
    len(d)
    by_mail = 0

    def progress() -> int:
        return adder.add(0) if what == "Adder" else d["n"]

    for _ in range(40):
        held = connections(server)
        with Script(victim, manager.address, named(d, q, lock, adder), what) as script:
            assert script.line() == "ready"
            if what == "Queue":
                for attempt in range(20):
                    if attempt:
                        q.put(None)
                    assert script.line() == "gets"
                    poll(lambda pid=script.pid: asleep(pid), "it waits")
                    if waits_by_mail(ask(script)):
                        by_mail += 1
                        break
                os.kill(script.pid, signal.SIGKILL)
            else:
                n = progress()
                poll(lambda n=n: progress() > n + 500, "it calls")
                with stopped(server):
                    # It has to wait, and is killed before it is answered.
                    poll(lambda pid=script.pid: asleep(pid), "it waits")
                    by_mail += waits_by_mail(ask(script))
                    os.kill(script.pid, signal.SIGKILL)
                    assert script.process.wait(DEADLINE) == -signal.SIGKILL
            # What it held goes to the next, and all that was its is gone.
            assert lock.acquire(True, DEADLINE)
            assert lock.owner_died
            lock.consistent()
            lock.release()
        for i in range(3):
            q.put(i)
        assert [q.get(True, DEADLINE) for _ in range(3)] == [0, 1, 2]
        poll(lambda held=held: connections(server) <= held, "its connection is gone")
        total = d["n"]
        assert [d.incr("n") for _ in range(100)] == list(range(total + 1, total + 101))
        if by_mail == 2:
            break
    assert by_mail
    expect_quiet(server)


def test_who_dies_waiting_leaves_no_mailbox(manager: MailManager) -> None:
    """Also where nobody puts anything into the queue any more."""
    d, q, adder = manager.dict(n=0), manager.Queue(), manager.Adder()
    server = manager._process.pid
    before = set(boxes(server))
    for _ in range(3):
        lock = manager.Lock()
        objects = named(d, q, lock, adder)
        with Script(victim, manager.address, objects, "Queue") as script:
            assert script.line() == "ready"
            assert script.line() == "gets"
            poll(lambda pid=script.pid: asleep(pid), "it waits")
    poll(lambda: set(boxes(server)) <= before, "their mailboxes are gone")


@pytest.mark.parametrize("what", ["dict", "Adder", "Queue"])
def test_a_server_that_is_killed_with_a_call_in_the_mailbox(doomed: MailManager, what: str) -> None:
    d, q, adder = doomed.dict(n=0), doomed.Queue(), doomed.Adder()
    server = doomed._process.pid
    here: list[Box] = []
    outcome: list[str] = []
    made = [0]

    def client() -> None:
        here.append(fresh_box(d))
        try:
            while True:
                if what == "Adder":
                    adder.add(1)
                else:
                    d.incr("n")
                made[0] += 1
                if what == "Queue" and made[0] % 50 == 0:
                    q.get()
        except GONE:
            outcome.append("gone")
        except Exception as error:
            outcome.append(repr(error))

    def stuck() -> bool:
        before = made[0]
        time.sleep(0.05)
        return bool(here) and made[0] == before

    threading.Thread(target=client, daemon=True).start()
    poll(lambda: made[0], "it calls")
    # It may just have called over the socket: then again.
    for _ in range(60):
        if what == "Queue":
            poll(stuck, "it waits in the queue")
        else:
            os.kill(server, signal.SIGSTOP)
            poll(stuck, "it waits for the server")
        by_mail = waits_by_mail(here[0].state)
        if by_mail:
            break
        before = made[0]
        kill(server, signal.SIGCONT)
        if what == "Queue":
            q.put(None)
        poll(lambda before=before: made[0] > before, "it goes on")
    assert by_mail
    os.kill(server, signal.SIGKILL)
    poll(lambda: outcome, "the client learns that the server is gone")
    assert outcome == ["gone"]
    poll(lambda: process_gone(server), "it is dead")
    for _ in range(3):
        with pytest.raises(GONE):
            in_thread(lambda: d["n"])


def consecutive(address: Address, objects: list[list[str]]) -> None:
    """Count without a gap until the end of the input."""
    (d,) = proxies_of(address, objects)
    box = fresh_box(d)
    done = threading.Event()

    def answer() -> None:
        while sys.stdin.readline().strip() != "end":
            say(box.state)
        done.set()

    threading.Thread(target=answer, daemon=True).start()
    n = d.incr("n")
    say(n)
    while not done.is_set():
        assert d.incr("n") == n + 1
        n += 1
    say(["end", n])


def end(script: Script) -> int:
    script.tell("end")
    word, n = script.line()
    assert word == "end"
    script.finish()
    return n


def test_a_server_that_stands_still(manager: MailManager) -> None:
    """The call that is in the mailbox then is answered, once."""
    counts = [manager.dict(n=0) for _ in range(3)]
    server = manager._process.pid
    by_mail = 0
    end_at = time.monotonic() + 2 * DEADLINE
    with contextlib.ExitStack() as stack:
        # As many as keep the server awake, with its mailboxes open, also where others are at work.
        scripts = [
            stack.enter_context(Script(consecutive, manager.address, named(d))) for d in counts
        ]
        for script in scripts:
            assert script.line() == 1
        while by_mail < 5 and (not by_mail or time.monotonic() < end_at - DEADLINE):
            assert time.monotonic() < end_at
            with stopped(server):
                for script in scripts:
                    poll(lambda pid=script.pid: asleep(pid), "the client waits")
                    by_mail += waits_by_mail(ask(script))
            for d in counts:
                n = d["n"]
                poll(lambda d=d, n=n: d["n"] > n, "it goes on")
        for script, d in zip(scripts, counts, strict=True):
            assert end(script) == d["n"]


def test_a_client_that_stands_still(manager: MailManager) -> None:
    d, other = manager.dict(n=0), manager.dict(n=0)
    server = manager._process.pid
    box = fresh_box(other)
    rng = random.Random(1)
    with Script(consecutive, manager.address, named(d)) as script:
        assert script.line() == 1
        for i in range(20):
            n = d["n"] + rng.randrange(1000)
            poll(lambda n=n: d["n"] > n, "it goes on")
            with stopped(script.pid):
                for _ in range(100):
                    other.incr("n")
                assert other["n"] == (i + 1) * 100
                assert box.until_carried(lambda: other["n"]) == (i + 1) * 100
                if i % 5 == 0:
                    poll(lambda: asleep(server), "the server does not spin for it")
        assert end(script) == d["n"]


def test_pauses_in_which_all_sleep(manager: MailManager) -> None:
    d, adder = manager.dict(n=0), manager.Adder()
    server = manager._process.pid
    box = fresh_box(d)
    total = 0
    for i in range(12):
        if i % 3 == 2:
            total += 1
            assert adder.add(1) == total
        expect_quiet(server)
        poll(lambda: asleep(server), "the server sleeps")
        # Nobody would see what is posted now.
        assert box.state == 0
        assert d.incr("n") == i + 1
        assert box.until_carried(lambda: d["n"]) == i + 1
        assert box.state & ~OPEN == 0


def hammer(address: Address, objects: list[list[str]], seed: int, seconds: float) -> list[int]:
    """Call with pauses of all lengths; how often each was counted up."""
    rng = random.Random(seed)
    d, items, space, adder, q = proxies_of(address, objects)
    counts = [0, 0, 0, 0]
    until = time.monotonic() + seconds
    say("ready")
    while time.monotonic() < until:
        which = rng.choice([0, 0, 0, 1, 2, 3])
        for _ in range(rng.choice([1, 5, 100])):
            (lambda: d.incr("n"), lambda: items.incr(1), lambda: space.incr("n"),
             lambda: adder.add(1))[which]()  # fmt: skip
            counts[which] += 1
        key, value = (seed, rng.randrange(5)), rng.randbytes(rng.choice([0, 10, 2000, 2100]))
        d[key] = value
        assert d[key] == value
        if rng.random() < 0.1:
            q.put(seed)
            assert q.get(True, DEADLINE) is not None
        if rng.random() < 0.5:
            time.sleep(rng.choice([0, 1e-5, 1e-4, 1e-3, 1e-2]))
    return counts


def test_many_clients_at_once_with_pauses(manager: MailManager) -> None:
    d, items, space = manager.dict(n=0), manager.list([0, 0]), manager.Namespace(n=0)
    adder, q = manager.Adder(), manager.Queue()
    objects = named(d, items, space, adder, q)
    with contextlib.ExitStack() as stack:
        scripts = [
            stack.enter_context(Script(hammer, manager.address, objects, seed, SECONDS))
            for seed in range(5)
        ]
        for script in scripts:
            assert script.line() == "ready"
        counts = [script.line(SECONDS + DEADLINE) for script in scripts]
        for script in scripts:
            assert script.process.wait(DEADLINE) == 0
    sums = [sum(each) for each in zip(*counts, strict=True)]
    assert [d["n"], items[1], space.n, adder.add(0)] == sums
    assert all(sums), sums
    assert q.qsize() == 0
    poll(lambda: len(boxes(manager._process.pid)) <= 1, "their mailboxes are gone")
    expect_quiet(manager._process.pid)


def test_who_asks_twice_has_one(manager: MailManager) -> None:
    server = manager._process.pid
    d = manager.dict(a=1)
    before = len(boxes(server))
    with MailPeer(manager.address) as peer:
        about, fd = peer.attach()
        assert about is not None and fd is not None
        os.close(fd)
        assert len(boxes(server)) == before + 1
        for _ in range(3):
            assert peer.attach() == (None, None)
        # Nor is there another by a number close to it.
        for number in (MAILBOX - 1, MAILBOX + 1, 1 << 32 | MAILBOX, 2**64 - 1):
            assert peer.attach(number) == (None, None)
        assert len(boxes(server)) == before + 1
        peer.hold(d)
        peer.sock.sendall(peer.call(d, "get", "a"))
        assert peer.reply() == 1
    poll(lambda: len(boxes(server)) == before, "it is gone with the connection")


def test_a_client_cannot_take_the_memory_away(manager: MailManager) -> None:
    """The server would die of looking into it."""
    with unharmed(manager) as stack:
        peer = stack.enter_context(MailPeer(manager.address))
        _, fd = peer.attach()
        assert fd is not None
        for size in (0, 1, 1 << 30):
            with contextlib.suppress(OSError):
                os.ftruncate(fd, size)
        with contextlib.suppress(OSError):
            os.posix_fallocate(fd, 0, 256 << 20)
        os.close(fd)
        for _ in range(3):
            peer.sock.sendall(peer.call(manager.dict(), "nonsense"))
            peer.nudge()


def test_nobody_has_one_who_asks_over_tcp() -> None:
    with MailManager(("127.0.0.1", 0), KEY) as manager, MailPeer(manager.address) as peer:
        assert peer.attach() == (None, None)
        assert boxes(manager._process.pid) == {}


@pytest.fixture(params=["loop", "worker"])
def target(request: pytest.FixtureRequest, manager: MailManager) -> Any:
    """An object and a call: the peer's connection is served by the loop, or by a thread."""
    if request.param == "loop":
        return manager.dict(), ("get", "x")
    return manager.Adder(), ("echo", None)


def peer_of(manager: MailManager, target: Any, stack: contextlib.ExitStack) -> MailPeer:
    """A peer with a mailbox that has been used."""
    proxy, call = target
    peer = stack.enter_context(MailPeer(manager.address))
    peer.map_mailbox()
    peer.hold(proxy)
    peer.sock.sendall(peer.call(proxy, *call))
    assert peer.reply() is None
    for _ in range(3):
        assert peer.by_mail(peer.call(proxy, *call)) is None
    return peer


@contextlib.contextmanager
def unharmed(manager: MailManager) -> Iterator[contextlib.ExitStack]:
    """What the peers of the block do harms neither the server nor others, while they are there
    and when they are gone."""
    server = manager._process.pid
    d, adder = manager.dict(n=0), manager.Adder()
    box = fresh_box(d)
    before = len(boxes(server)), descriptors(server)
    memory = rss_bytes(server)

    def others_go_on() -> None:
        n = d["n"]
        assert [d.incr("n") for _ in range(50)] == list(range(n + 1, n + 51))
        assert in_thread(lambda: adder.echo(n)) == n
        assert box.until_carried(lambda: d["n"]) == n + 50

    with contextlib.ExitStack() as stack:
        yield stack
        others_go_on()
        expect_quiet(server)
    others_go_on()
    expect_quiet(server)

    def gone() -> bool:
        # The last connection that was dropped by an internal error may stay in memory.
        now = len(boxes(server)), descriptors(server)
        return now[0] <= before[0] + 1 and now[1] <= before[1]

    poll(gone, f"the server has what it had: {before[0]} mailboxes, {before[1]} descriptors")
    assert grown(server, memory) < MOST_GROWTH


def test_calls_by_hand_go_by_mail(manager: MailManager, target: Any) -> None:
    """The peer of the tests below is one that the server listens to."""
    proxy, (name, _) = target
    with unharmed(manager) as stack:
        peer = peer_of(manager, target, stack)
        for i in range(20):
            assert peer.by_mail(peer.call(proxy, name, None)) is None
            peer.sock.sendall(peer.call(proxy, name, None))
            assert peer.reply() is None
            # A release before the call in the same mail, as clients post it.
            message = peer.frame(OP_RELEASE) + peer.call(proxy, name, None)
            assert peer.by_mail(message) is None, i


@pytest.mark.parametrize(
    "size", [0, 1, 23, ROOM + 1, PAGE, 1 << 32, 1 << 63, 2**64 - 1], ids="{:x}".format
)
def test_sizes_that_cannot_be(manager: MailManager, target: Any, size: int) -> None:
    proxy, call = target
    with unharmed(manager) as stack:
        peer = peer_of(manager, target, stack)
        peer.put(peer.call(proxy, *call), size=size)
        peer.nudge()
        if size == 0 or size > ROOM:
            poll(peer.hung_up, "the server ends it")


def half_frames(peer: MailPeer, target: Any) -> list[bytes]:
    """Beginnings of frames, and frames that announce what never comes."""
    proxy, call = target
    whole = peer.call(proxy, *call)
    handle = int(proxy._token.id, 16)
    found = [whole[:10], whole[: HEADER.size], whole[:-1], whole + whole[:30]]
    for size in (1 << 20, 1 << 40, 1 << 62, 2**64 - 1, 2**64 - 24):
        found.append(HEADER.pack(size, handle, 9, 0, OP_CALL, 0) + b"x" * 100)
    for count, size in ((1, 1 << 30), (1, 1 << 46), (1 << 60, 0), (0, 0), (2**64 - 1, 5)):
        table = struct.pack("<QQQ", count, 10, size) + b"x" * 10
        for total in (len(table) + size, len(table), 1 << 60):
            header = HEADER.pack(min(total, 2**64 - 1), handle, 9, 0, OP_CALL, SEGMENTED)
            found.append(header + table)
    return found


def test_half_frames_and_wild_lengths(manager: MailManager, target: Any) -> None:
    with unharmed(manager) as stack:
        count = len(half_frames(peer_of(manager, target, stack), target))
        for i in range(count):
            peer = peer_of(manager, target, stack)
            peer.put(half_frames(peer, target)[i])
            peer.nudge()


@pytest.mark.parametrize("what", ["one-way", "release", "goodbye", "nothing known", "two calls"])
def test_mail_that_no_client_sends(manager: MailManager, target: Any, what: str) -> None:
    """What gets no reply, or more than one: it is served once at the most."""
    _, call = target
    adder, d = manager.Adder(), manager.dict(n=0)
    loop = call[0] == "get"
    verb = (d, "incr", "n") if loop else (adder, "add", 1)
    with unharmed(manager) as stack:
        peer = peer_of(manager, target, stack)
        peer.hold(adder, d)
        message = {
            "one-way": lambda: peer.call(*verb, flags=ONEWAY),
            "release": lambda: peer.frame(OP_RELEASE, struct.pack("<QQ", 1 << 40, 1)),
            "goodbye": lambda: peer.frame(OP_GOODBYE),
            "nothing known": lambda: peer.frame(99, b"x"),
            "two calls": lambda: peer.call(*verb) + peer.call(*verb),
        }[what]()
        peer.put(message)
        peer.nudge()
        served = {"one-way": (0, 1), "two calls": (0, 1, 2)}.get(what, (0,))
        expect_quiet(manager._process.pid)
        assert (d["n"] if loop else adder.add(0)) in served


def test_the_end_of_a_client_is_noticed_beside_its_mail(manager: MailManager, target: Any) -> None:
    """A mailbox that is never empty does not keep the server from seeing that its owner is gone."""
    proxy, call = target
    server = manager._process.pid
    with unharmed(manager) as stack:
        known = set(boxes(server))
        peer = peer_of(manager, target, stack)
        peer.put(peer.call(proxy, *call, flags=ONEWAY))
        peer.nudge()
        peer.sock.close()
        poll(lambda: set(boxes(server)) <= known, "its mailbox is gone")


def test_states_of_all_kinds(manager: MailManager, target: Any) -> None:
    proxy, call = target
    with unharmed(manager) as stack:
        for bits in [*range(16), 16, 1 << 32 | 3, 1 << 63, 2**64 - 1, 2**64 - 1 - REPLY]:
            peer = peer_of(manager, target, stack)
            for _ in range(3):
                peer.put(peer.call(proxy, *call), bits)
                peer.nudge()
            peer.nudge()


def test_mail_of_who_does_not_read(manager: MailManager) -> None:
    """Its replies wait to be sent; the server does not look at its mail over and over."""
    d = manager.dict(big=bytes(16 << 20))
    target = d, ("get", "x")
    with unharmed(manager) as stack:
        peers = [peer_of(manager, target, stack) for _ in range(3)]
        for peer in peers:
            peer.sock.sendall(peer.call(d, "get", "big"))
            peer.put(peer.call(d, "get", "x"))
        expect_quiet(manager._process.pid)
        del d["big"]


def scribble(address: Address, objects: list[list[str]], seed: int, seconds: float) -> int:
    """Write anything into the own mailbox, all the time, and call meanwhile; how often."""
    rng = random.Random(seed)
    d, adder = proxies_of(address, objects)
    handle = int(objects[0][1], 16)
    ended = threading.Event()
    until = time.monotonic() + seconds
    calls = [0]

    def call() -> None:
        while not ended.is_set():
            # A reply may be anything, and none may come: its connection is then another's affair.
            with contextlib.suppress(Exception):
                for _ in range(200):
                    d["scribbled"] = 1
                    adder.echo(1)
                    calls[0] += 1

    def words() -> Iterator[int]:
        while True:
            yield from (rng.randrange(16), rng.getrandbits(64), OPEN | REQUEST, 0, REQUEST)

    states = words()
    frame = HEADER.pack(30, handle, 1, 0, OP_CALL, 0) + bytes(30)
    say("ready")
    thread = None
    while time.monotonic() < until:
        if thread is None or not thread.is_alive():
            thread = threading.Thread(target=call, daemon=True)
            thread.start()
        # The memory stays where it is while its connection lives: in another process it could
        # end at any moment, so what is written is a descriptor's.
        for inode in boxes():
            with contextlib.suppress(OSError, KeyError):
                write_some(rng, inode, states, frame)
        if rng.random() < 0.1:
            # A caller that waits for what never comes is left to wait; another takes over.
            thread = None
    ended.set()
    return calls[0]


def write_some(rng: random.Random, inode: str, states: Iterator[int], frame: bytes) -> None:
    start = boxes()[inode]
    with open("/proc/self/mem", "r+b", buffering=0) as memory:

        def write(offset: int, data: bytes) -> None:
            memory.seek(start + offset)
            memory.write(data)

        for _ in range(300):
            kind = rng.random()
            if kind < 0.3:
                write(0, struct.pack("<Q", next(states)))
            elif kind < 0.5:
                size = rng.choice([0, 1, 24, 54, ROOM, ROOM + 1, 2**63, rng.getrandbits(64)])
                write(8, struct.pack("<Q", size))
            elif kind < 0.8:
                write(16 + rng.randrange(40), rng.randbytes(rng.choice([1, 8, 64])))
            else:
                write(16, frame)
                write(8, struct.pack("<Q", rng.choice([54, 30, 108])))
                write(0, struct.pack("<Q", OPEN | REQUEST))


def test_scribblers_hurt_themselves_alone(manager: MailManager) -> None:
    d, items, space = manager.dict(n=0), manager.list([0, 0]), manager.Namespace(n=0)
    adder, q = manager.Adder(), with_ring(manager.Queue())
    kept = manager.dict(), manager.Adder()
    theirs = named(*kept)
    objects = named(d, items, space, adder, q)
    with unharmed(manager):
        with contextlib.ExitStack() as stack:
            scribblers = [
                stack.enter_context(Script(scribble, manager.address, theirs, seed, SECONDS))
                for seed in range(2)
            ]
            for script in scribblers:
                assert script.line() == "ready"
            users = [
                stack.enter_context(Script(hammer, manager.address, objects, seed, SECONDS))
                for seed in range(2)
            ]
            for script in users:
                assert script.line() == "ready"
            counts = [script.line(SECONDS + DEADLINE) for script in users]
            for script in scribblers:
                # They may be as broken as they like, and end as they like.
                assert script.line(SECONDS + DEADLINE) >= 0
        sums = [sum(each) for each in zip(*counts, strict=True)]
        assert [d["n"], items[1], space.n, adder.add(0)] == sums
        assert q.qsize() == 0
    assert kept[0].copy() in ({}, {"scribbled": 1})
