"""How clients and the server share locks and semaphores, step by step.

What is done to a slot is the code of ``kinds/slots.pxd`` itself, compiled so that each of its
accesses to a word is a step here (`compiled_step`).  What calls that code is mirrored in Python:

* `Client` is `LockCore` of ``client/locks.pyx``: `take`, `free`, `acquire`, `release`,
  `consistent`.
* `Server` is `Slots`, `Lock`, `RLock`, `Semaphore` and `BoundedSemaphore` of ``kinds``, with
  `Primitive.next_waiter`, `park`, `unqueue`, `expire` and `cancel`.
* `Server.serve`, `on_left` and `answer` are what the parts of the engine do of it:
  `Operations.call_primitive` with `Parking.begin`, `Operations.leave`, and `Parking.answer`.

Each of those functions is a generator that yields its accesses to shared memory, and one access
is one step.  Between two steps of one any other may make one, but for the server's functions
among themselves: these run under the GIL, one after the other.  A client may be killed between
any two steps; the server comes to know of it some time later.  Whether a waiter's connection has
hung up is an access as well.

A continuation is not a generator, which has no hash, but what its accesses have given so far:
that is given again to a new one, once, and what this does then is kept.

What one takes another may release (`f`, `p` in a program), and the death of the one may come
before or after: `Books.returned` and `Books.unsure` are there for that.  With the stdlib a death
gives nothing back.  So at no time is less free than with it, and never so much that more are
inside than there are permits.

The death of one who held a spare permit leaves a mark, which has a switch for what else may be.

Left out: `Primitive.dead` and the cleaning of a queue, which takes out nothing but those passed
over; the overflow check in `Semaphore.release`; a client's look at whether the server lives.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import partial
from typing import Any, NamedTuple

from compiled import compiled

slots: Any = compiled("traced_slots")
THREAD_BITS, OWNER = slots.THREAD_BITS, slots.OWNER
CONTENDED, OWNER_DIED = slots.CONTENDED, slots.OWNER_DIED


def session_of(owner: int) -> int:
    return (owner & OWNER) >> THREAD_BITS


class Kind(Enum):
    LOCK = "lock"
    RLOCK = "rlock"
    SEMAPHORE = "semaphore"
    BOUNDED = "bounded"

    @property
    def counts(self) -> bool:
        return self in (Kind.SEMAPHORE, Kind.BOUNDED)


class Mutation(Enum):
    """Ways to break the protocol on purpose."""

    QUEUES_FIRST = "queues-first"  # a waiter is queued though the slot could not be marked
    RELEASES_PLAINLY = "releases-plainly"  # a client frees a contended slot
    UNMARKS_ON_HAND_OVER = "unmarks-on-hand-over"  # while others wait
    ABANDONS_NOTHING = "abandons-nothing"  # what the dead held stays held
    TAKES_BLINDLY = "takes-blindly"  # a client does not look whether its replacing was done
    FREES_PLAINLY = "frees-plainly"  # the server does, whoever holds it by then
    LIFO = "lifo"  # the last who came is served first
    GIVES_TO_THE_DEAD = "gives-to-the-dead"  # who is dead or out of time stays in the queue
    KEEPS_DEPTH = "keeps-depth"  # a new holder gets the depth of the one before
    FORGETS_DEATH = "forgets-death"  # OWNER_DIED is not set
    SPARES_LEAVE_NO_MARK = "spares-leave-no-mark"  # nor for a spare permit
    FORGETS_WHAT_IS_BACK = "forgets-what-is-back"  # by a death, when somebody else releases it
    ASCRIBES = "ascribes"  # what one who has nothing releases, to one of several for certain
    FREES_ANOTHERS = "frees-anothers"  # a client frees a lock that another has taken


@dataclass(frozen=True)
class Spec:
    """A client: its program, and how it is connected.

    In a program each letter is a call: `a` acquire, `t` acquire with a timeout, `n` acquire
    without waiting, `r` release what is held (nothing, if nothing is), `f` release whatever is
    held by whomever, `p` release what the client before this one has taken, alive or dead, and
    `c` consistent.
    """

    program: str
    session: int = 0  # of the process; 0 for one of its own
    arena: bool = True  # it works on the memory itself
    worker: bool = (
        False  # a thread of the server serves it: the end may be seen before the last call
    )


@dataclass(frozen=True)
class Config:
    clients: tuple[Spec, ...]
    kind: Kind = Kind.LOCK
    slots: int = 1
    permits: int = 1  # those beyond the slots are spare
    deaths: int = 0
    mutation: Mutation | None = None
    inner: bool = True  # check also what is seen from within only
    symmetric: bool = True  # states that differ in nothing but which client is which are one


# Accesses, and what is made of them. `replace` gives what was there: it was done if that was
# what was expected.

Access = tuple[str, int, int, int]
Steps = Generator[Access, int, Any]


def load(i: int) -> Access:
    return ("load", i, 0, 0)


def store(i: int, value: int) -> Access:
    return ("store", i, value, 0)


def replace(i: int, expected: int, desired: int) -> Access:
    return ("replace", i, expected, desired)


def there(client: int) -> Access:
    return ("there", client, 0, 0)


def compiled_step(name: str, i: int, *args: int) -> Steps:
    """What the function of that name in ``slots.pxd`` does to slot `i`."""
    past: tuple[int, ...] = ()
    while True:
        access, result = slots.traced_step(past, name, i, *args)
        if access is None:
            return result
        past = (*past, (yield access))


def take_blindly(i: int, owner: int) -> Steps:
    word = yield load(i)
    if word & OWNER:
        return False
    yield replace(i, word, word | owner)
    return True


def free_plainly(i: int, owner: int) -> Steps:
    word = yield load(i)
    if session_of(word) == session_of(owner):
        yield store(i, word & OWNER_DIED)
    return session_of(word) == session_of(owner)


def free_anothers(i: int, owner: int) -> Steps:
    word = yield load(i)
    if word & OWNER == 0 or word & CONTENDED:
        return False
    return (yield replace(i, word, word & OWNER_DIED)) == word


def contend_blindly(i: int, owner: int) -> Steps:
    if not (taken := (yield from compiled_step("take_slot", i, owner))):
        word = yield load(i)
        if word & OWNER and not word & CONTENDED:
            yield replace(i, word, word | CONTENDED)
    return taken


def leave_free_plainly(i: int, holder: int, died: int) -> Steps:
    word = yield load(i)
    yield store(i, word & OWNER_DIED | died)
    return True


#: What takes the place of a function of ``slots.pxd``, in a client or in the server.
BROKEN_STEPS: dict[tuple[Mutation | None, str], Callable[..., Steps]] = {
    (Mutation.TAKES_BLINDLY, "take_slot"): take_blindly,
    (Mutation.RELEASES_PLAINLY, "free_slot"): free_plainly,
    (Mutation.FREES_ANOTHERS, "free_slot"): free_anothers,
    (Mutation.QUEUES_FIRST, "take_or_contend"): contend_blindly,
    (Mutation.FREES_PLAINLY, "leave_free"): leave_free_plainly,
}


def step(mutation: Mutation | None, name: str, i: int, *args: int) -> Steps:
    broken = BROKEN_STEPS.get((mutation, name))
    return broken(i, *args) if broken else compiled_step(name, i, *args)


class Phase(IntEnum):
    """Where a client is in its call."""

    IDLE = 0  # in none
    FAST = 1  # in steps of its own
    UNREAD = 2  # the server has not read the request
    SERVED = 3
    WAITING = 4  # in the queue
    GIVEN = 5  # finished with True, and not told yet
    EXPIRED = 6  # finished with False, and not told yet
    ABANDONED = 7  # finished without a result
    GONE = 8  # nobody is there any more
    REPLY_TRUE = 9  # from here on no phases, but replies
    REPLY_FALSE = 10
    REPLY_DONE = 11
    REPLY_ERROR = 12


class Life(IntEnum):
    ALIVE = 0
    KILLED = 1  # and the server does not know
    LEFT = 2  # and the server knows


class One(NamedTuple):
    """The state of a client."""

    life: Life
    at: int  # in its program
    phase: Phase
    past: tuple[int, ...]  # what its accesses in this call have given
    holds: int  # how often it has acquired without releasing; of the dead: when it was killed
    excused: bool  # in a call that does not wait: there was a moment with nothing to take
    freed: bool = False  # the next has begun to release what this one has taken


class Job(NamedTuple):
    """What the server is doing."""

    name: str
    client: int
    phase: Phase  # of the client, at its beginning
    last: bool  # the session's last connection
    past: tuple[int, ...] = ()


class Books(NamedTuple):
    """What the server alone knows."""

    queue: tuple[int, ...]  # clients, first come first; PASSED_OVER where one has gone
    spare: int
    held: tuple[int, ...]  # by session
    returned: int = 0
    unsure: int = 0


class State(NamedTuple):
    words: tuple[int, ...]  # the slots, and for an RLock its depth
    books: Books
    job: Job | None
    ones: tuple[One, ...]


RELEASES = "rfp"
PASSED_OVER = -1
ASK = 2  # the server is to be asked


class Client:
    """`LockCore`: the steps of a call that is not made by way of the server."""

    def __init__(self, config: Config, owner: int) -> None:
        self.config, self.kind = config, config.kind
        self.slots = config.slots
        # A session's number, and with it the thread's where that counts.
        self.view_owner = owner >> THREAD_BITS << THREAD_BITS
        self.this_thread = owner

    def step(self, name: str, i: int, owner: int) -> Steps:
        return BROKEN_STEPS.get((self.config.mutation, name), partial(compiled_step, name))(
            i, owner
        )

    def take(self) -> Steps:
        if self.kind is Kind.RLOCK:
            return (yield from self.step("take_rlock", 0, self.this_thread))
        for i in range(self.slots):
            if (yield from self.step("take_slot", i, self.view_owner)):
                return True
        return False

    def free(self) -> Steps:
        if self.kind is Kind.RLOCK:
            return (yield from self.step("free_rlock", 0, self.this_thread))
        for i in range(self.slots):
            if (yield from self.step("free_slot", i, self.view_owner)):
                return True
        return False

    def acquire(self, blocking: bool) -> Steps:
        if (yield from self.take()):
            return True
        return False if not blocking and not self.kind.counts else ASK

    def release(self) -> Steps:
        return True if (yield from self.free()) else ASK

    def call(self, letter: str) -> Steps:
        if letter in "atn":
            return self.acquire(letter != "n")
        return self.release()


class Server:
    """The primitive, for the length of one job: the books are as at its beginning."""

    def __init__(self, config: Config, owners: tuple[int, ...], books: Books) -> None:
        self.config, self.owners = config, owners
        self.kind, self.slots = config.kind, config.slots
        self.waiting = list(books.queue)
        self.spare = books.spare
        self.held = list(books.held)
        self.returned = books.returned
        self.unsure = books.unsure
        # What becomes of whom; and, for the properties, what was done.
        self.outcome: list[tuple[int, Phase]] = []
        self.taken = False
        self.cleared = False

    # -- the engine -------------------------------------------------------

    def serve(self, client: int, letter: str, left: bool) -> Steps:
        if letter in "atn":
            if not left:  # else: dead already, it would hold what it takes for ever
                yield from self.acquire(client, letter != "n")
        elif left:
            pass  # what it held has been handed on: this would be another's
        elif letter == "c":
            yield from self.consistent()
            self.outcome.append((client, Phase.REPLY_DONE))
        else:
            good = yield from self.release(client)
            self.outcome.append((client, Phase.REPLY_DONE if good else Phase.REPLY_ERROR))

    def on_left(self, client: int, phase: Phase, last: bool) -> Steps:
        if phase is Phase.GIVEN:  # this moment
            yield from self.take_back(client)
        elif phase is Phase.WAITING:
            self.unqueue(client)
        if last and self.config.mutation is not Mutation.ABANDONS_NOTHING:
            yield from self.hand_on_all_of(session_of(self.owners[client]))

    def expire(self, client: int) -> None:
        self.unqueue(client)
        self.outcome.append((client, Phase.EXPIRED))

    # -- Primitive --------------------------------------------------------

    def next_waiter(self) -> Steps:
        while self.waiting:
            waiter = self.waiting.pop(-1 if self.config.mutation is Mutation.LIFO else 0)
            if waiter == PASSED_OVER:
                continue
            if self.config.mutation is Mutation.GIVES_TO_THE_DEAD or (yield there(waiter)):
                return waiter
            self.outcome.append((waiter, Phase.ABANDONED))
        return None

    def unqueue(self, client: int) -> None:
        if self.config.mutation is not Mutation.GIVES_TO_THE_DEAD:
            self.waiting[self.waiting.index(client)] = PASSED_OVER

    # -- Slots ------------------------------------------------------------

    def step(self, name: str, i: int, *args: int) -> Steps:
        return step(self.config.mutation, name, i, *args)

    def take_any(self, owner: int, wanted: bool) -> Steps:
        for i in range(self.slots):
            if (yield from self.step("take_or_contend" if wanted else "take_slot", i, owner)):
                self.taken = True
                return True
        return False

    def hand_on(self, i: int, holder: int, died: int) -> Steps:
        mutation = self.config.mutation
        if mutation is Mutation.FORGETS_DEATH:
            died = 0
        if (yield from self.step("holder_of", i)) != holder:
            return False
        waiter = yield from self.next_waiter()
        if waiter is None:
            return (yield from self.step("leave_free", i, holder, died))
        if self.kind is Kind.RLOCK and mutation is not Mutation.KEEPS_DEPTH:
            yield from self.step("set_depth", i, 1)  # `prepare`
        others = bool(self.waiting) and mutation is not Mutation.UNMARKS_ON_HAND_OVER
        yield from self.step("hand_to", i, self.owners[waiter], died, others)
        self.outcome.append((waiter, Phase.GIVEN))
        return True

    def hand_on_all_of(self, session: int) -> Steps:
        counts = self.config.mutation is not Mutation.FORGETS_WHAT_IS_BACK
        if self.kind.counts:
            held = self.held[session]
            kept = min(held, self.unsure)
            self.held[session] = kept
            self.unsure -= kept
            if held > kept:
                self.returned += (held - kept) * counts
                if self.slots and self.config.mutation is not Mutation.SPARES_LEAVE_NO_MARK:
                    yield from self.step("mark_owner_died", 0)
                for _ in range(held - kept):
                    yield from self.give_spare()
        for i in range(self.slots):
            holder = yield from self.step("holder_of", i)
            if session_of(holder) == session:
                if self.unsure:
                    self.unsure -= 1
                elif (yield from self.hand_on(i, holder, OWNER_DIED)):
                    self.returned += counts

    def take_back(self, client: int) -> Steps:
        if self.kind.counts:
            yield from self.give_back(self.owners[client])
        else:
            yield from self.hand_on(0, self.owners[client], 0)

    def consistent(self) -> Steps:
        for i in range(self.slots):
            yield from self.step("clear_owner_died", i)
        self.returned = 0
        self.cleared = True

    # -- Lock, RLock, Semaphore -------------------------------------------

    def take_now(self, owner: int, wanted: bool) -> Steps:
        if self.kind.counts:
            if (yield from self.take_any(owner, wanted and self.spare == 0)):
                return True
            if self.spare == 0:
                return False
            self.spare -= 1
            self.held[session_of(owner)] += 1  # `book`
            self.taken = True
            return True
        if self.kind is Kind.LOCK:
            return (yield from self.take_any(owner, wanted))
        if (yield from self.step("take_rlock", 0, owner)):
            self.taken = True
            return True
        if not wanted or not (yield from self.take_any(owner, True)):
            return False
        yield from self.step("set_depth", 0, 1)
        return True

    def acquire(self, client: int, wanted: bool) -> Steps:
        if (yield from self.take_now(self.owners[client], wanted)):
            self.outcome.append((client, Phase.REPLY_TRUE))
        elif not wanted:
            self.outcome.append((client, Phase.REPLY_FALSE))
        else:
            self.waiting.append(client)  # `park`
            self.outcome.append((client, Phase.WAITING))

    def release(self, client: int) -> Steps:
        owner = self.owners[client]
        if self.kind is Kind.LOCK:
            while True:
                holder = yield from self.step("holder_of", 0)
                if self.returned and session_of(holder) != session_of(owner):
                    self.returned -= 1
                    return True
                if holder == 0:
                    return False
                if (yield from self.hand_on(0, holder, 0)):
                    return True
        if self.kind is Kind.RLOCK:
            if (yield from self.step("holder_of", 0)) != owner:
                return False
            if not (yield from self.step("step_down", 0)):
                yield from self.hand_on(0, (yield from self.step("holder_of", 0)), 0)
            return True
        if self.returned and session_of(owner) not in (yield from self.takers()):
            self.returned -= 1
            return True
        if self.kind is Kind.BOUNDED and (yield from self.value()) + 1 > self.config.permits:
            return False
        if self.waiting or any(self.held) or (yield from self.value()) < self.spare + self.slots:
            yield from self.give_back(owner)
        else:
            self.spare += 1
        return True

    def value(self) -> Steps:
        free = self.spare
        for i in range(self.slots):
            free += (yield from self.step("holder_of", i)) == 0
        return free

    def takers(self) -> Steps:
        """How many permits each session has."""
        taken = {session: n for session, n in enumerate(self.held) if n}
        for i in range(self.slots):
            session = session_of((yield from self.step("holder_of", i)))
            if session:
                taken[session] = taken.get(session, 0) + 1
        return taken

    def doubt(self, taken: dict[int, int]) -> None:
        if self.config.mutation is not Mutation.ASCRIBES:
            self.unsure = min(self.unsure + (len(taken) > 1), sum(taken.values()) - 1)

    def unbook(self, session: int) -> bool:
        if self.held[session] == 0:
            return False
        self.held[session] -= 1
        return True

    def give_back(self, owner: int) -> Steps:
        session, holder = session_of(owner), 0
        while True:
            found = self.slots
            for i in range(self.slots):
                word = yield from self.step("holder_of", i)
                if session_of(word) == session:
                    found, holder = i, word
                    break
                if word and not self.held[session]:
                    found, holder = i, word
            if found == self.slots:
                break
            others = None
            if session_of(holder) != session:
                others = yield from self.takers()
            if (yield from self.hand_on(found, holder, 0)):
                if others:
                    self.doubt(others)
                return
        if not self.unbook(session) and any(self.held):
            self.doubt((yield from self.takers()))
            self.unbook(next(s for s, n in enumerate(self.held) if n))
        yield from self.give_spare()

    def give_spare(self) -> Steps:
        waiter = yield from self.next_waiter()
        if waiter is None:
            self.spare += 1
        else:
            self.held[session_of(self.owners[waiter])] += 1
            self.outcome.append((waiter, Phase.GIVEN))


class Running(NamedTuple):
    """How far a job of the server has come."""

    access: Access  # the next
    outcome: tuple[tuple[int, Phase], ...]


class Ended(NamedTuple):
    """How a job of the server has ended."""

    books: Books
    outcome: tuple[tuple[int, Phase], ...]
    taken: bool
    cleared: bool
