"""What each operation of the fast dialect does, asked for by hand."""

from __future__ import annotations

import os
from typing import Any

import pytest
from support import FastPeer
from support.frames import (
    OP_CALL,
    OP_CREATE,
    OP_ERROR,
    OP_INCREF,
    OP_PROXY,
    OP_RELEASE,
    OP_RETURN,
    OP_TRACEBACK,
    OP_UNSERIALIZABLE,
)
from support.servers import RawManager

from fastmgr import managers
from fastmgr.link.introduction import SESSION_ID_SIZE

FOLLOWS = 4


def test_introduction_is_answered(raw_manager: RawManager) -> None:
    session = os.urandom(SESSION_ID_SIZE)
    with FastPeer(raw_manager.address, session) as first:
        assert not first.resumed
        with FastPeer(raw_manager.address, session) as second:
            assert second.resumed
            assert second.instance == first.instance
        with FastPeer(raw_manager.address) as other:
            assert not other.resumed


def test_create_and_call(peer: FastPeer) -> None:
    reply = peer.ask(OP_CREATE, "list", ([1, 2],), None)
    assert reply.op == OP_RETURN
    assert set(reply.payload) == set(managers.ListProxy._exposed_)
    handle = reply.handle
    assert peer.method(handle, "append", 3)[:2] == (OP_RETURN, 0)
    assert peer.method(handle, "__getitem__", 2).payload == 3
    assert peer.method(handle, "#GETVALUE").payload == [1, 2, 3]
    assert peer.method(handle, "__str__").payload == "[1, 2, 3]"
    reply = peer.method(handle, "__getitem__", 9)
    assert reply.op == OP_ERROR
    assert type(reply.payload) is IndexError


def test_call_by_keywords(peer: FastPeer) -> None:
    handle = peer.create("dict", a=1)
    reply = peer.ask(OP_CALL, "update", (), {"b": 2}, handle=handle)
    assert reply.op == OP_RETURN
    assert peer.method(handle, "copy").payload == {"a": 1, "b": 2}


def test_call_that_returns_a_proxy(peer: FastPeer) -> None:
    handle = peer.create("dict", {"a": 1})
    reply = peer.method(handle, "__iter__")
    assert reply.op == OP_PROXY
    exposed, typeid, proxytype = reply.payload
    assert "__next__" in exposed
    assert typeid == "Iterator"
    assert proxytype == f"{managers.IteratorProxy.__module__}:IteratorProxy"
    assert peer.method(reply.handle, "__next__").payload == "a"
    reply = peer.method(reply.handle, "__next__")
    assert (reply.op, type(reply.payload)) == (OP_ERROR, StopIteration)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("__init__", "AttributeError"),
        ("nothing", "AttributeError"),
        ("", "AttributeError"),
        (5, "AttributeError"),
        ([], "TypeError"),
        (None, "AttributeError"),
    ],
)
def test_methods_that_are_not_exposed(peer: FastPeer, name: Any, error: str) -> None:
    handle = peer.create("list")
    reply = peer.method(handle, name)
    assert reply.op == OP_TRACEBACK
    assert error in reply.payload
    assert peer.method(handle, "__len__").payload == 0


@pytest.mark.parametrize("args", [5, "no", None])
def test_arguments_that_are_none(peer: FastPeer, args: Any) -> None:
    handle = peer.create("list")
    reply = peer.ask(OP_CALL, "append", args, None, handle=handle)
    assert reply.op in (OP_ERROR, OP_TRACEBACK)
    reply = peer.ask(OP_CALL, "append", (1,), 5, handle=handle)
    assert reply.op in (OP_ERROR, OP_TRACEBACK)
    assert peer.method(handle, "#GETVALUE").payload == []


@pytest.mark.parametrize(("args", "kwds"), [(True, None), ((), True), ((), 5), ([], {})])
def test_arguments_of_a_release_that_are_none(peer: FastPeer, args: Any, kwds: Any) -> None:
    """Also where the reply before, which gave the lock, is not known to have been read."""
    lock = peer.create("Lock")
    peer.method(lock, "acquire")
    reply = peer.ask(OP_CALL, "release", args, kwds, handle=lock, flags=FOLLOWS)
    assert reply.op in (OP_ERROR, OP_TRACEBACK, OP_RETURN)
    assert peer.method(lock, "locked").op in (OP_RETURN, OP_ERROR)


@pytest.mark.parametrize("handle", [0, 1, 2**63, 2**64 - 1])
def test_unknown_handles(peer: FastPeer, handle: int) -> None:
    reply = peer.method(handle, "append", 1)
    assert reply.op == OP_TRACEBACK
    assert f"KeyError: '{handle:x}: no such object" in reply.payload


def test_result_that_cannot_be_pickled(peer: FastPeer) -> None:
    handle = peer.create("OddTypes")
    reply = peer.method(handle, "unpicklable")
    assert reply.op == OP_UNSERIALIZABLE
    assert "TypeError" in reply.payload
    assert peer.method(handle, "thread_name").payload == "by hand"


def test_method_that_exits_does_not_end_its_connection(peer: FastPeer) -> None:
    handle = peer.create("OddTypes")
    reply = peer.method(handle, "leave")
    assert reply.op == OP_TRACEBACK and "SystemExit" in reply.payload
    assert peer.control("dummy").op == OP_RETURN


def test_create_fails(peer: FastPeer) -> None:
    for values, error in [
        (("nothing", (), None), "KeyError"),
        (("list", (5,), None), "TypeError"),
        (("list", 5, None), "TypeError"),
        (([], (), None), "TypeError"),
        (("Iterator", (), None), "ValueError"),
        (("Value", ((), True), True), "TypeError"),  # keywords that are none
    ]:
        reply = peer.ask(OP_CREATE, *values)
        assert reply.op == OP_TRACEBACK
        assert error in reply.payload
    assert peer.control("number_of_objects").payload == 0


def test_control(peer: FastPeer) -> None:
    assert peer.control("number_of_objects").payload == 0
    handle = peer.create("list")
    assert f"{handle:x}" in peer.control("debug_info").payload
    assert peer.control("dummy")[:2] == (OP_RETURN, 0)
    for name in ("serve_forever", "", None, [], 5):
        reply = peer.control(name)
        assert reply.op == OP_TRACEBACK
        assert "unrecognized" in reply.payload
    reply = peer.control("dummy", 1, 2, 3)
    assert reply.op == OP_TRACEBACK
    assert "TypeError" in reply.payload


def test_references(peer: FastPeer, raw_manager: RawManager) -> None:
    handle = peer.create("list")
    with FastPeer(raw_manager.address) as other:
        call = other.handles(OP_INCREF, handle, 12345, handle)
        *head, missing = other.recv()
        assert head == [OP_RETURN, 0, call] and list(missing) == [12345]
        # No more is returned than is held, and what nobody has means nothing.
        peer.handles(OP_RELEASE, handle, 100, 777, 1)
        assert peer.method(handle, "__len__").payload == 0
        peer.handles(OP_RELEASE, handle, 1)
        assert peer.method(handle, "__len__").payload == 0
        other.handles(OP_RELEASE, handle, 1, handle, 0, handle, 2**63, handle, 2**64 - 1)
        assert other.control("number_of_objects").payload == 1
        other.handles(OP_RELEASE, handle, 1)
        assert other.control("number_of_objects").payload == 0
        reply = peer.method(handle, "__len__")
        assert (reply.op, "KeyError" in reply.payload) == (OP_TRACEBACK, True)


def test_incref_of_nothing(peer: FastPeer) -> None:
    for body in (b"", b"1234567"):
        call = peer.send(OP_INCREF, body)
        assert peer.recv() == (OP_RETURN, 0, call, {})
    peer.send(OP_RELEASE)
    peer.send(OP_RELEASE, b"x" * 15)
    assert peer.control("dummy").op == OP_RETURN


@pytest.mark.parametrize("op", [0, 9, 15, OP_RETURN, OP_PROXY, 255])
def test_unknown_operation(peer: FastPeer, raw_manager: RawManager, op: int) -> None:
    for worker in (False, True):
        with FastPeer(raw_manager.address) as other:
            if worker:
                other.control("dummy")
            other.send(op, b"body")
            assert other.ended()
    assert peer.control("dummy").op == OP_RETURN
