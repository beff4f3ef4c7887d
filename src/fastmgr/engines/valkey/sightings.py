"""The life of a session with a cluster: each node sees for itself that its process lives.

The session is subscribed at all nodes, also at replicas and at primaries without slots.  So a node
that becomes the owner of what the session holds, by a failover or by a move of slots, has seen the
session before.  A node judges alone.  When one has taken the session for dead, the session begins
another with all nodes.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from multiprocessing import ProcessError, util
from typing import Any

from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.dialing import dial
from fastmgr.engines.valkey.life import (
    AGAIN_AFTER,
    GRACE,
    SWEEP_EVERY,
    Life,
    enlistment,
    subscribe,
    sweep,
)
from fastmgr.engines.valkey.topology import Node
from fastmgr.stock.dialect import RemoteError

__all__ = ["ClusterLife"]

#: Seconds between two looks at who belongs to the cluster.
LOOK_EVERY = 1.0
#: Seconds in which a node must answer, lest the others wait for the session.
ANSWER_IN = 1.0
#: Milliseconds after which a node that is silent has failed, where the cluster does not say.
NODE_TIMEOUT = 15000


class Sighting:
    """That one node sees the session.

    Attributes
    ----------
    connection : Connection or None
        It is subscribed.
    greeted : bool
        The node is a primary that knows that it sees the session: it takes the end of the
        connection for the session's.
    again_at : float
        When the next attempt is due.
    """

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.greeted = False
        self.pause = AGAIN_AFTER[0]
        self.again_at = 0.0

    @property
    def lasts(self) -> bool:
        return self.connection is not None and self.connection.usable

    def end(self) -> None:
        if self.connection is not None:
            if self.connection.usable:
                # Wake the thread, which waits for all connections at once.
                with (
                    contextlib.suppress(OSError),
                    socket.socket(fileno=os.dup(self.connection.fileno())) as copy,
                ):
                    copy.shutdown(socket.SHUT_RDWR)
            self.connection.close()
        self.connection = None
        self.greeted = False


class ClusterLife(Life):
    """The life of one session with one cluster."""

    def reset(self) -> None:
        super().reset()
        self._sightings: dict[tuple[str, int], Sighting] = {}
        #: All nodes that have not failed see the session, and it stands in the list of sessions.
        self._is_seen = False
        self._is_listed = False
        #: The session has another id, under which it has taken no references yet.
        self._is_new = False
        self._grace: float | None = None

    def begin(self) -> None:
        if self._is_seen:
            return
        with self._lock:
            session = self._session()
            assert session is not None
            self._be_seen(session, [node for node in _nodes(session) if not node.failed])
            self._start(session, _watch)

    def _be_seen(self, session: Any, nodes: list[Node]) -> None:
        """Be seen by all nodes that can be reached; the caller has the lock.

        Raises
        ------
        OSError
            No node can be reached.
        """
        for _ in range(2):  # for the session that has become another meanwhile
            before = session.id
            for node in nodes:
                self._be_seen_by(session, node)
            if session.id == before:
                break
        if not any(one.lasts for one in self._sightings.values()):
            raise ConnectionError(f"no node of the cluster at {session.address!r} can be reached")
        if not self._is_listed:
            session.run([b"FCALL", b"fm1_enlist", 1, *enlistment(session)])
            self._is_listed = True
        if self._is_new:
            session.references.take_anew()
            self._is_new = False
        self._is_seen = all(self._sightings[n.host].lasts for n in nodes if not n.failed)

    def _be_seen_by(self, session: Any, node: Node) -> None:
        """Be seen by one node, if that is possible now."""
        sighting = self._sightings.setdefault(node.host, Sighting())
        if (sighting.lasts and sighting.greeted >= node.is_primary) or (
            time.monotonic() < sighting.again_at
        ):
            return
        try:
            if not sighting.lasts:
                sighting.end()
                self._subscribe_at(session, node, sighting)
            if node.is_primary:
                self._greet(session, session.server(node))
                sighting.greeted = True
            sighting.pause = AGAIN_AFTER[0]
        except (OSError, RemoteError) as error:
            util.debug("%r does not see the session: %s", node, error)
            sighting.again_at = time.monotonic() + sighting.pause
            sighting.pause = min(2 * sighting.pause, AGAIN_AFTER[1])

    def _subscribe_at(self, session: Any, node: Node, sighting: Sighting) -> None:
        """Subscribe at a node, under another id if it has taken the session for dead."""
        if node.is_primary and session.server(node).run(
            [b"FCALL", b"fm1_dead", 0, session.id], timeout=ANSWER_IN
        ):
            for other in self._sightings.values():
                other.end()
                other.again_at = 0.0
            self._begin_another(session)
        connection = dial(session.where, node.host, ANSWER_IN)
        try:
            subscribe(connection, session.id)
        except BaseException:
            connection.close()
            raise
        sighting.connection = connection

    def _begin_another(self, session: Any) -> None:
        super()._begin_another(session)
        self._is_listed = False
        self._is_new = True

    def _greet(self, session: Any, server: Any) -> None:
        """Tell a primary that the session has subscribed, and what the grace is."""
        if self._grace is None:
            name = b"cluster-node-timeout"
            reply = server.ask([b"CONFIG", b"GET", name], timeout=ANSWER_IN)
            known = reply.get(name) if isinstance(reply, dict) else None
            self._grace = max(GRACE, 2 * int(known or NODE_TIMEOUT) / 1000)
        words = [b"FCALL", b"fm1_hello", 0, session.id, str(self._grace)]
        server.run(words, timeout=ANSWER_IN)

    def _drop(self) -> dict[tuple[str, int], Sighting]:
        """Be about to be seen no more."""
        with self._lock:
            sightings, self._sightings = self._sightings, {}
            self._is_seen = self._is_listed = False
        return sightings

    def end(self) -> None:
        session = self._session()
        self._over.set()
        sightings = self._drop()
        if session is not None:
            self.hold_no_more(session)
        try:
            if session is not None and any(one.lasts for one in sightings.values()):
                self._part(session)
        except (OSError, RemoteError, ProcessError) as error:
            util.debug("the cluster cannot be told that the session ends: %s", error)
        finally:
            for sighting in sightings.values():
                sighting.end()
            self._await_thread()

    def abandon(self) -> None:
        for sighting in self._sightings.values():
            if sighting.connection is not None:
                sighting.connection.abandon()
        super().abandon()

    def is_seen(self, id_: bytes) -> bool:
        session = self._session()
        if session is None or session.id != id_:
            return False
        if not any(one.run([b"FCALL", b"fm1_dead", 0, id_]) for one in session.servers()):
            return True
        for sighting in self._drop().values():
            sighting.end()
        self.begin()
        return False

    # -- what the thread does -----------------------------------------------------------

    def look(self, session: Any, greets: bool) -> None:
        """Look who belongs to the cluster now, and be seen by all of them."""
        session.topology.refresh()
        nodes = _nodes(session)
        with self._lock:
            for host in self._sightings.keys() - {node.host for node in nodes}:
                self._sightings.pop(host).end()
            if greets:
                for sighting in self._sightings.values():
                    sighting.greeted = False
            self._be_seen(session, nodes)

    def await_loss(self, seconds: float) -> None:
        """Wait until a connection is lost, but no longer than that."""
        poll = select.poll()
        known: dict[int, Connection] = {}
        for sighting in list(self._sightings.values()):
            connection = sighting.connection
            if connection is not None and connection.usable:
                known[connection.fileno()] = connection
                poll.register(connection.fileno(), select.POLLIN)
        for fd, _ in poll.poll(seconds * 1000):
            try:
                known[fd].push(0.001)
            except OSError as error:
                self._is_seen = False
                util.debug("a node sees the session no more: %s", error)


def _nodes(session: Any) -> list[Node]:
    if not session.topology.nodes:
        session.topology.refresh()
    nodes: list[Node] = session.topology.nodes
    return nodes


def _watch(life: ClusterLife) -> None:
    """Notice that connections are lost, and have others; look for the dead now and then."""
    swept = time.monotonic()
    pause = LOOK_EVERY
    while not life._over.is_set():
        try:
            life.await_loss(pause)
            if life._over.is_set():
                return
            session = life._session()
            if session is None or session.retired:
                life.end()
                return
            pause = AGAIN_AFTER[0]
            is_due = time.monotonic() - swept > SWEEP_EVERY
            life.look(session, is_due)
            life._pay(session)
            if is_due:
                swept = time.monotonic()
                sweep(session, always=False)
                session.references.collect()
            if life._is_seen:
                pause = LOOK_EVERY
            del session
        except Exception as error:
            if life._over.is_set() or life._session() is None:
                return
            util.debug("the life of a session: %s", error)
