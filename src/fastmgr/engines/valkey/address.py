"""The addresses of Valkey and Redis servers, as URLs, and the secrets that are not in them.

========================================== =====================================================
``valkey://host:port/db``                  TCP; ``redis://`` is the same
``valkeys://host:port/db``                 TLS; ``rediss://`` is the same
``valkey+unix:///path``                    a Unix socket; ``redis+unix://`` is the same
``valkey+cluster://a:7000,b:7001``         the nodes of a cluster, some of them
``valkey+embedded://``                     a private server, which the manager starts
``valkey+embedded:///path``                one that was started: the address that others get
========================================== =====================================================

After ``?`` come options: ``ns``, the namespace of the keys; ``timeout``, the seconds that an answer
may take; ``db`` of a Unix socket; ``ca``, ``cert``, ``key`` (files) and ``verify=no`` of TLS;
``dir`` and ``fsync`` of an embedded server.
"""

from __future__ import annotations

import os
import re
from multiprocessing.context import get_spawning_popen
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

__all__ = ["SCHEMES", "Address", "CarriedAddress", "carried", "parse"]

DEFAULT_PORT = 6379
DEFAULT_NAMESPACE = "fm"
USERNAME, PASSWORD = "FASTMGR_VALKEY_USERNAME", "FASTMGR_VALKEY_PASSWORD"

#: By scheme: what is behind it.
SCHEMES = {
    "valkey": "tcp",
    "redis": "tcp",
    "valkeys": "tls",
    "rediss": "tls",
    "valkey+unix": "unix",
    "redis+unix": "unix",
    "valkey+cluster": "cluster",
    "valkeys+cluster": "cluster",
    "valkey+embedded": "embedded",
}
_TLS_OPTIONS = {"ca", "cert", "key", "verify"}
#: By what is behind a scheme: the options that an address may have.
OPTIONS = {
    "tcp": {"ns", "timeout"},
    "tls": {"ns", "timeout", *_TLS_OPTIONS},
    "unix": {"ns", "timeout", "db"},
    "cluster": {"ns", "timeout", *_TLS_OPTIONS},
    "embedded": {"ns", "timeout", "dir", "fsync"},
}
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.I | re.S)
_HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:\[\]]*)(?::([0-9]+))?")

#: By an address without its secret: the user and the password, for sessions of this process.
_secrets: dict[str, tuple[str | None, str | None]] = {}


class Address(NamedTuple):
    """An address, taken apart.

    Attributes
    ----------
    url : str
        Without the password: what managers and proxies carry.
    kind : {'tcp', 'tls', 'unix', 'cluster', 'embedded'}
    hosts : tuple of (str, int)
    path : str
        Of a Unix socket; empty for an embedded server that is to be started.
    db : int
    ns : str
    options : dict
    """

    url: str
    kind: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    db: int
    ns: str
    options: dict[str, str]

    @property
    def timeout(self) -> float | None:
        """The seconds that an answer may take; None: any time."""
        return float(self.options["timeout"]) if "timeout" in self.options else None

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.kind == "tls" or self.url.startswith("valkeys+cluster:")

    def credentials(self) -> tuple[str | None, str | None]:
        """Return the user and the password, for this process's eyes alone."""
        if self.kind == "embedded":
            return None, None  # the directory is private
        user, password = _secrets.get(self.url, (None, None))
        if password is None:
            password = os.environ.get(PASSWORD)
            user = _split(self.url)[1] or os.environ.get(USERNAME)
        return user, password

    def at(self, path: str) -> Address:
        """Return the address of the embedded server that was started and has a socket."""
        wanted = {"timeout": self.options["timeout"]} if "timeout" in self.options else {}
        if self.ns != DEFAULT_NAMESPACE:
            wanted["ns"] = self.ns
        return parse(f"valkey+embedded://{quote(path)}{_query(wanted)}")


def _query(options: dict[str, str]) -> str:
    return (
        "?" + "&".join(f"{k}={quote(v, safe='/')}" for k, v in options.items()) if options else ""
    )


class CarriedAddress(str):
    """An address whose password this process knows.

    A pickle has the address alone, but for one that goes to a process that is being spawned: that
    process gets the password, as it gets the authkey.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        url = str(self)
        if get_spawning_popen() is not None and url in _secrets:
            return _with_secret, (url, *_secrets[url])
        return str, (url,)


def _with_secret(url: str, user: str | None, password: str | None) -> str:
    """Be told an address and its password, in a process that was spawned."""
    _secrets[url] = user, password
    return CarriedAddress(url)


def carried(address: str) -> str:
    """Return an address without its password, which this process keeps."""
    url, user, password = _split(address)
    if password is None:
        return address if isinstance(address, CarriedAddress) else url
    _secrets[url] = user, password
    return CarriedAddress(url)


def _split(address: str) -> tuple[str, str | None, str | None]:
    """Take the user and the password out of an address."""
    found = _URL.fullmatch(address)
    if found is None or "@" not in found[2]:
        return address, None, None
    login, _, rest = found[2].rpartition("@")
    user, colon, password = login.partition(":")
    kept = f"{user}@" if user else ""
    start, end = found.span(2)
    url = f"{address[:start]}{kept}{rest}{address[end:]}"
    return url, unquote(user) or None, unquote(password) if colon else None


def parse(address: str) -> Address:
    """Take an address apart.

    Raises
    ------
    ValueError
        It is no such address; the message says what is wrong, without the password.
    """
    url = carried(address)
    found = _URL.fullmatch(url)
    kind = SCHEMES.get(found[1].lower()) if found else None
    if found is None or kind is None:
        raise _wrong(url, f"the schemes are {', '.join(f'{name}://' for name in SCHEMES)}")
    where, path = found[2].rpartition("@")[2], unquote(found[3])
    options = dict(parse_qsl(found[4] or "", keep_blank_values=True))
    if unknown := sorted(set(options) - OPTIONS[kind]):
        known = ", ".join(sorted(OPTIONS[kind]))
        raise _wrong(url, f"there is no option {unknown[0]!r} (there are: {known})")
    hosts: tuple[tuple[str, int], ...] = ()
    db = 0
    if kind in ("tcp", "tls", "cluster"):
        hosts = tuple(_host(url, one) for one in where.split(","))
        if len(hosts) > 1 and kind != "cluster":
            raise _wrong(url, "several hosts are a cluster's: valkey+cluster://")
        db = _number(url, "database", path.strip("/") or "0")
        path = ""
        if db and kind == "cluster":
            raise _wrong(url, "a cluster has the database 0 alone")
    elif where:
        raise _wrong(url, f"the path follows three slashes: {found[1]}:///{where}{path}")
    elif kind == "unix":
        db = _number(url, "database", options.pop("db", "0"))
        if not path:
            raise _wrong(url, "the path of the socket is missing")
    ns = options.pop("ns", DEFAULT_NAMESPACE)
    if not ns or any(mark in ns for mark in "{}:"):
        raise _wrong(url, f"ns={ns!r}: a name without {{ }} and : is needed")
    _check(url, options)
    return Address(url, kind, hosts, path, db, ns, options)


def _check(url: str, options: dict[str, str]) -> None:
    if "timeout" in options:
        try:
            good = float(options["timeout"]) > 0
        except ValueError:
            good = False
        if not good:
            raise _wrong(url, f"timeout={options['timeout']!r}: seconds are needed")
    if options.get("verify", "yes") not in ("yes", "no"):
        raise _wrong(url, "verify is yes or no")
    if options.get("fsync", "everysec") not in ("everysec", "always", "no"):
        raise _wrong(url, "fsync is everysec, always or no")


def _host(url: str, text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise _wrong(url, f"{text!r} is no host:port")
    port = int(found[2] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise _wrong(url, f"{port} is no port")
    return unquote(found[1].strip("[]")) or "localhost", port


def _number(url: str, what: str, text: str) -> int:
    if not text.isdecimal():
        raise _wrong(url, f"{text!r} is no number of a {what}")
    return int(text)


def _wrong(url: str, why: str) -> ValueError:
    return ValueError(f"{url!r} is no address of a Valkey server: {why}")
