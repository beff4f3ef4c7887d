"""What a manager makes: the registry of types, their callables, proxies and exposed methods."""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import KEY, ProbeManager, settle
from support.servers import ListeningManager

from fastmgr import basemanager, managers
from fastmgr.managers import BaseManager, ListProxy, RemoteError, SyncManager, dispatch


class Empty(BaseManager):
    """A manager without types."""


@pytest.fixture(scope="module")
def keyed() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


def test_register() -> None:
    class Mine(BaseManager):
        pass

    Mine.register("thing", queue.Queue, exposed=("put", "get"))
    assert "thing" not in BaseManager._registry
    assert Mine._registry["thing"] == (queue.Queue, ("put", "get"), None, managers.AutoProxy)
    assert Mine.thing.__name__ == "thing"  # type: ignore[attr-defined]

    class Derived(Mine):
        pass

    Derived.register("other")
    Derived.register("hidden", create_method=False)
    assert set(Derived._registry) == {"thing", "other", "hidden"}
    assert set(Mine._registry) == {"thing"}
    assert hasattr(Derived, "other")
    assert not hasattr(Mine, "other")
    assert not hasattr(Derived, "hidden")


def test_register_takes_what_the_proxy_type_says() -> None:
    class Mine(BaseManager):
        pass

    Mine.register("d", dict, managers.DictProxy)
    _, exposed, method_to_typeid, proxytype = Mine._registry["d"]
    assert exposed == managers.DictProxy._exposed_
    assert method_to_typeid == managers.DictProxy._method_to_typeid_
    assert proxytype is managers.DictProxy


@pytest.mark.parametrize("wrong", [{1: "list"}, {"x": 1}, {"x": None}])
def test_register_with_names_that_are_none(wrong: Any) -> None:
    with pytest.raises(AssertionError, match="is not a string"):
        Empty.register("x", list, method_to_typeid=wrong)


def test_method_to_typeid_has_to_be_a_dict() -> None:
    class Pairs(list):  # type: ignore[type-arg]
        def items(self) -> Any:
            return iter(self)

    class Mine(SyncManager):
        pass

    Mine.register("wrong", list, method_to_typeid=Pairs([("pop", "list")]))  # type: ignore[arg-type]
    with Mine(ctx=multiprocessing.get_context("fork")) as manager:
        with pytest.raises(RemoteError, match=r"(?s)TypeError: Method_to_typeid.*not dict"):
            manager.wrong()  # type: ignore[attr-defined]
        assert manager.list([1])[0] == 1


def test_result_of_a_method_is_made_by_its_types_callable(keyed: ProbeManager) -> None:
    """`method_to_typeid` names a type; its callable, if there is one, gets the result."""

    class Mine(SyncManager):
        pass

    Mine.register("text", str.split, method_to_typeid={"copy": "tally"})
    Mine.register("tally", len, exposed=("__add__",), create_method=False)
    with Mine(ctx=multiprocessing.get_context("fork")) as manager:
        tally = manager.text("a b c").copy()  # type: ignore[attr-defined]
        assert tally._callmethod("__add__", (1,)) == 4


def test_create_by_hand_as_the_stdlib_does(keyed: ProbeManager) -> None:
    """What programs with create methods of their own have copied from it."""
    settle(keyed, 0)
    token, exposed = keyed._create("list", [1, 2])
    proxy = ListProxy(
        token, keyed._serializer, manager=keyed, authkey=keyed._authkey, exposed=exposed
    )
    conn = keyed._Client(token.address, authkey=keyed._authkey)
    dispatch(conn, None, "decref", (token.id,))
    conn.close()
    gc.collect()
    assert proxy[:] == [1, 2]
    assert "refcount=1" in keyed._debug_info()
    del proxy
    settle(keyed, 0)


def test_created_by_hand_lives_until_it_is_returned(keyed: ProbeManager) -> None:
    settle(keyed, 0)
    token, _ = keyed._create("list", [1])
    proxy = ListProxy(token, "pickle", manager=keyed)
    assert proxy.pop() == 1
    del proxy
    gc.collect()
    assert keyed._number_of_objects() == 1
    with keyed._Client(token.address, authkey=keyed._authkey) as conn:
        dispatch(conn, None, "decref", (token.id,))
    settle(keyed, 0)


class TakesNone:
    """A proxy of a user's that counts no reference."""

    def __init__(self, token: Any, serializer: str, **kwds: Any) -> None:
        self.token = token


def test_proxy_type_that_takes_no_reference() -> None:
    class Mine(SyncManager):
        pass

    Mine.register("loose", list, TakesNone)
    with Mine(ctx=multiprocessing.get_context("fork")) as manager:
        loose = manager.loose()  # type: ignore[attr-defined]
        assert loose.token.typeid == "loose"
        settle(manager, 0)


def test_failing_callable(keyed: ProbeManager) -> None:
    with pytest.raises(RemoteError, match="TypeError"):
        keyed.list(1, 2, 3)
    with pytest.raises(RemoteError, match="KeyError: 'nothing'"):
        keyed._create("nothing")
    settle(keyed, 0)


def test_type_that_the_server_does_not_have(keyed: ProbeManager) -> None:
    def say(manager: Any) -> str:
        with pytest.raises(RemoteError) as raised:
            manager._create("nothing")
        return str(raised.value)

    said = say(keyed)
    assert f"'nothing': the server at {keyed.address!r} has no type of that name" in said
    assert "'Array', 'AsyncResult', 'Barrier', " in said
    assert "Traceback" not in said
    with ListeningManager() as hooked:
        assert "has no type of that name" in say(hooked)


@pytest.mark.parametrize("kind", [SyncManager, ListeningManager])
@pytest.mark.parametrize(
    ("create", "error"),
    [
        (lambda m: m.Counter("one"), TypeError),
        (lambda m: m.Counter(1 << 70), OverflowError),
        (lambda m: m.Counter(Path()), TypeError),
        (lambda m: m.Counter(1, 2, 3), TypeError),
        (lambda m: m.Counters(["a", "a"]), ValueError),
        (lambda m: m.Value(name="v"), TypeError),
        (lambda m: m.Array("no typecode", [1], name="a"), (TypeError, ValueError)),
        (lambda m: m.Array("i", [Path()], name="a"), TypeError),
    ],
)
def test_types_of_our_own_raise_what_is_wrong(kind: Any, create: Any, error: Any) -> None:
    with kind() as manager:
        with pytest.raises(error) as raised:
            create(manager)
        assert not isinstance(raised.value, RemoteError)
        assert manager._number_of_objects() == 0


def test_types_of_the_stdlib_raise_what_it_raises(keyed: ProbeManager) -> None:
    with pytest.raises(RemoteError, match="TypeError"):
        keyed.Value()  # type: ignore[call-arg]
    with pytest.raises(RemoteError, match="Error"):
        keyed.Array("no typecode", [1])


def test_an_arena_is_a_path_or_a_choice() -> None:
    with pytest.raises(ValueError, match="the path of a file is needed"):
        Empty(arena="")  # as a path it would be the current folder
    assert Empty(arena="file")._arena == os.path.abspath("file")
    assert Empty()._arena is True


def test_what_only_a_server_needs_is_found_by_its_name() -> None:
    server = basemanager.load("Server")
    assert Empty._Server is Empty()._Server is managers.Server is server
    with pytest.raises(KeyError):
        basemanager.load("Nothing")
