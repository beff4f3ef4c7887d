"""Probes: who answers, and why somebody does not."""

from __future__ import annotations

import socket
from multiprocessing import managers as stock
from pathlib import Path
from unittest.mock import Mock

import pytest
from support import KEY, ProbeManager, valkeys

from fastmgr.__main__ import main
from fastmgr.cli import health


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def say(*words: str) -> tuple[int, str]:
        status = main(["health", *words])
        said = capsys.readouterr()
        assert said.err == "" and said.out.count("\n") == 1
        assert said.out.startswith(f"{words[0]}: ")
        return status, said.out

    return say


@pytest.mark.parametrize("kind", [ProbeManager, stock.SyncManager])
def test_server_that_answers(kind, say, key_file: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with kind(str(tmp_path / "socket"), KEY) as manager:
        status, said = say(manager.address, "--authkey-file", key_file)
        assert status == 0 and "the server answers, and has the key" in said
        status, said = say(manager.address)
        assert status == 0 and "no key was tried" in said
        Path(key_file).write_bytes(b"another")
        status, said = say(manager.address, "--authkey-file", key_file)
        assert status == 1 and "the key is not the server's" in said
    status, said = say(manager.address)
    assert status == 1 and "nobody serves there" in said


def test_what_is_no_server_of_managers(say) -> None:  # type: ignore[no-untyped-def]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        status, said = say(address, "--timeout", "0.1")
        assert status == 1 and "no answer within 0.1 s" in said
    assert say(address)[0] == 1


def test_host_that_nobody_knows(say, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The address is said once."""
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known: ('host.invalid', 5)")
    monkeypatch.setattr(health, "probe", Mock(side_effect=error))
    assert say("host.invalid:5") == (1, "host.invalid:5: Name or service not known\n")


@pytest.mark.parametrize("command", ["health", "doctor", "ls"])
def test_key_that_cannot_be_read(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command is wrongly given, whichever it is, and says nothing of the server."""
    assert main([command, "127.0.0.1:1", "--authkey-file", "/no/such/key"]) == 2
    assert "the key cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("kind", valkeys.KINDS)
def test_valkey_server(kind: str, say) -> None:  # type: ignore[no-untyped-def]
    with valkeys.server(kind, port=valkeys.free_port()) as server:
        assert say(server.tcp())[0] == 0
    status, said = say(server.tcp())
    assert status == 1 and "nobody serves there" in said


def test_engines_that_cannot_be_asked(say) -> None:  # type: ignore[no-untyped-def]
    status, said = say("nobody-has-this://host")
    assert status == 1 and "no engine has the scheme" in said
    assert say("valkey+embedded://")[0] == 1
