"""The mutual HMAC handshake that every connection begins with, sans-IO.

There are two dialects (``multiprocessing/connection.py``), which a peer's frames tell apart:

* CPython up to 3.11: a challenge is 20 random bytes, its answer the 16 bytes of HMAC-MD5 over it.
* CPython 3.12 and later: a challenge is ``{sha256}`` and 40 random bytes, its answer ``{digest}``
  and that HMAC over the whole challenge, prefix included.  Such a peer also answers a challenge of
  20 bytes by HMAC-MD5, and accepts that for its own.

The handshake does not prove who answers: a program that peers of the same key connect to can pass
the challenge of one on to another, and hand back the answer.  So where both peers are ours they
prove more with the introduction (`prove`): their roles and both challenges.  No stock peer can be
made to say that, for its answer to a challenge never begins as ours does.
"""

from __future__ import annotations

import hmac
import os
from multiprocessing import AuthenticationError
from weakref import WeakValueDictionary

__all__ = ["HANDSHAKE_LIMIT", "PROOF_SIZE", "Challenger", "Garbage", "Responder", "prove"]

#: Bytes in the largest frame of a handshake.
HANDSHAKE_LIMIT = 256
#: Bytes that `prove` returns.
PROOF_SIZE = 32

CHALLENGE = b"#CHALLENGE#"
WELCOME = b"#WELCOME#"
FAILURE = b"#FAILURE#"

_DIGESTS = ("md5", "sha256", "sha384", "sha3_256", "sha3_384")
_RANDOM_BYTES = 40
#: How long the challenges of CPython up to 3.11 are; 3.12 also answers one of 16.
_LEGACY_LENGTHS = (16, 20)


class Garbage(Exception):
    """A frame belongs to no handshake; its sender gets no answer."""


def _split_prefix(message: bytes) -> tuple[str, bytes]:
    """Return the digest's name and what follows it; ``("", message)`` without a prefix."""
    if message.startswith(b"{"):
        name, brace, rest = message[1:].partition(b"}")
        digest = name.decode("ascii", "replace")
        if brace and digest in _DIGESTS:
            return digest, rest
    return "", message


def _answer(key: bytes, message: bytes) -> bytes:
    """Return the answer to a challenge, in the dialect that the challenge speaks."""
    digest, payload = _split_prefix(message)
    if digest:
        if len(payload) < _LEGACY_LENGTHS[1]:
            raise AuthenticationError(f"challenge too short: {len(payload)} bytes")
        return b"{%s}%s" % (digest.encode(), hmac.new(key, message, digest).digest())
    if len(message) in _LEGACY_LENGTHS:
        return hmac.new(key, message, "md5").digest()
    raise AuthenticationError(f"unsupported message digest in a challenge of {len(message)} bytes")


def _is_answer(key: bytes, message: bytes, response: bytes) -> bool:
    """Whether `response` proves the key; `Garbage` where it cannot be an answer at all."""
    digest, mac = _split_prefix(response)
    if not digest:
        if len(response) != 16:
            raise Garbage(f"a response of {len(response)} bytes")
        digest, mac = "md5", response
    return hmac.compare_digest(hmac.new(key, message, digest).digest(), mac)


def prove(key: bytes, role: str, asked: bytes, asked_back: bytes, said: bytes) -> bytes:
    """Return the proof that a peer which has the key and the role ('client', 'server') `said` this.

    It holds for one handshake: `asked` is the server's challenge, `asked_back` the client's.
    """
    proof = hmac.new(key, b"fastmgr %s\0" % role.encode(), "sha256")
    for part in (asked, asked_back, said):
        proof.update(len(part).to_bytes(8, "big") + part)
    return proof.digest()


class Challenger:
    """The server's half: challenge the client, then answer its challenge."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._message = b"{sha256}" + os.urandom(_RANDOM_BYTES)
        self._asked_back = b""
        self._step = self._check_response
        #: Whether both sides have proved the key.
        self.done = False

    def hello(self) -> bytes:
        """Return the frame that opens the handshake."""
        return CHALLENGE + self._message

    def feed(self, frame: bytes) -> list[bytes]:
        """Take the client's next frame; return the frames to send.

        `Garbage` says that the server closes the connection, AuthenticationError that it sends
        ``FAILURE`` before.
        """
        return self._step(frame)

    def _check_response(self, frame: bytes) -> list[bytes]:
        if not _is_answer(self._key, self._message, frame):
            raise AuthenticationError("digest received was wrong: the client has another authkey")
        self._step = self._answer_challenge
        return [WELCOME]

    def _answer_challenge(self, frame: bytes) -> list[bytes]:
        if not frame.startswith(CHALLENGE):
            raise Garbage("no challenge")
        self._step = self._check_welcome
        self._asked_back = frame[len(CHALLENGE) :]
        try:
            return [_answer(self._key, self._asked_back)]
        except AuthenticationError as error:
            raise Garbage(str(error)) from None

    def _check_welcome(self, frame: bytes) -> list[bytes]:
        if frame != WELCOME:
            raise Garbage("no welcome")
        self.done = True
        return []

    def prove(self, role: str, said: bytes) -> bytes:
        """Return the proof of a role for what its peer says in this handshake."""
        return prove(self._key, role, self._message, self._asked_back, said)


#: The responders of this process whose servers have yet to answer, by the challenges they sent.
_outstanding: WeakValueDictionary[bytes, Responder] = WeakValueDictionary()


class Responder:
    """The client's half: answer the server's challenge, and challenge the server.

    The client sends its answer and its challenge in one write, and its welcome in one with the
    frame that follows.  A server reads them frame by frame.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._message = b"{sha256}" + os.urandom(_RANDOM_BYTES)
        self._asked = b""
        _outstanding[self._message] = self

    def answer(self, frame: bytes) -> list[bytes]:
        """Take the server's challenge; return the answer and our challenge."""
        if not frame.startswith(CHALLENGE):
            raise AuthenticationError(
                f"the server did not ask for a key (it sent {frame[:20]!r}); "
                "is it a manager's server, and does it use an authkey?"
            )
        self._asked = frame[len(CHALLENGE) :]
        if self._asked in _outstanding:
            raise AuthenticationError(
                "the server asked what another client of this process has asked: "
                "it does not have the key and wants others to answer for it"
            )
        return [_answer(self._key, self._asked), CHALLENGE + self._message]

    def check_welcome(self, frame: bytes) -> None:
        """Take the server's verdict on our answer."""
        if frame != WELCOME:
            raise AuthenticationError("digest sent was rejected: the authkey is not the server's")

    def check_response(self, frame: bytes) -> bytes:
        """Take the server's answer; return the welcome to send."""
        try:
            proved = _is_answer(self._key, self._message, frame)
        except Garbage as error:
            raise AuthenticationError(f"the server answered with {error}") from None
        if not proved:
            raise AuthenticationError("digest received was wrong: the server has another authkey")
        _outstanding.pop(self._message, None)
        return WELCOME

    def prove(self, role: str, said: bytes) -> bytes:
        """Return the proof of a role for what its peer says in this handshake."""
        return prove(self._key, role, self._asked, self._message, said)
