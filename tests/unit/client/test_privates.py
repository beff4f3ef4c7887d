"""Private names of the stdlib's proxies that programs use: connections, idents, their registry."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from multiprocessing import util
from typing import Any

import pytest
from support import ProbeManager, in_thread, settle

from fastmgr import managers
from fastmgr.managers import BaseProxy, ListProxy, convert_to_error, dispatch


class ByHand(ListProxy):
    """A proxy whose calls are those of the stdlib's proxies, as programs have copied them."""

    def _callmethod(self, methodname: str, args: Any = (), kwds: Any = {}) -> Any:  # noqa: B006
        try:
            conn = self._tls.connection
        except AttributeError:
            self._connect()
            conn = self._tls.connection
        conn.send((self._id, methodname, args, kwds))
        kind, result = conn.recv()
        if kind == "#RETURN":
            return result
        if kind == "#PROXY":
            exposed, token = result
            proxytype = self._manager._registry[token.typeid][-1]
            token.address = self._token.address
            proxy = proxytype(
                token, self._serializer, manager=self._manager, authkey=self._authkey,
                exposed=exposed,
            )  # fmt: skip
            conn = self._Client(token.address, authkey=self._authkey)
            dispatch(conn, None, "decref", (token.id,))
            return proxy
        raise convert_to_error(kind, result)

    def _incref(self) -> None:
        conn = self._Client(self._token.address, authkey=self._authkey)
        dispatch(conn, None, "incref", (self._id,))
        self._idset.add(self._id)
        state = self._manager and self._manager._state
        self._close = util.Finalize(
            self, BaseProxy._decref,
            args=(self._token, self._authkey, state, self._tls, self._idset, self._Client),
            exitpriority=10,
        )  # fmt: skip


class PrivatesManager(ProbeManager):
    pass


PrivatesManager.register("by_hand", list, ByHand, method_to_typeid={"copy": "by_hand"})


@pytest.fixture(scope="module", params=["pickle", "xmlrpclib"])
def any_manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    with PrivatesManager(serializer=request.param) as manager:
        yield manager


@pytest.fixture(scope="module")
def manager() -> Iterator[PrivatesManager]:
    with PrivatesManager() as manager:
        yield manager


def test_calls_over_the_threads_own_connection(any_manager: Any) -> None:
    shared = any_manager.list([1])
    shared._connect()
    conn = shared._tls.connection
    assert shared._tls.connection is conn
    conn.send((shared._id, "append", (2,), {}))
    assert list(conn.recv()) == ["#RETURN", None]
    assert shared._getvalue() == [1, 2]
    assert in_thread(lambda: hasattr(shared._tls, "connection")) is False
    assert in_thread(lambda: len(shared) and shared._tls.connection) is not conn
    shared._connect()
    assert shared._tls.connection is not conn
    # Another proxy of the server's has the same, one of another server does not.
    assert any_manager.list()._tls.connection is shared._tls.connection


def test_connection_that_the_program_gives_up(manager: PrivatesManager) -> None:
    shared = manager.list([1])
    shared._tls.connection.close()
    del shared._tls.connection
    assert not hasattr(shared._tls, "connection")
    with pytest.raises(AttributeError):
        del shared._tls.connection
    assert shared[:] == [1]
    assert dispatch(shared._tls.connection, shared._id, "__len__") == 1


def test_connection_that_the_program_sets(manager: PrivatesManager) -> None:
    shared = manager.list([1])
    conn = manager._Client(manager.address, authkey=manager._authkey)
    dispatch(conn, None, "accept_connection", ("mine",))
    shared._tls.connection = conn
    assert shared._tls.connection is conn
    assert not in_thread(lambda: hasattr(shared._tls, "connection"))
    del shared._tls.connection
    assert not hasattr(shared._tls, "connection")
    conn.close()


def test_methods_that_are_copies_of_the_stdlibs(manager: PrivatesManager) -> None:
    settle(manager, 0)
    shared = manager.by_hand([3, 1])  # type: ignore[attr-defined]
    shared.sort()
    with pytest.raises(ValueError, match="not in list"):
        shared.remove(9)
    again = shared.copy()
    assert (type(again), again[:], shared._id in shared._idset) == (ByHand, [1, 3], True)
    assert in_thread(shared.pop) == 3
    del again, shared
    settle(manager, 0)


def test_nothing_is_made_that_nobody_asks_for() -> None:
    with PrivatesManager() as manager:
        shared = manager.list([1])
        before = len(os.listdir("/dev/fd"))
        assert shared[:] == [1]
        assert shared._session_of().private is None
        assert len(os.listdir("/dev/fd")) == before


def test_idents_that_the_process_holds(manager: PrivatesManager) -> None:
    settle(manager, 0)
    shared, other = manager.list(), manager.dict()
    assert shared._idset is other._idset
    assert set(shared._idset) == {shared._id, other._id}
    ident = other._id
    assert ident in shared._idset
    del other
    assert ident not in shared._idset
    assert len(shared._idset) == 1
    assert shared._idset | {"x"} == {shared._id, "x"}


def test_what_is_known_by_address(manager: PrivatesManager) -> None:
    shared = manager.list()
    known = BaseProxy._address_to_local
    assert manager.address in known
    assert list(known).count(manager.address) == 1
    assert known[manager.address] == (shared._tls, shared._idset)
    with pytest.raises(TypeError, match="not to be replaced"):
        known["elsewhere"] = known[manager.address]
    # What is deleted begins anew for proxies that are made from then on.
    del known[manager.address]
    assert manager.address not in known
    with pytest.raises(KeyError):
        known[manager.address]
    fresh = pickle.loads(pickle.dumps(shared))
    fresh.append(1)
    assert fresh._tls is not shared._tls
    assert shared[:] == [1]


def test_what_is_asked_for_can_be_set(manager: PrivatesManager) -> None:
    shared = manager.list([1])
    mine = shared._tls = threading.local()
    shared._idset = managers.ProcessLocalSet()
    assert shared._tls is mine
    assert shared[:] == [1]


def test_connections_are_not_inherited(manager: PrivatesManager) -> None:
    shared = manager.list([1])
    conn = shared._tls.connection
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if len(shared) == 1 and shared._tls.connection is not conn:
                status = dispatch(shared._tls.connection, shared._id, "__len__") - 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert dispatch(conn, shared._id, "__len__") == 1
