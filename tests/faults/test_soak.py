"""The soak: any process may be killed at any point, and every total is right."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    Script,
    clusters,
    in_thread,
    kill,
    mapped,
    poll,
    process_gone,
    settle,
    valkeys,
)
from support.processes import descriptors, group, session, threads

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


@contextlib.contextmanager
def served(there: tuple[str, int] | None) -> Iterator[tuple[Any, int]]:
    """Yield a manager, and the process of its server: one of ours, or that at an address."""
    if there is not None:
        manager = fastmgr.SyncManager(address=there[0], authkey=KEY)
        manager.connect()
        yield manager, there[1]
    else:
        with ProbeManager(authkey=KEY) as manager:
            yield manager, manager._process.pid


def soak(kills: int, seed: str, there: tuple[str, int] | None) -> list[Any]:
    """Kill so many processes while others go on; what is left behind is told."""
    global SEED
    SEED = seed
    chance = random.Random(seed)
    with served(there) as (manager, server):
        ground = Ground(manager)
        # All there is to be mapped is mapped, once.
        first = Actor(ground, STAGE, os.getppid())
        for which in (0, 1):
            first.guarded(which)
            first.permitted(which)
        first.map()
        for _ in range(100):  # the versions of what is read again and again
            assert len(ground.faults) == 0
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
        # An engine's session has another connection once it has looked for the dead.
        most = before[1] + (there is not None)
        poll(lambda: descriptors(server) <= most, "the server has closed its descriptors")
        if there is None:
            poll(lambda: len(mapped(server)) <= before[2], "the server has unmapped their memory")
            poll(lambda: threads(server) <= before[0], "the server's threads have ended")
        told = [
            ground.deaths.get(),
            ground.total.get(),
            *(guarded.number.get() for guarded in ground.locks),
        ]
        del ground, cast
        settle(manager, 0)
    assert there is not None or process_gone(server)
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
@pytest.mark.parametrize(
    "kind", ["fastmgr", *valkeys.SLOW_KINDS, pytest.param("cluster", marks=pytest.mark.long)]
)
def test_processes_that_are_killed_anywhere(kind: str) -> None:
    """Every total is right, every lock goes on, and nothing of them stays."""
    print(f"FASTMGR_SEED={SEED} FASTMGR_KILLS={KILLS}")
    memory = ours_in("/dev/shm")
    with (
        contextlib.ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix="soak") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        there = None
        if kind in valkeys.KINDS:
            started = stack.enter_context(valkeys.server(kind))
            assert started.process is not None
            there = started.url(ns="soak"), started.process.pid
        elif kind == "cluster":
            found = clusters.cluster()
            assert found.nodes[0].process is not None
            there = found.url(ns="soak"), found.nodes[0].process.pid
        patch.setenv("TMPDIR", folder)
        with Script(soak, KILLS, SEED, there) as script:
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
