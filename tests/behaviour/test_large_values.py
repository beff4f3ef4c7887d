"""Values with large buffers arrive as they were, and leave nothing behind."""

from __future__ import annotations

import pickle
import queue
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from support import DEADLINE, KEY
from support.buffers import LARGE, BufferManager, Held, arrived, pattern, same

import fastmgr
from fastmgr.managers import RemoteError

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[BufferManager]:
    """Takes the place of the suite's, with one of these tests' own."""
    with BufferManager(authkey=KEY) as manager:
        yield manager


# Any values


seeds = st.integers(0, 65535)
sizes = st.sampled_from([0, 1, 300, LARGE - 1, LARGE, LARGE + 1, 150_001])
buffers = st.builds(pattern, seeds, sizes)


def view_of(data: bytes, kind: str) -> Any:
    """Something whose buffer holds `data`."""
    if kind == "bytes":
        return data
    if kind == "bytearray":
        return bytearray(data)
    if kind == "part of a bytearray":
        return memoryview(bytearray(b"<<" + data + b">>"))[2:-2]
    if kind == "read-only":
        return memoryview(bytearray(data)).toreadonly()
    if kind == "empty":
        return memoryview(b"")
    assert kind == "matrix"
    even = bytearray(data[: len(data) & ~1] or b"xy")
    return memoryview(even).cast("B", (2, len(even) // 2))


kinds = st.sampled_from(
    ["bytes", "bytearray", "part of a bytearray", "read-only", "empty", "matrix"]
)
leaves = (
    buffers
    | buffers.map(bytearray)
    | st.builds(Held, st.builds(view_of, buffers, kinds), st.none() | buffers)
    | st.integers()
    | st.text(max_size=5)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(buffers | st.integers(), inner, max_size=3)
        # The very same object twice
        | st.builds(lambda value: [value, (value, 1)], inner)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def quiet_client() -> Iterator[ThreadPoolExecutor]:
    """A client that never calls a class of a user's: its calls are served by the loop."""
    with ThreadPoolExecutor(1) as client:
        yield client


@settings(max_examples=40, deadline=None)
@given(value=values, key=buffers | st.none())
def test_any_value_arrives_as_it_was(
    shared_manager: BufferManager, quiet_client: ThreadPoolExecutor, value: Any, key: Any
) -> None:
    manager = shared_manager
    expected = arrived(value)
    keeper = manager.Keeper(0)

    def by_the_loop() -> list[Any]:
        data, items, fifo = manager.dict(), manager.list(), manager.Queue()
        box, space = manager.Value("O", None), manager.Namespace()
        data[key] = value
        items.append(value)
        fifo.put(value)
        box.value = value
        space.x = value
        seen = [data[key], data.copy()[key], data.items()[0][1], data.pop(key)]
        seen += [items[0], items[:][0], fifo.get(), box.get(), space.x]
        with manager.pipeline() as pipe:
            pipe(data)[key] = value
            pipe(data)[key]
            pipe(data)[key]
            pipe(items).pop()
        return seen + pipe.results[1:]

    for seen in quiet_client.submit(by_the_loop).result(DEADLINE):
        assert same(seen, expected)
    (seen,), kwds = keeper.echo(value, key=value)
    assert same(seen, expected) and same(kwds, {"key": expected})
    with pytest.raises(KeyError) as caught:
        keeper.refuse(value)
    assert same(caught.value.args, (expected,))


def test_what_cannot_be_pickled_leaves_nothing_behind(
    manager: BufferManager, quiet_client: ThreadPoolExecutor
) -> None:
    """A failure in the middle of a value, behind buffers that were left out already."""

    def by_the_loop() -> None:
        data = manager.dict()
        large = pattern(5, LARGE)
        scattered = Held(memoryview(bytearray(2 * LARGE))[::2])
        lock = threading.Lock()
        for wrong in ([large, lock], [Held(bytearray(large)), lock], [large, scattered], scattered):
            with pytest.raises((TypeError, pickle.PicklingError)):
                data["x"] = wrong
            data["y"] = bytearray(large)
            assert same(data.copy(), {"y": bytearray(large)})
            with pytest.raises((TypeError, pickle.PicklingError)), manager.pipeline() as pipe:
                pipe(data)["y"] = large
                pipe(data)["y"] = wrong
            assert same(data.pop("y"), bytearray(large))

    quiet_client.submit(by_the_loop).result(DEADLINE)
    keeper = manager.Keeper(0)

    for value in (pattern(6, LARGE), Held(pattern(7, LARGE))):
        with pytest.raises(RemoteError, match="cannot pickle"):
            keeper.broken(value)
        assert same(keeper.echo(value), ((value,), {}))


def test_the_same_large_bytes_twice(manager: BufferManager) -> None:
    """One object they were, one object they are."""
    data = manager.dict()
    large = pattern(1, 3 * LARGE)
    data["x"] = [large, {large: (large,)}]
    first, mapping = data["x"]
    ((key, (value,)),) = mapping.items()
    assert first == large and first is key is value
    text = "text" * LARGE
    data["x"] = (text, [text])
    first, (second,) = data["x"]
    assert first == text and first is second


@pytest.mark.parametrize("wrap", [bytearray, Held], ids=["plain", "out of band"])
def test_copies_are_copies(wrap: Callable[[Any], Any], manager: BufferManager) -> None:
    """What one end does to its own changes nothing at the other."""
    data, items = manager.dict(), manager.list()
    buffer = bytearray(2 * LARGE)
    data["x"] = value = buffer if wrap is bytearray else wrap(buffer)
    items.append(value)
    buffer[0] = 1
    for _ in range(2):
        for found in (data["x"], items[0], *items[:], *data.values()):
            plain = found if wrap is bytearray else found.data
            assert type(plain) is bytearray and plain == bytes(2 * LARGE)
            plain[1] = 2
            plain.append(3)


class Asking:
    """Pickling it makes a call of its own, by the same thread."""

    def __init__(self, proxy: Any) -> None:
        self.proxy = proxy

    def __reduce__(self) -> Any:
        return bytes.upper, (self.proxy["asked"],)


def test_pickling_may_make_calls_with_segments_of_their_own(manager: BufferManager) -> None:
    data = manager.dict(asked=b"a" * LARGE)
    before, behind = pattern(1, LARGE), pattern(2, LARGE)
    data["x"] = [before, Asking(data), Held(behind)]
    assert same(data["x"], [before, b"A" * LARGE, Held(behind)])


def test_one_way_calls_with_segments(
    manager: BufferManager, quiet_client: ThreadPoolExecutor
) -> None:
    """Also where one of them fails, and where the next reply has segments of its own."""
    data, keeper = manager.dict(), manager.Keeper(0)
    large, missing = pattern(1, LARGE), pattern(2, LARGE)

    def play() -> None:
        post = fastmgr.oneway(data)
        post["x"] = [large, Held(bytearray(large))]
        assert same(data["x"], [large, Held(bytearray(large))])
        post.pop(missing)
        del post[missing]
        with pytest.raises(fastmgr.OnewayError) as caught:
            data["x"]
        assert caught.value.failed == 2
        assert same(caught.value.result, [large, Held(bytearray(large))])
        assert isinstance(caught.value.__cause__, KeyError)
        assert caught.value.__cause__.args == (missing,)
        data["y"] = large
        assert data["y"] == large

    quiet_client.submit(play).result(DEADLINE)
    fastmgr.oneway(keeper).refuse(Held(large))
    fastmgr.oneway(keeper).echo(large)
    with pytest.raises(fastmgr.OnewayError) as caught:
        keeper.echo(missing)
    assert caught.value.failed == 1
    assert same(caught.value.result, ((missing,), {}))
    assert caught.value.__cause__ is not None
    assert same(caught.value.__cause__.args, (Held(large),))


def test_large_values_between_busy_clients(manager: BufferManager) -> None:
    """Each gets its own, whatever is on the way for the others."""
    fifo: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work(number: int) -> None:
        try:
            chance = random.Random(number)
            data, keeper = manager.dict(), manager.Keeper(0)
            for i in range(15):
                value = Held(bytearray(pattern(number * 100 + i, chance.randrange(1 << 20))))
                data[i % 3] = [value, value.data]
                assert same(data[i % 3], arrived([value, value.data]))
                if number % 2:
                    assert same(keeper.echo(value)[0], (arrived(value),))
            fifo.put(None)
        except BaseException as error:
            fifo.put(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(6)]
    for thread in threads:
        thread.start()
    for _ in threads:
        error = fifo.get(timeout=DEADLINE)
        if error is not None:
            raise error
    for thread in threads:
        thread.join(DEADLINE)
