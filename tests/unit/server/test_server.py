"""The server: its public face, and its engine under frames written by hand."""

from __future__ import annotations

import contextlib
import os
import random
import re
import struct
import sys
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from support import DEADLINE, KEY, FastPeer, ProbeManager, RawPeer, poll, settle
from support.frames import (
    ANONYMOUS,
    CARRIED,
    HEADER,
    ONEWAY,
    OP_CALL,
    OP_CONTROL,
    OP_CREATE,
    OP_ERROR,
    OP_GOODBYE,
    OP_INCREF,
    OP_PROXY,
    OP_RELEASE,
    OP_RETURN,
    OP_TRACEBACK,
    OP_UNSERIALIZABLE,
    PICKLED,
)
from support.servers import choose_poller

from fastmgr import managers
from fastmgr.client.negotiation import ClientSession
from fastmgr.link.introduction import SESSION_ID_SIZE
from fastmgr.managers import Server, Token
from fastmgr.server.workers import Workers
from fastmgr.wire import codec

# A server in this process


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that does not serve: its functions are called by the test."""
    server = Server(ProbeManager._registry, None, KEY, "pickle")
    yield server
    server.listener.close()


def start_no_thread_for_disposals() -> None:
    submit = Workers.submit

    def refuse(self: Workers, function: Any, name: str, *args: Any) -> None:
        if name == "disposal":
            raise RuntimeError("can't start new thread")
        submit(self, function, name, *args)

    Workers.submit = refuse  # type: ignore[method-assign]


def test_a_connection_whose_end_fails_is_closed_all_the_same() -> None:
    manager = ProbeManager(authkey=KEY)
    manager.start(start_no_thread_for_disposals)
    with manager:
        probe = manager.Probe()
        before = probe.descriptors()
        session = ClientSession(manager.address, "pickle", KEY)
        held = session.create("Tracked", (), {}, False)
        assert probe.descriptors() > before
        session.close()
        poll(lambda: probe.descriptors() == before, "it is closed")
        del held


def test_public_functions(server: Server) -> None:
    for name in Server.public:
        assert server.public_function(name) == getattr(server, name)


@pytest.mark.parametrize("name", ["serve_forever", "_create", "nothing", "", "__class__", None, 5])
def test_other_functions_are_refused(server: Server, name: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        server.public_function(name)


def test_public_names_are_those_of_the_stdlib() -> None:
    from multiprocessing import managers as stock

    assert stock.Server.public == Server.public


@pytest.mark.parametrize("key", ["text", None, bytearray(b"x")])
def test_key_is_bytes(key: Any) -> None:
    with pytest.raises(TypeError, match="not bytes"):
        Server({}, None, key, "pickle")


def test_unknown_serializer() -> None:
    with pytest.raises(KeyError):
        Server({}, None, KEY, "no such serializer")


def test_create_incref_decref(server: Server) -> None:
    ident, exposed = server.create(None, "list", [1, 2])
    assert set(exposed) == set(managers.ListProxy._exposed_)
    assert server.id_to_obj[ident] == ([1, 2], set(exposed), None)
    assert server.id_to_refcount[ident] == 1
    server.incref(None, ident)
    assert server.id_to_refcount[ident] == 2
    server.decref(None, ident)
    assert server.number_of_objects(None) == 1
    server.decref(None, ident)
    assert server.number_of_objects(None) == 0
    for function in (server.incref, server.decref):
        with pytest.raises(KeyError):
            function(None, ident)


def test_create_of_what_a_method_returned(server: Server) -> None:
    ident, exposed = server.create(None, "Iterator", iter([1]))
    assert set(exposed) == {"__next__", "send", "throw", "close"}
    assert next(server.id_to_obj[ident][0]) == 1
    for wrong in ((), (1, 2)):
        with pytest.raises(ValueError, match="one non-keyword argument"):
            server.create(None, "Iterator", *wrong)
    with pytest.raises(ValueError, match="one non-keyword argument"):
        server.create(None, "Iterator", x=1)
    with pytest.raises(KeyError):
        server.create(None, "unregistered")


def test_create_exposes_results_too(server: Server) -> None:
    _, exposed = server.create(None, "dict")
    assert set(exposed) == set(managers.DictProxy._exposed_) | {"__iter__"}
    _, exposed = server.create(None, "Sleeper")
    assert set(exposed) == {"echo", "slow"}


def test_get_methods(server: Server) -> None:
    ident, exposed = server.create(None, "Event")
    found = server.get_methods(None, Token("Event", server.address, ident))
    assert sorted(found) == sorted(exposed)
    with pytest.raises(KeyError):
        server.get_methods(None, Token("Event", server.address, "nothing"))


def test_debug_info(server: Server) -> None:
    assert server.debug_info(None) == ""
    first, _ = server.create(None, "list", range(1000))
    second, _ = server.create(None, "dict", {"a": 1})
    server.incref(None, second)
    lines = server.debug_info(None).split("\n")
    assert len(lines) == 4
    assert lines[0] == f"  {first}:       refcount=1"
    assert lines[1] == "    " + str(list(range(1000)))[:75]
    assert lines[2] == f"  {second}:       refcount=2"
    assert lines[3] == "    {'a': 1}"


def test_dummy(server: Server) -> None:
    server.dummy(None)


# What users' servers read and write


def check_mapping(mapping: MutableMapping[str, Any]) -> None:
    """What holds of every mapping."""
    keys = list(mapping)
    assert len(keys) == len(set(keys)) == len(mapping)
    assert list(mapping.keys()) == keys
    assert list(mapping.values()) == [mapping[key] for key in keys]
    assert dict(mapping) == dict(mapping.items())
    assert all(key in mapping for key in keys)
    for key in ("nothing", "ffff"):
        assert key not in mapping
        assert mapping.get(key, "default") == "default"
        with pytest.raises(KeyError):
            mapping[key]
        with pytest.raises(KeyError):
            del mapping[key]


def test_views_behave_as_mappings(server: Server) -> None:
    views = (server.id_to_obj, server.id_to_refcount, server.id_to_local_proxy_obj)
    for view in views:
        check_mapping(view)
    idents = [server.create(None, "list", [i])[0] for i in range(5)]
    holder = server.table.stash(idents[0])
    for view in views:
        check_mapping(view)
    assert set(server.id_to_obj) == {"0", *idents}
    assert set(server.id_to_refcount) == set(idents)
    assert set(server.id_to_local_proxy_obj) == {idents[0]}
    assert server.id_to_local_proxy_obj[idents[0]][0] == [0]
    server.decref(None, idents[0])
    for view in views:
        check_mapping(view)
    assert idents[0] not in server.id_to_refcount
    assert idents[0] in server.id_to_local_proxy_obj
    del holder
    assert list(server.id_to_local_proxy_obj) == []


def test_what_only_a_proxy_in_the_server_holds_is_no_clients_object(server: Server) -> None:
    """In the stdlib it has left `id_to_obj`, and is found in `id_to_local_proxy_obj`."""
    ident, _ = server.create(None, "list")
    holder = server.table.stash(ident)
    server.decref(None, ident)
    assert ident not in list(server.id_to_obj)
    assert ident not in server.id_to_obj
    assert server.id_to_local_proxy_obj[ident][0] is holder.obj


def test_entry_for_no_object(server: Server) -> None:
    assert server.id_to_obj["0"] == (None, (), None)
    assert list(server.id_to_obj) == ["0"]
    assert len(server.id_to_obj) == 1


def test_objects_can_be_put_and_taken_out(server: Server) -> None:
    obj = [1]
    server.id_to_obj["mine"] = (obj, {"append"}, None)
    assert server.id_to_obj["mine"] == (obj, {"append"}, None)
    assert server.id_to_obj["mine"][0] is obj
    server.id_to_refcount["mine"] = 3
    assert server.id_to_refcount["mine"] == 3
    server.decref(None, "mine")
    assert server.id_to_refcount["mine"] == 2
    del server.id_to_obj["mine"]
    assert "mine" not in server.id_to_obj
    assert "mine" not in server.id_to_refcount


def test_forgetting_a_local_proxy_leaves_the_clients_object(server: Server) -> None:
    """Servers that clean up gh-103136 by themselves do this."""
    ident, _ = server.create(None, "list", [1])
    holder = server.table.stash(ident)
    del server.id_to_local_proxy_obj[ident]
    assert ident not in server.id_to_local_proxy_obj
    assert server.id_to_obj[ident][0] == [1]
    assert server.id_to_refcount[ident] == 1
    assert holder.obj == [1]


def test_stashing_by_hand_counts_for_no_client(server: Server) -> None:
    """What the stdlib's own RebuildProxy does."""
    ident, _ = server.create(None, "list", [1])
    server.id_to_local_proxy_obj[ident] = server.id_to_obj[ident]
    assert server.id_to_local_proxy_obj[ident][0] == [1]
    assert server.id_to_refcount[ident] == 1
    assert server.number_of_objects(None) == 1


class OddTypes:
    def unpicklable(self) -> Any:
        return threading.Lock()

    def descriptors(self) -> list[str]:
        links = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/self/fd/{name}"))
        return links

    def leave(self) -> None:
        raise SystemExit(3)

    def thread_name(self) -> str:
        return threading.current_thread().name


class RawManager(ProbeManager):
    pass


RawManager.register("OddTypes", OddTypes)


@pytest.fixture(scope="module", params=["", "poll"], ids=["default", "poll"])
def raw_manager(request: pytest.FixtureRequest) -> Iterator[RawManager]:
    manager = RawManager(authkey=KEY)
    manager.start(choose_poller, (request.param,))
    yield manager
    manager.shutdown()


@pytest.fixture
def peer(raw_manager: RawManager) -> Iterator[FastPeer]:
    with FastPeer(raw_manager.address) as peer:
        yield peer
    settle(raw_manager, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_poller_is_the_one_asked_for(
    raw_manager: RawManager, request: pytest.FixtureRequest
) -> None:
    uses_epoll = any("eventpoll" in link for link in raw_manager.OddTypes().descriptors())
    assert uses_epoll is ("default" in request.node.callspec.id)


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


def test_references_go_with_the_last_connection(raw_manager: RawManager) -> None:
    settle(raw_manager, 0)
    session = os.urandom(SESSION_ID_SIZE)
    with FastPeer(raw_manager.address, session) as second:
        with FastPeer(raw_manager.address, session) as first:
            first.create("list")
            first.create("Sleeper")
        assert second.control("number_of_objects").payload == 2
    settle(raw_manager, 0)


def test_anonymous_reference_is_nobodys(raw_manager: RawManager) -> None:
    settle(raw_manager, 0)
    with FastPeer(raw_manager.address) as first:
        handle = first.create("list", flags=ANONYMOUS)
    with FastPeer(raw_manager.address) as second:
        assert second.method(handle, "__len__").payload == 0
        assert second.control("decref", f"{handle:x}").op == OP_RETURN
        assert second.control("number_of_objects").payload == 0


def test_goodbye(peer: FastPeer, raw_manager: RawManager) -> None:
    with FastPeer(raw_manager.address) as other:
        other.create("list")
        other.send(OP_GOODBYE)
        assert other.ended()
    poll(lambda: peer.control("number_of_objects").payload == 0, "its list is gone")


@pytest.mark.parametrize("op", [0, 9, 15, OP_RETURN, OP_PROXY, 255])
def test_unknown_operation(peer: FastPeer, raw_manager: RawManager, op: int) -> None:
    for worker in (False, True):
        with FastPeer(raw_manager.address) as other:
            if worker:
                other.control("dummy")
            other.send(op, b"body")
            assert other.ended()
    assert peer.control("dummy").op == OP_RETURN


def test_impossible_size(peer: FastPeer, raw_manager: RawManager) -> None:
    for size in (2**64 - 1, 2**64 - 24):
        with FastPeer(raw_manager.address) as other:
            other.sock.sendall(HEADER.pack(size, 0, 1, 0, OP_CALL, 0))
            assert other.ended()
    with FastPeer(raw_manager.address) as other:
        other.sock.sendall(HEADER.pack(2**62, 0, 1, 0, OP_CALL, 0) + b"not so much")
        assert peer.control("dummy").op == OP_RETURN


@pytest.mark.parametrize("op", [OP_CALL, OP_CREATE, OP_CONTROL])
@pytest.mark.parametrize("flags", [0, PICKLED])
def test_truncated_bodies(peer: FastPeer, op: int, flags: int) -> None:
    handle = peer.create("list")
    names = {OP_CALL: "append", OP_CREATE: "list", OP_CONTROL: "dummy"}
    body = b"".join(map(codec.dumps, (names[op], ([1],), None)))
    for end in range(len(body)):
        call = peer.send(op, body[:end], handle, flags)
        reply = peer.recv()
        assert (reply.op, reply.call) == (OP_TRACEBACK, call)
    assert peer.method(handle, "#GETVALUE").payload == []


def test_pickle_that_was_not_announced(peer: FastPeer) -> None:
    """The loop would have to run it."""
    handle = peer.create("list")
    value = codec.dumps(Token("t", "a", "1"))
    body = codec.dumps("append") + value + codec.dumps(None)
    call = peer.send(OP_CALL, body, handle)
    reply = peer.recv()
    assert (reply.op, reply.call) == (OP_TRACEBACK, call)
    assert "pickle" in reply.payload


def test_pickle_that_does_not_load(peer: FastPeer) -> None:
    handle = peer.create("list")
    bad = b"\x80\x04cno.such.module\nname\n."
    body = codec.dumps("append") + codec.dumps(Token("t", "a", "1"))[:1]
    body += struct.pack("<Q", len(bad)) + bad + codec.dumps(None)
    call = peer.send(OP_CALL, body, handle, PICKLED)
    reply = peer.recv()
    assert (reply.op, reply.call) == (OP_TRACEBACK, call)
    assert "ModuleNotFoundError" in reply.payload
    assert peer.method(handle, "__len__").payload == 0


def test_many_requests_in_one_write(peer: FastPeer) -> None:
    handle = peer.create("list")
    body = b"".join(map(codec.dumps, ("append", (1,), None)))
    frames = b"".join(
        HEADER.pack(len(body), handle, call, 0, OP_CALL, 0) + body for call in range(500)
    )
    sender = threading.Thread(target=peer.sock.sendall, args=(frames,))
    sender.start()
    assert [peer.recv().call for _ in range(500)] == list(range(500))
    sender.join(DEADLINE)
    assert peer.method(handle, "__len__").payload == 500


def test_replies_that_nobody_reads_stop_no_one_else(
    peer: FastPeer, raw_manager: RawManager
) -> None:
    with FastPeer(raw_manager.address) as lazy:
        handle = lazy.create("list", ["x" * 1000] * 1000)
        calls = [lazy.send(OP_CALL, b"".join(map(codec.dumps, ("#GETVALUE", (), None))), handle)]
        calls += [
            lazy.send(OP_CALL, b"".join(map(codec.dumps, ("__len__", (), None))), handle)
            for _ in range(3)
        ]
        assert peer.control("dummy").op == OP_RETURN
        other = peer.create("list", [5])
        assert peer.method(other, "pop").payload == 5
        replies = [lazy.recv() for _ in calls]
        assert [reply.call for reply in replies] == calls
        assert [reply.payload for reply in replies[1:]] == [1000] * 3
        assert len(replies[0].payload) == 1000


def test_frames_cut_at_every_byte(peer: FastPeer) -> None:
    handle = peer.create("list")
    body = b"".join(map(codec.dumps, ("append", ("text",), None)))
    frame = HEADER.pack(len(body), handle, 7, 0, OP_CALL, 0) + body
    for byte in frame:
        peer.sock.sendall(bytes([byte]))
    assert peer.recv() == (OP_RETURN, 0, 7, None)
    assert peer.method(handle, "#GETVALUE").payload == ["text"]


# Garbage

plain = st.none() | st.integers(-99, 99) | st.text(max_size=5) | st.binary(max_size=5)
plain_values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
names = st.sampled_from(["append", "pop", "__getitem__", "list", "dict", "#GETVALUE", "dummy"])
bodies = st.one_of(
    st.binary(max_size=60),
    st.lists(plain_values, max_size=4).map(lambda values: b"".join(map(codec.dumps, values))),
    st.tuples(names, plain_values, plain_values).map(lambda v: b"".join(map(codec.dumps, v))),
)
# An anonymous reference would stay, as it should.
flags = st.integers(0, 255).map(lambda bits: bits & ~ANONYMOUS)
garbage = st.lists(
    st.tuples(st.sampled_from(range(1, 10)), bodies, st.booleans(), flags),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(garbage)
@example([(OP_CALL, b"".join(map(codec.dumps, ("count", (1,), None))), True, CARRIED | PICKLED)])
def test_garbage_hurts_nobody(
    peer: FastPeer, raw_manager: RawManager, said: list[tuple[int, bytes, bool, int]]
) -> None:
    """Every request has one reply, or the end of its connection; and others are served."""
    with FastPeer(raw_manager.address) as bad:
        handle = bad.create("list", [1, 2, 3])
        with contextlib.suppress(EOFError, ConnectionError):
            for op, body, real, flags in said:
                call = bad.send(op, body, handle if real else 5, flags)
                expects_reply = op not in (OP_RELEASE, OP_GOODBYE, 9)
                if expects_reply and not (op == OP_CALL and flags & ONEWAY):
                    assert bad.recv_reply().call == call
            call = bad.send(OP_CONTROL, b"".join(map(codec.dumps, ("dummy", (), None))))
            assert bad.recv_reply() == (OP_RETURN, 0, call, None)
            assert OP_GOODBYE not in [op for op, *_ in said]
    assert peer.control("dummy").op == OP_RETURN


def test_noise_hurts_nobody(peer: FastPeer, raw_manager: RawManager) -> None:
    """Not even frames, at every stage of a connection."""
    rng = random.Random(3)
    for stage in range(90):
        noise = rng.randbytes(rng.randrange(1, 100))
        bad = RawPeer(raw_manager.address)
        with bad, contextlib.suppress(ConnectionError, EOFError):
            if stage % 3 == 1:
                bad.login(KEY)
            elif stage % 3 == 2:
                bad.answer(KEY)
            bad.sock.sendall(noise)
    assert peer.control("dummy").op == OP_RETURN
    handle = peer.create("list", [1])
    assert peer.method(handle, "pop").payload == 1
