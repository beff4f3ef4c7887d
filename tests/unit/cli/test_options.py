"""Addresses and keys, as users give them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
from support.services import UNSET

from fastmgr.cli.options import CREDENTIAL, Refusal, parse_address, read_key, said, seconds, shown

ADDRESSES = [
    ("127.0.0.1:5000", ("127.0.0.1", 5000)),
    ("localhost:0", ("localhost", 0)),
    ("/run/a:b/socket", "/run/a:b/socket"),
    ("socket", "socket"),
    ("./a:5", "./a:5"),
    ("@name", "\0name"),
    ("valkey://host:1/0", "valkey://host:1/0"),
]


@pytest.mark.parametrize(("text", "address"), ADDRESSES)
def test_addresses(text: str, address: Any) -> None:
    assert parse_address(text) == address
    assert shown(address) == text


def test_path_as_other_servers_have_it() -> None:
    assert parse_address("unix:/run/socket") == "/run/socket"


NO_ADDRESSES = [
    *("", "unix:", ":5000", "host:", "host:http", "a:70000", "[::1]:5"),
    *("localhost", "127.0.0.1", "5000"),
]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"address|HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "inf", "nan", "soon"])
def test_what_is_no_number_of_seconds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="seconds"):
        seconds(text)
    assert seconds("0.5") == 0.5


def test_errors_in_words() -> None:
    assert said(FileNotFoundError(2, "No such file", "/a")) == "No such file: '/a'"
    assert said(OSError(98, "In use", ("host", 5000))) == "In use: host:5000"
    assert said(OSError("plain")) == "plain"
    assert said(ValueError()) == "ValueError"


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def written(path: Path, key: bytes, mode: int = 0o600) -> str:
    path.write_bytes(key)
    path.chmod(mode)
    return str(path)


def test_where_the_key_is(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is named later in the list is asked first."""
    assert read_key(None)[0] == b""
    written(tmp_path / CREDENTIAL, b"of systemd")
    env.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_key(None)[0] == b"of systemd"
    env.setenv("FASTMGR_AUTHKEY", "of the environment \udcff")
    assert read_key(None)[0] == b"of the environment \xff"
    env.setenv("FASTMGR_AUTHKEY_FILE", written(tmp_path / "one", b"of its file\r\n"))
    assert read_key(None)[0] == b"of its file"
    assert (
        read_key(written(tmp_path / "two", b" \x00 of the option\n"))[0] == b" \x00 of the option"
    )


def test_nobody_is_told_the_key(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env.setenv("FASTMGR_AUTHKEY", "secret")
    assert "secret" not in read_key(None)[1]
    assert "secret" not in read_key(written(tmp_path / "key", b"secret"))[1]


def test_who_can_read_and_write_the_key(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert read_key(written(path, b"key", 0o640))[2] is None
    assert "every user can read the key" in str(read_key(written(path, b"key", 0o644))[2])
    for mode in (0o660, 0o602):
        with pytest.raises(Refusal, match="chmod go-w"):
            read_key(written(path, b"key", mode))


def test_keys_that_are_refused(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="is empty"):
        read_key(written(tmp_path / "key", b"\n"))
    with pytest.raises(Refusal, match="No such file"):
        read_key(str(tmp_path / "none"))
    with pytest.raises(Refusal, match="cannot be read"):
        read_key(os.fspath(tmp_path))
