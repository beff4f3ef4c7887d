"""An exhaustive exploration of clients that count a ring's items while others change them.

Both sides are the compiled code; who counts takes no slot, and is cut at each word that it reads.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from compiled import compiled
from exploring import Result, Violation, explore_runs
from ring_model import SIZE, known_to, rings

traced: Any = compiled("traced_peek")

Actor = Generator[str, None, Any]
SLOT = 0
MOST_LOOKS = 64  # words


class Mutation(enum.Enum):
    """What can be left out, or done otherwise."""

    LOOKS_ONCE = "looks-once"  # at the slot, and not behind the copy
    IGNORES_SIDES = "ignores-sides"  # whether the copy still holds
    OTHER_COPY = "other-copy"  # reads the one that does not hold
    LETS_GO = "lets-go"  # who has changed the copy that does not hold, and does not commit


@dataclass
class Config:
    """Who takes part: what each client does, a letter for each: p(ut), g(et), l(ook).

    With `ends` the server ends the ring at some moment.
    """

    clients: tuple[str, ...]
    ends: bool = False
    mutation: Mutation | None = None


class World:
    """One run: actors that make a step each time one is asked to."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.buffer = bytearray(rings.HEAD + SIZE)
        self.memory = rings.Memory(self.buffer)
        self.memory.begin()
        self.held = [self.about()]  # all that has been true, in order; None: there is no ring
        self.past: dict[int, tuple[int, ...]] = {}
        self.actors: dict[str, Actor] = {
            f"client {i}": self.client(i, program) for i, program in enumerate(config.clients)
        }
        if config.ends:
            self.actors["server"] = self.server()

    def is_(self, mutation: Mutation) -> bool:
        return self.config.mutation is mutation

    def about(self) -> int | None:
        return None if self.memory.slot & rings.IS_GONE else self.memory.state()[0]

    def word(self, at: int) -> int:
        number: int = struct.unpack_from("<Q", self.buffer, 8 * at)[0]
        return number

    def client(self, i: int, program: str) -> Actor:
        for letter in program:
            yield from self.look(i) if letter == "l" else self.change(i, letter == "p")

    def change(self, i: int, puts: bool) -> Actor:
        step = rings.Step(self.memory, (i + 1) << 24)
        outcome = rings.BUSY
        while outcome == rings.BUSY:
            yield "takes the slot"
            outcome = step.take()
        if outcome == rings.OVER:
            return
        if puts:
            assert step.push(b"item")
        elif step.pop() is None:
            step.let_go()
            return
        yield "writes the state"
        step.write()
        yield "commits"
        if self.is_(Mutation.LETS_GO) and i == 0:
            step.let_go()
        else:
            step.commit_alone()

    def look(self, i: int) -> Actor:
        begun = len(self.held) - 1
        self.past[i] = ()
        for _ in range(MOST_LOOKS):
            at, about = self.next_word(self.past[i])
            if at is None:
                break
            yield f"reads word {at}"
            self.past[i] += (self.word(at),)
        else:
            raise Violation("a look does not end")
        if about not in self.held[begun:]:
            raise Violation(f"{about} was read, which was not so: {self.held[begun:]}")
        self.past[i] = ()

    def next_word(self, past: tuple[int, ...]) -> tuple[int | None, int | None]:
        if self.config.mutation in (None, Mutation.LETS_GO):
            found: tuple[int | None, int | None] = traced.look(past)
            return found
        if not past:
            return SLOT, None
        if past[0] & rings.IS_GONE:
            return None, None
        if len(past) == 1:
            second = bool(past[0] & rings.IS_SIDE) != self.is_(Mutation.OTHER_COPY)
            return (16 if second else 8), None
        if len(past) == 2 and not self.is_(Mutation.LOOKS_ONCE):
            return SLOT, None
        changed = (past[0] ^ past[2]) & rings.IS_SIDE if len(past) > 2 else 0
        if changed and not self.is_(Mutation.IGNORES_SIDES):
            return self.next_word(past[2:])
        return None, None if past[-1] & rings.IS_GONE else past[1]

    def server(self) -> Actor:
        yield "looks at the slot"
        word = self.memory.slot
        yield "ends the ring"
        rings.Step(self.memory, 1 << 55 | 1).end(word)

    # -- steps ------------------------------------------------------------------------

    def step(self, name: str) -> str:
        try:
            label = f"{name} {next(self.actors[name])}"
        except StopIteration:
            del self.actors[name]
            label = f"{name} ends"
        if (about := self.about()) != self.held[-1]:
            self.held.append(about)
        return label

    def check(self) -> None:
        pass

    def choices(self) -> list[str]:
        return list(self.actors)

    def close(self) -> None:
        pass

    def state(self) -> tuple[Any, ...]:
        return (
            bytes(self.buffer), tuple(self.held), tuple(self.past.items()),
            tuple((name, known_to(actor)) for name, actor in self.actors.items()),
        )  # fmt: skip


def explore(config: Config, most: int) -> Result:
    return explore_runs(lambda: World(config), most)
