"""Known bugs of the standard library's managers which fastmgr does not copy.

Each test names the CPython issue, and fails when it is run with the stdlib's managers in place
of fastmgr's. Where there is no issue, the docstring says what the stdlib does.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import multiprocessing
import operator
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    Address,
    ProbeManager,
    RawPeer,
    Script,
    call_in_subprocess,
    connected,
    in_thread,
    kill,
    poll,
    process_gone,
    say,
    settle,
    tcp_options,
)

from fastmgr import managers
from fastmgr.client.sessions import retire_sessions

pytestmark = pytest.mark.timeout(90)

TCP = ("127.0.0.1", 0)
START_METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture
def manager() -> Iterator[ProbeManager]:
    """A manager whose key is not that of the process."""
    with ProbeManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def own_key_manager() -> Iterator[ProbeManager]:
    """A manager with the key of this process, which is all that the stdlib's proxies know."""
    with ProbeManager() as manager:
        yield manager


# Objects that outlive their last reference


def tracked(manager: ProbeManager) -> int:
    """How many `Tracked` live in the server; asked on a fresh connection.

    The stdlib's server forgets the last object of a connection with the next call on it, which
    therefore must not be ours.
    """
    probe = manager.Probe()
    count: int = in_thread(probe.tracked)
    return count


def expect_none_tracked(manager: ProbeManager) -> None:
    gc.collect()
    poll(lambda: tracked(manager) == 0, "all tracked objects are gone from the server")


def test_gh103136_nested_proxies_do_not_leak(own_key_manager: ProbeManager) -> None:
    """The stdlib's server never cleans `id_to_local_proxy_obj`: what was nested once stays."""
    m = own_key_manager
    outer = m.list()
    for i in range(10):
        inner = m.dict({"number": i})
        inner["tracked"] = m.Tracked()
        outer.append(inner)
    assert tracked(m) == 10
    assert outer[3]["tracked"].ping() == "pong"
    del outer[5:]
    del inner
    gc.collect()
    poll(lambda: tracked(m) == 5, "half of the tracked objects are gone")
    assert outer[4]["tracked"].ping() == "pong"
    del outer
    expect_none_tracked(m)
    settle(m, 0)


def test_gh103136_a_replaced_nested_proxy_is_released(own_key_manager: ProbeManager) -> None:
    m = own_key_manager
    d, n, v, q = m.dict(), m.Namespace(), m.Value("i", 0), m.Queue()
    for _ in range(3):
        d["x"] = n.x = v.value = m.Tracked()
        q.put({"deep": [m.Tracked()]})
    assert tracked(m) == 4
    assert q.get()["deep"][0].ping() == "pong"
    d["x"] = 1
    n.x = 2
    v.value = 3
    q.get()
    poll(lambda: tracked(m) == 1, "all but what is in the queue is gone")
    del q
    expect_none_tracked(m)


def test_gh103136_containers_that_contain_themselves(own_key_manager: ProbeManager) -> None:
    m = own_key_manager
    a = m.list(["a", m.Tracked()])
    a.append(a)
    b, c = m.dict(tracked=m.Tracked()), m.list()
    b["c"] = c
    c.append(b)
    assert a[2][2][0] == "a" and c[0]["c"][0]["tracked"].ping() == "pong"
    assert tracked(m) == 2
    del a, b, c
    expect_none_tracked(m)
    settle(m, 0)


def test_gh108155_the_last_object_of_a_connection_is_freed(manager: ProbeManager) -> None:
    """The stdlib's `serve_client` holds the last object in local variables until the next call."""
    other = manager.list()  # keeps the connection open
    t = manager.Tracked()
    assert t.ping() == "pong"
    del t
    expect_none_tracked(manager)
    assert len(other) == 0


def test_gh108155_arguments_and_results_are_freed(manager: ProbeManager) -> None:
    """The same for what the last call carried."""
    sleeper = manager.Sleeper()
    assert isinstance(sleeper.echo(CountedValue()), CountedValue)
    counter = manager.Census()
    gc.collect()
    poll(lambda: in_thread(counter.alive) == 0, "the argument is gone from the server")


class CountedValue:
    """A value that goes by copy, and counts itself wherever it is."""

    alive = 0

    def __init__(self) -> None:
        CountedValue.alive += 1

    def __del__(self) -> None:
        CountedValue.alive -= 1

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return CountedValue, ()


class Census:
    def alive(self) -> int:
        gc.collect()
        return CountedValue.alive


ProbeManager.register("Census", Census)


# Connections and finalizers


class Interloper:
    """An argument whose pickling has a side effect, as any `__reduce__` may."""

    def __init__(self, effect: Callable[[], object]):
        self._effect = effect

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        self._effect()
        return str, ("done",)


def test_gh71936_a_proxy_is_dropped_inside_a_call(own_key_manager: ProbeManager) -> None:
    """Dropping the twin of a proxy empties the stdlib's set of ids, and closes the connection."""
    proxy = own_key_manager.list()
    proxy.append("first")
    twins = [pickle.loads(pickle.dumps(proxy))]
    proxy.append(Interloper(twins.clear))
    assert proxy[:] == ["first", "done"]


def test_gh71936_the_collector_runs_inside_a_call(own_key_manager: ProbeManager) -> None:
    proxy = own_key_manager.list()
    proxy.append("first")
    cycle: list[Any] = [pickle.loads(pickle.dumps(proxy))]
    cycle.append(cycle)
    del cycle
    proxy.append(Interloper(gc.collect))
    assert proxy[:] == ["first", "done"]
    assert own_key_manager._number_of_objects() == 1


def hammer_forked(address: Address) -> None:
    """A raw fork: parent and child call the same proxy at the same time."""
    multiprocessing.current_process().authkey = KEY
    d = connected(address).dict()
    d["before"] = 1
    pid = os.fork()
    name = "parent" if pid else "child"
    status = 1
    try:
        for i in range(400):
            d[name] = i
            assert d[name] == i and d["before"] == 1
        status = 0
    finally:
        if not pid:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    say([d["parent"], d["child"]])


def test_gh101320_a_raw_fork_does_not_share_a_connection(manager: ProbeManager) -> None:
    with Script(hammer_forked, manager.address) as script:
        assert script.line() == [399, 399]
    settle(manager, 0)


# Restarts


def serve_twice(address: Address) -> None:
    """Servers in processes of their own, one after the other, each until a line is read."""
    place = address if isinstance(address, str) else tuple(address)
    for _ in range(2):
        with ProbeManager(place, KEY) as manager:
            place = manager.address
            say(place)
            sys.stdin.readline()


@pytest.mark.parametrize("family", ["unix", "tcp"])
@pytest.mark.parametrize("first", ["new", "old"])
def test_gh78947_a_server_restarts_at_its_address(
    family: str, first: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """New managers work, old proxies say that it is over, and neither disturbs the other."""
    folder = tmp_path_factory.mktemp("at")
    address: Any = os.path.relpath(folder / "here") if family == "unix" else TCP
    with Script(serve_twice, address) as script:
        address = script.line()
        address = address if family == "unix" else tuple(address)
        manager = connected(address)
        old = [manager.dict({"from": "the old server"})]
        assert old[0]["from"] == "the old server"
        script.tell()
        assert script.line() == (address if family == "unix" else list(address))

        def use_old() -> None:
            for _ in range(2):
                with pytest.raises((EOFError, ConnectionError, managers.RemoteError, KeyError)):
                    in_thread(operator.getitem, old[0], "from")
                with pytest.raises((EOFError, ConnectionError, managers.RemoteError, KeyError)):
                    _ = old[0]["from"]

        if first == "old":
            use_old()
        again = connected(address)
        new = again.dict({"from": "the new server"})
        assert new["from"] == "the new server"
        use_old()
        old.clear()  # must not take a reference from an object of the new server
        gc.collect()
        assert again._number_of_objects() == 1
        assert new["from"] == "the new server"
        script.finish()


def serve_names(address: Address, arena: str | bool) -> None:
    """Serve until a line is read, then be killed."""
    server = ProbeManager(address, KEY, arena=arena).get_server()

    def end() -> None:
        sys.stdin.readline()
        kill(os.getpid())

    threading.Thread(target=end, daemon=True).start()
    say(server.address)
    server.serve_forever()


def make_named(manager: ProbeManager) -> list[Any]:
    return [
        manager.Counter(3, name="hits"),
        manager.Counters(["a", "b"], name="words"),
        manager.Value("d", 0.5, name="value"),
        manager.Array("q", [1, 2], name="items"),
    ]


def make_named_again(address: Address) -> None:
    make_named(connected(address))


@pytest.mark.parametrize("kept", ["file", "memory"])
def test_proxies_of_named_objects_find_them_in_a_restarted_server(
    kept: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Those of others say why theirs are gone."""
    folder = tmp_path_factory.mktemp("at")
    address, arena = str(folder / "here"), str(folder / "arena") if kept == "file" else True
    with Script(serve_names, address, arena) as script:
        script.line()
        manager = connected(address)
        hits, words, value, items = named = make_named(manager)
        others = [manager.list([1]), manager.Counter()]
        assert words["a"] + value.value + items[1] + others[1].incr() == 3.5
        pickled = [pickle.dumps(proxy) for proxy in (*named, *others)]
        script.tell()
        script.process.wait(DEADLINE)
    with Script(serve_names, address, arena) as script:
        script.line()
        if kept == "memory":
            call_in_subprocess(make_named_again, address)
        for i in range(2):
            assert hits.incr() == 4 + i
            assert words["a"] + value.value + items[1] == 2.5
        assert pickle.loads(pickled[0]).get() == hits.get() == 5
        assert in_thread(pickle.loads(pickled[3]).__getitem__, 0) == 1
        while others:
            with pytest.raises(managers.RemoteError, match="was restarted"):
                others.pop()._callmethod("__repr__")
        with pytest.raises(managers.RemoteError, match="was restarted"):
            pickle.loads(pickled[-1])
    retire_sessions(address)


# Keys


def test_gh78740_nested_proxies_with_a_key_of_the_manager(manager: ProbeManager) -> None:
    """The stdlib's proxies fall back on the key of the process when they are unpickled."""
    assert multiprocessing.current_process().authkey != KEY
    d = manager.dict()
    d["inner"] = manager.list([1])
    d["inner"].append(2)
    d["queue"] = manager.Queue()
    d["queue"].put("in an automatic proxy")
    gc.collect()
    assert d["inner"][:] == [1, 2]
    assert d["queue"].get() == "in an automatic proxy"
    assert in_thread(operator.getitem, d, "inner")[1] == 2


def test_gh139801_unpickled_proxies_with_a_key_of_the_manager(manager: ProbeManager) -> None:
    for proxy in (manager.list([1]), manager.Queue(), manager.Lock()):
        data = pickle.dumps(proxy)
        assert KEY not in data  # that would be another way to "fix" it
        twin = pickle.loads(data)
        assert str(twin) == str(proxy)


def use_in_child(d: Any, data: bytes) -> None:
    d["inner"].append("child")
    pickle.loads(data).put("child")
    d["seen"] = d["inner"][:]


@pytest.mark.parametrize("method", START_METHODS)
def test_gh139801_a_key_of_the_manager_in_children(method: str, manager: ProbeManager) -> None:
    """A child that was given one proxy can use all it comes to: nested ones, unpickled ones."""
    d, q = manager.dict(inner=manager.list(["parent"])), manager.Queue()
    process: Any = multiprocessing.get_context(method).Process(
        target=use_in_child, args=(d, pickle.dumps(q))
    )
    process.start()
    process.join(DEADLINE)
    assert process.exitcode == 0
    assert d["seen"] == ["parent", "child"]
    assert q.get() == "child"


def test_autoproxy_that_has_to_ask_for_its_methods(manager: ProbeManager) -> None:
    """The stdlib dials before it looks for a key, and takes the challenge for an answer."""
    q = manager.Queue()
    q.put(1)
    proxy = managers.AutoProxy(q._token, "pickle", manager=manager)
    assert proxy.qsize() == 1
    assert "put_nowait" in proxy._exposed_


def test_autoproxy_with_neither_manager_nor_key(own_key_manager: ProbeManager) -> None:
    """The same, with nothing but the key of the process."""
    q = own_key_manager.Queue()
    assert managers.AutoProxy(q._token, "pickle").empty() is True


# Proxies that have lost their manager


class Shelf:
    def __init__(self, *titles: str):
        self._titles = titles

    def book(self, index: int) -> list[str]:
        return [self._titles[index]]


ProbeManager.register("Shelf", Shelf, method_to_typeid={"book": "list"})


def test_gh99595_results_by_proxy_without_a_manager(own_key_manager: ProbeManager) -> None:
    """The stdlib looks the type up in `_manager`, which is None after a transfer."""
    originals = [own_key_manager.dict(a=1, b=2), own_key_manager.Shelf("A", "B")]
    d, shelf = (pickle.loads(pickle.dumps(proxy)) for proxy in originals)
    assert d._manager is None
    assert list(d) == ["a", "b"]
    book = shelf.book(1)
    book.append("and more")
    assert book[:] == ["B", "and more"]
    originals.clear()
    del d, shelf, book
    settle(own_key_manager, 0)


def iterate_in_child(d: Any, shelf: Any) -> None:
    book = shelf.book(0)
    d["keys"] = list(d)
    d["book"] = [type(book).__name__, book[0]]


@pytest.mark.parametrize("method", START_METHODS)
def test_gh99595_results_by_proxy_in_children(method: str, own_key_manager: ProbeManager) -> None:
    d, shelf = own_key_manager.dict(a=1), own_key_manager.Shelf("A")
    process: Any = multiprocessing.get_context(method).Process(
        target=iterate_in_child, args=(d, shelf)
    )
    process.start()
    process.join(DEADLINE)
    assert process.exitcode == 0
    assert d["keys"] == ["a"]
    assert d["book"] == ["ListProxy", "A"]


# bpo-3518: managers that are pickled


def test_bpo3518_a_pickled_manager_is_a_connected_one(own_key_manager: ProbeManager) -> None:
    """The stdlib's managers cannot be pickled."""
    data = pickle.dumps(own_key_manager)
    assert bytes(own_key_manager._authkey) not in data
    twin = pickle.loads(data)
    assert type(twin) is ProbeManager and twin.address == own_key_manager.address
    assert twin.list([1, 2])[:] == [1, 2]
    del twin
    gc.collect()
    assert own_key_manager._number_of_objects() == 0  # the server is there, and empty


def use_manager_in_child(manager: Any, d: Any) -> None:
    made = manager.list(["made in the child"])
    d["made"] = made


@pytest.mark.parametrize("method", START_METHODS)
def test_bpo3518_a_manager_as_an_argument_of_a_child(method: str, manager: ProbeManager) -> None:
    d = manager.dict()
    process: Any = multiprocessing.get_context(method).Process(
        target=use_manager_in_child, args=(manager, d)
    )
    process.start()
    process.join(DEADLINE)
    assert process.exitcode == 0
    assert d["made"][:] == ["made in the child"]


# What the server gives away


NOT_PUBLIC: list[tuple[str, tuple[Any, ...]]] = [
    ("__init__", (None, b"key", "pickle")),
    ("__eq__", ()),
    ("__setattr__", ("public",)),
    ("__reduce_ex__", ()),
    ("fallback_repr", ("0", "text")),
    ("fallback_getvalue", ("0", "text")),
    ("handle_request", ()),
    ("serve_client", ()),
    ("serve_forever", ()),
    ("accepter", ()),
    ("public", ()),
]


def call_what_is_not_public() -> list[list[str]]:
    """Under -O an `assert` is nothing: what the server of such a process says to each name."""
    answers = []
    with ProbeManager(authkey=KEY) as manager:
        for name, args in NOT_PUBLIC:
            with connection.Client(manager.address, authkey=KEY) as conn:
                conn.send((None, name, args, {}))
                if conn.poll(DEADLINE):
                    answers.append([name, *map(str, conn.recv())])
                else:
                    answers.append([name, "no answer", ""])
        answers.append(["after", "#RETURN", str(manager.list([1])[0])])
    return answers


def test_access_control_is_not_an_assert() -> None:
    """The stdlib checks the name of a request with `assert`, which vanishes under -O."""
    answers = call_in_subprocess(call_what_is_not_public, flags=("-O",))
    assert answers.pop() == ["after", "#RETURN", "1"]
    assert [name for name, _, _ in answers] == [name for name, _ in NOT_PUBLIC]
    for name, kind, text in answers:
        assert kind == "#TRACEBACK", (name, kind, text)
        assert "TypeError" not in text, f"{name} was called"
        assert repr(name) in text and "unrecognized" in text


@pytest.mark.parametrize(
    "answer",
    [b"\0" * 16, b"", b"{sha256}" + b"\0" * 32, b"{md4}" + b"\0" * 16, b"x" * 255, b"x" * 257],
    ids=["md5", "empty", "sha256", "unknown digest", "long", "too long"],
)
def test_no_traceback_without_the_key(answer: bytes, manager: ProbeManager) -> None:
    """The stdlib's server explains to strangers, with paths and lines, why it will not talk."""
    with RawPeer(manager.address) as raw:
        assert raw.recv_frame().startswith(b"#CHALLENGE#")
        raw.send_frame(answer)
        assert raw.frames_until_eof() in ([b"#FAILURE#"], [])


def lower_handshake_timeout() -> None:
    managers.Server.handshake_timeout = 0.5


def test_a_handshake_has_a_time_limit() -> None:
    """The stdlib's server waits for ever, with a thread for each who says nothing."""
    assert managers.Server.handshake_timeout == 10.0
    manager = ProbeManager(authkey=KEY)
    manager.start(initializer=lower_handshake_timeout)
    with manager, contextlib.ExitStack() as stack:
        idle = stack.enter_context(RawPeer(manager.address)).login()
        assert idle.call(None, "accept_connection", "idle") == ("#RETURN", None)
        silent = stack.enter_context(RawPeer(manager.address))
        halfway = stack.enter_context(RawPeer(manager.address))
        halfway.recv_frame()
        halfway.sock.sendall(b"\0\0")
        welcome = stack.enter_context(RawPeer(manager.address))
        assert welcome.answer() == b"#WELCOME#"
        started = time.monotonic()
        assert len(silent.frames_until_eof()) == 1
        assert halfway.frames_until_eof() == []
        assert welcome.frames_until_eof() == []
        assert time.monotonic() - started < 8.0  # not the default
        # Who is in may be silent as long as he likes.
        kind, text = idle.call("no such object", "append")
        assert kind == "#TRACEBACK" and "KeyError" in text


# Load


def spare_descriptors(spare: int) -> None:
    """Leave this process no more than `spare` descriptors."""
    taken = {int(name) for name in os.listdir("/dev/fd")}
    limit = [number for number in range(spare + len(taken) + 1) if number not in taken][spare]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def test_out_of_descriptors() -> None:
    """The stdlib's accepting thread spins on EMFILE."""
    manager = ProbeManager(TCP, KEY)
    manager.start(initializer=spare_descriptors, initargs=(24,))
    with manager:
        probe = manager.Probe()
        before = probe.descriptors()
        flood = []
        for _ in range(100):
            sock = socket.socket()
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(manager.address)
            flood.append(sock)

        def exhausted() -> bool:
            try:
                probe.descriptors()  # to list them takes one more
            except OSError as error:
                return error.errno == errno.EMFILE
            return False

        poll(exhausted, "the server has no descriptor left")
        # A measurement: how much of this window does the server burn?
        window, spent = 1.5, probe.cpu()
        time.sleep(window)
        assert probe.cpu() - spent < window / 2
        for sock in flood:
            sock.close()
        assert in_thread(manager._number_of_objects) == 1
        assert in_thread(probe.descriptors) <= before + 8


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_gh101225_a_burst_of_connections_is_not_refused(family: str) -> None:
    """The stdlib's backlog was 16 up to 3.12, and is 128: a burst may well be larger.

    The server is stopped meanwhile, so that nothing depends on how fast it is.
    """
    system = Path("/proc/sys/net/core/somaxconn")
    most = int(system.read_text()) if system.exists() else socket.SOMAXCONN
    burst = min(200, most - 16)
    with ProbeManager(TCP if family == "tcp" else None, KEY) as manager:
        server: int = manager._process.pid
        peers: list[RawPeer] = []
        with contextlib.ExitStack() as stack:
            os.kill(server, signal.SIGSTOP)
            try:
                for _ in range(burst):
                    # TCP would try again and again for a while, a Unix socket would block.
                    peers.append(stack.enter_context(RawPeer(manager.address, patience=5.0)))
            finally:
                os.kill(server, signal.SIGCONT)
            for raw in peers:
                raw.sock.settimeout(DEADLINE)
                raw.login()
            for raw in peers:
                assert raw.call(None, "dummy") == ("#RETURN", None)


def test_tcp_options_at_both_ends() -> None:
    """The stdlib's connections delay small packets and never notice that a host is gone."""
    with ProbeManager(TCP, KEY) as manager:
        probe = manager.Probe()
        at_server = probe.tcp_options(manager.address)
        at_client = tcp_options(manager.address)
    assert at_server and set(at_server) == {(True, True)}
    assert at_client and set(at_client) == {(True, True)}


# Parents that die


def start_and_wait(method: str) -> None:
    manager = ProbeManager(authkey=KEY, ctx=multiprocessing.get_context(method))
    manager.start()
    d = manager.dict()
    d["key"] = "value"
    say([manager._process.pid, manager.address])
    signal.pause()


@pytest.mark.parametrize("method", START_METHODS)
def test_gh81158_a_server_ends_with_its_parent(method: str) -> None:
    """The stdlib's server outlives a parent that is killed."""
    with Script(start_and_wait, method) as script:
        server, address = script.line()
        try:
            os.kill(script.pid, signal.SIGKILL)
            poll(lambda: process_gone(server), "the server ended with its parent")
            # It tidied up behind itself, too.
            poll(lambda: not Path(address).exists(), "its socket is gone")
        finally:
            kill(server)
