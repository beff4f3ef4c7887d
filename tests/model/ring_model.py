"""An exhaustive exploration of how clients and the server share a queue's ring.

The steps are the compiled ones, on memory of their own.  What the server does around them is
in `kinds/rings.pyx`, `kinds/stores.pyx` and `kinds/queues.pyx`, cut where another process may come
in between.
"""

from __future__ import annotations

import enum
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiled import compiled
from exploring import Result, Violation, explore_runs

rings: Any = compiled("rings", Path(__file__).resolve().parents[1] / "support")

Actor = Generator[str, None, Any]
SERVER = 1 << 55 | 1
SIZE = 4 * 16  # bytes for items, of which each takes 16


class Mutation(enum.Enum):
    """What can be left out, or done otherwise."""

    WRITES_IN_PLACE = "writes-in-place"  # the state that holds, not the other copy
    COMMITS_FIRST = "commits-first"  # before the state is written
    WIPES_EARLY = "wipes-early"  # an item's bytes before it is out of the ring
    FREES = "frees"  # the slot of one that does not let go, and the ring goes on
    REUSES = "reuses"  # the memory of a ring that has ended
    ENDS_BLINDLY = "ends-blindly"  # the ring, whatever its slot has come to
    PARKS_BLINDLY = "parks-blindly"  # who has found the ring empty a moment ago


@dataclass
class Config:
    """Who takes part: what each client does, a letter for each: p(ut), g(et), w(aiting get).

    `ends` is how often the server ends a ring whose slot is held; with `anew` it makes another one.
    """

    clients: tuple[str, ...]
    deaths: int = 0
    ends: int = 0
    anew: bool = False
    mutation: Mutation | None = None


class World:
    """One run: actors that make a step each time one is asked to."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.buffers = [bytearray(rings.HEAD + SIZE)]
        self.memory = rings.Memory(self.buffers[0])
        self.memory.begin()
        self.home: list[bytes] | None = None  # what the server has; None: all is in the ring
        self.truth: list[bytes] = []
        self.parked: list[int] = []
        self.given: dict[int, bytes] = {}
        self.put = 0
        self.deaths = config.deaths
        self.actors: dict[str, Actor] = {
            f"client {i}": self.client(i, program) for i, program in enumerate(config.clients)
        }
        if config.ends:
            self.actors["server"] = self.server(config.ends)

    def is_(self, mutation: Mutation) -> bool:
        return self.config.mutation is mutation

    # -- a client, and the server for one ------------------------------------

    def client(self, i: int, program: str) -> Actor:
        for letter in program:
            if letter == "p":
                self.put += 1
                yield from self.put_item(i, b"%d of %d" % (self.put, i))
            else:
                yield from self.get_item(i, letter == "w")

    def turn(self, owner: int, step: Any) -> Actor:
        """Take the slot; False: the ring has ended."""
        while True:
            yield "takes the slot"
            outcome = step.take()
            if outcome == rings.OVER:
                return False
            if outcome == rings.SPOILED:
                raise Violation("the state is nonsense")
            if outcome == rings.DONE:
                return True

    def commit(self, step: Any) -> Actor:
        if self.is_(Mutation.COMMITS_FIRST):
            yield "commits"
            good = step.commit_alone()
            yield "writes the state"
            step.write()
            return good
        yield "writes the state"
        step.write(not self.is_(Mutation.WRITES_IN_PLACE))
        yield "commits"
        return step.commit_alone(not self.is_(Mutation.WRITES_IN_PLACE))

    def put_item(self, i: int, item: bytes) -> Actor:
        while True:
            memory = self.memory
            step = rings.Step(memory, (i + 1) << 24)
            if not (yield from self.turn(i, step)):
                if memory is self.memory:
                    break
                continue
            if step.flags & rings.FLAG_PUT:
                step.let_go()
                break
            yield "writes the item"
            assert step.push(item)
            if not (yield from self.commit(step)):
                continue
            self.truth.append(item)
            return
        yield "asks the server to put"
        yield from self.server_puts(item)

    def get_item(self, i: int, waits: bool) -> Actor:
        while True:
            memory = self.memory
            step = rings.Step(memory, (i + 1) << 24)
            if not (yield from self.turn(i, step)):
                if memory is self.memory:
                    break
                continue
            yield "reads the item"
            item = step.pop()
            if item is None:
                step.let_go()
                if not waits:
                    return
                break
            if self.is_(Mutation.WIPES_EARLY):
                self.buffers[-1][rings.HEAD : rings.HEAD + SIZE] = bytes(SIZE)
            if not (yield from self.commit(step)):
                continue
            self.takes(item)
            return
        yield "asks the server to get"
        yield from self.server_gets(i, waits)

    def takes(self, item: bytes | bool | None) -> None:
        if not self.truth or item != self.truth[0]:
            raise Violation(f"{item!r} is taken, of {self.truth}")
        del self.truth[0]

    # -- the server ---------------------------------------------------------------

    def server_turn(self) -> Actor:
        """The server's turn: nobody else is served meanwhile, so it waits for clients alone."""
        step = rings.Step(self.memory, SERVER)
        return step if (yield from self.turn(0, step)) else None

    def server_puts(self, item: bytes) -> Actor:
        while self.home is None:
            step = yield from self.server_turn()
            if step is None:
                continue
            if not self.parked:
                assert step.push(item)
            step.flags = 0
            step.commit()
            if self.parked:
                self.given[self.parked.pop(0)] = item
            else:
                self.truth.append(item)
            return
        if self.parked:
            self.given[self.parked.pop(0)] = item
        else:
            self.home.append(item)
            self.truth.append(item)

    def server_gets(self, i: int, waits: bool) -> Actor:
        while self.home is None:
            if self.is_(Mutation.PARKS_BLINDLY):
                empty = not self.contents()
                yield "the server has looked"
            step = yield from self.server_turn()
            if step is None:
                continue
            item = None
            if not self.is_(Mutation.PARKS_BLINDLY) or not empty:
                item = step.pop()
            if item is None and waits:
                step.flags = rings.FLAG_PUT
                self.parked.append(i)
            step.commit()
            if item is not None:
                self.takes(item)
            break
        else:
            if self.home:
                self.takes(self.home.pop(0))
            elif waits:
                self.parked.append(i)
        while i in self.parked:
            yield "sleeps"
        self.given.pop(i, None)

    def server(self, ends: int) -> Actor:
        for _ in range(ends):
            yield "looks at the slot"
            word = self.memory.slot
            if not word & rings.OWNER_BITS or word & rings.IS_GONE:
                continue
            yield "ends the ring"
            step = rings.Step(self.memory, SERVER)
            if self.is_(Mutation.FREES):
                if self.memory.slot == word:
                    self.memory.slot = word & ~rings.OWNER_BITS
                continue
            if self.is_(Mutation.ENDS_BLINDLY):
                self.memory.slot = word
            if not step.end(word):
                continue
            self.home = []
            while (item := step.pop()) is not None:
                self.home.append(item)
            if self.config.anew:
                self.make_ring()

    def make_ring(self) -> None:
        assert self.home is not None
        if not self.is_(Mutation.REUSES):
            self.buffers.append(bytearray(rings.HEAD + SIZE))
        self.memory = rings.Memory(self.buffers[-1])
        self.memory.begin()
        step = rings.Step(self.memory, SERVER)
        assert step.take() == rings.DONE
        for item in self.home:
            assert step.push(item)
        step.flags = rings.FLAG_PUT if self.parked else 0
        step.commit()
        self.home = None

    # -- steps ------------------------------------------------------------------------

    def contents(self) -> list[bytes]:
        return self.home if self.home is not None else self.memory.items()

    def step(self, name: str) -> str:
        if name.startswith("the death of "):
            self.deaths -= 1
            del self.actors[name.removeprefix("the death of ")]
            return name
        try:
            label = f"{name} {next(self.actors[name])}"
        except StopIteration:
            del self.actors[name]
            label = f"{name} ends"
        if self.contents() != self.truth:
            raise Violation(f"{self.contents()} where {self.truth} have been put and not taken")
        return label

    def choices(self) -> list[str]:
        """Who may make a step now.  A thread of the server that waits for a client waits only."""
        names = list(self.actors)
        if self.deaths:
            names += [f"the death of {name}" for name in self.actors if name != "server"]
        return names

    def is_stuck(self) -> bool:
        """Whether somebody sleeps who should not, when all others have ended."""
        asleep = [name for name, actor in self.actors.items() if is_asleep(actor)]
        return bool(asleep) and len(asleep) == len(self.actors) and bool(self.truth)

    def check(self) -> None:
        if self.is_stuck():
            raise Violation("somebody sleeps while there is an item")

    def close(self) -> None:
        pass

    def state(self) -> tuple[Any, ...]:
        return (
            *(bytes(buffer) for buffer in self.buffers), tuple(self.home or [None]),
            tuple(self.truth), tuple(self.parked), tuple(self.given.items()), self.deaths,
            tuple((name, known_to(actor)) for name, actor in self.actors.items()),
        )  # fmt: skip


def innermost(actor: Any) -> Any:
    while actor.gi_yieldfrom is not None:
        actor = actor.gi_yieldfrom
    return actor


def is_asleep(actor: Any) -> bool:
    inner = innermost(actor)
    if inner.gi_code.co_name != "server_gets":
        return False
    known = inner.gi_frame.f_locals
    return known["i"] in known["self"].parked


def known_to(actor: Any) -> tuple[Any, ...]:
    if actor is None or actor.gi_frame is None:
        return ()
    frame = actor.gi_frame
    found: list[Any] = [frame.f_lasti, known_to(actor.gi_yieldfrom)]
    for key, value in sorted(frame.f_locals.items()):
        if value is None or isinstance(value, (int, str, bytes)):
            found.append((key, value))
        elif isinstance(value, rings.Step):
            found.append((key, value.known()))
        elif isinstance(value, rings.Memory):
            found.append((key, frame.f_locals["self"].memory is value))
    return tuple(found)


def explore(config: Config, most: int) -> Result:
    return explore_runs(lambda: World(config), most)
