"""Finding the primary of a single server that has become a replica.

A client notices by an error reply to what changes something, or within a second by itself.  What
only reads may be answered by the replica until then.
"""

from __future__ import annotations

from typing import Any

from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.dialing import dial
from fastmgr.engines.valkey.errors import ReplyError

__all__ = ["follow", "is_replica"]

#: Replicas of replicas that are passed on the way to the primary.
MOST_HOPS = 5
#: Seconds in which a server must have said what it is.
ANSWER_IN = 3.0


def follow(session: Any) -> bool:
    """Have a session go to the primary of its server; return whether the primary was found.

    The server has answered ``READONLY``: it was told to be a replica, after the client connected
    or long before.
    """
    host: tuple[str, int] | None = session.host
    for _ in range(MOST_HOPS):
        try:
            connection = dial(session.where, host, ANSWER_IN)
            try:
                role = connection.call([b"ROLE"], ANSWER_IN)
            finally:
                connection.close()
        except OSError:
            return False
        if isinstance(role, ReplyError):
            return False
        if role[0] == b"master":
            session.move_to(host)
            return True
        host = role[1].decode(), int(role[2])
    return False


def is_replica(connection: Connection) -> bool:
    """Whether a server is a replica; False where it does not say."""
    # A timeout would close the connection by which the server sees that the session lives.
    role = connection.call([b"ROLE"])
    return isinstance(role, list) and role[0] == b"slave"
