"""An exhaustive exploration of how calls go by mailbox or socket, to a server's loop or a worker.

What is done to one mailbox is the code of ``mailbox.h`` itself, compiled so that each of its
accesses is a step here.  The rest is mirrored in Python, each function under its own name:

* The rooms of ``mailbox.h``, which the loop looks into.
* `Stream.receive`, `receive_mail`, `answer_by_mail` of ``stream.pyx``; `FastChannel.exchange` and
  `post` of ``channel.pyx``, with the flag `ahead`.
* The loop of ``loop.pyx`` with its mailroom, and `serve_fast` of ``service.pyx``.

Each of those functions is a generator that yields what it does.  An access to a mailbox, a send,
a receive, a look at the sockets is one step each, and writing a message two.  What only one can
see or change at the time, and what is done under the GIL, is done with the step before.  A client
may be killed between any two steps.

A continuation is not a generator, which has no hash, but what it has been given so far.  Where a
function goes on with another, that is forgotten.  Looks that find nothing change nothing: a wait
finds something or ends, at any time.

Left out: the death of the server, and of a client's call alone; weak memory, what arrives in
parts, a peer that is slow to read, pipelines, pinned workers.  The pipe that wakes the loop is
readable while there is something to wake it for.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from compiled import compiled
from exploring import Result, Violation, report, uncollected

mailbox: Any = compiled("traced_mailbox")

OPEN, REQUEST, SLEEPS, REPLY, TAKEN = 1, 2, 4, 8, 16

# Messages: of a request the number of the call, of its reply that and ANSWER.
ANSWER = 100
NONE = -1
NO_BYTES = -2  # a reply by mail that says: it comes over the socket
TORN = -3  # being written
END, TIMEOUT = -4, -5

CLIENT, LOOP, WORKER = "client", "loop", "worker"
READ, HANGUP, NOTHING, MAIL = "read", "hang-up", "nothing", "mail"
KEEP, HAND_OFF, PARK = range(3)


class Mutation(Enum):
    """Ways to break the protocol on purpose."""

    LOOP_SLEEPS_OPEN = "loop-sleeps-open"  # it shuts nothing before it sleeps
    WORKER_SLEEPS_OPEN = "worker-sleeps-open"
    SHUTS_BLINDLY = "shuts-blindly"  # before it sleeps the loop, of what was posted until then
    WORKER_SHUTS_BLINDLY = "worker-shuts-blindly"
    SLEEPS_SILENTLY = "sleeps-silently"  # a client does not say that it does
    SLEEPS_BLINDLY = "sleeps-blindly"  # it says so, and does not look for REPLY
    ANSWERS_SLEEPERS = "answers-sleepers"  # by mail
    ANSWERS_FIRST = "answers-first"  # REPLY is set before the reply is written
    POSTS_BLINDLY = "posts-blindly"  # a client does not look whether it is open still
    OPENS_PLAINLY = "opens-plainly"  # with a store, whatever else is set
    STARTS_OPEN = "starts-open"
    ENTRUSTS_OPEN = "entrusts-open"  # the loop goes on to look
    GIVES_BACK_OPEN = "gives-back-open"
    GIVES_BACK_BLINDLY = "gives-back-blindly"  # whatever was posted until it was shut
    FORGETS_AHEAD = "forgets-ahead"
    UNWATCHED = "unwatched"  # the end of a connection seen while its worker was receiving


@dataclass(frozen=True)
class Config:
    """Clients by their programs, in which each letter is a call.

    `c` the loop or a worker can serve; `w` only a worker; `u` anyone, but only a worker can send
    the reply; `p` waits for something before it is answered; `q` both; `l` has a large reply;
    `L` is large itself; `o` gets no reply, nor does `x`, which only a worker can serve.
    """

    programs: tuple[str, ...]
    room: int = 2  # mailboxes that the loop can look into
    deaths: int = 0
    mutation: Mutation | None = None
    inner: bool = True  # check also what is seen from within only


class Proc(NamedTuple):
    """What runs: a function, and what it has been given so far."""

    name: str
    args: tuple[Any, ...]
    past: tuple[Any, ...] = ()


class One(NamedTuple):
    """A client with its mailbox and socket, and what the server knows of the connection."""

    alive: bool = True
    done: int = 0  # calls that were served
    bits: int = 0
    text: int = NONE
    up: tuple[int, ...] = ()
    down: tuple[int, ...] = ()
    buffer: tuple[int, ...] = ()
    frame: int = NONE  # the last that was taken
    mailed: bool = False
    on_worker: bool = False
    interest: str = READ
    parked: int = NONE
    finished_waiting: bool = False
    due: int = NONE
    undelivered: bool = False
    receiving: bool = False
    hung_up: bool = False
    left: bool = False
    finished: bool = False
    closed: bool = False


class State(NamedTuple):
    procs: tuple[Proc | None, ...]  # the loop, the clients, their workers
    ones: tuple[One, ...]
    room: tuple[int, ...]
    inbox: tuple[int, ...]


Op = tuple[Any, ...]
Steps = Generator[Op, Any, Any]
# What only one can see or change at the time, or what is done under the GIL.
PRIVATE = frozenset(["get", "set", "room", "set_room", "next_in", "next_due", "start", "serve"])


class Protocol:
    def __init__(self, config: Config) -> None:
        self.programs, self.most, self.mutation = config.programs, config.room, config.mutation

    # -- the mailbox, by client and server ------------------------------------

    def compiled(self, name: str, c: int, side: str, message: int = NONE) -> Steps:
        """What the function of that name in ``mailbox.h`` does to the mailbox of `c`."""
        past: tuple[int, ...] = ()
        while True:
            access, result = mailbox.traced_step(past, name)
            if access is None:
                return result
            kind, a, b = access
            more = {"replace": (a, b), "or": (a,), "and": (a,), "written": (message,)}
            more |= {"write": (side,), "read": (side,)}
            past = (*past, int((yield (kind, c, *more.get(kind, ()))) or 0))

    def fm_mail_put(self, c: int, side: str, message: int) -> Steps:
        yield "write", c, side
        yield "written", c, message

    def fm_mail_post(self, c: int, message: int) -> Steps:
        if self.mutation is not Mutation.POSTS_BLINDLY:
            return (yield from self.compiled("fm_mail_post", c, CLIENT, message))
        if (yield "load", c) != OPEN:
            return False
        yield from self.fm_mail_put(c, CLIENT, message)
        yield "or", c, REQUEST
        return True

    def fm_mail_await(self, c: int) -> Steps:
        if self.mutation not in (Mutation.SLEEPS_SILENTLY, Mutation.SLEEPS_BLINDLY):
            message = yield from self.compiled("fm_mail_await", c, CLIENT)
            return NO_BYTES if message is None else message
        if not (yield "until_reply", c):
            if self.mutation is Mutation.SLEEPS_BLINDLY:
                yield "or", c, SLEEPS
            return NO_BYTES
        message = yield "read", c, CLIENT
        yield "and", c, OPEN
        return message

    def fm_mail_open(self, c: int) -> Steps:
        if self.mutation is Mutation.OPENS_PLAINLY:
            yield "store", c, OPEN
        else:
            yield from self.compiled("fm_mail_open", c, LOOP)

    def fm_mail_shut(self, c: int) -> Steps:
        return (yield from self.compiled("fm_mail_shut", c, LOOP))

    def fm_mail_take(self, c: int, side: str) -> Steps:
        return (yield from self.compiled("fm_mail_take", c, side))

    def fm_mail_answer(self, c: int, side: str, message: int) -> Steps:
        if self.mutation is Mutation.ANSWERS_FIRST:
            before = yield "or", c, REPLY
            yield from self.fm_mail_put(c, side, message)
        elif self.mutation is Mutation.ANSWERS_SLEEPERS:
            yield from self.fm_mail_put(c, side, message)
            yield "or", c, REPLY
            return True
        else:
            return (yield from self.compiled("fm_mail_answer", c, side, message))
        if not before & SLEEPS:
            return True
        yield "and", c, OPEN
        return False

    def request_soon(self, c: int) -> Steps:
        """What came, and whether by mail; nothing where it is time to sleep."""
        came: Any = ()
        if (yield "choose", 2):
            yield from self.fm_mail_open(c)
            came = yield "until_request", c
        if came == () and self.mutation is not Mutation.WORKER_SLEEPS_OPEN:
            there = yield from self.fm_mail_shut(c)
            if there and self.mutation is not Mutation.WORKER_SHUTS_BLINDLY:
                came = MAIL
        if came == MAIL:
            return ((yield from self.fm_mail_take(c, WORKER)),), True
        return came, False

    def fm_mailroom_open(self, c: int) -> Steps:
        room = yield ("room",)
        if c not in room and len(room) < self.most:
            yield "set_room", (*room, c)
            yield from self.fm_mail_open(c)

    def fm_mailroom_forget(self, c: int) -> Steps:
        room = yield ("room",)
        yield "set_room", tuple(other for other in room if other != c)

    def fm_mailroom_soon(self) -> Steps:
        """One look at the mail or at the sockets: None says that it is time to sleep.

        To shut all now and then, and to look again, does nothing that sleeping does not.
        """
        room = yield ("room",)
        what = (yield "choose", 3) if room else 0
        if what == 0:
            return None
        if what == 1:
            return (yield "poll", False)
        found = []
        for c in room:
            if (yield "is_request", c):
                found.append((c, MAIL))
        return tuple(found)

    def fm_mailroom_sleep(self) -> Steps:
        found = []
        if self.mutation is not Mutation.LOOP_SLEEPS_OPEN:
            for c in (yield ("room",)):
                if (yield from self.fm_mail_shut(c)):
                    found.append((c, MAIL))
            yield "set_room", ()
            if found and self.mutation is not Mutation.SHUTS_BLINDLY:
                return tuple(found)
        return (yield "poll", True)

    # -- a client ---------------------------------------------------------------

    def call(self, c: int, i: int, ahead: bool) -> Steps:
        if i == len(self.programs[c]):
            return None
        letter = self.programs[c][i]
        if letter in "ox":  # `FastChannel.post`
            yield "send_up", c, i
            return "call", (c, i + 1, self.mutation is not Mutation.FORGETS_AHEAD)
        # `exchange`
        by_socket = ahead or letter == "L"
        posted = not by_socket and (yield from self.fm_mail_post(c, i))
        if not posted:
            yield "send_up", c, i
        # `receive`
        reply = (yield from self.fm_mail_await(c)) if posted else NO_BYTES
        if reply == NO_BYTES:
            reply = yield "recv_down", c
        if reply != i + ANSWER:
            raise Violation("a reply is taken for another call's")
        return "call", (c, i + 1, False)

    # -- what loop and worker do ------------------------------------------------

    def send(self, c: int, side: str) -> Steps:
        """The reply to the last frame: `send_now` with `answer_by_mail`; whether one is there."""
        i = yield "get", c, "frame"
        if (yield "get", c, "mailed"):
            yield "set", c, "mailed", False
            message = NO_BYTES if self.programs[c][i] == "l" else i + ANSWER
            if (yield from self.fm_mail_answer(c, side, message)) and message != NO_BYTES:
                return True
        return (yield "send_down", c, i + ANSWER)

    def take(self, c: int) -> Steps:
        buffer = yield "get", c, "buffer"
        if not buffer:
            return None
        yield "set", c, "buffer", buffer[1:]
        yield "set", c, "frame", buffer[0]
        return self.programs[c][buffer[0]]

    # -- the loop -----------------------------------------------------------------

    def serve_all(self) -> Steps:
        events = yield from self.fm_mailroom_soon()
        if events is None:
            events = yield from self.fm_mailroom_sleep()
        return "dispatch", (events,)

    def dispatch(self, events: tuple[tuple[int, str], ...]) -> Steps:
        if not events:
            return "housekeeping", ()
        c, ready = events[0]
        yield from self.handle_event(c, ready)
        return "dispatch", (events[1:],)

    def handle_event(self, c: int, ready: str) -> Steps:
        if (yield "get", c, "on_worker"):
            self.check_mail(ready)
            if ready == HANGUP:
                yield "set", c, "interest", NOTHING
                if (yield "get", c, "receiving"):
                    yield "set", c, "hung_up", True
                else:
                    yield from self.on_hang_up(c)
        elif (yield "get", c, "parked") != NONE:
            self.check_mail(ready)
            if ready == HANGUP:
                yield from self.drop(c)
        else:
            yield from self.receive_on_loop(c, ready)

    @staticmethod
    def check_mail(ready: str) -> None:
        if ready == MAIL:  # it would find it again and again, and never sleep
            raise Violation("the loop finds mail that it is not to read")

    def receive_on_loop(self, c: int, ready: str) -> Steps:
        if ready == MAIL or (yield "is_request", c):  # `receive_mail`
            if (yield "get", c, "buffer"):
                yield from self.drop(c)
                return
            came: Any = ((yield from self.fm_mail_take(c, LOOP)),)
            yield "set", c, "mailed", True
        else:
            came = yield "recv_up", c, LOOP
            yield from self.fm_mailroom_open(c)
        if came == END:
            yield from self.drop(c)
        elif came:
            yield "set", c, "buffer", came
            yield from self.serve_frames(c)

    def serve_frames(self, c: int) -> Steps:
        while (letter := (yield from self.take(c))) is not None:
            verdict = KEEP
            if letter in "wx":
                verdict = HAND_OFF
            else:
                yield "serve", c
                if letter in "pq":
                    verdict = PARK
                elif letter == "u":
                    yield "set", c, "undelivered", True
                    verdict = HAND_OFF
                elif letter != "o" and not (yield from self.send(c, LOOP)):
                    yield from self.drop(c)
                    return
            if verdict == HAND_OFF:
                yield from self.hand_to_worker(c)
                return
            if verdict == PARK:
                yield from self.stop_reading(c)
                return

    def answer(self, c: int) -> Steps:
        yield from self.read_from(c)
        yield "set", c, "parked", NONE  # `on_due`
        if self.programs[c][(yield "get", c, "frame")] == "q":
            yield "set", c, "undelivered", True
            yield from self.hand_to_worker(c)
        elif (yield from self.send(c, LOOP)):
            yield from self.serve_frames(c)
        else:
            yield from self.drop(c)

    def read_from(self, c: int) -> Steps:
        yield from self.fm_mailroom_open(c)
        if (yield "get", c, "interest") != NOTHING or self.mutation is not Mutation.UNWATCHED:
            yield "set", c, "interest", READ

    def shut(self, c: int) -> Steps:
        yield from self.fm_mailroom_forget(c)
        yield from self.fm_mail_shut(c)

    def stop_reading(self, c: int) -> Steps:
        yield from self.shut(c)
        yield "set", c, "interest", HANGUP

    def hand_to_worker(self, c: int) -> Steps:
        if not (yield "get", c, "undelivered"):  # `untake`
            frame = yield "get", c, "frame"
            yield "set", c, "buffer", (frame, *(yield "get", c, "buffer"))
        yield "set", c, "on_worker", True
        if self.mutation is Mutation.ENTRUSTS_OPEN:
            yield "set", c, "interest", HANGUP
        else:
            yield from self.stop_reading(c)
        yield "start", c

    def on_hang_up(self, c: int) -> Steps:
        yield "set", c, "left", True
        yield "set", c, "parked", NONE

    def drop(self, c: int) -> Steps:
        yield from self.shut(c)
        yield "set", c, "closed", True
        yield "set", c, "interest", NOTHING

    def housekeeping(self) -> Steps:
        if (c := (yield ("next_in",))) != NONE:
            yield "set", c, "on_worker", False
            if (yield "get", c, "finished") or (yield "get", c, "left"):
                yield from self.drop(c)
            elif (yield "get", c, "parked") == NONE:
                yield from self.read_from(c)
                yield from self.serve_frames(c)
            elif (yield "get", c, "finished_waiting"):
                yield from self.answer(c)
            return "housekeeping", ()
        if (c := (yield ("next_due",))) != NONE:
            due = yield "get", c, "due"
            yield "set", c, "due", NONE
            on_worker, closed = (yield "get", c, "on_worker"), (yield "get", c, "closed")
            if (yield "get", c, "parked") == due and not on_worker and not closed:
                yield from self.answer(c)
            return "housekeeping", ()
        return "serve_all", ()

    # -- a worker -------------------------------------------------------------------

    def work_fast(self, c: int) -> Steps:
        if (yield "get", c, "undelivered"):
            yield "set", c, "undelivered", False
            if not (yield from self.send(c, WORKER)):
                yield "set", c, "finished", True
        return "work_on", (c,)

    def work_on(self, c: int) -> Steps:
        if (yield "get", c, "finished"):
            yield "return_to_loop", c
            return None
        if not (yield "get", c, "buffer"):
            came = yield from self.receive(c)
            if came in (END, TIMEOUT):
                yield "set", c, "finished", came == END
                yield "return_to_loop", c
                return None
            yield "set", c, "buffer", came
        letter = yield from self.take(c)
        hung_up = (yield "get", c, "hung_up") and not (yield "get", c, "left")
        if hung_up and letter not in "ox":
            yield from self.on_hang_up(c)
        yield "serve", c
        if letter in "pq" and not (yield "get", c, "left"):
            yield from self.fm_mail_shut(c)
            yield "return_to_loop", c
            return None
        if letter not in "ox" and not (yield from self.send(c, WORKER)):
            yield "set", c, "finished", True
        elif letter in "clL" and (yield "choose", 2):  # many calls in a row for the loop
            if self.mutation is Mutation.GIVES_BACK_OPEN:
                there = False
            else:
                there = yield from self.fm_mail_shut(c)
            if not there or self.mutation is Mutation.GIVES_BACK_BLINDLY:
                yield "return_to_loop", c
                return None
        return "work_on", (c,)

    def receive(self, c: int) -> Steps:
        yield "set", c, "receiving", True
        came, mailed = yield from self.request_soon(c)
        if came == ():
            came = yield "recv_up", c, WORKER
        yield "gil", 1
        yield "set", c, "mailed", mailed
        yield "set", c, "receiving", False
        return came


class Model:
    """What can happen next, and whether it may."""

    def __init__(self, config: Config) -> None:
        self.config, self.protocol = config, Protocol(config)
        self.count = len(config.programs)
        self.memo: dict[Proc, tuple[Any, bool]] = {}
        self.doing = ""

    def start(self) -> State:
        open_ = self.config.mutation is Mutation.STARTS_OPEN
        clients = [Proc("call", (c, 0, False)) for c in range(self.count)]
        procs = (Proc("serve_all", ()), *clients, *([None] * self.count))
        return State(procs, (One(bits=OPEN * open_),) * self.count, (), ())

    # -- running the generators ---------------------------------------------------

    def next(self, proc: Proc) -> tuple[Any, bool]:
        """What a function does next; or what it goes on with, and False."""
        if proc not in self.memo:
            steps = getattr(self.protocol, proc.name)(*proc.args)
            try:
                op = next(steps)
                for value in proc.past:
                    op = steps.send(value)
                self.memo[proc] = op, True
            except StopIteration as end:
                self.memo[proc] = end.value, False
        return self.memo[proc]

    @staticmethod
    def given(state: State, who: int, value: Any) -> State:
        proc = state.procs[who]
        assert proc is not None
        return run(state, who, proc._replace(past=(*proc.past, value)))

    def settle(self, state: State, who: int) -> State:
        """Go on to the next step, with what needs none."""
        while (proc := state.procs[who]) is not None:
            op, running = self.next(proc)
            if not running:
                state = run(state, who, op and Proc(*op))
            elif op[0] in PRIVATE:
                value, state = self.private(state, op)
                state = self.given(state, who, value)
            else:
                break
        return state

    def private(self, state: State, op: Op) -> tuple[Any, State]:
        name = op[0]
        if name == "room":
            return state.room, state
        if name == "set_room":
            return None, state._replace(room=op[1])
        if name == "next_in":
            if not state.inbox:
                return NONE, state
            return state.inbox[0], state._replace(inbox=state.inbox[1:])
        if name == "next_due":
            return next((c for c, one in enumerate(state.ones) if one.due != NONE), NONE), state
        c = op[1]
        one = state.ones[c]
        if name == "get":
            return getattr(one, op[2]), state
        if name == "set":
            if op[2] == "closed" and one.alive:
                raise Violation("the connection of one who lives is closed")
            return None, put(state, c, **{op[2]: op[3]})
        if name == "start":
            return None, run(state, self.worker(c), Proc("work_fast", (c,)))
        # serve
        if one.frame != one.done:
            raise Violation("a call is served twice, or before another that was made earlier")
        state = put(state, c, done=one.done + 1)
        if self.config.programs[c][one.frame] in "pq" and not one.left:
            state = put(state, c, parked=one.frame, finished_waiting=False)
        return None, state

    def worker(self, c: int) -> int:
        return 1 + self.count + c

    # -- what can happen ------------------------------------------------------------

    def successors(self, state: State) -> Iterator[tuple[str, bool, State]]:
        """What can happen: what it is called, whether it has to happen some time, what it gives."""
        for who, proc in enumerate(state.procs):
            if proc is not None:
                yield from self.steps(self.settle(state, who), who)
        dead = sum(not one.alive for one in state.ones)
        for c, one in enumerate(state.ones):
            if one.parked != NONE and not one.finished_waiting:
                label = f"what client {c} waits for happens"
                yield label, True, put(state, c, finished_waiting=True, due=one.parked)
            if state.procs[1 + c] is not None and dead < self.config.deaths:
                killed = put(state, c, alive=False, down=())
                yield f"client {c} is killed", False, run(killed, 1 + c, None)

    def steps(self, state: State, who: int) -> Iterator[tuple[str, bool, State]]:
        proc = state.procs[who]
        assert proc is not None
        op = self.next(proc)[0]
        name = "the loop" if who == 0 else f"client {who - 1}"
        if who > self.count:
            name = f"the worker of client {who - 1 - self.count}"
        self.doing = f"{name} in {proc.name}: {' '.join(map(str, op))}"
        for value, has_to, after in self.do(state, op):
            self.doing = label = f"{name} in {proc.name}: {' '.join(map(str, op))} -> {value}"
            yield label, has_to, self.settle(self.given(after, who, value), who)

    def do(self, state: State, op: Op) -> list[tuple[Any, bool, State]]:
        """What a step may give: each with whether it has to happen, and the state after it."""
        name = op[0]
        if name in ("choose", "gil"):
            return [(value, True, state) for value in range(op[1])]
        if name == "poll":
            return self.poll(state, op[1])
        c = op[1]
        one = state.ones[c]
        if name in ("load", "or", "and", "store", "replace", "is_request"):
            bits, a = one.bits, op[2] if len(op) > 2 else 0
            if name == "is_request":
                return [(is_request(bits), True, state)]
            after = {"load": bits, "or": bits | a, "and": bits & a, "store": a}.get(name, bits)
            if name == "replace" and bits == a:
                after = op[3]
            return [(bits, True, put(state, c, bits=after))]
        if name in ("write", "read", "written"):
            return [self.touch(state, c, name, op[2])]
        if name == "until_reply":
            return [(there, True, state) for there in (False, *[True] * bool(one.bits & REPLY))]
        if name == "send_up":
            return [(None, True, put(state, c, up=(*one.up, op[2])))]
        if name == "send_down":
            return [(one.alive, True, put(state, c, down=(*one.down, op[2]) if one.alive else ()))]
        if name == "recv_down":
            return [(one.down[0], True, put(state, c, down=one.down[1:]))] if one.down else []
        if name == "return_to_loop":
            return [(None, True, state._replace(inbox=(*state.inbox, c)))]
        # until_request, recv_up
        self.check_reader(state, c, LOOP if op[2:] == (LOOP,) else WORKER)
        found: list[tuple[Any, bool, State]] = []
        if one.up:
            found = [(one.up, True, put(state, c, up=()))]
        elif not one.alive:
            found = [(END, True, state)]
        if name == "until_request":
            if is_request(one.bits):
                found.append((MAIL, True, state))
            found.append(((), True, state))
        elif op[2] == WORKER and not found:
            found.append((TIMEOUT, False, state))
        return found or [((), True, state)]

    def poll(self, state: State, waits: bool) -> list[tuple[Any, bool, State]]:
        events = []
        for c, one in enumerate(state.ones):
            if (one.interest == READ and one.up) or (one.interest != NOTHING and not one.alive):
                events.append((c, one.interest))
        woken = state.inbox or any(one.due != NONE for one in state.ones)
        return [(tuple(events), True, state)] if events or woken or not waits else []

    def touch(self, state: State, c: int, name: str, what: Any) -> tuple[Any, bool, State]:
        """Read the message, or begin or end to write it."""
        one = state.ones[c]
        if name == "written":
            if one.text != TORN:
                raise Violation("both write the message")
            return None, True, put(state, c, text=what)
        if self.config.inner:
            turn = one.bits & (REQUEST | TAKEN | REPLY)
            if what != CLIENT:
                right = turn == REQUEST | TAKEN
            elif name == "read":
                right = turn == REQUEST | TAKEN | REPLY
            else:  # it was open when the client looked, and may have been shut since
                right = not one.bits & ~OPEN
            if not right:
                raise Violation(f"out of turn: a {name} of the {what}")
        if name == "write":
            return None, True, put(state, c, text=TORN)
        if what != CLIENT:
            self.check_reader(state, c, what)
        if one.text == TORN:
            raise Violation("one reads the message while the other writes it")
        return one.text, True, state

    # -- what may happen ------------------------------------------------------------

    def check_reader(self, state: State, c: int, side: str) -> None:
        """Check that who reads requests is the only one who may."""
        worker = state.procs[self.worker(c)] is not None
        if worker != (side == WORKER) or state.ones[c].on_worker != worker:
            raise Violation(f"the {side} reads what is the other's to read")

    def check_still(self, state: State) -> None:
        """Check a state in which nothing happens any more that has to."""
        for c, one in enumerate(state.ones):
            if one.alive and state.procs[1 + c] is not None:
                raise Violation(f"client {c} waits for ever")
            if one.alive and one.done != len(self.config.programs[c]):
                raise Violation(f"a call of client {c} is never served")
            if not one.alive and not one.closed:
                raise Violation(f"nobody comes to know that client {c} is dead")


def is_request(bits: int) -> bool:
    """Whether there is a request that has not been taken."""
    return bits & (REQUEST | TAKEN | REPLY) == REQUEST


def put(state: State, c: int, **fields: Any) -> State:
    one = state.ones[c]._replace(**fields)
    return state._replace(ones=(*state.ones[:c], one, *state.ones[c + 1 :]))


def run(state: State, who: int, proc: Proc | None) -> State:
    return state._replace(procs=(*state.procs[:who], proc, *state.procs[who + 1 :]))


@uncollected()
def explore(config: Config, most: int | None = None) -> Result:
    """Go through all states, breadth first, until a property does not hold.

    Parameters
    ----------
    config : Config
        Who is there, and for what.
    most : int, optional
        How many states there may be.
    """
    model, result, begun = Model(config), Result(), time.perf_counter()
    first = model.start()
    came: dict[State, tuple[State, str] | None] = {first: None}
    order = [first]
    for state in order:  # which grows meanwhile
        still, model.doing = True, ""
        try:
            for label, has_to, after in model.successors(state):
                result.steps += 1
                still = still and not has_to
                if after not in came:
                    came[after] = state, label
                    order.append(after)
            if still:
                model.doing = ""
                model.check_still(state)
            if most is not None and len(order) > most:
                raise Violation(f"there are more than {most} states")
        except Violation as violation:
            result.violation = str(violation)
            result.trace = [model.doing] if model.doing else []
            while (before := came[state]) is not None:
                state = before[0]
                result.trace.insert(0, before[1])
            break
    result.states, result.seconds = len(order), time.perf_counter() - begun
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("programs", nargs="+", help="letters: c w u p q l L o x (see `Config`)")
    parser.add_argument("--room", type=int, default=2)
    parser.add_argument("--deaths", type=int, default=0)
    parser.add_argument("--mutation", type=Mutation, help=", ".join(m.value for m in Mutation))
    parser.add_argument("--outer", action="store_true", help="check only what can be seen outside")
    parser.add_argument("--most", type=int, help="give up with more states")
    args = parser.parse_args(argv)
    config = Config(tuple(args.programs), args.room, args.deaths, args.mutation, not args.outer)
    return report(explore(config, args.most))


if __name__ == "__main__":
    sys.exit(main())
