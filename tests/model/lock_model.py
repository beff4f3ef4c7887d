"""An exhaustive exploration of how clients and the server share locks and semaphores.

The steps are those of `lock_protocol`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import replace as replace_field
from functools import partial
from typing import Any

from exploring import Result, Violation, report, uncollected
from lock_protocol import (
    ASK,
    CONTENDED,
    OWNER,
    OWNER_DIED,
    PASSED_OVER,
    RELEASES,
    THREAD_BITS,
    Access,
    Books,
    Client,
    Config,
    Ended,
    Job,
    Kind,
    Life,
    Mutation,
    One,
    Phase,
    Running,
    Server,
    Spec,
    State,
    Steps,
    session_of,
    store,
)


class Model:
    """What can happen next, and whether it may."""

    def __init__(self, config: Config) -> None:
        self.config, self.kind, self.slots = config, config.kind, config.slots
        self.specs = config.clients
        sessions: dict[Any, int] = {}
        threads: dict[int, int] = {}
        owners = []
        for i, spec in enumerate(self.specs):
            key = spec.session or ("own", i)
            session = sessions.setdefault(key, len(sessions) + 1)
            threads[session] = threads.get(session, 0) + 1
            owners.append(session << THREAD_BITS | threads[session])
        self.owners = tuple(owners)
        self.sessions = tuple(session_of(owner) for owner in owners)
        self.members = {
            session: [i for i, s in enumerate(self.sessions) if s == session]
            for session in self.sessions
        }
        self.clients = [Client(config, owner) for owner in owners]
        self.counts = self.kind.counts
        self.permits = config.permits if self.counts else 1
        # Whoever releases what others hold leaves it open whose permit is whose.
        self.foreign = any(set("fp") & set(spec.program) for spec in self.specs)
        # But not where each is released for once: then it is known who is still to have one.
        self.released_for = not any("f" in spec.program for spec in self.specs)
        self.impatient = any("n" in spec.program for spec in self.specs)
        self.doing = ""  # the step being made
        self.client_memo: dict[tuple[int, str, tuple[int, ...]], Any] = {}
        self.step_memo: dict[tuple[Any, ...], tuple[str, bool, tuple[int, ...], One]] = {}
        self.server_memo: dict[tuple[Job, str, bool, Books], Running | Ended] = {}
        # Which clients can stand for which: alike, and each a process of its own.
        alike: dict[Spec, list[int]] = {}
        for i, spec in enumerate(self.specs):
            # Whose spare permit another gives back depends on who came first.
            if config.symmetric and not spec.session and not self.foreign:
                alike.setdefault(spec, []).append(i)
        self.alike = [group for group in alike.values() if len(group) > 1]

    def start(self) -> State:
        one = One(Life.ALIVE, 0, Phase.IDLE, (), 0, False)
        words = (0,) * (self.slots + (self.kind is Kind.RLOCK))
        spare = self.permits - self.slots if self.counts else 0
        books = Books((), spare, (0,) * (len(self.members) + 1))
        return State(words, books, None, (one,) * len(self.specs))

    # -- running the generators -------------------------------------------

    def client_next(self, client: int, letter: str, past: tuple[int, ...]) -> Access | int:
        """The next access of a client in a call, or what the call has come to."""
        key = (client, letter, past)
        if key not in self.client_memo:
            self.client_memo[key] = self.replay(self.clients[client].call(letter), past)[0]
        result: Access | int = self.client_memo[key]
        return result

    def server_next(self, state: State, job: Job) -> Running | Ended:
        """The next access of a job, or how it has ended."""
        one, books = state.ones[job.client], state.books
        letter = self.letter(job.client, one) if job.name == "serve" else ""
        left = one.life is Life.LEFT
        key = (job, letter, left, books)
        found = self.server_memo.get(key)
        if found is None:
            server = Server(self.config, self.owners, books)
            if job.name == "serve":
                steps = server.serve(job.client, letter, left)
            else:
                steps = server.on_left(job.client, job.phase, job.last)
            access, running = self.replay(steps, job.past)
            if running:
                found = Running(access, tuple(server.outcome))
            else:
                after = Books(
                    tuple(server.waiting),
                    server.spare,
                    tuple(server.held),
                    server.returned,
                    server.unsure,
                )
                found = Ended(after, tuple(server.outcome), server.taken, server.cleared)
            self.server_memo[key] = found
        return found

    @staticmethod
    def replay(steps: Steps, past: tuple[int, ...]) -> tuple[Any, bool]:
        try:
            access = next(steps)
            for value in past:
                access = steps.send(value)
        except StopIteration as end:
            return end.value, False
        return access, True

    def access(self, state: State, access: Access) -> tuple[int, tuple[int, ...]]:
        """Do an access; what it gives, and the words after it."""
        name, i, a, b = access
        words = state.words
        if name == "there":
            return int(state.ones[i].life is Life.ALIVE), words
        before = words[i]
        if name == "load":
            return before, words
        if name == "store":
            after = a
        elif name == "replace":
            after = b if before == a else before
        else:
            after = before | a if name == "set_bits" else before & ~a
        if after != before:
            words = (*words[:i], after, *words[i + 1 :])
        return before if name == "replace" else 0, words

    # -- what can happen ----------------------------------------------------

    def successors(self, state: State) -> Iterator[tuple[str, bool, State]]:
        """What can happen: what it is called, whether it has to happen some time, what it gives."""
        yield from self.server_steps(state)
        for i, one in enumerate(state.ones):
            if one.life is Life.ALIVE and one.phase in (Phase.IDLE, Phase.FAST):
                yield from self.client_steps(state, i, one)
        dead = sum(state.ones[members[0]].life > 0 for members in self.members.values())
        if dead < self.config.deaths:
            for session, members in self.members.items():
                if state.ones[members[0]].life is Life.ALIVE and any(
                    self.letter(i, state.ones[i]) or state.ones[i].holds for i in members
                ):
                    ones = list(state.ones)
                    for i in members:
                        ones[i] = ones[i]._replace(life=Life.KILLED, excused=False)
                        if ones[i].phase in (Phase.IDLE, Phase.FAST):
                            ones[i] = ones[i]._replace(phase=Phase.GONE, at=0, past=())
                    self.doing = f"process {session} is killed"
                    yield self.doing, False, state._replace(ones=tuple(ones))

    def letter(self, client: int, one: One) -> str:
        program = self.specs[client].program
        return program[one.at] if one.at < len(program) else ""

    def client_steps(self, state: State, i: int, one: One) -> Iterator[tuple[str, bool, State]]:
        letter = self.letter(i, one)
        if not letter:
            return
        if letter == "p":
            taker = state.ones[i - 1]
            if one.phase is Phase.IDLE and (taker.holds <= 0 or taker.freed):
                return
            state = self.put(state, i - 1, taker._replace(freed=True))
        if letter == "c" or not self.specs[i].arena:
            self.doing = f"client {i} asks for {letter}"
            yield self.doing, True, self.ask(state, i, one, letter)
            return
        # It hangs on this client, the words and the spare permits alone, and changes no more.
        key = i, one, state.words, state.books.spare
        if key not in self.step_memo:
            self.step_memo[key] = self.client_step(state, i, one, letter)
        label, takes, words, one = self.step_memo[key]
        self.doing = label
        if takes and self.overtaken(state):
            raise Violation("a client takes what another waits for")
        ones = state.ones
        yield label, True, State(words, state.books, state.job, (*ones[:i], one, *ones[i + 1 :]))

    def client_step(
        self, state: State, i: int, one: One, letter: str
    ) -> tuple[str, bool, tuple[int, ...], One]:
        """The next access of a client: its name, whether it takes a slot, what is then there."""
        access = self.client_next(i, letter, one.past)
        assert isinstance(access, tuple)
        value, words = self.access(state, access)
        label = self.doing = f"client {i} in {letter}: {describe(access, value)}"
        replaced = access[0] == "replace" and value == access[2]
        if replaced and self.config.inner and value & CONTENDED:
            raise Violation("a client changes a contended slot")
        past = (*one.past, value)
        excused = one.excused or (letter == "n" and self.none_free(state))
        state = state._replace(words=words)
        result = self.client_next(i, letter, past)
        if isinstance(result, tuple):
            one = one._replace(phase=Phase.FAST, past=past, excused=excused)
            state = self.put(state, i, one)
        elif result is ASK:
            state = self.ask(state, i, one._replace(excused=excused), letter)
        else:
            state = self.returns(state, i, one._replace(excused=excused), letter, result)
        return label, replaced and letter in "atn", words, state.ones[i]

    def ask(self, state: State, i: int, one: One, letter: str) -> State:
        holds = one.holds - (letter in RELEASES)
        excused = one.excused or (letter == "n" and self.none_free(state))
        return self.put(
            state, i, one._replace(phase=Phase.UNREAD, past=(), holds=holds, excused=excused)
        )

    def returns(self, state: State, i: int, one: One, letter: str, result: int) -> State:
        """The call is over, without the server's help or with it."""
        holds = one.holds
        if letter in "atn":
            holds += result
            # Who looks at several slots sees each at another moment: there may have been one free
            # all the time, but not the same.
            if not result and letter == "n" and self.slots == 1 and not one.excused:
                raise Violation("an acquire is refused though there was something to take")
        elif letter in RELEASES and one.phase in (Phase.IDLE, Phase.FAST):
            holds -= 1
        at, program = one.at + 1, self.specs[i].program
        while holds <= 0 and program[at : at + 1] == "r":
            at += 1
        return self.put(state, i, One(Life.ALIVE, at, Phase.IDLE, (), holds, False, one.freed))

    @staticmethod
    def put(state: State, i: int, one: One) -> State:
        return state._replace(ones=(*state.ones[:i], one, *state.ones[i + 1 :]))

    def server_steps(self, state: State) -> Iterator[tuple[str, bool, State]]:
        if state.job is not None:
            yield self.work(state, state.job)
            return
        for i, one in enumerate(state.ones):
            if one.phase is Phase.UNREAD:
                yield self.work(state, Job("serve", i, one.phase, False))
            elif one.phase is Phase.WAITING and self.letter(i, one) == "t":
                server = Server(self.config, self.owners, state.books)
                server.expire(i)
                after = state._replace(books=state.books._replace(queue=tuple(server.waiting)))
                if one.life is not Life.LEFT:
                    after = self.put(after, i, one._replace(phase=Phase.EXPIRED))
                    self.doing = f"the server finds that client {i} is out of time"
                    yield self.doing, False, after
            elif one.phase in (Phase.GIVEN, Phase.EXPIRED):
                self.doing = f"the server answers client {i}"
                yield self.doing, True, self.answer(state, i, one)
            # What was sent before the end is read before it, but not where a thread reads.
            if one.life is Life.KILLED and (one.phase is not Phase.UNREAD or self.specs[i].worker):
                last = not any(
                    state.ones[j].life is not Life.LEFT
                    for j in self.members[self.sessions[i]]
                    if j != i
                )
                yield self.work(state, Job("on_left", i, one.phase, last))

    def answer(self, state: State, i: int, one: One) -> State:
        if one.life is not Life.ALIVE:
            holds = one.holds + (self.foreign and one.phase is Phase.GIVEN)
            return self.put(state, i, one._replace(phase=Phase.GONE, holds=holds))
        return self.returns(state, i, one, self.letter(i, one), one.phase is Phase.GIVEN)

    def work(self, state: State, job: Job) -> tuple[str, bool, State]:
        """The next step of a job of the server."""
        i = job.client
        one = state.ones[i]
        letter = self.letter(i, one) if job.name == "serve" else ""
        if not job.past and job.name == "serve":
            one = one._replace(phase=Phase.SERVED)
            state = self.put(state, i, one)
        label = f"the server in {job.name}({letter or i}) for client {i}"
        self.doing = label
        step = self.server_next(state, job)
        if isinstance(step, Running):
            value, words = self.access(state, step.access)
            label += f": {describe(step.access, value)}"
            self.doing = label
            job = job._replace(past=(*job.past, value))
            state = state._replace(words=words, job=job)
            step = self.server_next(state, job)
            if isinstance(step, Running):
                return label, True, state
        return label, True, self.end(state, job, letter, step)

    def end(self, state: State, job: Job, letter: str, ended: Ended) -> State:
        deeper = self.kind is Kind.RLOCK and state.words[self.slots] > 1  # it was its own before
        if ended.taken and not deeper and self.overtaken(state):
            raise Violation("a client is given what another waits for")
        before = state.books.queue
        finished = {client for client, _ in ended.outcome}
        for client, phase in ended.outcome:
            if phase is Phase.GIVEN and any(
                other != PASSED_OVER
                and other not in finished
                and state.ones[other].life is Life.ALIVE
                for other in before[: before.index(client)]
            ):
                raise Violation("one who came later is served first")
            if phase is Phase.GIVEN and state.ones[client].phase is not Phase.WAITING:
                raise Violation("one who does not wait is given something")
        state = state._replace(books=ended.books, job=None)
        for client, phase in ended.outcome:
            one = state.ones[client]
            if phase < Phase.REPLY_TRUE:
                state = self.put(state, client, one._replace(phase=phase))
            elif one.life is not Life.ALIVE:
                holds = one.holds + (self.foreign and phase is Phase.REPLY_TRUE)
                state = self.put(state, client, one._replace(phase=Phase.GONE, at=0, holds=holds))
            else:
                if phase is Phase.REPLY_ERROR:
                    if letter != "f":
                        raise Violation("a holder's release is refused")
                    one = one._replace(holds=one.holds + 1)
                state = self.returns(state, client, one, letter, phase is Phase.REPLY_TRUE)
        if job.name == "on_left":
            one = state.ones[job.client]
            # A request that was not read will be, by the thread that serves the connection.
            if one.phase is not Phase.UNREAD:
                one = one._replace(phase=Phase.GONE, at=0, past=())
            holds = one.holds if self.foreign else min(one.holds, 1)
            state = self.put(state, job.client, one._replace(life=Life.LEFT, holds=holds))
        elif state.ones[job.client].life is Life.LEFT:
            one = state.ones[job.client]
            holds = one.holds + (self.foreign and letter in RELEASES)
            state = self.put(state, job.client, one._replace(phase=Phase.GONE, at=0, holds=holds))
        if ended.cleared:
            # Whoever says so takes over from those who have left.
            ones = [one._replace(holds=0) if one.life is Life.LEFT else one for one in state.ones]
            state = state._replace(ones=tuple(ones))
        return state

    # -- what may happen ----------------------------------------------------

    def overtaken(self, state: State) -> bool:
        """Whether somebody alive is in the queue."""
        served: set[int] = set()
        if state.job is not None:
            # It may have finished with some, which is in the books only when it has ended.
            step = self.server_next(state, state.job)
            served = {client for client, _ in step.outcome}
        return any(
            i != PASSED_OVER and i not in served and state.ones[i].life is Life.ALIVE
            for i in state.books.queue
        )

    def none_free(self, state: State) -> bool:
        return state.books.spare == 0 and all(word & OWNER for word in state.words[: self.slots])

    def after(self, state: State) -> State:
        """Let those who do not wait see whether there is nothing to take."""
        if (
            not self.impatient
            or not any(
                one.phase and not one.life and not one.excused and self.letter(i, one) == "n"
                for i, one in enumerate(state.ones)
            )
            or not self.none_free(state)
        ):
            return state
        ones = tuple(
            one._replace(excused=True)
            if one.phase and not one.life and self.letter(i, one) == "n"
            else one
            for i, one in enumerate(state.ones)
        )
        return state._replace(ones=ones)

    def check(self, state: State) -> None:
        """Check what holds in every state."""
        slots = state.words[: self.slots]
        if not self.foreign:
            self.check_holders(state, slots)
        if state.job is not None:
            return
        books, ones = state.books, state.ones
        if (
            self.config.inner
            and any(i != PASSED_OVER for i in books.queue)
            and (books.spare or not all(word & OWNER and word & CONTENDED for word in slots))
        ):
            raise Violation("somebody waits for a slot that is free or not contended")
        if self.foreign:
            free = books.spare + sum(not word & OWNER for word in slots)
            taken = sum(self.share(i, one) for i, one in enumerate(ones))
            if free + taken - books.returned != self.permits:
                raise Violation("permits are lost or made")
            if self.released_for:
                inside = sum(
                    max(one.holds, 0) for one in ones if one.life is Life.ALIVE and not one.freed
                )
                if inside > self.permits:
                    raise Violation("two hold what one can hold")
            if self.kind is Kind.BOUNDED and free > self.permits:
                raise Violation("more permits than its bound")
            return
        if self.counts and books.spare + sum(books.held) != self.permits - self.slots:
            raise Violation("spare permits are lost or made")
        for session, members in self.members.items():
            has = books.held[session] + sum(session_of(word) == session for word in slots)
            lives = {ones[i].life for i in members}
            if lives == {Life.LEFT}:
                if has:
                    raise Violation("what a dead client held stays held")
                if any(ones[i].holds for i in members) and not any(w & OWNER_DIED for w in slots):
                    raise Violation("nobody is told that a holder has died")
            elif lives == {Life.ALIVE}:
                due = sum(self.share(i, ones[i]) for i in members)
                if has != (due if self.counts else min(due, 1)):
                    raise Violation("a client has more or less than it was given")

    def check_holders(self, state: State, slots: tuple[int, ...]) -> None:
        holders = 0
        for i, one in enumerate(state.ones):
            if one.life is not Life.ALIVE or one.holds == 0:
                continue
            holders += one.holds if self.counts else 1
            if not self.counts and session_of(slots[0]) != self.sessions[i]:
                raise Violation("a holder is not the lock's owner")
            if self.kind is Kind.RLOCK:
                if slots[0] & OWNER != self.owners[i]:
                    raise Violation("a holder is not the lock's owner")
                if one.phase is Phase.IDLE and state.words[self.slots] != one.holds:
                    raise Violation("the depth is not how often its holder has taken it")
        if holders > self.permits:
            raise Violation("two hold what one can hold")

    def share(self, i: int, one: One) -> int:
        """How many permits a living client has, with those that are on their way."""
        share = one.holds + (one.phase is Phase.GIVEN)
        letter = self.letter(i, one)
        if one.phase is Phase.UNREAD and letter and letter in RELEASES:
            share += 1
        # Between taking an RLock and saying how often.
        if self.kind is Kind.RLOCK and one.phase is Phase.FAST and letter in "atn":
            share += self.client_next(i, letter, one.past) == store(self.slots, 1)
        return share

    def check_still(self, state: State) -> None:
        """Check a state in which nothing happens any more that has to."""
        living = [(i, one) for i, one in enumerate(state.ones) if one.life is Life.ALIVE]
        if any(one.phase is not Phase.IDLE for _, one in living):
            held = sum(one.holds if self.counts else one.holds > 0 for _, one in living)
            if self.foreign:  # nobody waits where with the stdlib nobody would
                held = sum(self.share(i, one) for i, one in enumerate(state.ones))
            if held < self.permits:
                raise Violation("somebody waits for ever for what nobody holds")

    # -- states that are alike ------------------------------------------------

    def canonical(self, state: State) -> State:
        """The state that stands for those that differ only in which client is which."""
        for group in self.alike:
            order = sorted(group, key=partial(self.signature, state))
            if order != group:
                state = self.renamed(state, {old: group[i] for i, old in enumerate(order)})
        return state

    def signature(self, state: State, i: int) -> tuple[Any, ...]:
        session, queue = self.sessions[i], state.books.queue
        return (
            state.ones[i],
            queue.index(i) if i in queue else -1,
            [session_of(word) == session for word in state.words[: self.slots]],
            state.books.held[session],
            state.job is not None and state.job.client == i,
        )

    def renamed(self, state: State, names: dict[int, int]) -> State:
        sessions = {self.sessions[i]: self.sessions[j] for i, j in names.items()}

        def word(value: int) -> int:
            session = session_of(value)
            if session in sessions:
                value += sessions[session] - session << THREAD_BITS
            return value

        def past(values: tuple[int, ...]) -> tuple[int, ...]:
            return tuple([word(value) for value in values]) if values else values

        ones = list(state.ones)
        held = list(state.books.held)
        for i, one in enumerate(state.ones):
            ones[names.get(i, i)] = one._replace(past=past(one.past)) if one.past else one
        for i, count in enumerate(state.books.held):
            held[sessions.get(i, i)] = count
        job = state.job
        if job is not None:
            job = job._replace(client=names.get(job.client, job.client), past=past(job.past))
        words = tuple([word(value) for value in state.words])
        queue = tuple([names.get(i, i) for i in state.books.queue])
        books = state.books._replace(queue=queue, held=tuple(held))
        return State(words, books, job, tuple(ones))


def describe(access: Access, value: int) -> str:
    name, i, a, b = access
    if name == "there":
        return f"client {i} is {'there' if value else 'gone'}"
    if name == "load":
        return f"load({i}) = {shown(value)}"
    if name == "replace":
        done = "done" if value == a else f"not done, there is {shown(value)}"
        return f"replace({i}, {shown(a)}, {shown(b)}) {done}"
    return f"{name}({i}, {shown(a)})"


def shown(word: int) -> str:
    """A word as text: the owner's session and thread, and the bits."""
    owner = f"{session_of(word)}.{word & (1 << THREAD_BITS) - 1}" if word >> THREAD_BITS else word
    if not word & OWNER:
        owner = "0"
    return f"{owner}{'+contended' * bool(word & CONTENDED)}{'+died' * bool(word & OWNER_DIED)}"


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
    model = Model(config)
    begun = time.perf_counter()
    first = model.canonical(model.start())
    seen: dict[State, int] = {first: 0}
    order = [first]
    came: list[tuple[int, str]] = [(0, "")]
    result = Result()
    at = 0

    def finish(violation: str | None) -> Result:
        result.states = len(order)
        result.violation = violation
        result.seconds = time.perf_counter() - begun
        return result

    while at < len(order):
        state = order[at]
        still = True
        model.doing = ""
        try:
            for label, has_to, after in model.successors(state):
                result.steps += 1
                still = still and not has_to
                after = model.after(after)
                like = model.canonical(after)
                if like not in seen:
                    model.check(after)  # those it is like were checked when the first came
                    seen[like] = len(order)
                    order.append(like)
                    came.append((at, label))
            if still:
                model.doing = ""
                model.check_still(state)
        except Violation as violation:
            if model.alike:
                # What stands for another state calls its clients by other names.
                result = explore(replace_field(config, symmetric=False), most)
                return finish(str(violation))
            result.trace = [model.doing] if model.doing else []
            while at:
                at, label = came[at]
                result.trace.insert(0, label)
            return finish(str(violation))
        at += 1
        if most is not None and len(order) > most:
            return finish(f"there are more than {most} states")
    return finish(None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--kind", type=Kind, default=Kind.LOCK, help="lock, rlock, semaphore, bounded"
    )
    parser.add_argument("--clients", type=int, default=2, help="how many, programs in turn")
    parser.add_argument("--program", action="append", help="letters: a t n r f p c (see `Spec`)")
    parser.add_argument("--plain", type=int, default=0, help="so many of them without the arena")
    parser.add_argument("--workers", type=int, default=0, help="so many served by a thread")
    parser.add_argument("--one-process", type=int, default=0, help="so many threads of one process")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--permits", type=int, help="as many as slots, or more")
    parser.add_argument("--deaths", type=int, default=0)
    parser.add_argument("--mutation", type=Mutation, help=", ".join(m.value for m in Mutation))
    parser.add_argument("--outer", action="store_true", help="check only what can be seen outside")
    parser.add_argument("--asymmetric", action="store_true", help="tell like clients apart")
    parser.add_argument("--most", type=int, help="give up with more states")
    args = parser.parse_args(argv)
    programs = itertools.cycle(args.program or ["arar"])
    clients = tuple(
        Spec(
            next(programs),
            session=1 if i < args.one_process else 0,
            arena=i < args.clients - args.plain,
            worker=i < args.workers,
        )
        for i in range(args.clients)
    )
    config = Config(
        clients,
        kind=args.kind,
        slots=args.slots,
        permits=args.permits or args.slots,
        deaths=args.deaths,
        mutation=args.mutation,
        inner=not args.outer,
        symmetric=not args.asymmetric,
    )
    return report(explore(config, args.most))


if __name__ == "__main__":
    sys.exit(main())
