"""What every proxy is: types that are made, keys, what proxies say of themselves, how they nest."""

from __future__ import annotations

import collections.abc
import copy
import gc
import pickle
import queue
import threading
import types
import typing
from collections.abc import Iterator
from multiprocessing import process, util
from typing import Any

import pytest
from support import DEADLINE, ProbeManager, settle

import fastmgr
from fastmgr import baseproxy, managers
from fastmgr.client.connections import authkeys
from fastmgr.managers import (
    AutoProxy,
    BaseListProxy,
    BaseProxy,
    DictProxy,
    IteratorProxy,
    ListProxy,
    MakeProxyType,
    RebuildProxy,
    RemoteError,
    SetProxy,
    ValueProxy,
)

#: What the standard library's queues can do, and what ours can besides.
OF_QUEUES = tuple(sorted([*managers.public_methods(queue.Queue()), "get_many", "put_many"]))


def numbers(stop: int) -> Iterator[Any]:
    """A generator that can be talked to."""
    got = None
    for i in range(stop):
        try:
            got = yield (i, got)
        except LookupError as error:
            got = f"caught {error}"


class Factory:
    """Returns objects that are to be shared, and some that cannot be sent."""

    def __init__(self) -> None:
        self._held: list[Any] = []

    def numbers(self, stop: int) -> Iterator[Any]:
        return numbers(stop)

    def a_list(self) -> list[Any]:
        return self._held

    def hold(self, proxy: Any) -> int:
        """How long the list behind `proxy` is; it is held from now on."""
        self._held.append(proxy)
        return len(proxy)

    def fail(self, error: BaseException) -> None:
        raise error

    def lock(self) -> Any:
        return threading.Lock()

    def __repr__(self) -> str:
        return "Factory()"


class Mute:
    def __repr__(self) -> str:
        raise LookupError("no words")


class UnitManager(ProbeManager):
    pass


UnitManager.register(
    "Factory", Factory, method_to_typeid={"numbers": "Iterator", "a_list": "shared_list"}
)
UnitManager.register("shared_list", proxytype=ListProxy, create_method=False)
UnitManager.register("Mute", Mute, exposed=("nothing",))
UnitManager.register(
    "Jobs", managers.SyncManager._registry["Queue"][0], method_to_typeid={"get": "shared_list"}
)
UnitManager.register(
    "listed", list, exposed=("remove", "append", "pop", "insert", "count", "__len__")
)

MANAGER = UnitManager


# Proxy types


def test_make_proxy_type() -> None:
    made = MakeProxyType("Made", ("one", "two"))
    assert MakeProxyType("Made", ["one", "two"]) is made
    assert MakeProxyType("Made", ("two", "one")) is not made
    assert MakeProxyType("Other", ("one", "two")) is not made
    assert issubclass(made, BaseProxy)
    assert made._exposed_ == ("one", "two")
    assert made.one.__name__ == "one"
    assert made.__name__ == made.__qualname__ == "Made"
    # Or it would be the module of whoever happens to be on the stack.
    assert made.__module__ == ListProxy.__module__
    assert made.__module__.startswith("fastmgr")


def test_made_methods_pass_everything_on(manager: UnitManager) -> None:
    made = MakeProxyType("DictLike", ("update", "copy", "get"))
    proxy = manager.dict()
    again = made(proxy._token, "pickle", manager=manager)
    again.update({"a": 1}, self=2, methodname=3)
    assert again.copy() == {"a": 1, "self": 2, "methodname": 3}


def test_named_types_can_be_pickled() -> None:
    for name in managers.__dict__:
        kind = getattr(managers, name)
        if isinstance(kind, type) and issubclass(kind, BaseProxy):
            if kind.__name__ == name:
                assert pickle.loads(pickle.dumps(kind)) is kind
            # The very same text: a pickle of a proxy names the module once.
            assert kind.__module__ is managers.RebuildProxy.__module__ == "fastmgr.proxies"


def test_exposed_names_keep_their_order() -> None:
    """Not the order of hashes: two servers' proxies of one type would differ in their types."""
    given = ("remove", "append", "pop", "insert", "count", "__len__")
    with UnitManager() as manager:
        made = manager.listed()  # type: ignore[attr-defined]
        token, exposed = manager._create("listed")
        asked = manager._session.control("get_methods", (token,))
        conn = manager._Client(manager.address, authkey=manager._authkey)
        by_stock = managers.dispatch(conn, None, "create", ("listed",))[1]
        nested = manager.list([made])
        again = pickle.loads(pickle.dumps(made))
        for names in (type(made)._exposed_, exposed, asked, by_stock, nested[0]._exposed_):
            assert tuple(names) == given
        assert type(again) is type(nested[0]) is type(made) is type(AutoProxy(token, "pickle"))
        # What `method_to_typeid` adds comes last, and nothing comes twice.
        assert manager._create("dict")[1] == DictProxy._exposed_
        assert manager._create("Factory")[1] == ("a_list", "fail", "hold", "lock", "numbers")
        assert manager.Queue()._exposed_ == OF_QUEUES


def test_auto_proxy(manager: UnitManager) -> None:
    shared = manager.Queue()
    assert type(shared).__name__ == "AutoProxy[Queue]"
    assert type(shared) is type(manager.Queue())
    assert set(type(shared)._exposed_) == set(OF_QUEUES)
    assert shared._isauto is True
    # Exposed methods are asked for where they are not given; the key is found as well.
    for kwds in ({}, {"exposed": ("qsize",)}, {"manager": manager}, {"incref": False}):
        again = AutoProxy(shared._token, "pickle", **kwds)
        assert again.qsize() == 0
        assert hasattr(again, "put") is ("exposed" not in kwds)
    with pytest.raises(RemoteError, match="KeyError"):
        AutoProxy(managers.Token("Queue", manager.address, "nothing"), "pickle")


def test_auto_proxy_pickles_with_its_methods(manager: UnitManager) -> None:
    origin = manager.Queue()
    shared = AutoProxy(origin._token, "pickle", exposed=("qsize", "put"))
    again = pickle.loads(pickle.dumps(shared))
    again.put(1)
    assert shared.qsize() == 1
    assert type(again) is type(shared)


def test_generic_aliases() -> None:
    for kind in (ValueProxy, ListProxy, DictProxy, SetProxy):
        assert isinstance(kind[int], types.GenericAlias)


@pytest.mark.parametrize(
    ("proxytype", "abstract"),
    [
        (ListProxy, collections.abc.MutableSequence),
        (BaseListProxy, collections.abc.MutableSequence),
        (DictProxy, collections.abc.MutableMapping),
        (SetProxy, collections.abc.MutableSet),
    ],
)
def test_abstract_base_classes(proxytype: type, abstract: type) -> None:
    assert issubclass(proxytype, abstract)
    others = {
        collections.abc.MutableSequence,
        collections.abc.MutableMapping,
        collections.abc.MutableSet,
    }
    assert not any(issubclass(proxytype, other) for other in others - {abstract})


def test_types_of_what_methods_return() -> None:
    """The manager's own comes first, then the one that the server names, then the row's."""
    find = baseproxy._proxytype_of
    assert find(managers.SyncManager, "list", "fastmgr.proxies:SetProxy") is ListProxy
    assert find(None, "list", "fastmgr.proxies:SetProxy") is SetProxy
    for unknown in (None, "no.module:Type", "fastmgr.proxies:NoType"):
        assert find(None, "Iterator", unknown) is IteratorProxy
        assert find(None, "list", unknown) is AutoProxy  # another manager's `list` may be no list
        assert find(None, "Queue", unknown) is AutoProxy


def test_what_a_text_names() -> None:
    assert baseproxy.find_by_name("fastmgr.proxies:ListProxy.append") is ListProxy.append
    for wrong, error in [("no.module:Type", ImportError), ("fastmgr.proxies:No", AttributeError)]:
        with pytest.raises(error):
            baseproxy.find_by_name(wrong)


# The base


def test_the_key_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that a manager has opened it by; else the process's own."""
    monkeypatch.setitem(authkeys, ("host", 1), b"its key")
    assert baseproxy.authkey_for(("host", 1)) == baseproxy.authkey_for(["host", 1]) == b"its key"
    assert baseproxy.authkey_for("/nobody") is process.current_process().authkey
    for own in (bytearray(b"key"), memoryview(b"key"), b"key"):
        assert baseproxy.choose_authkey("/nobody", own, None) == b"key"  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an authkey is bytes, not str") as caught:
        baseproxy.as_authkey("secret")  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_attributes(manager: UnitManager) -> None:
    proxy = manager.list()
    assert proxy._token.typeid == "list"
    assert proxy._token.address == manager.address
    assert proxy._id == proxy._token.id
    assert proxy._manager is manager
    assert proxy._serializer == "pickle"
    assert proxy._authkey == manager._authkey
    assert proxy._owned_by_manager is False
    assert callable(proxy._Client)
    proxy.append(1)
    assert proxy._tls.connection is not None
    with proxy._Client(proxy._token.address, authkey=proxy._authkey) as conn:
        managers.dispatch(conn, None, "accept_connection", ("by hand",))
        assert managers.dispatch(conn, proxy._id, "__len__") == 1


def test_users_attributes(manager: UnitManager) -> None:
    proxy = manager.list()
    proxy.note = "mine"
    assert proxy.note == "mine"


def test_users_proxy_class(manager: UnitManager) -> None:
    class Counting(BaseProxy):
        _exposed_ = ("append", "__len__")

        def __init__(self, *args: Any, **kwds: Any) -> None:
            super().__init__(*args, **kwds)
            self.calls = 0

        def append(self, value: object) -> None:
            self.calls += 1
            return self._callmethod("append", (value,))

    origin = manager.list()
    proxy = Counting(origin._token, "pickle", authkey=manager._authkey)
    proxy.append(1)
    assert (proxy.calls, origin[:]) == (1, [1])
    assert proxy._callmethod("__len__") == 1
    assert proxy._callmethod("pop", (), {}) == 1


def test_callmethod_arguments(manager: UnitManager) -> None:
    shared = manager.dict()
    assert shared._callmethod("update", [{"a": 1}], {"b": 2}) is None
    assert shared._callmethod(methodname="get", args=("b",), kwds={}) == 2
    assert shared._getvalue() == {"a": 1, "b": 2}


def test_errors_of_the_object(manager: UnitManager) -> None:
    factory = manager.Factory()
    for error in (KeyError("k"), OSError(2, "no"), ValueError("v", [1])):
        with pytest.raises(type(error)) as caught:
            factory.fail(error)
        assert caught.value.args == error.args
    with pytest.raises(RemoteError, match="Unserializable message"):
        factory.lock()
    with pytest.raises(TypeError):
        factory.hold()


def test_what_is_not_exposed(manager: UnitManager) -> None:
    shared = manager.list()
    with pytest.raises(RemoteError, match=r"(?s)AttributeError.*not in exposed"):
        shared._callmethod("__init__")
    with pytest.raises(AttributeError):
        shared.nothing  # noqa: B018


def test_object_that_is_gone(manager: UnitManager) -> None:
    shared = manager.list()
    keep = ListProxy(shared._token, "pickle", manager=manager, incref=False)
    ident = shared._id
    del shared
    gc.collect()
    settle(manager, 0)
    with pytest.raises(RemoteError, match=f"KeyError: '{ident}: no such object"):
        keep.append(1)
    with pytest.raises(RemoteError, match=f"KeyError: '{ident}: no such object"):
        ListProxy(keep._token, "pickle", manager=manager)


def test_deepcopy_copies_the_referent(manager: UnitManager) -> None:
    for proxy, value in [
        (manager.list([1, [2]]), [1, [2]]),
        (manager.dict(a=1), {"a": 1}),
        (manager.set([1]), {1}),
    ]:
        found = copy.deepcopy(proxy)
        assert (type(found), found) == (type(value), value)
        assert copy.deepcopy({"in": [proxy]}) == {"in": [value]}


def test_copy_is_another_proxy(manager: UnitManager) -> None:
    shared = manager.list([1])
    found = copy.copy(shared)
    assert type(found) is ListProxy
    assert found._id == shared._id


def test_repr_is_the_proxys_and_str_the_referents(manager: UnitManager) -> None:
    shared = manager.list([1, "two"])
    assert str(shared) == "[1, 'two']"
    assert repr(shared) == f"<ListProxy object, typeid 'list' at {id(shared):#x}>"
    assert f"{shared}" == "[1, 'two']"
    assert str(manager.Factory()) == "Factory()"


def test_str_where_the_referent_has_none(manager: UnitManager) -> None:
    mute = manager.Mute()
    assert str(mute) == repr(mute)[:-1] + "; '__str__()' failed>"
    shared = manager.list()
    lost = ListProxy(shared._token, "pickle", manager=manager, incref=False)
    del shared, mute
    settle(manager, 0)
    assert str(lost) == repr(lost)[:-1] + "; '__str__()' failed>"


def test_pickled_proxy_has_no_key(manager: UnitManager) -> None:
    """Whoever finds the pickle could use it."""
    data = pickle.dumps(manager.list())
    assert bytes(manager._authkey) not in data
    assert b"authkey" not in data


def test_rebuild_proxy(manager: UnitManager) -> None:
    shared = manager.list([1])
    function, args = shared.__reduce__()
    assert function is RebuildProxy
    assert args[0] is ListProxy
    assert args[1] is shared._token
    again = function(*args)
    assert again[:] == [1]
    assert again._manager is None
    quiet = RebuildProxy(ListProxy, shared._token, "pickle", {"incref": False})
    assert quiet[:] == [1]


def test_process_local_set() -> None:
    local = fastmgr.ProcessLocalSet()
    local.add(1)
    assert type(pickle.loads(pickle.dumps(local))) is fastmgr.ProcessLocalSet
    util._run_after_forkers()  # type: ignore[attr-defined]
    assert local == set()


# Proxies in containers


def test_nested_proxies(manager: UnitManager) -> None:
    outer = manager.dict()
    inner = manager.list([1])
    outer["inner"] = inner
    outer["twice"] = [inner, inner]
    inner.append(2)
    assert type(outer["inner"]) is ListProxy
    assert outer["inner"][:] == [1, 2]
    assert [proxy[:] for proxy in outer["twice"]] == [[1, 2]] * 2
    outer["inner"].append(3)
    assert inner[:] == [1, 2, 3]
    del inner
    gc.collect()
    assert outer["inner"][:] == [1, 2, 3]
    assert outer.pop("inner")[:] == [1, 2, 3]
    outer.clear()
    settle(manager, 1)


def test_list_in_itself(manager: UnitManager) -> None:
    shared = manager.list()
    shared.append(shared)
    shared.append(1)
    assert shared[0][0][0][1] == 1
    del shared
    gc.collect()
    settle(manager, 0)


def test_nested_in_every_container(manager: UnitManager) -> None:
    inner = manager.dict(a=1)
    namespace = manager.Namespace(x=inner)
    value = manager.Value("i", inner)
    shared = manager.Queue()
    shared.put(inner)
    for proxy in (namespace.x, value.value, shared.get()):
        assert type(proxy) is DictProxy
        assert proxy["a"] == 1


def test_server_uses_a_proxy_of_its_own(manager: UnitManager) -> None:
    factory = manager.Factory()
    inner = manager.list([1, 2])
    assert factory.hold(inner) == 2
    del inner
    gc.collect()
    held = factory.a_list()
    assert type(held) is ListProxy
    assert held[0][:] == [1, 2]


def test_proxy_of_another_manager(manager: UnitManager) -> None:
    with ProbeManager() as other:
        theirs = other.list([5])
        ours = manager.list([theirs])
        assert ours[0][:] == [5]
        assert ours[0]._token.address == other.address
        ours[0].append(6)
        assert theirs[:] == [5, 6]
        ours.clear()
        settle(other, 1)


def test_results_that_are_the_same_object_are_one(manager: UnitManager) -> None:
    factory = manager.Factory()
    first, second = factory.a_list(), factory.a_list()
    assert first._id == second._id
    first.append("x")
    assert second[:] == ["x"]
    del first
    gc.collect()
    assert second[:] == ["x"]


# Types with parameters


@pytest.mark.parametrize(
    "alias",
    [
        managers.DictProxy[str, int],
        managers.ListProxy[int],
        managers.SetProxy[int],
        managers.ValueProxy[int],
        managers.ArrayProxy[float],
        managers.CountersProxy[str],
        managers.QueueProxy[int],
        managers.BaseListProxy[int],
        managers._BaseSetProxy[int],
    ],
    ids=lambda alias: alias.__origin__.__name__,
)
def test_proxy_types_take_parameters(alias: Any) -> None:
    assert pickle.loads(pickle.dumps(alias)) == alias
    assert typing.get_origin(alias)[alias.__args__] == alias
    assert issubclass(type("Own", (alias.__origin__,), {}), alias.__origin__)


class Ages(managers.DictProxy[str, int]):
    """A proxy type of a user's, of a type with parameters."""


class AgesManager(managers.SyncManager):
    pass


AgesManager.register("Ages", dict, Ages)
AgesManager.register("get_queue", queue.Queue)


def test_a_proxy_of_a_type_with_parameters_is_pickled_and_found() -> None:
    with AgesManager() as manager:
        made = manager.Ages(a=1)
        ages = pickle.loads(pickle.dumps(made))
        assert type(ages) is Ages and isinstance(ages, managers.DictProxy)
        assert ages["a"] == 1
        inside = manager.dict(ages=ages)
        assert type(inside["ages"]) is Ages


def test_whatever_has_the_methods_of_a_queue_has_a_queue_proxy() -> None:
    with AgesManager() as manager:
        for made in (manager.Queue(), manager.JoinableQueue(), manager.get_queue()):
            for proxy in (made, pickle.loads(pickle.dumps(made))):
                assert isinstance(proxy, managers.QueueProxy)
                assert type(proxy).__name__.startswith("AutoProxy[")
                proxy.put(1)
                assert proxy.get() == 1
        assert not isinstance(manager.list(), managers.QueueProxy)


def test_what_a_blocking_method_returns_may_be_shared(manager: UnitManager) -> None:
    """The loop answered `get` with the item itself, unless a worker served the connection."""
    jobs: Any = manager.Jobs()  # type: ignore[attr-defined]
    jobs.put([1])
    found = [jobs.get()]
    waiting = threading.Thread(target=lambda: found.append(jobs.get()))
    waiting.start()
    jobs.put([2])
    waiting.join(DEADLINE)
    assert [type(item) for item in found] == [ListProxy, ListProxy]
    assert [item[:] for item in found] == [[1], [2]]


# Iterators and pools


def test_iterator(manager: UnitManager) -> None:
    iterator = manager.Factory().numbers(10)
    assert type(iterator) is IteratorProxy
    assert iter(iterator) is iterator
    assert next(iterator) == (0, None)
    assert iterator.send("hello") == (1, "hello")
    assert iterator.throw(LookupError("thrown")) == (2, "caught thrown")
    assert next(iterator) == (3, None)
    with pytest.raises(ZeroDivisionError):
        iterator.throw(ZeroDivisionError())
    with pytest.raises(StopIteration):
        next(iterator)
    iterator = manager.Factory().numbers(3)
    assert list(iterator) == [(0, None), (1, None), (2, None)]
    iterator = manager.Factory().numbers(3)
    next(iterator)
    assert iterator.close() is None
    assert list(iterator) == []


def test_iterators_are_released(manager: UnitManager) -> None:
    shared = manager.dict(dict.fromkeys(range(3)))
    assert [sorted(shared) for _ in range(5)] == [[0, 1, 2]] * 5
    settle(manager, 1)
