"""Which server of a cluster owns which slot, and who else belongs to the cluster.

What is known may be old: then a server answers ``MOVED``, or cannot be reached, and the cluster is
asked again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from fastmgr.engines.valkey.address import Address
from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.dialing import dial
from fastmgr.engines.valkey.errors import ReplyError

__all__ = ["SLOTS", "Node", "Topology"]

#: Each key belongs to one of so many slots, each slot to a primary.
SLOTS = 16384
#: Seconds in which a server that is asked for the cluster must have answered.
ANSWER_IN = 2.0
#: Seconds for which an answer is good enough for other threads that want it, too.
FRESH_FOR = 0.02


class Node:
    """One server of a cluster.

    Attributes
    ----------
    host : (str, int)
        Where it serves.
    is_primary : bool
    failed : bool
        The others have lost sight of it.
    """

    __slots__ = ("failed", "host", "is_primary")

    def __init__(self, host: tuple[str, int]) -> None:
        self.host = host
        self.is_primary = True
        self.failed = False

    def __repr__(self) -> str:
        role = "primary" if self.is_primary else "replica"
        return f"<{role} at {self.host[0]}:{self.host[1]}{', failed' if self.failed else ''}>"


class Topology:
    """What is known of a cluster.

    Parameters
    ----------
    address : Address
        It names some servers of the cluster.

    Attributes
    ----------
    table : list of Node or None
        By slot: which primary owns the slot; always the same list.
    epoch : int
        Grows whenever slots have other owners than before.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.table: list[Node | None] = [None] * SLOTS
        self.epoch = 0
        self._nodes: dict[tuple[str, int], Node] = {}
        self._lock = threading.RLock()  # a signal's handler may call in the midst of this
        self._asked = -FRESH_FOR

    def abandon(self) -> None:
        """Begin again with the lock, in the child of a fork."""
        self._lock = threading.RLock()

    @property
    def nodes(self) -> list[Node]:
        """All servers of the cluster, the primaries first."""
        return sorted(self._nodes.values(), key=lambda node: (node.failed, not node.is_primary))

    @property
    def primaries(self) -> list[Node]:
        return [node for node in self.nodes if node.is_primary and not node.failed]

    def node_at(self, host: tuple[str, int]) -> Node:
        """Return the server that serves at a place."""
        found = self._nodes.get(host)
        if found is None:
            found = self._nodes[host] = Node(host)
        return found

    def learn(self, text: str, beside: Node) -> Node:
        """Learn from the text of a ``MOVED`` who owns a slot, and return the owner.

        `beside` is the server that said so: the place without a host has the same host.
        """
        slot, owner = self.read_redirection(text, beside)
        if self.table[slot] is not owner:
            owner.is_primary, owner.failed = True, False
            self.table[slot] = owner
            self.epoch += 1
        return owner

    def read_redirection(self, text: str, beside: Node) -> tuple[int, Node]:
        """Return the slot and the server in the text of a ``MOVED`` or an ``ASK``."""
        slot, _, place = text.partition(" ")
        host, _, port = place.rpartition(":")
        return int(slot), self.node_at((_host(host, beside.host[0]), int(port)))

    def refresh(self) -> None:
        """Ask the servers, until one answers, for the whole cluster.

        Raises
        ------
        OSError
            No server answers.
        """
        with self._lock:
            if time.monotonic() - self._asked < FRESH_FOR:
                return
            failure: OSError | None = None
            known = [node.host for node in self.nodes]
            for host in dict.fromkeys([*known, *self.address.hosts]):
                try:
                    connection = dial(self.address, host, ANSWER_IN)
                    try:
                        self.read(connection, host)
                    finally:
                        connection.close()
                except OSError as error:
                    failure = error
                    if host in self._nodes:
                        self._nodes[host].failed = True  # it is asked last the next time
                    continue
                self._asked = time.monotonic()
                return
            assert failure is not None
            raise failure

    def read(self, connection: Connection, host: tuple[str, int]) -> None:
        """Ask one server, over a connection with it, for the whole cluster.

        Raises
        ------
        ConnectionError
            It knows nothing of a cluster, or nothing yet.
        """
        reply = connection.call([b"CLUSTER", b"SHARDS"], ANSWER_IN)
        if isinstance(reply, ReplyError):
            raise ConnectionError(
                f"{host[0]}:{host[1]} is no node of a cluster: {reply} (the address of a single "
                "server begins with valkey://)"
            )
        if not any(shard[b"slots"] for shard in reply):
            raise ConnectionError(f"{host[0]}:{host[1]} knows of no server that owns a slot")
        with self._lock:
            self._take(reply, host)

    def _take(self, shards: Iterable[dict[bytes, Any]], asked: tuple[str, int]) -> None:
        nodes: dict[tuple[str, int], Node] = {}
        table: list[Node | None] = [None] * SLOTS
        port_of = b"tls-port" if self.address.tls else b"port"
        for shard in shards:
            owner = None
            for fields in shard[b"nodes"]:
                if port_of not in fields:
                    continue
                host = fields.get(b"endpoint") or fields.get(b"ip") or b""
                node = self.node_at((_host(host.decode(), asked[0]), int(fields[port_of])))
                node.is_primary = fields[b"role"] == b"master"
                node.failed = fields[b"health"].startswith(b"fail")
                nodes[node.host] = node
                if node.is_primary and (owner is None or owner.failed):
                    owner = node
            slots = [int(slot) for slot in shard[b"slots"]]
            for start, end in zip(slots[::2], slots[1::2], strict=True):
                table[start : end + 1] = [owner] * (end + 1 - start)
        self._nodes = nodes
        if table != self.table:
            self.table[:] = table
            self.epoch += 1


def _host(name: str, asked: str) -> str:
    """Return a server's host; one that does not know its own is where we found it."""
    return asked if name in ("", "?") else name
