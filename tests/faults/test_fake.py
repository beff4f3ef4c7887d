"""Servers without the key, which have one client answer what another has asked.

The stdlib's handshake does not tell such a server from a true one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Iterator
from multiprocessing import AuthenticationError, connection
from pathlib import Path

import pytest
from support import DEADLINE, KEY, RawPeer, Script, in_thread, say
from support.fakes import Bomb, posing

from fastmgr import SyncManager


def connected(address: str) -> SyncManager:
    manager = SyncManager(address, KEY)
    manager.connect()
    return manager


def connect_again_and_again(address: str) -> None:
    """For a `Script`: a client that has the key and believes what is at the address."""
    say("ready")
    while True:
        with contextlib.suppress(OSError, EOFError, AuthenticationError):
            connected(address)


def test_server_has_another_client_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMGR_STOCK_PEERS", "off")
    address = str(tmp_path / "server")
    with posing(address, tmp_path / "bomb"), Script(connect_again_and_again, address) as helper:
        assert helper.line() == "ready"
        for _ in range(3):
            with pytest.raises((AuthenticationError, OSError, EOFError)):
                connected(address)
    assert not (tmp_path / "bomb").exists()


def test_server_has_another_client_of_the_process_answer(tmp_path: Path) -> None:
    address = str(tmp_path / "server")
    errors: list[str] = []

    def try_it() -> None:
        try:
            connected(address)
        except (AuthenticationError, OSError, EOFError) as error:
            errors.append(str(error))

    with posing(address, tmp_path / "bomb"):
        threads = [threading.Thread(target=try_it, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    assert any("another client of this process" in error for error in errors), errors
    assert not (tmp_path / "bomb").exists()


def test_fake_takes_the_address_of_a_server_that_has_proved_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "server")
    with SyncManager(address, KEY) as manager:
        client = connected(address)
        proxy = client.dict(a=1)
        manager._process.kill()
        manager._process.join()
    # The bomb is not even read: a stock server would have to be asked in the stdlib's way.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address)
    monkeypatch.setenv("FASTMGR_STOCK_PEERS", "off")  # for the helper: it knows no server yet
    with posing(address, tmp_path / "bomb"), Script(connect_again_and_again, address) as helper:
        assert helper.line() == "ready"
        monkeypatch.undo()
        for _ in range(3):
            with pytest.raises((AuthenticationError, OSError, EOFError)):
                proxy.copy()
    assert not (tmp_path / "bomb").exists()


# Where stock peers are refused


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncManager]:
    monkeypatch.setenv("FASTMGR_STOCK_PEERS", "off")
    with SyncManager(authkey=KEY) as manager:
        yield manager
        server = manager._process
    assert server.exitcode == 0  # it was told to end, in a dialect that it takes


def test_all_goes_on_among_ours(strict: SyncManager) -> None:
    shared = strict.dict(a=strict.list([1]))
    assert in_thread(lambda: shared["a"][0]) == 1


def test_server_reads_nothing_of_a_stock_client(strict: SyncManager, tmp_path: Path) -> None:
    with RawPeer(strict.address) as peer:
        peer.login().send_frame(pickle.dumps((None, "dummy", (Bomb(tmp_path / "bomb"),), {})))
        assert peer.frames_until_eof() == []
    assert not (tmp_path / "bomb").exists()


def test_introduction_of_another_handshake(strict: SyncManager) -> None:
    with RawPeer(strict.address) as peer:
        peer.login()
        peer.asked_back = os.urandom(20)
        with pytest.raises(EOFError):
            peer.introduce(bytes(16))


def test_client_asks_no_stock_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMGR_STOCK_PEERS", "off")
    address = str(tmp_path / "server")

    def serve() -> None:
        for _ in range(2):
            with contextlib.suppress(OSError, EOFError), listener.accept() as conn:
                conn.recv()
                conn.send(("#TRACEBACK", "no such function"))

    with connection.Listener(address, authkey=KEY) as listener:
        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(AuthenticationError, match="FASTMGR_STOCK_PEERS=off"):
            connected(address)


def test_server_that_speaks_only_the_stock_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMGR_STOCK_PEERS", "off")
    with pytest.raises(ValueError, match="FASTMGR_STOCK_PEERS=off"):
        SyncManager(authkey=KEY, serializer="xmlrpclib").get_server()
