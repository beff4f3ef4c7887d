"""What the proxies in a reply stand for, noted while the reply is encoded."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["note_transit", "transit"]


class _Transit(threading.local):
    #: A list while this thread encodes a reply for a client of its server.
    sink: list[Any] | None = None


transit = _Transit()


def note_transit(entry: Any) -> None:
    """Note that a proxy held in this process is being pickled for a client.

    The client takes its own reference only after it has read the proxy; until its next request
    the connection holds the entry.
    """
    if transit.sink is not None:
        transit.sink.append(entry)
