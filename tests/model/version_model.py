"""An exhaustive exploration of what clients keep of objects that others change.

The words are the compiled ones.  What the server does around them is `Entry.version_for_clients`
and `Calls.perform_versioned`, what the client does `ProxyCore.read`, each cut where another thread
or process may come in between.
"""

from __future__ import annotations

import enum
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from compiled import compiled
from exploring import Result, Violation, explore_runs

traced = compiled("traced_versions")

Actor = Generator[str, None, None]


class Mutation(enum.Enum):
    """What can be left out, or done otherwise."""

    NO_BEGIN = "no-begin"  # the word changes only behind the object
    NO_END = "no-end"  # it changes only before the object
    NO_CHANGE = "no-change"  # it does not change at all
    COUNTED_BY_WORD = "counted-by-word"  # the next version is the word's next number
    DROPPED_STANDING = "dropped-standing"  # a version goes, and its word stays as it is
    GIVEN_DURING_CALLS = "given-during-calls"  # an object gets a version while a call changes it
    READ_ONCE = "read-once"  # the reply says the version of the time after the read


@dataclass
class Object:
    """A shared object: its value is the number of the last change."""

    value: int = 0
    made: int = 0  # changes that have been begun
    version: int | None = None  # number of a `Version`
    offset: int = 0
    running: int = 0
    least: int = 0  # what each read that begins now has to see


@dataclass
class Config:
    """Who takes part.  A letter for each step of a client: r(ead), w(rite), l(ocate).

    `drops` is how often the server does without the object's version; `others` how often another
    object gets a version, and is changed.
    """

    clients: tuple[str, ...]
    drops: int = 0
    others: int = 0
    deaths: int = 0
    mutation: Mutation | None = None


@dataclass
class Client:
    located: int | None = None
    kept: tuple[int, int] | None = None  # version, value
    at: tuple[Any, ...] = field(default_factory=tuple)


class World:
    """One run: actors that make a step each time one is asked to."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.words = traced.Words()
        self.words.new()  # so that there is a segment
        self.shared = Object()
        self.other = Object()
        self.alive = True
        self.clients = [Client() for _ in config.clients]
        self.actors: dict[str, Actor] = {
            f"client {i}": self.client(one, program)
            for i, (one, program) in enumerate(zip(self.clients, config.clients, strict=True))
        }
        if config.drops:
            self.actors["dropper"] = self.dropper()
        if config.others:
            self.actors["other"] = self.others()
        if config.deaths:
            self.actors["death"] = self.death()
        self.done: dict[str, int] = dict.fromkeys(self.actors, 0)

    def is_(self, mutation: Mutation) -> bool:
        return self.config.mutation is mutation

    # -- the server --------------------------------------------------------

    def locate(self, one: Object) -> int | None:
        if one.version is None:
            if one.running and not self.is_(Mutation.GIVEN_DURING_CALLS):
                return None
            one.version, one.offset = self.words.new()
        return one.offset

    def begin(self, number: int, offset: int) -> None:
        if self.is_(Mutation.COUNTED_BY_WORD):
            self.words.put(offset, self.words.held(offset) + 1)
        elif not self.is_(Mutation.NO_BEGIN) and not self.is_(Mutation.NO_CHANGE):
            self.words.begin(number)

    def end(self, number: int, offset: int) -> None:
        held = self.words.held(offset)
        if self.is_(Mutation.COUNTED_BY_WORD):
            self.words.put(offset, held + 1)
        elif self.is_(Mutation.NO_BEGIN):
            self.words.begin(number)
            self.words.end(number)
        elif self.is_(Mutation.NO_END):
            self.words.end(number)
            self.words.put(offset, held & ~1)
        elif not self.is_(Mutation.NO_CHANGE):
            self.words.end(number)

    def write(self, one: Object) -> Actor:
        number, offset = one.version, one.offset
        one.running += 1
        if number is not None:
            self.begin(number, offset)
        yield "begins to write"
        one.made += 1
        one.value = max(one.value, one.made)
        wrote = one.value
        yield "writes"
        if number is not None:
            self.end(number, offset)
        one.running -= 1
        yield "replies to a write"
        one.least = max(one.least, wrote)  # the client has been told

    def dropper(self) -> Actor:
        for _ in range(self.config.drops):
            yield "drops"
            one = self.shared
            if one.version is not None and self.alive:
                if self.is_(Mutation.DROPPED_STANDING):
                    held = self.words.held(one.offset)
                    if not one.running:
                        self.words.drop(one.version)
                    self.words.put(one.offset, held)
                else:
                    self.words.retire(one.version)
                    if not one.running:  # else the call still has it
                        self.words.drop(one.version)
                one.version = None

    def others(self) -> Actor:
        for _ in range(self.config.others):
            yield "another object is located"
            if self.alive:
                self.locate(self.other)
                yield "another object is about to change"
                if self.alive:
                    yield from self.write(self.other)

    def death(self) -> Actor:
        yield "dies"
        self.alive = False

    # -- a client ----------------------------------------------------------

    def client(self, me: Client, program: str) -> Actor:
        for letter in program:
            yield f"begins {letter}"
            if letter == "w":
                yield from self.served(self.write(self.shared))
            elif letter == "l":
                if self.alive:
                    me.located = self.locate(self.shared)
            else:
                yield from self.read(me)

    def served(self, work: Actor) -> Actor:
        for label in work:
            if not self.alive:
                return
            yield label
            if not self.alive:
                return

    def read(self, me: Client) -> Actor:
        least = self.shared.least
        lives = self.alive
        yield "looks whether the server lives"
        if lives and me.kept is not None and me.located is not None:
            version, value = me.kept
            if self.words.stands(me.located, version):
                self.returned(value, least)
                return
        yield "asks"
        if self.alive:
            yield from self.served(self.read_by_call(me, least))

    def read_by_call(self, me: Client, least: int) -> Actor:
        one = self.shared
        number, offset = one.version, one.offset
        at = 0 if number is None else self.words.now(offset)
        one.running += 1
        yield "begins to read"
        value = one.value
        yield "reads"
        if self.is_(Mutation.READ_ONCE) and number is not None:
            at = self.words.now(offset)
        elif number is not None and at and not self.words.stands(offset, at):
            at = 0
        one.running -= 1
        yield "replies to a read"
        if at:
            me.kept = at, value
        self.returned(value, least)

    def returned(self, value: int, least: int) -> None:
        if value < least:
            raise Violation(f"a read returned {value} after {least} was there to be seen")
        self.shared.least = max(self.shared.least, value)

    # -- steps -------------------------------------------------------------

    def step(self, name: str) -> str:
        """Make an actor's next step."""
        self.done[name] += 1
        try:
            return f"{name} {next(self.actors[name])}"
        except StopIteration:
            del self.actors[name]
            return f"{name} ends"

    def check(self) -> None:
        pass

    def choices(self) -> list[str]:
        return list(self.actors)

    def state(self) -> tuple[Any, ...]:
        words = tuple(self.words.held(offset) for offset in (0, 64, 128, 192))
        clients = tuple((one.located, one.kept) for one in self.clients)
        return (
            words, clients, tuple(vars(self.shared).values()), tuple(vars(self.other).values()),
            self.alive, tuple(self.done.values()), self.locals(),
        )  # fmt: skip

    def locals(self) -> tuple[Any, ...]:
        """What the actors know by themselves, and the generators that they go through."""
        return tuple(known_to(actor) for actor in self.actors.values())

    def close(self) -> None:
        """Give the memory back."""
        self.actors.clear()
        del self.words


def known_to(actor: Any) -> tuple[Any, ...]:
    if actor is None or actor.gi_frame is None:
        return ()
    found: list[Any] = [known_to(actor.gi_yieldfrom)]
    for key, value in sorted(actor.gi_frame.f_locals.items()):
        if isinstance(value, Generator):
            found.append((key, known_to(value)))
        elif value is None or isinstance(value, (int, tuple)):
            found.append((key, value))
    return tuple(found)


def explore(config: Config, most: int) -> Result:
    return explore_runs(lambda: World(config), most)
