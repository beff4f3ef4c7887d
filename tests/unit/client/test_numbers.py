"""Counters, values and arrays by memory alone: representations, buffers, no calls."""

from __future__ import annotations

import array
import gc
import json
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support import KEY, ProbeManager, Script, in_thread, locally, say, settle, stopped
from support.numbers import CODES, EDGE, Make, mapped_array, same

from fastmgr.managers import ArrayProxy, Token, ValueProxy

pytestmark = pytest.mark.timeout(90)


def test_a_proxy_says_what_its_cell_holds(manager: ProbeManager, off_manager: ProbeManager) -> None:
    """Where there is no cell, or none that is known yet, it says what it is: that takes no call."""
    said: list[tuple[str, str, Any, Callable[[Any], Any]]] = [
        ("5", "Counter", (5,), int),
        ("0.5", "Value", ("d", 0.5), lambda proxy: proxy.value),
        ("array('i', [1, 2])", "Array", ("i", [1, 2]), len),
        ("array('i', [0, 1, 2, 3, 4, 5, ...]) of 90", "Array", ("i", range(90)), len),
        ("Counters({'a': 0})", "Counters", (["a"],), len),
        ("Counters([0, 0])", "Counters", (2,), len),
        ("Counters([0, 0, 0, 0, 0, 0, ...]) of 90", "Counters", (90,), len),
    ]
    for text, typeid, arguments, use in said:
        for source in (manager, off_manager):
            proxy = getattr(source, typeid)(*arguments)
            plain = f"<{typeid}Proxy object, typeid {typeid!r} at {id(proxy):#x}>"
            assert repr(proxy) == plain
            use(proxy)
            cell = f"<{typeid}Proxy {text}, typeid {typeid!r}>"
            assert repr(proxy) == (cell if source is manager else plain)
    text = manager.Value("i", "only the server has it")
    assert text.get() and repr(text).startswith("<ValueProxy object, typeid 'Value' at ")


def test_a_representation_waits_for_no_server() -> None:
    with ProbeManager(authkey=KEY) as own:
        known, unknown, rest = own.Counter(5), own.Counter(), own.Value("i", "of the server")
        assert (known.get(), rest.get()) == (5, "of the server")
        with stopped(own._process.pid):
            assert "CounterProxy 5," in in_thread(repr, known)
            assert "CounterProxy object," in in_thread(repr, unknown)
            assert "ValueProxy object," in in_thread(repr, rest)


def manager_make(manager: ProbeManager) -> Make:
    return lambda kind, *args: getattr(manager, kind)(*args)


def test_an_array_as_a_buffer(manager: ProbeManager) -> None:
    for code in CODES:
        shared = manager.Array(code, [1, 2, 3])
        expected = array.array(code, [1, 2, 3])
        with memoryview(shared) as view:
            assert (view.format, view.itemsize, view.shape, view.strides, view.readonly) == (
                code, expected.itemsize, (3,), (expected.itemsize,), False,
            )  # fmt: skip
            assert view.contiguous and view.obj is not None
            view[1] = 9
            assert view.tolist() == [1, 9, 3]
            assert shared._callmethod("__getitem__", (1,)) == 9
            shared._callmethod("__setitem__", (2, 7))
            assert view[2] == 7
        expected[1:] = array.array(code, [9, 7])
        assert memoryview(shared).tobytes() == expected.tobytes()
        if code not in "fd":
            assert bytes(shared) == b"\x01\x09\x07"  # the items, as of any proxy of an array
        assert struct.unpack(f"@3{code}", shared) == (1, 9, 7)


def test_the_buffer_of_an_array_over_numpy(manager: ProbeManager) -> None:
    numpy = pytest.importorskip("numpy")
    shared = manager.Array("d", range(5))
    view = numpy.asarray(shared)
    view *= 2
    assert shared._callmethod("__getitem__", (slice(None),)) == array.array("d", [0, 2, 4, 6, 8])


def test_no_buffer_without_memory(off_manager: ProbeManager, manager: ProbeManager) -> None:
    for shared in (off_manager.Array("i", [1]), manager.Array("i", [])):
        with pytest.raises(BufferError, match="read it with"):
            memoryview(shared)


def test_bytes_of_an_array_without_memory(off_manager: ProbeManager) -> None:
    """As the stdlib's proxy, which is a sequence, has them."""
    assert bytes(off_manager.Array("B", b"abc")) == b"abc"


def test_a_view_outlives_its_proxy(own_manager: ProbeManager) -> None:
    for size in (10, 100_000):
        shared = own_manager.Array("i", range(size))
        view = memoryview(shared)[2:]
        del shared
        gc.collect()
        assert own_manager._number_of_objects() == 1
        others = [own_manager.Array("i", [-1] * size) for _ in range(5)]
        assert [other[0] for other in others] == [-1] * 5
        assert view[0] == 2
        view[0] = 77
        assert all(list(other[:3]) == [-1] * 3 for other in others)
        del others
        view.release()
        del view
        settle(own_manager, 0)


def test_a_closed_proxy_leaves_its_view(manager: ProbeManager) -> None:
    shared = manager.Array("i", range(3))
    view = memoryview(shared)
    kept = ArrayProxy(shared._token, "pickle", authkey=KEY)
    shared._close()
    assert view[1] == 1
    assert (shared[1], len(shared)) == (1, 3)  # through the server: others hold it
    with pytest.raises(BufferError):
        memoryview(shared)
    del kept


def test_the_length_of_an_array_is_fixed_once_it_is_mapped(make: Make, manager: Any) -> None:
    shared = manager.Array("i", range(4))
    shared[4:] = array.array("i", [4, 5])
    shared[0:2] = array.array("i", [9])
    assert shared[:].tolist() == [9, 2, 3, 4, 5]
    with pytest.raises(BufferError):
        shared[0:1] = array.array("i", [])
    assert shared._callmethod("__len__") == 5
    with pytest.raises(BufferError):
        shared._callmethod("__setitem__", (slice(9, 9), array.array("i", [1])))
    shared[::2] = array.array("i", [1, 1, 1])
    assert shared[:].tolist() == [1, 2, 1, 4, 1]


@pytest.mark.parametrize("look", [len, lambda a: a[0], lambda a: a.incr(0), memoryview])
def test_any_look_at_an_array_maps_it(manager: ProbeManager, look: Callable[..., Any]) -> None:
    shared = manager.Array("i", [1, 2])
    look(shared)
    with pytest.raises(BufferError):
        shared[:1] = array.array("i", [1, 2])
    assert shared[:].tolist()[1] == 2
    gc.collect()


def test_arrays_work_without_the_server(manager: ProbeManager) -> None:
    shared = mapped_array(manager_make(manager), "i", [1, 2, 3])

    def use() -> Any:
        shared[0] = 5
        return shared[0], shared[:].tolist(), shared.incr(1), len(shared), bytes(shared)[:1]

    assert locally(manager, use) == (5, [5, 2, 3], 3, 3, b"\5")


def test_all_numbers_work_without_the_server(manager: ProbeManager) -> None:
    counters, value = manager.Counters(["a"]), manager.Value("i", 1)
    counters.incr("a")
    value.get()

    def use() -> Any:
        value.set(None)
        value.exchange(2.5)
        value.compare_exchange(2.5, 3)
        counters["a"] = 9
        return value.incr(), counters.incr("a"), counters.as_dict(), [*counters], len(counters)

    assert locally(manager, use) == (4, 10, {"a": 10}, ["a"], 1)


def test_numbers_cross_without_the_arena(manager: ProbeManager) -> None:
    """What a client without the memory puts in, those with it find, and the other way round."""
    value, item = manager.Value("i", 0), manager.Array("q", [0])
    value.get(), len(item)
    with Script(exchange_each, manager.address, value._token.id, item._token.id) as script:
        for number in (EDGE, {"a": 1}, 2.5, None):
            value.set(number)
            script.tell(json.dumps({"was": number}))
            assert same(script.line(), number)
            assert value.get() == {"was": number}
    assert item[0] == 4


def exchange_each(address: Any, ident: str, item: str) -> None:
    """Exchange the value for each line of the input, by a proxy that has not been used."""
    os.environ["FASTMGR_ARENA"] = "off"
    for line in sys.stdin:
        ArrayProxy(Token("Array", address, item), "pickle", authkey=KEY).incr(0)
        value = ValueProxy(Token("Value", address, ident), "pickle", authkey=KEY)
        say(value.exchange(json.loads(line)))
