"""Addresses of Valkey servers: what they say, and that no secret stays in them."""

from __future__ import annotations

import logging
import pickle
from multiprocessing import util

import pytest
from support.processes import call_in_subprocess

from fastmgr import SyncManager
from fastmgr.engines.valkey import address as address_module
from fastmgr.engines.valkey.address import PASSWORD, USERNAME, Address, CarriedAddress, parse

#: An address, what is behind it, its hosts or path, its database.
GOOD = [
    ("valkey://host:7000/2", "tcp", (("host", 7000),), "", 2),
    ("redis://host", "tcp", (("host", 6379),), "", 0),
    ("valkey://", "tcp", (("localhost", 6379),), "", 0),
    ("valkey://[::1]:7000/", "tcp", (("::1", 7000),), "", 0),
    ("Valkeys://host", "tls", (("host", 6379),), "", 0),
    ("rediss://host:1/0?ca=/a&verify=no", "tls", (("host", 1),), "", 0),
    ("valkey+unix:///run/my%20socket?db=3", "unix", (), "/run/my socket", 3),
    ("redis+unix:///s", "unix", (), "/s", 0),
    ("valkey+cluster://a:1,b,[::2]:3", "cluster", (("a", 1), ("b", 6379), ("::2", 3)), "", 0),
    ("valkey+embedded://", "embedded", (), "", 0),
    ("valkey+embedded://?dir=/data&fsync=always", "embedded", (), "", 0),
    ("valkey+embedded:///tmp/s", "embedded", (), "/tmp/s", 0),
]


@pytest.mark.parametrize(("url", "kind", "hosts", "path", "db"), GOOD)
def test_what_an_address_says(
    url: str, kind: str, hosts: tuple[tuple[str, int], ...], path: str, db: int
) -> None:
    found = parse(url)
    assert (found.url, found.kind, found.hosts, found.path, found.db) == (
        url,
        kind,
        hosts,
        path,
        db,
    )
    assert (found.ns, found.timeout, found.tls) == ("fm", None, kind == "tls")


def test_options() -> None:
    found = parse("valkeys+cluster://a?ns=app&timeout=1.5&ca=%2Fx%20y")
    assert (found.ns, found.timeout, found.tls) == ("app", 1.5, True)
    assert found.options["ca"] == "/x y"


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("valkey+nothing://h", "the schemes are valkey://"),
        ("valkey://a:1,b:2", r"a cluster's: valkey\+cluster"),
        ("valkey://host:0", "0 is no port"),
        ("valkey://host:70000", "70000 is no port"),
        ("valkey://host:x", "is no host:port"),
        ("valkey://host/x", "'x' is no number of a database"),
        ("valkey+cluster://host/1", "the database 0 alone"),
        ("valkey+unix://run/s", r"three slashes: valkey\+unix:///run/s"),
        ("valkey+unix://", "the path of the socket is missing"),
        ("valkey+embedded://host", "three slashes"),
        ("valkey://h?nS=a", "no option 'nS' .there are: ns, timeout"),
        ("valkey://h?ca=x", "no option 'ca'"),
        ("valkey://h?ns=a{b", "a name without"),
        ("valkey://h?ns=", "a name without"),
        ("valkey://h?timeout=soon", "seconds are needed"),
        ("valkey://h?timeout=-1", "seconds are needed"),
        ("valkeys://h?verify=perhaps", "yes or no"),
        ("valkey+embedded://?fsync=daily", "everysec, always or no"),
    ],
)
def test_an_address_that_is_wrong(url: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        parse(url)


# -- secrets ----------------------------------------------------------------------

SECRET = "s3cr:et@/?#ü"
QUOTED = "s3cr%3Aet%40%2F%3F%23%C3%BC"


def has_secret(text: object) -> bool:
    return any(one in str(text) for one in ("s3cr", QUOTED, SECRET))


@pytest.mark.parametrize(
    "url",
    [
        f"valkey://me:{QUOTED}@host:1/2?ns=a",
        f"valkey+unix://me:{QUOTED}@/path",
        f"valkey+cluster://me:{QUOTED}@a:1,b:2",
    ],
)
def test_the_password_is_not_in_the_address(url: str) -> None:
    found = parse(url)
    assert found.url == url.replace(f":{QUOTED}", "")
    assert found.credentials() == ("me", SECRET)
    assert parse(found.url).credentials() == ("me", SECRET)
    assert not has_secret(found)


def test_a_password_without_a_user() -> None:
    found = parse(f"valkey://:{QUOTED}@host9")
    assert (found.url, found.credentials()) == ("valkey://host9", (None, SECRET))


def test_credentials_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USERNAME, "env")
    monkeypatch.setenv(PASSWORD, "word")
    assert parse("valkey://host8").credentials() == ("env", "word")
    assert parse("valkey://me@host8").credentials() == ("me", "word")
    assert parse("valkey://me:own@host8").credentials() == ("me", "own")
    assert parse("valkey+embedded:///s").credentials() == (None, None)


def test_managers_show_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    manager = SyncManager(f"valkey://me:{QUOTED}@127.0.0.1:1/")
    assert manager.address == "valkey://me@127.0.0.1:1/"
    caplog.set_level(1, "multiprocessing")
    logger = util.get_logger()
    logger.addHandler(caplog.handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        with pytest.raises(ConnectionRefusedError, match="nothing serves at") as caught:
            manager.connect()
    finally:
        logger.setLevel(level)
        logger.removeHandler(caplog.handler)
    for shown in (repr(manager), repr(caught.value), caplog.text, pickle.dumps(manager)):
        assert not has_secret(shown)
    assert b"s3cr" not in pickle.dumps(manager._address)


def test_an_error_of_the_address_shows_no_secret() -> None:
    with pytest.raises(ValueError, match="no option") as caught:
        parse(f"valkey://me:{QUOTED}@host?wrong=1")
    assert not has_secret(caught.value)


def credentials_in_a_new_process(url: str) -> list[str | None]:
    return list(parse(url).credentials())


def test_a_pickle_has_no_secret_unless_a_process_is_spawned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = parse(f"valkey://me:{QUOTED}@host7").url
    assert type(url) is CarriedAddress
    plain = pickle.loads(pickle.dumps(url))
    assert (type(plain), plain) == (str, url)
    assert call_in_subprocess(credentials_in_a_new_process, plain) == ["me", None]
    monkeypatch.setattr(address_module, "get_spawning_popen", lambda: object())
    spawned = pickle.dumps(url)
    monkeypatch.undo()
    address_module._secrets.pop(url)
    assert pickle.loads(spawned) == url
    assert parse(url).credentials() == ("me", SECRET)


def test_the_address_of_an_embedded_server() -> None:
    wanted = parse("valkey+embedded://?ns=app&timeout=2&dir=/data")
    found: Address = wanted.at("/tmp/a b")
    assert found.url == "valkey+embedded:///tmp/a%20b?timeout=2&ns=app"
    assert (found.kind, found.path, found.ns, found.timeout) == ("embedded", "/tmp/a b", "app", 2.0)
