"""Serializers, several processes, several servers, shared memory."""

from __future__ import annotations

from multiprocessing.shared_memory import SharedMemory, ShareableList
from typing import Any

import fastmgr
import interop_types
import pytest
import scenarios
from peers import ADDRESSES, KEY, FastServers, Peer, connect
from fastmgr import managers
from support import settle

pytestmark = pytest.mark.timeout(90)

SERIALIZERS = pytest.mark.parametrize(
    ("serializer", "family"), [("xmlrpclib", "tcp"), ("json", "unix")]
)


@pytest.fixture
def json_here() -> Any:
    """The serializer "json", in this process as in the servers and the peers."""
    interop_types.add_json()
    yield
    del managers.listener_client["json"]


@SERIALIZERS
def test_stock_client_with_another_serializer(
    serializer: str, peer: Peer, family: str, fast_servers: FastServers, json_here: None
) -> None:
    server = fast_servers.get(family, serializer)
    peer.call(
        "scenario",
        name="plain_values",
        address=server.address,
        key=KEY,
        serializer=serializer,
    )
    settle(server, 0)


@SERIALIZERS
def test_fastmgr_client_with_another_serializer(
    serializer: str, peer: Peer, family: str, json_here: None
) -> None:
    manager = connect(peer.server(family, serializer), serializer)
    scenarios.plain_values(manager)
    settle(manager, 0)


@SERIALIZERS
def test_both_ends_with_another_serializer(
    serializer: str, family: str, fast_servers: FastServers, json_here: None
) -> None:
    manager = fast_servers.get(family, serializer)
    scenarios.plain_values(manager)
    if serializer == "json":
        # What the user's own serializer cannot write is reported, not swallowed.
        d = manager.dict()
        with pytest.raises(managers.RemoteError, match="Unserializable"):
            d["missing"]
        d["there"] = 1
        assert d["there"] == 1
        del d
    settle(manager, 0)


def test_processes_and_threads_of_a_stock_client(
    peer: Peer, family: str, fast_servers: FastServers
) -> None:
    """No increment under a shared lock is lost: 2 processes of 3 threads, and the peer itself."""
    server = fast_servers.get(family)
    total, table = peer.call(
        "scenario", name="hammer", address=server.address, key=KEY, timeout=60
    )
    assert table == {"one": 120, "two": 120, "here": 40}
    assert total == 280
    settle(server, 0)


def test_processes_and_threads_of_a_fastmgr_client(peer: Peer) -> None:
    manager = connect(peer.server("unix"))
    total, table = scenarios.hammer(manager)
    assert table == {"one": 120, "two": 120, "here": 40}
    assert total == 280
    settle(manager, 0)


def test_stock_and_fastmgr_clients_take_turns(peer: Peer, fast_servers: FastServers) -> None:
    """Proxies that one kind of client left in a container serve the other kind, both ways."""
    server = fast_servers.get("unix")
    address = server.address
    mine = connect(address)

    def stock(name: str) -> None:
        peer.call("scenario", name=name, address=address, key=KEY)

    stock("leave_proxies")
    scenarios.find_proxies(mine)
    stock("check_proxies")
    scenarios.leave_proxies(mine)
    stock("find_proxies")
    scenarios.check_proxies(mine)
    settle(server, 0)


def test_fastmgr_and_stock_clients_of_a_stock_server(peer: Peer) -> None:
    address = peer.server("unix")
    mine = connect(address)
    scenarios.leave_proxies(mine)
    peer.call("scenario", name="find_proxies", address=address, key=KEY)
    scenarios.check_proxies(mine)
    settle(mine, 0)


def test_fastmgr_proxies_in_a_stock_server(peer: Peer, fast_servers: FastServers) -> None:
    """The stock server itself becomes a client of the fastmgr server, and so do its clients."""
    server = fast_servers.get("tcp")
    stock = peer.server("unix")
    scenarios.put_across(server, connect(stock))
    peer.call("cross", name="use_across", addresses=[server.address, stock], key=KEY)
    scenarios.end_across(server, connect(stock))
    settle(server, 0)  # the stock server returned what it had taken


def test_stock_proxies_in_a_fastmgr_server(peer: Peer, fast_servers: FastServers) -> None:
    server = fast_servers.get("unix")
    stock = peer.server("tcp")
    peer.call("cross", name="put_across", addresses=[stock, server.address], key=KEY)
    scenarios.use_across(connect(stock), connect(server.address))
    peer.call("cross", name="end_across", addresses=[stock, server.address], key=KEY)
    settle(connect(stock), 0)
    settle(server, 0)


@pytest.mark.parametrize("swap", [False, True], ids=["in turn", "and back"])
def test_proxies_between_two_fastmgr_servers(swap: bool, fast_servers: FastServers) -> None:
    home, away = fast_servers.get("unix"), fast_servers.get("tcp")
    if swap:
        home, away = away, home
    scenarios.put_across(connect(home.address), connect(away.address))
    scenarios.use_across(home, away)
    scenarios.end_across(home, away)
    settle(home, 0)
    settle(away, 0)


def test_shared_memory_manager_with_a_stock_client(peer: Peer, family: str) -> None:
    manager = fastmgr.SharedMemoryManager(ADDRESSES[family], KEY.encode())
    with manager:
        names, tracked = peer.call("shared_memory", address=manager.address, key=KEY)
        assert tracked == names
        block = SharedMemory(names[0])
        assert bytes(block.buf[:5]) == b"stock"
        block.close()
        listed = ShareableList(name=names[1])
        assert list(listed) == [1, "two", 3.0]
        listed.shm.close()
        mine = manager.SharedMemory(16)
        mine.close()
    for name in (*names, mine.name):
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)
