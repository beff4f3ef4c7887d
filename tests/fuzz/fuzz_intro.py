"""Nobody gets past the handshake without the key, and what strangers send is refused in order."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import AuthenticationError

from common import fuzz, instrumented

with instrumented():
    from fastmgr.link.handshake import (
        HANDSHAKE_LIMIT,
        PROOF_SIZE,
        Challenger,
        Garbage,
        Responder,
    )
    from fastmgr.link.introduction import SESSION_ID_SIZE, introduction, parse_introduction

KEY = b"key"
INTRODUCTION, SERVER, CLIENT = 0, 1, 2


def parse(data: bytes) -> list[bytes]:
    """Frames, each with its length in a byte; an empty one stands for the right answer."""
    frames = []
    while data:
        size = data[0]
        frames.append(data[1 : 1 + size][:HANDSHAKE_LIMIT])
        data = data[1 + size :]
    return frames


def prove(role: str, said: bytes) -> bytes:
    """A proof of the right size."""
    return bytes(PROOF_SIZE)


def introduced(frame: bytes) -> None:
    found = parse_introduction(frame)
    if found is not None:
        session, name, thread, pid, host = found
        assert len(session) == SESSION_ID_SIZE and isinstance(name, str)
        again = parse_introduction(introduction(session, name, thread, prove, pid, host))
        assert again is not None and (again.session_id, again.thread) == (session, thread)
        if pid is not None:  # else what is cut off a name may leave what looks like a process
            assert again.pid == pid
            assert host.startswith(again.host.rstrip("\N{REPLACEMENT CHARACTER}"))
            assert name.startswith(again.name.rstrip("\N{REPLACEMENT CHARACTER}"))


def serve(frames: list[bytes]) -> None:
    """The server's half; the client knows the key where a frame is empty."""
    server, client = Challenger(KEY), Responder(KEY)
    answer, challenge = client.answer(server.hello())
    right = [answer, challenge, b"#WELCOME#"]
    for frame, wanted in zip(frames, right, strict=False):
        try:
            replies = server.feed(frame or wanted)
        except (AuthenticationError, Garbage):
            assert frame and not server.done
            return
        assert frame in (b"", wanted) or wanted is challenge, "accepted without the key"
        assert all(len(reply) <= HANDSHAKE_LIMIT for reply in replies)
    assert server.done == (len(frames) >= len(right))


def answered(challenge: bytes) -> bytes:
    """A server's answer; a client of this process refuses what another has asked."""
    server = Challenger(KEY)
    server.feed(Responder(KEY).answer(server.hello())[0])
    return server.feed(challenge)[0]


def connect(frames: list[bytes]) -> None:
    """The client's half; the server knows the key where a frame is empty."""
    server, client = Challenger(KEY), Responder(KEY)
    first, second, third = [*frames, b"", b"", b""][:3]
    try:
        _, challenge = client.answer(first or server.hello())
        client.check_welcome(second or b"#WELCOME#")
        right = answered(challenge)
        client.check_response(third or right)
    except AuthenticationError:
        assert first or second or third
        return
    assert third in (b"", right), "accepted without the key"


def one_input(data: bytes) -> None:
    if not data:
        return
    if data[0] % 3 == INTRODUCTION:
        introduced(data[1:])
    else:
        (serve if data[0] % 3 == SERVER else connect)(parse(data[1:]))


def seeds() -> Iterator[bytes]:
    for name in ("", "MainProcess", "\N{SNOWMAN}" * 100, "x" * 159 + "é"):
        yield bytes([INTRODUCTION]) + introduction(bytes(range(SESSION_ID_SIZE)), name, 1, prove)
    challenges = [b"#CHALLENGE#" + bytes(20), b"#CHALLENGE#{sha256}" + bytes(40)]
    answers = [bytes(16), b"{sha256}" + bytes(32), b"{md5}" + bytes(16), b"{sha3_384}" + bytes(48)]
    for side in (SERVER, CLIENT):
        yield bytes([side, 0, 0, 0])
        for frame in (*challenges, *answers, b"#WELCOME#", b"#FAILURE#", b"{", b"{}", b"\xff"):
            for right in range(3):
                yield bytes([side, *[0] * right, len(frame)]) + frame + bytes(2)


def words() -> Iterator[bytes]:
    yield from (b"#CHALLENGE#", b"#WELCOME#", b"#FAILURE#", b"}", b"#fastmgr")
    yield from (b"{md5}", b"{sha256}", b"{sha384}", b"{sha3_256}", b"{sha3_384}", b"{sha1}")


if __name__ == "__main__":
    fuzz(one_input, seeds(), words())
