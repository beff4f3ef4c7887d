"""Nodes of a cluster that a test plays: they say what the test has told them to say."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Iterable

from fastmgr.engines.valkey.resp import Parser
from support.resp import Value, aggregate, blob, number

#: In place of a reply: the connection is cut.
CUT = b""
#: One past the last slot.
SLOTS = 16384


class FakeNode:
    """A server that answers each command by the next reply for it, or ``+OK``.

    Attributes
    ----------
    port : int
    served : list
        The requests that it has answered, but for those about the connection and the cluster.
    """

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.replies: defaultdict[bytes, deque[bytes]] = defaultdict(deque)
        self.served: list[list[bytes]] = []
        self.shards = b""
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def say(self, command: str, *replies: bytes) -> None:
        """Have the next requests of a command answered so."""
        self.replies[command.encode()].extend(replies)

    def accept(self) -> None:
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            self.sockets.append(client)
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        parser = Parser()
        with contextlib.suppress(OSError), client:
            while data := client.recv(65536):
                parser.feed(data)
                for words in _requests(parser):
                    reply = self.answer(words)
                    if reply == CUT:
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    client.sendall(reply)

    def answer(self, words: list[bytes]) -> bytes:
        if words[0] == b"HELLO":
            return b"%0\r\n"
        if words[0] == b"CLUSTER":
            return self.shards
        if words[0] == b"INFO":
            return blob(b"redis_version:7.0.0\r\n").spelled
        self.served.append(words)
        replies = self.replies[words[0]]
        return replies.popleft() if replies else b"+OK\r\n"

    def close(self) -> None:
        """Be gone: connections are cut, and others refused."""
        for sock in (self.listener, *self.sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def _requests(parser: Parser) -> Iterable[list[bytes]]:
    while isinstance(words := parser.gets(), list):
        yield words


def share(owners: Iterable[tuple[FakeNode, int]], tell: Iterable[FakeNode], host: str) -> None:
    """Tell nodes who owns the slots: each owner those up to a number that is not its any more."""
    start, shards = 0, []
    for node, end in owners:
        slots = [] if start == end else [number(start), number(end - 1)]
        fields = {
            b"port": number(node.port), b"endpoint": blob(host.encode()),
            b"role": blob(b"master"), b"health": blob(b"online"),
        }  # fmt: skip
        nodes = aggregate("*", [_map(fields)])
        shards.append(_map({b"slots": aggregate("*", slots), b"nodes": nodes}))
        start = end
    for node in tell:
        node.shards = aggregate("*", shards).spelled


def _map(fields: dict[bytes, Value]) -> Value:
    return aggregate("%", [one for name, value in fields.items() for one in (blob(name), value)])
