"""Several processes, several servers, proxies that cross between them, shared memory."""

from __future__ import annotations

from multiprocessing.shared_memory import ShareableList, SharedMemory

import pytest
import scenarios
from peers import ADDRESSES, KEY, FastServers, Peer, connect

import fastmgr

pytestmark = pytest.mark.timeout(90)


def test_processes_and_threads_of_a_stock_client(
    peer: Peer, family: str, fast_servers: FastServers
) -> None:
    """No increment under a shared lock is lost: 2 processes of 3 threads, and the peer itself."""
    with fast_servers.clean(family) as server:
        total, table = peer.call("scenario", 60, name="hammer", address=server.address, key=KEY)
        assert table == {"one": 120, "two": 120, "here": 40}
        assert total == 280


def test_processes_and_threads_of_a_fastmgr_client(peer: Peer) -> None:
    with peer.clean_server("unix") as manager:
        total, table = scenarios.hammer(manager)
        assert table == {"one": 120, "two": 120, "here": 40}
        assert total == 280


def test_stock_and_fastmgr_clients_take_turns(peer: Peer, fast_servers: FastServers) -> None:
    """Proxies that one kind of client left in a container serve the other kind, both ways."""
    with fast_servers.clean("unix") as server:
        mine = connect(server.address)

        def stock(name: str) -> None:
            peer.call("scenario", name=name, address=server.address, key=KEY)

        stock("leave_proxies")
        scenarios.find_proxies(mine)
        stock("check_proxies")
        scenarios.leave_proxies(mine)
        stock("find_proxies")
        scenarios.check_proxies(mine)


def test_fastmgr_and_stock_clients_of_a_stock_server(peer: Peer) -> None:
    with peer.clean_server("unix") as mine:
        scenarios.leave_proxies(mine)
        peer.call("scenario", name="find_proxies", address=mine.address, key=KEY)
        scenarios.check_proxies(mine)


def test_fastmgr_proxies_in_a_stock_server(peer: Peer, fast_servers: FastServers) -> None:
    """The stock server itself becomes a client of the fastmgr server, and so do its clients.

    It has to return what it took.
    """
    with fast_servers.clean("tcp") as server, peer.clean_server("unix") as stock:
        scenarios.put_across(server, stock)
        addresses = [server.address, stock.address]
        peer.call("cross", name="use_across", addresses=addresses, key=KEY)
        scenarios.end_across(server, stock)


def test_stock_proxies_in_a_fastmgr_server(peer: Peer, fast_servers: FastServers) -> None:
    with fast_servers.clean("unix") as server, peer.clean_server("tcp") as stock:
        addresses = [stock.address, server.address]
        peer.call("cross", name="put_across", addresses=addresses, key=KEY)
        scenarios.use_across(stock, connect(server.address))
        peer.call("cross", name="end_across", addresses=addresses, key=KEY)


@pytest.mark.parametrize(("home", "away"), [("unix", "tcp"), ("tcp", "unix")])
def test_proxies_between_two_fastmgr_servers(
    home: str, away: str, fast_servers: FastServers
) -> None:
    with fast_servers.clean(home) as one, fast_servers.clean(away) as other:
        scenarios.put_across(connect(one.address), connect(other.address))
        scenarios.use_across(one, other)
        scenarios.end_across(one, other)


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
