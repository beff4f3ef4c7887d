"""Processes that are killed while they work on memory that they share with the server."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import random
import signal
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    Script,
    at_rest,
    call_in_subprocess,
    in_thread,
    kill,
    mapped,
    poll,
    process_gone,
    settle,
)

import fastmgr

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

KILLS = int(os.environ.get("FASTMGR_KILLS", "40"))
SEED = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))
#: A test in which many are killed may take as long as they need.
SOAK_TIMEOUT = 120 + KILLS

FORK: Any = multiprocessing.get_context("fork")
#: What a call says when the server is gone.
GONE = (EOFError, ConnectionError)


def descriptors(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def members(field: int, number: int) -> list[int]:
    """The living processes of a group (field 2 of their state) or of a session (3)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX" and int(fields[field]) == number:
                found.append(int(stat.parent.name))
    return found


def group(number: int) -> list[int]:
    return members(2, number)


def session(number: int) -> list[int]:
    return members(3, number)


@pytest.fixture
def manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


# The soak: any process may be killed at any point

SURVIVORS = 2
VICTIMS = 4
STAGE = SURVIVORS + VICTIMS  # the row of the process that starts them
ROWS = STAGE + 1
PERMITS = 2
LARGE = 300_000  # bytes of an array that gets a segment of its own


class Guarded:
    """A number that is changed in several steps under a lock, and whose books are kept exactly.

    Whoever is in there says so in `holder`. Who is killed in there leaves the note, and the
    next to have the lock is told of it by `owner_died`, and puts the books right.
    """

    def __init__(self, manager: ProbeManager, lock: Any, depth: int):
        self.lock = lock
        self.depth = depth  # how often it is taken
        self.holder = manager.Value("q", 0)
        self.number = manager.Value("q", 0)
        self.entries = manager.Counters(ROWS)

    def proxies(self) -> int:
        return 4


class Ground:
    """What the processes of the soak share."""

    def __init__(self, manager: ProbeManager):
        self.manager = manager
        #: Even while a process of that row lives; odd from before it is killed until the next.
        self.killed = manager.Counters(ROWS)
        self.begun = manager.Counters(ROWS)
        self.done = manager.Counters(ROWS)
        self.total = manager.Counter()
        #: A count, with the row and the serial of the addition that was the last.
        self.word = manager.Value("q", 0)
        #: Of each row how many additions are known, and the serial of the last of them.
        self.credits = manager.Counters(ROWS)
        self.locks = [
            Guarded(manager, manager.Lock(), 1),
            Guarded(manager, manager.RLock(), 3),
        ]
        self.permits = [manager.Semaphore(PERMITS), manager.BoundedSemaphore(PERMITS)]
        #: Bits: who has a permit of each.
        self.inside = [manager.Counter(), manager.Counter()]
        self.items = manager.Array("q", [0] * ROWS)
        self.bell = manager.Event()
        self.stop = manager.Event()
        #: How often the next holder was told that one had died.
        self.deaths = manager.Counter()
        self.faults = manager.list()
        self.reports = manager.dict()

    def proxies(self) -> int:
        return 6 + sum(guarded.proxies() for guarded in self.locks) + 4 + 6


class Actor:
    """A process of the soak: a row of the books, and which of its processes it is."""

    def __init__(self, ground: Ground, row: int, parent: int):
        self.ground = ground
        self.row = row
        self.parent = parent
        self.life = ground.killed[row]
        self.chance = random.Random(f"{SEED}/{row}/{self.life}")
        self.counted = 0
        self.entered = 0

    def fault(self, what: str) -> None:
        self.ground.faults.append(f"row {self.row}, life {self.life}: {what}")

    def dally(self) -> None:
        """Be here long enough, at times, that it is here that one is killed."""
        if self.chance.random() < 0.3:
            time.sleep(self.chance.expovariate(2000))

    # -- what it does

    def count(self) -> None:
        """Add one, announced before and confirmed after, and once more in a way to be proved."""
        ground, row = self.ground, self.row
        serial = ground.begun.incr(row)
        ground.total.incr()
        self.dally()
        ground.items.incr(row)
        while True:
            word = ground.word.get()
            credit(ground, word)
            if ground.word.compare_exchange(word, packed(word >> 24, row, serial)):
                break
        ground.done.incr(row)
        self.counted += 1

    def guarded(self, which: int, patience: float | None = None) -> None:
        guarded: Guarded = self.ground.locks[which]
        lock = guarded.lock
        if patience is None:
            lock.acquire()
        elif not lock.acquire(True, patience):
            return
        for _ in range(guarded.depth - 1):
            if not lock.acquire(False):
                self.fault("who has an RLock cannot take it again")
        self.dally()
        self.enter(guarded)
        for _ in range(guarded.depth):
            self.dally()
            lock.release()
        self.entered += 1

    def enter(self, guarded: Guarded) -> None:
        died, noted = guarded.lock.owner_died, guarded.holder.get()
        if died:
            self.repair(guarded, noted)
        elif noted:
            self.fault(f"has a lock that {noted} has not given back")
        mine = 1 + self.row + ROWS * self.life
        guarded.holder.set(mine)
        self.dally()
        # No lock but this one makes one step of these.
        number = guarded.number.get()
        self.dally()
        guarded.number.set(number + 1)
        self.dally()
        guarded.entries.incr(self.row)
        found = guarded.holder.get()
        if found != mine:
            self.fault(f"was joined by {found} under a lock")
        guarded.holder.set(0)

    def repair(self, guarded: Guarded, noted: int) -> None:
        """Put right what a killed holder left; who is killed in here leaves as much to be done."""
        self.ground.deaths.incr()
        missing = guarded.number.get() - sum(guarded.entries.snapshot())
        if noted:
            life, row = divmod(noted - 1, ROWS)
            if self.ground.killed[row] == life:
                self.fault(f"was handed a lock that row {row} holds, and lives")
            if missing == 1:
                self.dally()
                guarded.entries.incr(row)
                missing = 0
        if missing:
            self.fault(f"{missing} entries that nobody has made")
        guarded.holder.set(0)
        guarded.lock.consistent()
        if guarded.lock.owner_died:
            self.fault("consistent() has not been heard")

    def permitted(self, which: int, patience: float | None = None) -> None:
        ground, semaphore = self.ground, self.ground.permits[which]
        before = ground.killed.snapshot()
        if not semaphore.acquire(True, patience):
            return
        self.dally()
        bits = ground.inside[which].incr(1 << self.row)
        after = ground.killed.snapshot()
        # Others may be dead, and their permits in the hands of the next.
        there = [
            row
            for row in range(ROWS)
            if bits >> row & 1 and before[row] == after[row] and before[row] % 2 == 0
        ]
        if len(there) > PERMITS:
            self.fault(f"rows {there} have {PERMITS} permits")
        self.dally()
        ground.inside[which].decr(1 << self.row)
        self.dally()
        semaphore.release()

    def wait(self) -> None:
        self.ground.bell.wait(0.002 if self.row < SURVIVORS else None)

    def ring(self) -> None:
        self.ground.bell.set()
        if not self.ground.stop.is_set():
            self.ground.bell.clear()

    def map(self) -> None:
        """Make something of its own, small and large, and hold it for a while."""
        manager = self.ground.manager
        counter, lock, array = manager.Counter(7), manager.Lock(), manager.Array("b", bytes(LARGE))
        with lock:
            if [counter.incr(), array.incr(LARGE - 1, 5), array[0]] != [8, 5, 0]:
                self.fault("finds something in what is its own")
        del counter, array
        gc.collect()

    def fork(self) -> None:
        """A child does something in this row, while this process waits for it."""
        pid = os.fork()
        if pid == 0:
            try:
                self.count()
                self.guarded(self.chance.randrange(2))
                self.permitted(self.chance.randrange(2))
                os._exit(0)
            except BaseException as error:
                self.fault(f"in a child: {error!r}")
            finally:
                os._exit(1)
        _pid, status = os.waitpid(pid, 0)
        if status:
            self.fault(f"has a child that ended with status {status}")
        self.counted += 1
        self.entered += 1

    def act(self) -> None:
        chance = self.chance
        patience = chance.choice([None, 0.002])
        deed = chance.randrange(40)
        if deed < 10:
            self.count()
        elif deed < 22:
            self.guarded(chance.randrange(2), patience)
        elif deed < 32:
            self.permitted(chance.randrange(2), patience)
        elif deed < 33:
            self.wait()
        elif deed < 37:
            self.ring()
        elif deed < 39:
            self.map()
        else:
            self.fork()

    def run(self) -> None:
        while not self.ground.stop.is_set() and os.getppid() == self.parent:
            self.act()
        self.ground.reports[self.row] = [self.life, self.counted, self.entered]


def packed(count: int, row: int, serial: int) -> int:
    """The word for one addition more."""
    assert count < 1 << 22 and serial < 1 << 20
    return (count + 1) << 24 | serial << 4 | row


def credit(ground: Ground, word: int) -> None:
    """See to it that the addition a word speaks of is in its row's books, once."""
    row, serial = word & 15, word >> 4 & 0xFFFFF
    while word:
        known = ground.credits[row]
        if known & 0xFFFFFFFF >= serial:
            return
        new = ((known >> 32) + 1) << 32 | serial
        if ground.credits.compare_exchange(row, known, new):
            return


def act(ground: Ground, row: int, parent: int) -> None:
    os.setpgid(0, 0)  # what it forks is found by that
    try:
        Actor(ground, row, parent).run()
    except BaseException as error:
        ground.faults.append(f"row {row}: {error!r}")
        raise


class Cast:
    """The processes of the soak, one for each row."""

    def __init__(self, ground: Ground):
        self.ground = ground
        self.processes: dict[int, Any] = {}
        self.lost = [0] * ROWS

    def start(self, row: int) -> None:
        process = FORK.Process(target=act, args=(self.ground, row, os.getpid()))
        process.start()
        self.processes[row] = process
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(process.pid, process.pid)

    def choose(self, chance: random.Random) -> int:
        """Any victim, or more often one that is seen to hold something."""
        seen = [(guarded.holder.get() - 1) % ROWS for guarded in self.ground.locks]
        for inside in self.ground.inside:
            bits = inside.get()
            seen += [row for row in range(ROWS) if bits >> row & 1]
        seen = [row for row in seen if SURVIVORS <= row < STAGE]
        if seen and chance.random() < 0.7:
            return chance.choice(seen)
        return chance.randrange(SURVIVORS, STAGE)

    def replace(self, row: int, alone: bool) -> None:
        """Kill the process of a row, with its child or not, and start the next."""
        ground, process = self.ground, self.processes[row]
        ground.killed.incr(row)
        if alone:
            os.kill(process.pid, signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.join(DEADLINE)
        assert process.exitcode == -signal.SIGKILL, (row, process.exitcode)
        poll(lambda: not group(process.pid), "nothing is left of who was killed")
        for inside in ground.inside:
            if inside.get() >> row & 1:
                inside.decr(1 << row)
        self.lost[row] += 1
        ground.killed.incr(row)
        self.start(row)

    def end(self) -> None:
        """Have all end by themselves."""
        self.ground.stop.set()
        for row, process in self.processes.items():

            def ended(process: Any = process) -> bool:
                self.ground.bell.set()  # again, for one of them may have cleared it
                return process.exitcode is not None

            poll(ended, f"row {row} has ended")
            assert process.exitcode == 0, f"row {row} failed: {process.exitcode}"


def soak(kills: int, seed: str) -> list[Any]:
    """Kill so many processes while others go on; what is left behind is told."""
    global SEED
    SEED = seed
    chance = random.Random(seed)
    with ProbeManager(authkey=KEY) as manager:
        server = manager._process.pid
        ground = Ground(manager)
        # All there is to be mapped is mapped, once.
        first = Actor(ground, STAGE, os.getppid())
        for which in (0, 1):
            first.guarded(which)
            first.permitted(which)
        first.map()
        settle(manager, ground.proxies())
        before = [threads(server), descriptors(server), len(mapped(server))]
        started = time.monotonic()
        cast = Cast(ground)
        for row in range(STAGE):
            cast.start(row)
        for _ in range(kills):
            time.sleep(chance.expovariate(120))  # any moment will do
            cast.replace(cast.choose(chance), chance.random() < 0.3)
            assert ground.faults[:] == []
        cast.end()
        print(f"{kills} kills in {time.monotonic() - started:.1f} s", file=sys.stderr)
        check_books(ground, cast)
        check_locks(ground)
        in_thread(check_locks, ground)  # another owner's turn
        del first
        settle(manager, ground.proxies())
        poll(lambda: descriptors(server) <= before[1], "the server has closed its descriptors")
        poll(lambda: len(mapped(server)) <= before[2], "the server has unmapped what was theirs")
        poll(lambda: threads(server) <= before[0], "the server's threads have ended")
        told = [
            ground.deaths.get(),
            ground.total.get(),
            *(guarded.number.get() for guarded in ground.locks),
        ]
        del ground, cast
        settle(manager, 0)
    assert process_gone(server)
    return told


def check_books(ground: Ground, cast: Cast) -> None:
    assert ground.faults[:] == []
    begun, done = ground.begun.snapshot(), ground.done.snapshot()
    total = ground.total.get()
    assert sum(done) <= total <= sum(begun)
    for row in range(ROWS):
        # Who is killed between the two is killed once.
        assert 0 <= begun[row] - done[row] <= cast.lost[row], (row, begun, done, cast.lost)
        assert done[row] <= ground.items[row] <= begun[row]
    # This one is exact, whoever was killed and where.
    credit(ground, ground.word.get())
    credits = [known >> 32 for known in ground.credits.snapshot()]
    assert sum(credits) == ground.word.get() >> 24 >= sum(done)
    for row in range(ROWS):
        assert done[row] <= credits[row] <= begun[row]
    entries = [0] * ROWS
    for guarded in ground.locks:
        with guarded.lock:
            if guarded.lock.owner_died:
                Actor(ground, STAGE, 0).repair(guarded, guarded.holder.get())
            assert guarded.holder.get() == 0
            assert guarded.number.get() == sum(guarded.entries.snapshot())
        entries = [a + b for a, b in zip(entries, guarded.entries.snapshot(), strict=True)]
    assert len(ground.reports) == STAGE
    for row, (life, counted, entered) in ground.reports.copy().items():
        assert life == 2 * cast.lost[row]
        if row < SURVIVORS:
            assert counted == done[row] == begun[row] == credits[row] == ground.items[row] > 0
            assert entered == entries[row] > 0
    assert ground.faults[:] == []


def check_locks(ground: Ground) -> None:
    """Nothing is held by anybody."""
    for guarded in ground.locks:
        assert guarded.lock.acquire(True, DEADLINE)
        assert not guarded.lock.owner_died
        guarded.lock.release()
        with pytest.raises(RuntimeError):
            guarded.lock.release()
    for semaphore in ground.permits:
        for _ in range(PERMITS):
            assert semaphore.acquire(True, DEADLINE)
        assert not semaphore.acquire(False)
        for _ in range(PERMITS):
            semaphore.release()
        semaphore.consistent()  # nobody releases for the dead
    with pytest.raises(ValueError, match="too many times"):
        ground.permits[1].release()
    assert [inside.get() for inside in ground.inside] == [0, 0]


def ours_in(folder: str) -> set[str]:
    """What might be ours of what lies in a folder; semaphores there are other programs'."""
    if not os.path.isdir(folder):
        return set()
    return {name for name in os.listdir(folder) if name.startswith(("fastmgr", "pymp", "psm_"))}


@pytest.mark.timeout(SOAK_TIMEOUT)
def test_processes_that_are_killed_anywhere() -> None:
    """Every total is right, every lock goes on, and nothing of them stays."""
    print(f"FASTMGR_SEED={SEED} FASTMGR_KILLS={KILLS}")
    memory = ours_in("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="soak") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        with Script(soak, KILLS, SEED) as script:
            try:
                told = script.line(SOAK_TIMEOUT - 60)
                assert script.process.wait(DEADLINE) == 0
                poll(lambda: not session(script.pid), "no process of theirs is left")
            finally:
                for pid in session(script.pid):
                    kill(pid)
        assert ours_in(folder) == set()
    assert ours_in("/dev/shm") <= memory
    print(f"deaths told, counted, entered: {told}")
    assert min(told[1:]) > 0
    assert told[0] > 0 or KILLS < 40, "nobody was killed who held a lock"


# Hand-over


def hold(lock: Any, depth: int, pipe: Connection) -> None:
    """Take it so often, say so, and keep it until told to end or killed."""
    for _ in range(depth):
        assert lock.acquire(True, DEADLINE)
    pipe.send([lock.owner_died, len(mapped())])
    pipe.recv()


class Holder:
    """A process that holds something."""

    def __init__(self, lock: Any, depth: int = 1) -> None:
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=hold, args=(lock, depth, theirs))
        self.process.start()
        theirs.close()
        try:
            assert self.pipe.poll(DEADLINE), "the holder does not get it"
            self.found_died, pieces = self.pipe.recv()
            assert pieces, "the holder has mapped nothing"
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        self.process.kill()
        self.process.join(DEADLINE)
        self.pipe.close()

    def end(self) -> None:
        """In order, with what it holds."""
        self.pipe.send("end")
        self.process.join(DEADLINE)
        assert self.process.exitcode == 0
        self.pipe.close()

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


KINDS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "Lock": (lambda manager: manager.Lock(), 1),
    "RLock": (lambda manager: manager.RLock(), 3),
    "Semaphore": (lambda manager: manager.Semaphore(1), 1),
    "BoundedSemaphore": (lambda manager: manager.BoundedSemaphore(2), 2),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> tuple[Callable[[Any], Any], int]:
    return KINDS[request.param]


def wait_for(lock: Any, ready: Connection) -> None:
    """Say when it was had, on the clock that all processes share, and give it back."""
    ready.send("waits")
    assert lock.acquire(True, DEADLINE)
    ready.send(time.monotonic())
    lock.release()


def test_a_killed_holder_is_replaced_at_once(
    kind: tuple[Callable[[Any], Any], int], manager: ProbeManager
) -> None:
    """By the first of two that wait, in another process, and then by the second."""
    make, depth = kind
    lock = make(manager)
    took = []
    for _ in range(10):
        waiters: list[tuple[Any, Connection]] = []
        with Holder(lock, depth) as holder:
            try:
                for _ in range(2):
                    here, there = FORK.Pipe()
                    waiter = FORK.Process(target=wait_for, args=(lock, there))
                    waiters.append((waiter, here))
                    waiter.start()
                    there.close()
                for waiter, here in waiters:
                    assert here.poll(DEADLINE) and here.recv() == "waits"
                    poll(lambda pid=waiter.pid: at_rest(pid), "it waits")  # type: ignore[misc]
                killed = time.monotonic()
                holder.process.kill()
                had = []
                for _waiter, here in waiters:
                    assert here.poll(DEADLINE), "a waiter is forgotten"
                    had.append(here.recv())
                took.append(min(had) - killed)
                for waiter, _here in waiters:
                    waiter.join(DEADLINE)
                    assert waiter.exitcode == 0
            finally:
                for waiter, here in waiters:
                    waiter.kill()
                    waiter.join(DEADLINE)
                    here.close()
    print("hand-over, ms:", *(f"{1000 * seconds:.1f}" for seconds in sorted(took)))
    assert statistics.median(took) < 0.1


# What the next holder is told


def test_the_next_holder_is_told_that_one_died(
    kind: tuple[Callable[[Any], Any], int], manager: ProbeManager
) -> None:
    make, depth = kind
    lock = make(manager)
    assert not lock.owner_died
    for _ in range(3):
        with Holder(lock, depth) as holder:
            assert not holder.found_died
            holder.process.kill()
            assert lock.acquire(True, DEADLINE)
            assert lock.owner_died
            # It is not forgotten by who does not care.
            lock.release()
            assert lock.owner_died
        with Holder(lock, 1) as indifferent:
            assert indifferent.found_died
            indifferent.process.kill()
            assert lock.acquire(True, DEADLINE)
        assert lock.owner_died
        lock.consistent()
        assert not lock.owner_died
        lock.release()
        assert not lock.owner_died


def test_a_waiter_is_told_that_one_died(
    kind: tuple[Callable[[Any], Any], int], manager: ProbeManager
) -> None:
    make, depth = kind
    lock = make(manager)

    def look(entered: threading.Event) -> Any:
        entered.set()
        assert lock.acquire(True, DEADLINE)
        try:
            return lock.owner_died
        finally:
            lock.release()

    for _ in range(3):
        entered = threading.Event()
        with Holder(lock, depth) as holder:
            timer = threading.Thread(
                target=lambda e=entered, h=holder: e.wait() and h.process.kill()
            )
            timer.start()
            assert in_thread(look, entered)
            timer.join(DEADLINE)
    lock.consistent()
    assert in_thread(look, threading.Event()) is False


def test_who_gives_back_before_the_end_leaves_no_trace(
    kind: tuple[Callable[[Any], Any], int], manager: ProbeManager
) -> None:
    make, _depth = kind
    lock = make(manager)

    def take_and_give(pipe: Connection) -> None:
        for _ in range(100):
            with lock:
                pass
        pipe.send("done")
        signal.pause()

    here, there = FORK.Pipe()
    process = FORK.Process(target=take_and_give, args=(there,))
    process.start()
    try:
        assert here.poll(DEADLINE) and here.recv() == "done"
    finally:
        process.kill()
        process.join(DEADLINE)
        here.close()
        there.close()
    settle(manager, 1)
    assert lock.acquire(True, DEADLINE)
    assert not lock.owner_died


def test_who_ends_in_order_leaves_it_held(
    kind: tuple[Callable[[Any], Any], int], manager: ProbeManager
) -> None:
    """As in the stdlib: nobody knows that it is not meant to be."""
    make, depth = kind
    lock = make(manager)
    with Holder(lock, depth) as holder:
        holder.end()
    assert not lock.acquire(False)
    assert not lock.acquire(True, 0.2)
    assert not lock.owner_died


def test_a_permit_that_was_released_into_being(manager: ProbeManager) -> None:
    """It has no place of its own in shared memory; that one died with it is told all the same."""
    semaphore = manager.Semaphore(1)
    semaphore.release()
    assert semaphore.acquire()
    with Holder(semaphore) as holder:
        holder.process.kill()
        assert semaphore.acquire(True, DEADLINE)
        assert semaphore.owner_died
        semaphore.consistent()
        assert not semaphore.owner_died


def hold_beside_a_thread(lock: Any, sleeper: Any, pipe: Connection) -> None:
    """Hold it, and have a thread whose connection a worker of the server serves, until told."""
    go = threading.Event()

    def other() -> None:
        assert sleeper.echo(1) == 1
        pipe.send("connected")
        go.wait()

    thread = threading.Thread(target=other)
    thread.start()
    lock.acquire()
    pipe.send("locked")
    pipe.recv()
    go.set()
    thread.join()
    pipe.send("ended")
    pipe.recv()


def test_a_thread_that_ended_in_order_before_its_process_was_killed(manager: Any) -> None:
    """The server, which is stopped meanwhile, may hear of the two in any order."""
    server = manager._process.pid
    sleeper = manager.Sleeper()
    for _ in range(12):
        lock = manager.Lock()
        here, there = FORK.Pipe()
        process = FORK.Process(target=hold_beside_a_thread, args=(lock, sleeper, there))
        process.start()
        try:
            for _ in range(2):
                assert here.poll(DEADLINE) and here.recv() in ("connected", "locked")
            assert not lock.acquire(False)
            os.kill(server, signal.SIGSTOP)
            try:
                here.send("end the thread")
                assert here.poll(DEADLINE) and here.recv() == "ended"
            finally:
                process.kill()
                process.join(DEADLINE)
                os.kill(server, signal.SIGCONT)
            assert lock.acquire(True, 10), "it is stuck"
            assert lock.owner_died
        finally:
            here.close()
            there.close()


def lose_connections(address: str, pipe: Connection) -> None:
    """Use what is its own, close all descriptors as a process that goes to the background does."""
    manager = ProbeManager(address=address, authkey=KEY)
    manager.connect()
    counter, lock = manager.Counter(100), manager.Lock()
    assert lock.acquire() and counter.incr() == 101
    os.closerange(3, pipe.fileno())
    os.closerange(pipe.fileno() + 1, 256)
    pipe.send("closed")
    pipe.recv()
    told: list[Any] = []
    for call in (counter.incr, lock.release, counter.get):
        try:
            told.append(call())
        except (OSError, EOFError, fastmgr.RemoteError):
            told.append("an error")
    pipe.send(told)


def test_a_client_that_lost_its_connections_touches_nothing(manager: ProbeManager) -> None:
    """To the server it is dead; what was its own may be another's."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=lose_connections, args=(manager.address, there))
    process.start()
    there.close()
    try:
        assert here.poll(DEADLINE) and here.recv() == "closed"
        settle(manager, 0)
        counters, locks = [manager.Counter() for _ in range(3)], [manager.Lock() for _ in range(3)]
        for counter, lock in zip(counters, locks, strict=True):
            assert counter.get() == 0
            assert lock.acquire(False)
        here.send("go on")
        assert here.poll(DEADLINE)
        told = here.recv()
        assert [counter.get() for counter in counters] == [0, 0, 0]
        assert [lock.locked() for lock in locks] == [True, True, True]
        assert told == ["an error"] * 3
    finally:
        process.kill()
        process.join(DEADLINE)
        here.close()


# Children


def use(proxies: list[Any]) -> list[int]:
    """Use all of them; how much is mapped, and how many descriptors are open, then."""
    for proxy in proxies:
        if hasattr(proxy, "incr"):
            proxy.incr()
        else:
            with proxy:
                pass
    return [len(mapped()), descriptors()]


def use_and_tell(proxies: list[Any], pipe: Connection) -> None:
    begun = [len(mapped()), descriptors()]
    pipe.send([begun, use(proxies[:1]), use(proxies)])


def children(address: str) -> dict[str, Any]:
    """What a process of any kind maps and opens: first, with one proxy, and with all it has."""
    multiprocessing.current_process().authkey = KEY
    manager = ProbeManager(address=address, authkey=KEY)
    manager.connect()
    proxies: list[Any] = []
    for _ in range(40):
        proxies += [manager.Counter(), manager.Lock(), manager.RLock(), manager.Value("i", 0)]
    told: dict[str, Any] = {
        "here": [[len(mapped()), descriptors()], use(proxies[:1]), use(proxies)]
    }
    for method in ("fork", "spawn"):
        context: Any = multiprocessing.get_context(method)
        here, there = context.Pipe()
        process = context.Process(target=use_and_tell, args=(proxies, there))
        process.start()
        there.close()
        assert here.poll(DEADLINE), f"a child by {method} says nothing"
        told[method] = here.recv()
        process.join(DEADLINE)
        here.close()
        assert process.exitcode == 0
        process.close()
    reading, writing = FORK.Pipe(duplex=False)
    pid = os.fork()
    if not pid:
        try:
            use_and_tell(proxies, writing)
        finally:
            os._exit(0)
    assert reading.poll(DEADLINE)
    told["os.fork"] = reading.recv()
    os.waitpid(pid, 0)
    reading.close()
    writing.close()
    told["after"] = use(proxies)
    told["sums"] = sorted({proxy.get() for proxy in proxies if hasattr(proxy, "get")})
    return told


def test_children_map_the_arena_once(manager: ProbeManager) -> None:
    told = call_in_subprocess(children, manager.address, timeout=60)
    after, sums = told.pop("after"), told.pop("sums")
    # Each counted once or, the first of them, twice; in four processes and once more at the end.
    assert sums == [5, 9]
    for who, (begun, with_one, with_all) in told.items():
        # What says that the server lives, and the one segment of small cells.
        assert with_one[0] == with_all[0] == 2, (who, told)
        assert with_all[1] == with_one[1], (who, told)
        # One connection.
        assert with_one[1] <= begun[1] + 1, (who, told)
    assert after == told["here"][2][:1] + after[1:]
    assert after[1] <= told["here"][2][1] + 2  # what tracks spawned processes' resources
    settle(manager, 0)


# A killed server


def test_nobody_counts_for_a_killed_server() -> None:
    """Not even a client that needs nothing but the memory, which still is there."""
    manager = ProbeManager(authkey=KEY)
    manager.start()
    counter, counters, lock = manager.Counter(), manager.Counters(3), manager.Lock()
    rlock, semaphore, value = manager.RLock(), manager.Semaphore(2), manager.Value("i", 0)
    array, event = manager.Array("i", [0] * 3), manager.Event()
    assert rlock.acquire() and semaphore.acquire()
    calls: dict[str, Callable[[], Any]] = {
        "Counter.incr": counter.incr,
        "Counter.get": counter.get,
        "Counters.incr": lambda: counters.incr(0),
        "Counters.snapshot": counters.snapshot,
        "Lock.acquire": lambda: lock.acquire(False),
        "Lock.locked": lock.locked,
        "RLock.acquire": lambda: rlock.acquire(False),
        "RLock.release": rlock.release,
        "Semaphore.acquire": lambda: semaphore.acquire(False),
        "Semaphore.release": semaphore.release,
        "Value.get": value.get,
        "Value.set": lambda: value.set(1),
        "Value.incr": value.incr,
        "Array[0]": lambda: array[0],
        "Array.incr": lambda: array.incr(0),
        "Event.is_set": event.is_set,
        "owner_died": lambda: lock.owner_died,
    }
    # All is mapped, by a process with threads as by a child of it.
    assert rlock.acquire()
    for call in calls.values():
        call()

    def all_fail() -> None:
        for name, call in calls.items():
            with pytest.raises(GONE):
                in_thread(call)
                pytest.fail(f"{name} works without a server")
            with pytest.raises(GONE):
                call()
                pytest.fail(f"{name} works without a server")

    def in_child(pipe: Connection) -> None:
        counter.incr()
        pipe.send("counted")
        pipe.recv()
        all_fail()

    here, there = FORK.Pipe()
    child = FORK.Process(target=in_child, args=(there,))
    child.start()
    try:
        assert here.poll(DEADLINE) and here.recv() == "counted"
        os.kill(manager._process.pid, signal.SIGKILL)
        poll(lambda: process_gone(manager._process.pid), "it is dead")
        all_fail()
        here.send("look")
        child.join(DEADLINE)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join(DEADLINE)
        here.close()
        there.close()
    in_thread(manager.shutdown)


# A file that outlives its server

SIZE = 50_000  # counters in a block: a few fill what the file grows by


def started(path: Path) -> fastmgr.SyncManager:
    manager = ProbeManager(authkey=KEY, arena=str(path))
    manager.start()
    return manager


def count_until_it_is_gone(manager: Any, number: int, pipe: Connection) -> None:
    """Count in every way there is; how often a call returned."""
    hits = manager.Counter(name="hits")
    words = manager.Counters(["a", "b", "c"], name="words")
    items = manager.Array("q", [0] * 4, name="items")
    value = manager.Value("q", 0, name="value")
    own = manager.Value("q", None, name=f"value of {number}")
    returned = {"hits": 0, "words": 0, "items": 0, "value": 0, "own": 0, "made": 0}
    pipe.send("counts")
    try:
        while True:
            hits.incr()
            returned["hits"] += 1
            words.incr("abc"[number])
            returned["words"] += 1
            items.incr(number)
            returned["items"] += 1
            value.incr()
            returned["value"] += 1
            own.set(returned["own"] + 1)
            returned["own"] += 1
            if returned["hits"] % 2000 == 1 and returned["made"] < 6:
                block = manager.Counters(SIZE, name=f"block {number}.{returned['made']}")
                block.incr(-1, 7)
                returned["made"] += 1
    except GONE:
        pass
    pipe.send(returned)


def kill_while_they_count(manager: Any, chance: random.Random) -> list[dict[str, int]]:
    clients = []
    told = []
    try:
        for number in range(3):
            here, there = FORK.Pipe()
            process = FORK.Process(target=count_until_it_is_gone, args=(manager, number, there))
            process.start()
            there.close()
            clients.append((process, here))
        for _process, here in clients:
            assert here.poll(DEADLINE) and here.recv() == "counts"
        hits = manager.Counter(name="hits")
        some = hits.get() + chance.randrange(1, 20_000)
        poll(lambda: hits.get() > some, "they count")
        os.kill(manager._process.pid, signal.SIGKILL)
        for process, here in clients:
            assert here.poll(DEADLINE), "a client has not heard that the server is gone"
            told.append(here.recv())
            process.join(DEADLINE)
            assert process.exitcode == 0
    finally:
        for process, here in clients:
            process.kill()
            process.join(DEADLINE)
            here.close()
        in_thread(manager.shutdown)
    return told


def test_what_has_a_name_outlives_a_killed_server(tmp_path: Path) -> None:
    """Every call that returned is there, when the next server starts."""
    path = tmp_path / "arena"
    print(f"FASTMGR_SEED={SEED}")
    chance = random.Random(SEED)
    hits = words = items = value = 0
    made = [0, 0, 0]
    own: list[int | None] = [None, None, None]
    for _ in range(4):
        told = kill_while_they_count(started(path), chance)
        hits += sum(one["hits"] for one in told)
        words += sum(one["words"] for one in told)
        items += sum(one["items"] for one in told)
        value += sum(one["value"] for one in told)
        made = [max(a, one["made"]) for a, one in zip(made, told, strict=True)]
        with started(path) as manager:
            # What returned, and no more: who found no server has not counted.
            assert manager.Counter(name="hits").get() == hits
            assert sum(manager.Counters(["a", "b", "c"], name="words").snapshot()) == words
            assert sum(manager.Array("q", [0] * 4, name="items")[:]) == items
            assert manager.Value("q", 0, name="value").get() == value
            for number, one in enumerate(told):
                own[number] = one["own"] or own[number]  # that of before, if it was killed first
                assert manager.Value("q", 0, name=f"value of {number}").get() == own[number]
                for i in range(made[number]):
                    block = manager.Counters(SIZE, name=f"block {number}.{i}")
                    assert len(block) == SIZE and block[-1] % 7 == 0 < block[-1]
            assert manager.Counter(name="new").get() == 0


def test_a_second_server_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    with started(path) as first:
        hits = first.Counter(name="hits")
        hits.incr()
        # What other processes do with the file does not lift the lock.
        assert path.read_bytes()
        second = ProbeManager(authkey=KEY, arena=str(path))
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                second.start()
        assert not second._process.is_alive()
        assert hits.incr() == 2
        os.kill(first._process.pid, signal.SIGKILL)
        poll(lambda: process_gone(first._process.pid), "it is dead")
        second.start()
        with second:
            assert second.Counter(name="hits").incr() == 3
        with pytest.raises(GONE):
            hits.incr()


EXTENT = 1 << 20


def with_bytes(at: int, data: bytes) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:at] + data + whole[at + len(data) :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"what is not ours", id="something else"),
        pytest.param(lambda _: random.Random(1).randbytes(EXTENT), id="noise"),
        pytest.param(lambda whole: whole[:200], id="cut in a record"),
        pytest.param(lambda whole: whole[:64], id="cut to its header"),
        pytest.param(with_bytes(0, b"FMARENA9"), id="other first bytes"),
        pytest.param(with_bytes(8, struct.pack("<Q", EXTENT + 64)), id="ends beyond the end"),
        pytest.param(with_bytes(8, struct.pack("<Q", 2**64 - 64)), id="ends nowhere"),
        pytest.param(with_bytes(8, struct.pack("<Q", 65)), id="ends between lines"),
        pytest.param(with_bytes(8, struct.pack("<Q", 0)), id="ends before it begins"),
        pytest.param(with_bytes(64, struct.pack("<Q", 99)), id="a kind that is none"),
        pytest.param(with_bytes(72, struct.pack("<Q", 2**63)), id="a long name"),
        pytest.param(with_bytes(72, struct.pack("<Q", 2**64 - 1)), id="a very long name"),
        pytest.param(with_bytes(88, struct.pack("<Q", 4)), id="a small state"),
        pytest.param(with_bytes(88, struct.pack("<Q", EXTENT)), id="a large state"),
        pytest.param(with_bytes(128, b"\xff\xfe"), id="a name that is no text"),
        pytest.param(with_bytes(192, b"][[["), id="details that are none"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "arena"
    with started(path) as manager:
        manager.Counter(5, name="hits")
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    manager = ProbeManager(authkey=KEY, arena=str(path))
    with pytest.raises(ValueError, match="damaged"):
        manager.start()
    assert not manager._process.is_alive()
    assert path.read_bytes() == damaged  # whoever can mend it finds it as it was


@pytest.mark.parametrize("size", [4096, EXTENT - 1, EXTENT + 4096])
def test_room_that_was_not_made_whole_is_made_so(tmp_path: Path, size: int) -> None:
    """All records are there; behind them the file ends where an extent does not."""
    path = tmp_path / "arena"
    with started(path) as manager:
        manager.Counter(5, name="hits")
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    with started(path) as manager:
        assert manager.Counter(name="hits").get() == 5
        manager.Array("d", [0.5] * (EXTENT // 8), name="much")
    with started(path) as manager:
        assert manager.Counter(name="hits").get() == 5
        assert len(manager.Array("d", (), name="much")) == EXTENT // 8


def test_a_server_that_is_killed_while_it_makes_the_file(tmp_path: Path) -> None:
    """It has room, and nothing in it."""
    path = tmp_path / "arena"
    path.write_bytes(bytes(EXTENT))
    with started(path) as manager:
        assert manager.Counter(name="hits").incr() == 1
    with started(path) as manager:
        assert manager.Counter(name="hits").get() == 1
