"""Sessions with a server: connections of threads, forks, interrupts, and what a server must be."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

import pytest
from support.certificates import certify
from support.hashes import hash_of
from support.processes import stopped
from support.valkeys import Server, free_port, server
from support.waiting import DEADLINE, in_thread, poll

from fastmgr import RemoteError, SyncManager, oneway
from fastmgr.engines.valkey import dialing
from fastmgr.engines.valkey.address import PASSWORD, USERNAME, parse
from fastmgr.engines.valkey.engine import ENGINE
from fastmgr.engines.valkey.errors import ConnectionLost, ReplyError
from fastmgr.engines.valkey.session import ValkeySession

pytestmark = pytest.mark.usefixtures("hashes")


def open_session(address: str) -> ValkeySession:
    found = ENGINE.open_session(address, "pickle", b"key")
    assert isinstance(found, ValkeySession)
    return found


@pytest.fixture
def session(running: Server) -> Iterator[ValkeySession]:
    found = open_session(running.url())
    found.run(["FLUSHALL"])
    yield found
    found.close()


def test_requests(session: ValkeySession) -> None:
    assert session.run(["SET", "a", "1"]) == b"OK"
    assert session.run(["INCR", "a"]) == 2
    assert session.run(["HGETALL", "none"]) == {}
    assert session.ask(["NONSENSE"]).code == "ERR"
    with pytest.raises(RemoteError, match="the server replied: ERR unknown command"):
        session.run(["NONSENSE"])
    assert session.key_of("dict-12") == b"{fm:dict-12}"


def test_methods(running: Server, session: ValkeySession) -> None:
    proxy = hash_of(SyncManager.from_address(running.url()))
    assert proxy.set("a", "x") == 1
    assert proxy.get("a") == "x"
    assert proxy.twice("n") == 2
    with pytest.raises(KeyError, match="no such field"):
        proxy.get("b")
    with pytest.raises(TypeError, match="is no word"):
        proxy.set("b", None)
    with pytest.raises(RemoteError, match=r"AttributeError: a Hash .* has no method .nothing."):
        proxy._callmethod("nothing")


# -- connections --------------------------------------------------------------------


def client_id(session: ValkeySession) -> int:
    return int(session.run(["CLIENT", "ID"]))


def test_threads_have_connections_of_their_own(session: ValkeySession) -> None:
    mine = client_id(session)
    others = [in_thread(client_id, session) for _ in range(3)]
    assert mine not in others
    assert mine == client_id(session)
    # An ended thread's connection is closed.
    poll(lambda: len(session.run(["CLIENT", "LIST"]).splitlines()) <= 2, "few connections")


def test_threads_do_not_get_each_others_replies(session: ValkeySession) -> None:
    wrong: list[Any] = []

    def ask(number: int) -> None:
        for i in range(300):
            text = f"{number} {i}".encode()
            if session.run(["ECHO", text]) != text:
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not wrong


class Interrupted(Exception):
    """What the handler of a signal raises."""


@contextlib.contextmanager
def alarm(handler: Any) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_after_an_interrupt_the_next_call_is_right(session: ValkeySession) -> None:
    def interrupt(*_: Any) -> None:
        raise Interrupted

    before = client_id(session)
    with alarm(interrupt), pytest.raises(Interrupted):
        session.run(["BLPOP", "nothing", 0])
    assert session.run(["ECHO", "right"]) == b"right"
    assert client_id(session) != before


def test_a_handler_may_call_while_its_thread_waits(session: ValkeySession) -> None:
    """A finalizer may as well: the call within the call has a spare connection, which is kept."""
    spares: list[int] = []

    def push(*_: Any) -> None:
        spares.append(client_id(session))
        session.run(["RPUSH", "list", "item"])

    mine = client_id(session)
    for _ in range(2):
        with alarm(push):
            assert session.run(["BLPOP", "list", 0]) == [b"list", b"item"]
    assert client_id(session) == mine
    assert len(set(spares)) == 1 and mine not in spares


def test_a_call_in_the_midst_of_another(session: ValkeySession) -> None:
    """As a finalizer makes it, which the garbage collector runs while a request is encoded."""
    inner: list[bytes] = []

    class Calling:
        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[str]:
            yield "ECHO"
            inner.append(session.run(["ECHO", "inner"]))
            yield "outer"

    words: Any = Calling()
    assert (session.run(words), inner) == (b"outer", [b"inner"])


def test_a_child_of_a_fork_has_connections_of_its_own(session: ValkeySession) -> None:
    mine = client_id(session)
    reader, writer = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        writer.send((client_id(session), session.id, session.run(["ECHO", "child"])))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert reader.poll(DEADLINE)
    theirs, ident, said = reader.recv()
    process.join(DEADLINE)
    assert process.exitcode == 0
    assert theirs != mine and ident != session.id and said == b"child"
    assert client_id(session) == mine


def test_a_session_that_was_closed_begins_anew(session: ValkeySession) -> None:
    before = client_id(session)
    session.close()
    assert client_id(session) != before


def test_a_connection_that_the_server_has_closed_is_replaced(session: ValkeySession) -> None:
    """Also before a call that changes something: nothing had been sent."""
    session.run(["SET", "n", 0])
    other = open_session(session.address)
    other.run(["CLIENT", "KILL", "ID", client_id(session)])
    # The server closes the connection before it replies.
    assert session.run(["INCR", "n"]) == 1
    other.close()


# -- time ---------------------------------------------------------------------------


def test_an_answer_that_does_not_come_in_time(running: Server) -> None:
    session = open_session(running.url(timeout="0.2"))
    session.run(["SET", "a", 1])
    assert running.process is not None
    with stopped(running.process.pid), pytest.raises(TimeoutError, match="did not answer in time"):
        session.run(["GET", "a"], True)
    assert session.run(["GET", "a"]) == b"1"
    session.close()


# -- what a server must be ------------------------------------------------------------


def test_nothing_serves(tmp_path: Path) -> None:
    for address in (f"valkey+unix://{tmp_path}/none", f"valkey://127.0.0.1:{free_port()}"):
        with pytest.raises(OSError, match=r"nothing serves at .* use valkey\+embedded://"):
            SyncManager.from_address(address)


def test_a_server_that_has_too_many_clients(running: Server, session: ValkeySession) -> None:
    session.run(["CONFIG", "SET", "maxclients", 1])
    try:
        with pytest.raises(ConnectionError, match=r"ERR max number of clients"):
            SyncManager.from_address(running.url(ns="more"))
    finally:
        session.run(["CONFIG", "SET", "maxclients", 1000])


def test_a_server_that_evicts_is_refused(running: Server, session: ValkeySession) -> None:
    for policy in ("allkeys-lru", "allkeys-random"):
        session.run(["CONFIG", "SET", "maxmemory-policy", policy])
        with pytest.raises(ConnectionError, match=rf"evicts keys .*{policy}.*noeviction is needed"):
            SyncManager(running.url()).start()
    session.run(["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"])
    SyncManager.from_address(running.url())
    session.run(["CONFIG", "SET", "maxmemory-policy", "noeviction"])


@pytest.mark.parametrize(
    ("hello", "info", "match"),
    [
        (b"-ERR unknown command 'HELLO'\r\n", b"", "too old: version 7.0 is needed"),
        (b"+OK\r\n", b"redis_version:6.2.7\r\n", "of version 6.2.7: 7.0 is needed"),
    ],
)
def test_an_old_server_is_refused(hello: bytes, info: bytes, match: str, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    def serve() -> None:
        peer = listener.accept()[0]
        with peer:
            for reply in (hello, b"$%d\r\n%s\r\n" % (len(info), info)):
                if not peer.recv(1000):
                    return
                peer.sendall(reply)
            peer.recv(1000)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ConnectionError, match=match):
            SyncManager.from_address(f"valkey+unix://{path}")
        thread.join(DEADLINE)


def test_a_read_sees_a_posted_call_that_was_refused_at_first() -> None:
    """The server was a replica when the call came, and is the primary when the read comes."""
    with server() as one:
        manager = SyncManager.from_address(one.url())
        numbers = manager.dict(n=0)
        one.ask("REPLICAOF", "127.0.0.1", free_port())
        oneway(numbers).incr("n")
        poll(lambda: b"errorstat_READONLY" in one.ask("INFO", "errorstats"), "it is refused")
        one.ask("REPLICAOF", "NO", "ONE")
        assert numbers["n"] == 1


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with server("valkey", port=free_port()) as one:
        one.ask("ACL", "SETUSER", "alice", "on", ">pa:ss@", "~*", "&*", "+@all")
        one.ask("ACL", "SETUSER", "default", ">secret")
        yield one


def test_a_user_and_a_password(guarded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = guarded.tcp().removeprefix("valkey://")
    for login, user in (("alice:pa%3Ass%40", b"alice"), (":secret", b"default")):
        manager = SyncManager.from_address(f"valkey://{login}@{address}")
        assert manager._session.run(["ACL", "WHOAMI"]) == user
        assert "pa%3Ass" not in repr(manager) and "secret" not in repr(manager)
    monkeypatch.setenv(USERNAME, "alice")
    monkeypatch.setenv(PASSWORD, "pa:ss@")
    session = open_session(f"valkey://{address}/?ns=other")
    assert session.run(["ACL", "WHOAMI"]) == b"alice"
    session.close()


@pytest.mark.parametrize("login", ["alice:wrong@", ":wrong@", ""])
def test_a_wrong_password(login: str, guarded: Server) -> None:
    address = guarded.tcp().replace("//", f"//{login}") + "/?ns=wrong"
    with pytest.raises(AuthenticationError, match="does not accept the user and the password") as e:
        SyncManager.from_address(address)
    assert "wrong@" not in str(e.value)


# -- TCP and TLS ----------------------------------------------------------------------


def test_tcp() -> None:
    with server("valkey", port=free_port()) as one:
        session = open_session(f"{one.tcp()}/3")
        text = os.urandom(3_000_000)
        session.run(["SET", "a", text])
        assert session.run(["GET", "a"]) == text
        assert b"db=3" in session.run(["CLIENT", "INFO"])
        with socket.socket(fileno=os.dup(session.connection().fileno())) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        session.close()


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server that speaks TLS, with a certificate of its own for ``localhost``."""
    folder = tmp_path_factory.mktemp("tls")
    certify(folder, "DNS:localhost")
    port = free_port()
    files = {"tls_cert_file": "cert.pem", "tls_key_file": "key.pem", "tls_ca_cert_file": "cert.pem"}
    options = {name: folder / file for name, file in files.items()}
    with server("redis", tls_port=port, tls_auth_clients="optional", **options) as one:
        one.port = port
        yield one, folder


def test_tls(encrypted: tuple[Server, Path]) -> None:
    one, folder = encrypted
    session = open_session(f"rediss://localhost:{one.port}/?ca={folder}/cert.pem&timeout=20")
    text = os.urandom(3_000_000)
    session.run(["SET", "a", text])
    assert session.run(["GET", "a"]) == text
    assert session.connection().pipeline([["ECHO", text]] * 20, DEADLINE) == [text] * 20
    with pytest.raises(TimeoutError):
        session.run(["BLPOP", "none", 0], timeout=0.1)
    assert session.run(["ECHO", "right"]) == b"right"
    session.run(["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"])
    with pytest.raises(ConnectionLost):
        session.ask(["INCR", "n"])
    assert session.run(["INCR", "n"]) == 1
    assert in_thread(session.run, ["INCR", "n"]) == 2  # no connection stays open
    session.close()


def test_tls_connection_that_the_server_has_closed(encrypted: tuple[Server, Path]) -> None:
    """As it does with one that is idle for its `timeout`: the request goes over another."""
    one, folder = encrypted
    session = open_session(f"rediss://localhost:{one.port}/?ca={folder}/cert.pem&timeout=20")
    session.run(["SET", "idle", 0])
    one.ask("CLIENT", "KILL", "TYPE", "normal")
    descriptor = session.connection().fileno()
    poll(lambda: select.select([descriptor], [], [], 0)[0], "the end has come")
    time.sleep(0.02)  # after so long the client looks
    assert session.run(["INCR", "idle"]) == 1
    session.close()


def test_tls_with_another_certificate(encrypted: tuple[Server, Path]) -> None:
    one, folder = encrypted
    with pytest.raises(ConnectionError, match=r"no TLS with .*certificate verify failed"):
        SyncManager.from_address(f"valkeys://localhost:{one.port}")
    with pytest.raises(ConnectionError, match=r"no TLS with .*(mismatch|not valid)"):
        SyncManager.from_address(f"valkeys://127.0.0.1:{one.port}/?ca={folder}/cert.pem")
    session = open_session(f"valkeys://127.0.0.1:{one.port}/?verify=no")
    assert session.run(["PING"]) == b"PONG"
    session.close()


def test_no_tls_where_the_server_wants_it(encrypted: tuple[Server, Path]) -> None:
    one, _folder = encrypted
    with pytest.raises(ConnectionLost, match=r"does it want TLS.*no call was made") as caught:
        SyncManager.from_address(f"valkey://localhost:{one.port}")
    assert caught.value.applied is False


def test_file_of_tls_that_is_none(encrypted: tuple[Server, Path]) -> None:
    one, folder = encrypted
    with pytest.raises(FileNotFoundError, match="the file of ca in 'valkeys://"):
        SyncManager.from_address(f"valkeys://localhost:{one.port}/?ca=/no/file")
    with pytest.raises(OSError, match="the file of cert and key in 'valkeys://"):
        SyncManager.from_address(
            f"valkeys://localhost:{one.port}/?ca={folder}/cert.pem&cert={folder}/cert.pem"
        )


def test_no_tls_where_tls_is_wanted() -> None:
    with (
        server("valkey", port=free_port()) as one,
        pytest.raises(OSError, match=r"no TLS|does it speak TLS"),
    ):
        dialing.dial(parse(f"valkeys://127.0.0.1:{one.port}/"), timeout=0.3)


def test_an_error_reply_stays_one(session: ValkeySession) -> None:
    assert isinstance(session.ask(["GET"]), ReplyError)
