"""The server: its public functions, called by the test."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support import KEY

from fastmgr import managers
from fastmgr.managers import Server, Token


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
