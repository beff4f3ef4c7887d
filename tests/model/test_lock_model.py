"""The protocol of locks and semaphores, explored, and what the exploration would not miss."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from exploring import Result
from lock_model import Model, explore, main
from lock_protocol import (
    CONTENDED,
    OWNER_DIED,
    THREAD_BITS,
    Config,
    Kind,
    Mutation,
    Spec,
    compiled_step,
    slots,
)

pytestmark = pytest.mark.timeout(60)

# More than any of these has, so that one that has grown is noticed before it takes all day.
MOST = 400_000


def clients(*programs: str, plain: int = 0, workers: int = 0, threads: int = 0) -> tuple[Spec, ...]:
    """Clients of those programs: the last without the arena, the first on the server's threads.

    The first `threads` are of one process.
    """
    return tuple(
        Spec(
            program,
            session=1 if i < threads else 0,
            arena=i < len(programs) - plain,
            worker=i < workers,
        )
        for i, program in enumerate(programs)
    )


def holds(config: Config) -> Result:
    result = explore(config, MOST)
    assert result.violation is None, "\n".join([*result.trace, result.violation])
    return result


# Every transition of a slot, for one owner and with another about
ONE, OTHER = 1 << THREAD_BITS | 1, 2 << THREAD_BITS | 1
STEPS: dict[str, tuple[int, ...]] = {
    "holder_of": (),
    "take_slot": (ONE,),
    "take_rlock": (ONE,),
    "step_down": (),
    "free_slot": (ONE,),
    "free_rlock": (ONE,),
    "take_or_contend": (ONE,),
    "leave_free": (OTHER, OWNER_DIED),
    "hand_to": (ONE, 0, True),
    "set_depth": (3,),
    "mark_owner_died": (),
    "clear_owner_died": (),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_does_to_memory_what_is_explored(name: str) -> None:
    model = Model(Config(clients("ar"), Kind.RLOCK))
    for owner, contended, died, depth in itertools.product(
        (0, ONE, OTHER), (0, CONTENDED), (0, OWNER_DIED), (1, 2)
    ):
        words = (owner | contended | died, depth)
        made = slots.real_step(words, name, 0, *STEPS[name])
        state = model.start()._replace(words=words)
        steps, value = compiled_step(name, 0, *STEPS[name]), None
        with pytest.raises(StopIteration) as end:
            while True:
                value, after = model.access(state, steps.send(value))
                state = state._replace(words=after)
        assert made == (end.value.value, state.words)


LOCKS = {
    "two that come again": Config(clients("arar", "arar"), deaths=1),
    "three that come again": Config(clients("arar", "arar", "ar"), deaths=1),
    "two deaths": Config(clients("ar", "ar", "ar"), deaths=2),
    "four": Config(clients("ar", "ar", "ar", "ar"), deaths=1),
    "out of time": Config(clients("trar", "tr", "nr"), deaths=1),
    "without the arena": Config(clients("arar", "tr", "nrar", plain=2), deaths=1),
    "on the server's threads": Config(clients("ar", "ar", "tr", workers=3), deaths=2),
    "two threads of one": Config(clients("ar", "ar", "ar", threads=2), deaths=1),
    "all is well again": Config(clients("acr", "acrar", "nr"), deaths=1),
}

RLOCKS = {
    "twice": Config(clients("aarr", "aarr"), Kind.RLOCK, deaths=1),
    "and otherwise": Config(clients("anrr", "tarr", "nr"), Kind.RLOCK, deaths=1),
    "three": Config(clients("aarr", "ar", "ar", workers=3), Kind.RLOCK, deaths=2),
    "without the arena": Config(clients("aarr", "ar", "tarr", plain=2), Kind.RLOCK, deaths=1),
    "two threads of one": Config(clients("aarr", "ar", "ar", threads=2), Kind.RLOCK, deaths=1),
}


def semaphores(slots: int, permits: int, *specs: Spec, deaths: int = 0) -> Config:
    return Config(specs, Kind.SEMAPHORE, slots, permits, deaths)


SEMAPHORES = {
    "one slot": semaphores(1, 1, *clients("arar", "tr", "nr"), deaths=1),
    "two slots": semaphores(2, 2, *clients("ar", "ar", "arar"), deaths=1),
    "both at once": semaphores(2, 2, *clients("aarr", "aarr"), deaths=1),
    "on the server's threads": semaphores(2, 2, *clients("ar", "ar", "tr", workers=3), deaths=1),
    "two threads of one": semaphores(2, 2, *clients("ar", "ar", "ar", threads=2), deaths=1),
    "without the arena": semaphores(2, 2, *clients("ar", "ar", "ar", plain=2), deaths=1),
    "a spare permit": semaphores(1, 2, *clients("aarr", "ar", "tr"), deaths=1),
    "a spare permit, two deaths": semaphores(1, 2, *clients("ar", "ar", "ar"), deaths=2),
    "what others hold is released": semaphores(1, 1, *clients("aar", "f", "arf")),
    "and a spare permit": semaphores(1, 2, *clients("aar", "f", "ff")),
}


RELEASED_FOR = {
    "a lock": Config(clients("a", "p", "ar"), deaths=1),
    "a lock, two deaths": Config(clients("a", "p", "ar"), deaths=2),
    "a lock, twice": Config(clients("a", "p", "a", "p"), deaths=2),
    "a lock, without the arena": Config(clients("a", "p", "ar", "tr", plain=3), deaths=1),
    "a lock, on the server's threads": Config(clients("a", "p", "ar", workers=3), deaths=2),
    "one permit": semaphores(1, 1, *clients("a", "p", "ar"), deaths=2),
    "two permits": semaphores(2, 2, *clients("a", "p", "ar", "ar"), deaths=1),
    "two permits, two takers": semaphores(
        2, 2, *clients("a", "p", "a", "p", "ar", plain=5), deaths=2
    ),
    "two permits, many inside": semaphores(2, 2, *clients("a", "p", "a", "a", "a"), deaths=1),
    "a spare permit": semaphores(1, 2, *clients("a", "p", "ar", "ar"), deaths=1),
    "spare permits": semaphores(0, 2, *clients("a", "p", "ar", "ar", plain=4), deaths=1),
    "a bound": Config(clients("a", "p", "ar"), Kind.BOUNDED, 1, 1, deaths=2),
    "a bound of two": Config(clients("a", "p", "ar"), Kind.BOUNDED, 2, 2, deaths=2),
}


@pytest.mark.parametrize("name", RELEASED_FOR)
def test_what_one_takes_another_releases(name: str) -> None:
    """As a program does whose parent gives back what its children have taken, dead or alive."""
    holds(RELEASED_FOR[name])


@pytest.mark.parametrize("name", LOCKS)
def test_lock(name: str) -> None:
    holds(LOCKS[name])


@pytest.mark.parametrize("name", RLOCKS)
def test_rlock(name: str) -> None:
    holds(RLOCKS[name])


@pytest.mark.parametrize("name", SEMAPHORES)
def test_semaphore(name: str) -> None:
    holds(SEMAPHORES[name])


def test_bounded_semaphore() -> None:
    holds(Config(clients("aarr", "ar", "tr"), Kind.BOUNDED, 2, 2, deaths=1))


@pytest.mark.parametrize(
    "config",
    [
        Config(clients("ar", "ar", "ar"), deaths=2),
        Config(clients("ar", "ar", "aarr"), Kind.RLOCK, deaths=1),
        Config(clients("ar", "ar", "ar"), Kind.SEMAPHORE, 1, 2, deaths=1),
    ],
    ids=["lock", "rlock", "semaphore"],
)
def test_what_is_taken_for_the_same_is_the_same(config: Config) -> None:
    """Telling like clients apart there are more states, but at most one for each order of them."""
    few, many = holds(config), holds(replace(config, symmetric=False))
    assert few.states < many.states <= 6 * few.states


# What is broken on purpose, where that is to be seen, and how

BROKEN = {
    Mutation.QUEUES_FIRST: (Config(clients("ar", "ar")), "for ever"),
    Mutation.RELEASES_PLAINLY: (Config(clients("ar", "ar", "ar")), "what another waits for"),
    Mutation.UNMARKS_ON_HAND_OVER: (Config(clients("ar", "ar", "ar")), "for ever"),
    Mutation.ABANDONS_NOTHING: (Config(clients("ar", "ar"), deaths=1), "stays held"),
    Mutation.TAKES_BLINDLY: (Config(clients("ar", "ar")), "not the lock's owner"),
    Mutation.FREES_PLAINLY: (semaphores(1, 1, *clients("ar", "f")), "lost or made"),
    Mutation.LIFO: (Config(clients("ar", "ar", "ar")), "later is served first"),
    Mutation.GIVES_TO_THE_DEAD: (Config(clients("ar", "tr")), "does not wait is given"),
    Mutation.KEEPS_DEPTH: (Config(clients("aarr", "ar"), Kind.RLOCK, deaths=1), "the depth"),
    Mutation.FORGETS_DEATH: (Config(clients("ar", "ar"), deaths=1), "nobody is told"),
    Mutation.SPARES_LEAVE_NO_MARK: (
        semaphores(1, 2, *clients("ar", "ar"), deaths=1),
        "nobody is told",
    ),
    Mutation.FORGETS_WHAT_IS_BACK: (
        semaphores(1, 1, *clients("a", "p", "ar"), deaths=1),
        "lost or made",
    ),
    Mutation.ASCRIBES: (
        semaphores(2, 2, *clients("a", "p", "a", "a", "a", plain=5), deaths=1),
        "two hold what one can hold",
    ),
    Mutation.FREES_ANOTHERS: (
        Config(clients("a", "p", "ar", "ar"), deaths=1),
        "two hold what one can hold",
    ),
}


@pytest.mark.parametrize("mutation", Mutation, ids=lambda mutation: mutation.value)
def test_what_is_broken_is_found(mutation: Mutation) -> None:
    """By what it does to the clients, not only by what looks wrong within."""
    config, problem = BROKEN[mutation]
    holds(config)
    broken = explore(replace(config, mutation=mutation, inner=False), MOST)
    assert broken.violation is not None and problem in broken.violation
    assert broken.trace


@pytest.mark.parametrize(
    "mutation",
    [Mutation.QUEUES_FIRST, Mutation.RELEASES_PLAINLY, Mutation.UNMARKS_ON_HAND_OVER],
    ids=lambda mutation: mutation.value,
)
def test_what_is_broken_is_seen_within_as_well(mutation: Mutation) -> None:
    config, _ = BROKEN[mutation]
    broken = explore(replace(config, mutation=mutation), MOST)
    assert broken.violation is not None and "not contended" in broken.violation


def test_semaphores_are_broken_by_the_same() -> None:
    for mutation, config in (
        (Mutation.QUEUES_FIRST, semaphores(2, 2, *clients("ar", "ar", "ar"))),
        (Mutation.UNMARKS_ON_HAND_OVER, semaphores(1, 1, *clients("ar", "ar", "ar"))),
        (Mutation.ABANDONS_NOTHING, semaphores(2, 2, *clients("ar", "ar"), deaths=1)),
        (Mutation.TAKES_BLINDLY, semaphores(2, 2, *clients("ar", "ar"))),
    ):
        assert explore(replace(config, mutation=mutation, inner=False), MOST).violation


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clients", "2", "--program", "ar", "--deaths", "1"]) == 0
    assert "every property holds" in capsys.readouterr().out
    assert main(["--clients", "2", "--program", "ar", "--mutation", "takes-blindly"]) == 1
    said = capsys.readouterr().out
    assert "client 1 in a: replace(0, 0, 2.0) not done, there is 1.0" in said
