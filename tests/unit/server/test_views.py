"""The dicts of a stock server, which users' servers read and write."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest

from fastmgr.managers import Server


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
