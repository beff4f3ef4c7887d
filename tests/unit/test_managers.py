"""Managers: their life, their keys, and what becomes of their processes."""

from __future__ import annotations

import gc
import inspect
import multiprocessing
import os
import pickle
import re
import signal
import socket
from collections.abc import Iterator
from multiprocessing import AuthenticationError, ProcessError, connection, process, resource_tracker
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, poll, process_gone, stopped
from support.servers import ListeningManager

import fastmgr
from fastmgr import managers
from fastmgr.client.sessions import ClientSession
from fastmgr.link.introduction import Introducer
from fastmgr.managers import BaseManager, RemoteError, SyncManager, dispatch


class Empty(BaseManager):
    """A manager without types."""


# Life


def test_life_of_a_manager() -> None:
    manager = SyncManager()
    assert manager._state.value == managers.State.INITIAL
    assert manager.address is None
    assert not hasattr(manager, "shutdown")
    with manager as entered:
        assert entered is manager
        assert manager._state.value == managers.State.STARTED
        assert Path(manager.address).is_socket()
        started = manager._process
        assert started.is_alive()
        assert started.name.startswith("SyncManager-")
        with pytest.raises(ProcessError, match="Already started server"):
            manager.start()
        with pytest.raises(ProcessError, match="Already started server"):
            manager.get_server()
        with manager:  # a second time it is only left
            assert manager.list([1])[0] == 1
    assert manager._state.value == managers.State.SHUTDOWN
    assert started.exitcode == 0
    assert not os.path.exists(manager.address)
    for again in (manager.start, manager.get_server, manager.__enter__):
        with pytest.raises(ProcessError, match="Manager has shut down"):
            again()
    manager.shutdown()


def test_state_that_is_none() -> None:
    manager = Empty()
    manager._state.value = 17
    with pytest.raises(ProcessError, match="Unknown state 17"):
        manager.start()


def test_proxies_after_the_end() -> None:
    with SyncManager() as manager:
        shared = manager.list([1])
    with pytest.raises((OSError, EOFError), match="has been shut down") as raised:
        shared.append(1)
    assert manager.address in str(raised.value)
    with pytest.raises(AssertionError, match="has been shut down"):
        manager.list()
    del shared


def test_nothing_is_made_before_the_start() -> None:
    with pytest.raises(AssertionError, match="server not yet started"):
        SyncManager().list()


def test_join() -> None:
    manager = Empty()
    manager.join()
    manager.start()
    manager.join(0.01)
    assert manager._process is not None
    manager.shutdown()
    manager.join()
    assert manager._process is None


def test_forgotten_manager_ends_its_server() -> None:
    manager = SyncManager()
    manager.start()
    server, address = manager._process, manager.address
    shared = manager.list()
    del manager, shared  # the proxy knows its manager
    gc.collect()
    server.join(DEADLINE)
    assert server.exitcode == 0
    assert not os.path.exists(address)


def test_two_managers_do_not_meet(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    with SyncManager(address) as first:
        assert first.address == address
        shared = first.list([1])
        with SyncManager() as second:
            assert second.list([2])[0] == 2
        assert shared[0] == 1
    # The address is free again, and old proxies are no good for the new server.
    with SyncManager(address) as third:
        assert third.list([3])[0] == 3
        with pytest.raises((RemoteError, OSError, EOFError)):
            shared[0]


def test_tcp() -> None:
    with SyncManager(("127.0.0.1", 0)) as manager:
        host, port = manager.address
        assert (host, port > 0) == ("127.0.0.1", True)
        shared = manager.list([1])
        assert shared[:] == [1]
        assert shared._token.address == manager.address


def test_numbers_and_info() -> None:
    with SyncManager() as manager:
        assert manager._number_of_objects() == 0
        assert manager._debug_info() == ""
        first, second = manager.list([7]), manager.dict()
        assert manager._number_of_objects() == 2
        assert f"{first._id}:       refcount=1\n    [7]" in manager._debug_info()
        assert second._id in manager._debug_info()


# Starting


def fail(message: str) -> None:
    raise LookupError(message)


def leave_note(path: str) -> None:
    Path(path).write_text(f"{os.getpid()} {signal.getsignal(signal.SIGINT) == signal.SIG_IGN}")


def test_initializer_runs_in_the_server(tmp_path: Path) -> None:
    note = tmp_path / "note"
    manager = Empty()
    manager.start(leave_note, (str(note),))
    assert note.read_text() == f"{manager._process.pid} True"
    manager.shutdown()


@pytest.mark.parametrize("wrong", [1, "text", ()])
def test_initializer_has_to_be_callable(wrong: Any) -> None:
    manager = Empty()
    with pytest.raises(TypeError, match="initializer must be a callable"):
        manager.start(wrong)
    assert manager._process is None
    assert manager._state.value == managers.State.INITIAL


def test_initializer_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    # A fork server would write to the standard error that there was when it was started.
    manager = Empty(ctx=multiprocessing.get_context("fork"))
    with pytest.raises(EOFError, match=r"exit code 1.*stderr"):
        manager.start(fail, ("on purpose",))
    manager.join(DEADLINE)
    assert "LookupError: on purpose" in capfd.readouterr().err
    assert manager._state.value == managers.State.INITIAL


@pytest.mark.parametrize("kind", [SyncManager, ListeningManager])
@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("/no/such/folder/socket", FileNotFoundError),
        ("/etc/passwd/socket", NotADirectoryError),
        ("/tmp/" + 200 * "long", OSError),
        ("/etc/passwd", OSError),
        (("no such host", 1), OSError),
    ],
)
def test_address_that_cannot_be_bound(
    kind: Any, address: Any, error: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    manager = kind(address)
    with pytest.raises(error) as raised:
        manager.start()
    assert repr(address) in str(raised.value)
    assert isinstance(raised.value, EOFError)  # as programs written for the stdlib expect
    assert type(pickle.loads(pickle.dumps(raised.value))) in (error, socket.gaierror)
    with pytest.raises(error) as again:
        kind(address).start()
    assert type(again.value) is type(raised.value)
    assert "Traceback" not in capfd.readouterr().err
    assert manager._state.value == managers.State.INITIAL


def test_a_server_that_cannot_start_names_the_file(tmp_path: Path) -> None:
    arena = str(tmp_path / "arena")
    with SyncManager(arena=arena), pytest.raises(OSError, match="arena") as raised:
        SyncManager(arena=arena).start()
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert error.filename == arena


def test_a_server_that_does_not_prove_its_key_is_named(
    manager: SyncManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    introduce = Introducer.introduce

    def expect_more(self: Any, prove: Any) -> bytes:
        said = introduce(self, prove)
        self._prove = lambda role, said: b"another proof"
        return said

    monkeypatch.setattr(Introducer, "introduce", expect_more)
    with pytest.raises(AuthenticationError, match="did not prove") as raised:
        ClientSession(manager.address, "pickle", manager._authkey).control("dummy")
    assert repr(manager.address) in str(raised.value)


def test_an_answer_that_does_not_come_in_time() -> None:
    with SyncManager(authkey=KEY) as manager:
        session = ClientSession(manager.address, "pickle", KEY, 1.0)
        session.connect()
        with stopped(manager._process.pid), pytest.raises(TimeoutError, match="in time"):
            session.control("dummy")


@pytest.mark.parametrize("kind", [SyncManager, ListeningManager])
def test_address_in_use(kind: Any, tmp_path: Path) -> None:
    with kind(str(tmp_path / "socket")) as manager:
        with pytest.raises(OSError, match="in use") as raised:
            kind(manager.address).start()
        assert manager.address in str(raised.value)
        assert manager.list([1])[:] == [1]


@pytest.mark.parametrize("kind", [SyncManager, ListeningManager])
def test_address_of_a_killed_server_is_free(kind: Any, tmp_path: Path) -> None:
    first = kind(str(tmp_path / "socket"))
    first.start()
    first._process.kill()
    first._process.join()
    assert os.path.exists(first.address)
    with kind(first.address) as second:
        assert second.list([1])[:] == [1]
    first.shutdown()


def test_a_server_that_ended_before_it_had_an_address() -> None:
    with pytest.raises(EOFError, match=r"could serve \(exit code 3\)"):
        SyncManager().start(os._exit, (3,))


def test_the_first_call_to_a_killed_server_says_that_it_has_ended() -> None:
    manager = SyncManager()
    manager.start()
    shared = manager.dict()
    manager._process.kill()
    manager._process.join()
    for _ in range(2):
        with pytest.raises(ConnectionError, match="has ended"):
            shared.get(1)
    manager.shutdown()


@pytest.mark.parametrize("name", ["Counter", "Counters", "Value", "Array"])
def test_wrong_arguments_are_of_what_the_user_calls(name: str) -> None:
    maker = SyncManager._registry[name][0]
    assert pickle.loads(pickle.dumps(maker)) is maker
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument"):
        maker(odd=1)


def test_help_of_what_has_an_odd_signature() -> None:
    class Odd:
        __signature__ = "none"

    class OddManager(BaseManager):
        pass

    OddManager.register("Odd", Odd)
    assert str(inspect.signature(OddManager.Odd)) == "(self, /, *args, **kwds)"  # type: ignore[attr-defined]


def test_start_that_fails_keeps_no_pipe() -> None:
    resource_tracker.ensure_running()  # type: ignore[attr-defined]
    before = os.listdir("/proc/self/fd")
    manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        manager.start(lambda: None)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("key", ["text", 1.5, 7])
def test_keys_are_bytes(key: Any) -> None:
    with pytest.raises(TypeError, match=f"bytes, not {type(key).__name__}") as raised:
        BaseManager(authkey=key)
    assert str(key) not in str(raised.value)
    with pytest.raises(TypeError, match="bytes, not"):
        BaseManager.from_address("/somewhere", key)
    assert BaseManager(authkey=bytearray(KEY))._authkey == KEY  # type: ignore[arg-type]


def test_default_key_is_the_processs() -> None:
    assert BaseManager()._authkey == process.current_process().authkey
    assert isinstance(BaseManager(authkey=b"x")._authkey, process.AuthenticationString)


def test_serializers() -> None:
    with pytest.raises(KeyError, match=r"'no such serializer'.*'pickle', 'xmlrpclib'"):
        BaseManager(serializer="no such serializer")
    manager = BaseManager()
    assert manager._Listener is managers.listener_client["pickle"][0]


def test_context(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        manager = Empty(ctx=context)
        assert manager._ctx is context
    assert Empty()._ctx is multiprocessing.get_context()


# Connecting


@pytest.fixture(scope="module")
def keyed() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


def test_connect(keyed: ProbeManager) -> None:
    client = SyncManager(keyed.address, KEY)
    client.connect()
    assert client._state.value == managers.State.STARTED
    shared = client.list([1])
    assert shared[:] == [1]
    assert not hasattr(client, "shutdown")
    assert client._process is None
    with pytest.raises(ProcessError, match="Already started server"):
        client.start()


def test_connect_with_a_wrong_key(keyed: ProbeManager) -> None:
    client = SyncManager(keyed.address, b"wrong")
    with pytest.raises(AuthenticationError, match=r"rejected.*authkey") as raised:
        client.connect()
    assert keyed.address in str(raised.value)
    assert client._state.value == managers.State.INITIAL
    client = SyncManager(keyed.address, KEY)
    client.connect()


def test_connect_to_nobody(tmp_path: Path) -> None:
    client = SyncManager(str(tmp_path / "nobody"), KEY)
    with pytest.raises(FileNotFoundError, match=r"nobody.*no manager's server is there"):
        client.connect()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = unused.getsockname()
    with pytest.raises(ConnectionRefusedError):
        SyncManager(address, KEY).connect()
    with pytest.raises(FileNotFoundError, match=r"\('localhost', 5000\)"):
        SyncManager("localhost:5000", KEY).connect()
    with pytest.raises(ValueError, match="None"):
        SyncManager().connect()


def test_from_address(keyed: ProbeManager) -> None:
    with pytest.raises(AuthenticationError):
        ProbeManager.from_address(keyed.address, b"wrong")
    client = ProbeManager.from_address(keyed.address, KEY)
    assert type(client) is ProbeManager
    assert client.Sleeper().echo("hello") == "hello"


def test_wrong_key_does_not_take_the_right_ones_place() -> None:
    """Proxies that come without a key find the one that opened the address before."""
    with SyncManager(authkey=KEY) as manager:
        outer = manager.list([manager.dict(a=1)])
        assert outer[0]["a"] == 1
        with pytest.raises(AuthenticationError):
            SyncManager(manager.address, b"wrong").connect()
        assert outer[0]["a"] == 1
        assert pickle.loads(pickle.dumps(outer))[0]["a"] == 1


def test_managers_can_be_pickled(keyed: ProbeManager) -> None:
    data = pickle.dumps(keyed)
    assert KEY not in data
    again = pickle.loads(data)
    assert type(again) is ProbeManager
    assert again.address == keyed.address
    assert again.list([1])[:] == [1]
    assert not hasattr(again, "shutdown")


def test_unstarted_manager_can_be_pickled(tmp_path: Path) -> None:
    again = pickle.loads(pickle.dumps(SyncManager(str(tmp_path / "socket"))))
    assert again.address == str(tmp_path / "socket")
    assert again._state.value == managers.State.INITIAL
    with again:
        assert again.list([1])[:] == [1]


class OwnManager(SyncManager):
    """Made by other arguments, and with attributes of its own."""

    def __init__(self, place: str, *, colour: str, ctx: Any = None) -> None:
        super().__init__(place, KEY, arena=False, shutdown_timeout=7.5, ctx=ctx)
        self.colour = colour
        self.settings = {"a": [1]}


def check_own(manager: OwnManager, address: str) -> list[Any]:
    values = manager.list([manager.colour, manager.settings, manager._arena])
    assert (manager.address, manager._shutdown_timeout) == (address, 7.5)
    assert not hasattr(manager, "shutdown")
    return list(values[:])


def send_own(manager: OwnManager, address: str, results: Any) -> None:
    results.put(check_own(manager, address))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_managers_travel_with_all_that_they_are(tmp_path: Path, method: str) -> None:
    context = multiprocessing.get_context(method)
    with OwnManager(str(tmp_path / "socket"), colour="red", ctx=context) as manager:
        manager.settings["b"] = [2]
        expected = ["red", {"a": [1], "b": [2]}, False]
        assert check_own(pickle.loads(pickle.dumps(manager)), manager.address) == expected
        results = manager.Queue()
        child = context.Process(target=send_own, args=(manager, manager.address, results))
        child.start()
        if method != "fork":  # which passes the very object
            assert results.get(timeout=DEADLINE) == expected
        child.join()


def test_pickled_managers_keep_where_they_are_in_their_life(tmp_path: Path) -> None:
    manager = OwnManager(str(tmp_path / "socket"), colour="red")
    manager._ctx = multiprocessing.get_context("spawn")
    again = pickle.loads(pickle.dumps(manager))
    assert again._state.value == managers.State.INITIAL
    assert again._ctx.get_start_method() == "spawn"
    assert again._authkey == process.current_process().authkey  # the other is not known here
    with manager:
        pass
    with pytest.raises(ProcessError, match="has shut down"):
        pickle.loads(pickle.dumps(manager)).start()


def use_manager(manager: ProbeManager, results: Any) -> None:
    results.put((manager.list([1, 2])[:], type(manager).__name__))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_managers_travel_to_processes(keyed: ProbeManager, method: str) -> None:
    results = keyed.Queue()
    child = multiprocessing.get_context(method).Process(target=use_manager, args=(keyed, results))
    child.start()
    assert results.get(timeout=30) == ([1, 2], "ProbeManager")
    child.join()
    assert child.exitcode == 0


def test_shutdown_by_a_client() -> None:
    manager = SyncManager()
    manager.start()
    with connection.Client(manager.address, authkey=manager._authkey) as conn:
        assert dispatch(conn, None, "shutdown") is None
    poll(lambda: process_gone(manager._process.pid), "the server is gone")
    manager.shutdown()


def test_get_server_serves_in_this_process() -> None:
    manager = SyncManager(authkey=KEY)
    server = manager.get_server()
    assert type(server) is managers.Server
    assert isinstance(server.authkey, process.AuthenticationString)
    assert server.registry is SyncManager._registry
    server.listener.close()


def test_manager_function() -> None:
    with fastmgr.Manager() as manager:
        assert type(manager) is SyncManager
        assert manager.dict(a=1).copy() == {"a": 1}
    context = multiprocessing.get_context("fork")
    with fastmgr.Manager(context) as manager:
        assert manager._ctx is context


def test_representations_of_managers_and_pipelines() -> None:
    own = ProbeManager(authkey=KEY)
    assert repr(own) == "<ProbeManager at None, not started>"
    with own:
        counter = own.Counter()
        assert re.fullmatch(r"<ProbeManager at '.+', started, process \d+>", repr(own))
        pipe = own.pipeline()
        pipe(counter).incr()
        assert repr(pipe) == f"<Pipeline of 1 calls to the manager at {own.address!r}>"
    assert "shut down" in repr(own) and str(counter) == repr(counter)
