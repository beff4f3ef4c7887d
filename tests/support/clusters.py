"""A cluster of Valkey or Redis servers for tests: three primaries, one of which has a replica."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import threading
from pathlib import Path
from typing import Any

from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.dialing import connect_to_path
from fastmgr.engines.valkey.errors import ReplyError
from fastmgr.engines.valkey.nodes import slot_of
from fastmgr.engines.valkey.topology import SLOTS as COUNT
from support.certificates import certify
from support.valkeys import Server, free_port, new_folder, program
from support.waiting import poll

#: Milliseconds after which a node that is silent has failed.
NODE_TIMEOUT = 1000
PRIMARIES = 3
#: Seconds in which nodes agree: on a busy machine they take each other for dead now and then.
SETTLED_IN = 80.0
PASSWORD = "secret"


class Node(Server):
    """One server of a cluster; with a certificate it is a secure one."""

    def __init__(
        self, kind: str, folder: Path, certificate: tuple[Path, Path] | None = None
    ) -> None:
        port = free_port()
        options = {
            "port": str(port), "cluster-enabled": "yes", "cluster-port": str(free_port()),
            "cluster-node-timeout": str(NODE_TIMEOUT), "repl-diskless-sync-delay": "0",
            "cluster-replica-validity-factor": "0",
            "cluster-allow-replica-migration": "no", "appendonly": "yes", "appendfsync": "no",
        }  # fmt: skip
        self.login: tuple[str, ...] = ()
        if certificate is not None:
            file, key = map(str, certificate)
            options |= {
                "port": "0", "tls-port": str(port), "tls-cluster": "yes", "tls-replication": "yes",
                "tls-cert-file": file, "tls-key-file": key, "tls-ca-cert-file": file,
                "requirepass": PASSWORD, "masterauth": PASSWORD,
            }  # fmt: skip
            self.login = "AUTH", PASSWORD
        super().__init__(kind, folder, options)
        self.port = port

    def start(self) -> None:
        self.local = threading.local()
        super().start()

    def call(self, *words: Any) -> Any:
        """Make a request; an error reply is an exception."""
        connection = getattr(self.local, "connection", None)
        if connection is None or not connection.usable:
            connection = self.local.connection = Connection(connect_to_path(self.path, 30))
            if self.login:
                connection.call(self.login)
            connection.call(["HELLO", 3])
        reply = connection.call([str(w) if isinstance(w, int) else w for w in words], 30)
        if isinstance(reply, ReplyError):
            raise RuntimeError(str(reply))
        return reply

    def answers(self) -> bool:
        if not self.login:
            return super().answers()
        with contextlib.suppress(OSError, RuntimeError):
            return bool(self.call("PING") == b"PONG")
        return False

    @property
    def id(self) -> str:
        return str(self.call("CLUSTER", "MYID").decode())

    @property
    def is_primary(self) -> bool:
        return bool(self.call("ROLE")[0] == b"master")

    def info(self, section: str) -> dict[str, str]:
        text = self.call("INFO", section).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def epoch(self) -> str:
        """The latest change of owners that the node has heard of."""
        (line,) = re.findall(r"cluster_current_epoch:\d+", self.call("CLUSTER", "INFO").decode())
        return str(line)

    def is_ready(self) -> bool:
        """Whether the node serves, and has the data of its primary if it is a replica."""
        state = self.call("CLUSTER", "INFO").decode()
        link = self.info("replication").get("master_link_status", "up")
        return "cluster_state:ok" in state and link == "up"


class Cluster:
    """A cluster that a test has started.

    Parameters
    ----------
    kind : str
    is_secure : bool
        It speaks TLS alone, wants a certificate of its clients, and has a password.
    """

    def __init__(self, kind: str, is_secure: bool = False) -> None:
        self.kind = kind
        names = "DNS:localhost", "IP:127.0.0.1"
        self.certificate = certify(new_folder(), *names) if is_secure else None
        self.nodes: list[Node] = []

    def start(self) -> None:
        for _ in range(PRIMARIES + 1):
            self.add()
        first = self.nodes[0]
        for number, node in enumerate(self.nodes[:PRIMARIES]):
            start, end = (COUNT * (number + i) // PRIMARIES for i in (0, 1))
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.call("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        for node in self.nodes[1:]:
            self.meet(node)
        poll(lambda: self.knows(self.nodes[-1], first), "the replica knows its primary")
        self.nodes[-1].call("CLUSTER", "REPLICATE", first.id)
        self.settle()

    def end(self, owner: int) -> None:
        """End all servers; not in the child of a fork of the owner."""
        if os.getpid() == owner:
            for node in self.nodes:
                node.kill()

    def add(self) -> Node:
        """Start another server, which belongs to no cluster yet."""
        self.nodes.append(Node(self.kind, new_folder(), self.certificate))
        return self.nodes[-1]

    def meet(self, node: Node) -> None:
        """Have a server join the cluster."""
        other = self.nodes[0]
        node.call("CLUSTER", "MEET", "127.0.0.1", other.port, other.options["cluster-port"])

    def knows(self, node: Node, other: Node) -> bool:
        return other.id in node.call("CLUSTER", "NODES").decode()

    def settle(self) -> None:
        """Wait until all nodes agree that the cluster is there."""

        def is_settled() -> bool:
            if not all(node.is_ready() for node in self.nodes):
                return False
            views = {str(node.call("CLUSTER", "SLOTS")) for node in self.nodes}
            return len(views) == 1

        try:
            poll(is_settled, "the cluster", SETTLED_IN)
        except AssertionError as error:
            said = [node.call("CLUSTER", "NODES").decode() for node in self.nodes]
            raise AssertionError("\n".join([str(error), *said])) from None

    def heal(self) -> None:
        """Start the servers that were killed."""
        for node in self.nodes:
            if node.process is None:
                node.start()
        self.settle()

    def url(self, **options: str) -> str:
        """The address of the cluster."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:PRIMARIES])
        scheme = "valkey+cluster"
        if self.certificate is not None:
            file, key = map(str, self.certificate)
            scheme, hosts = "valkeys+cluster", f":{PASSWORD}@{hosts}"
            options = {"ca": file, "cert": file, "key": key, **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{scheme}://{hosts}/" + (f"?{query}" if query else "")

    def remove(self, node: Node) -> None:
        """Have the others forget a server that owns nothing, and end it."""
        gone = node.id
        self.nodes.remove(node)
        for other in self.nodes:
            with contextlib.suppress(RuntimeError):  # a replica of it may not forget it yet
                other.call("CLUSTER", "FORGET", gone)
        node.kill()
        self.settle()

    @property
    def primaries(self) -> list[Node]:
        return [node for node in self.nodes if node.process is not None and node.is_primary]

    def guarded(self) -> tuple[Node, Node]:
        """Return the primary that has a replica, and the replica."""
        replica = next(node for node in self.nodes if not node.is_primary)
        port = int(replica.info("replication")["master_port"])
        return next(node for node in self.nodes if node.port == port), replica

    def owner(self, key: bytes) -> Node:
        """Return the primary that owns a key."""
        slot = slot_of(key)
        for start, end, primary, *_ in self.primaries[0].call("CLUSTER", "SLOTS"):
            if start <= slot <= end:
                return next(node for node in self.nodes if node.port == primary[1])
        raise LookupError(f"nobody owns the slot {slot}")

    def be_patient(self, times: int) -> None:
        """Have nodes be silent for so many times as long before others take them for dead."""
        for node in self.nodes:
            node.call("CONFIG", "SET", "cluster-node-timeout", times * NODE_TIMEOUT)

    # -- moving slots ---------------------------------------------------------------

    def begin_move(self, slot: int, source: Node, target: Node) -> None:
        """Begin the classic migration of a slot."""
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, slot: int, source: Node, target: Node, most: int = 10) -> int:
        """Move some keys of a slot, and return how many."""
        keys = source.call("CLUSTER", "GETKEYSINSLOT", slot, most)
        if keys:
            to = "127.0.0.1", target.port, "", 0, 30000, *target.login
            source.call("MIGRATE", *to, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, source: Node, target: Node) -> None:
        while self.move_keys(slot, source, target):
            pass
        for node in (target, source, *self.primaries):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        # Two targets that take their epochs from the same past would take the same: then the slot
        # stays in dispute for ever.
        poll(lambda: len({node.epoch() for node in self.primaries}) == 1, "one epoch")

    def move(self, slot: int, source: Node, target: Node) -> None:
        """Move a slot key by key."""
        self.begin_move(slot, source, target)
        self.end_move(slot, source, target)

    def move_at_once(self, slot: int, source: Node, target: Node) -> None:
        """Move a slot as Valkey 9 does by itself."""
        source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id)

        def is_moved() -> bool:
            slots = target.call("CLUSTER", "SLOTS")
            return any(a <= slot <= b and p[1] == target.port for a, b, p, *_ in slots)

        poll(is_moved, "the slot's move")


_running: dict[tuple[str, bool], Cluster] = {}


def cluster(kind: str = "valkey", is_secure: bool = False) -> Cluster:
    """Return the cluster of this run of the tests, whole; it is started if need be."""
    program(kind)
    which = kind, is_secure
    if which not in _running:
        one = Cluster(kind, is_secure)
        atexit.register(one.end, os.getpid())
        one.start()
        _running[which] = one
    _running[which].heal()
    return _running[which]
