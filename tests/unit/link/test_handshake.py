"""The handshake: ours with ours, with this Python's own, and with that of Python up to 3.11."""

from __future__ import annotations

import hmac
import os
from collections import deque
from collections.abc import Callable
from multiprocessing import AuthenticationError, connection

import pytest
from hypothesis import given, settings, strategies as st

from fastmgr.link.handshake import (
    CHALLENGE,
    FAILURE,
    HANDSHAKE_LIMIT,
    WELCOME,
    Challenger,
    Garbage,
    Responder,
)

KEY = b"the key"
DIGESTS = ["md5", "sha256", "sha384", "sha3_256", "sha3_384"]


def legacy_answer(key: bytes, message: bytes) -> bytes:
    """How Python up to 3.11 answers whatever challenge it gets."""
    return hmac.new(key, message, "md5").digest()


def modern_answer(key: bytes, message: bytes, digest: str = "sha256") -> bytes:
    """How Python from 3.12 answers the challenges of its like."""
    return b"{%s}%s" % (digest.encode(), hmac.new(key, message, digest).digest())


def message_of(challenge: bytes) -> bytes:
    assert challenge.startswith(CHALLENGE)
    return challenge[len(CHALLENGE) :]


def met(responder: Responder, hello: bytes, answers: Callable[[bytes], list[bytes]]) -> None:
    """Let `responder` meet a server that says `hello` and then `answers` each frame."""
    replies = [reply for frame in responder.answer(hello) for reply in answers(frame)]
    responder.check_welcome(replies[0])
    assert answers(responder.check_response(replies[1])) == []
    assert len(replies) == 2


# Ours with ours


def test_with_each_other() -> None:
    challenger = Challenger(KEY)
    assert not challenger.done
    met(Responder(KEY), challenger.hello(), challenger.feed)
    assert challenger.done


@pytest.mark.parametrize("key", [b"", b"k" * 1000, bytes(range(256))])
def test_any_key(key: bytes) -> None:
    challenger = Challenger(key)
    met(Responder(key), challenger.hello(), challenger.feed)
    assert challenger.done


def test_frames_keep_within_the_limit() -> None:
    challenger, responder = Challenger(KEY), Responder(KEY)
    frames = [challenger.hello(), *responder.answer(challenger.hello())]
    assert all(len(frame) <= HANDSHAKE_LIMIT for frame in frames)
    assert HANDSHAKE_LIMIT == 256


def test_challenges_are_never_the_same() -> None:
    hellos = {Challenger(KEY).hello() for _ in range(50)}
    hellos |= {Responder(KEY).answer(CHALLENGE + b"x" * 20)[1] for _ in range(50)}
    assert len(hellos) == 100


@pytest.mark.parametrize("other", [b"", b"The key", b"the key "])
def test_server_refuses_a_wrong_key(other: bytes) -> None:
    challenger = Challenger(KEY)
    answer, _ = Responder(other).answer(challenger.hello())
    with pytest.raises(AuthenticationError, match="the client has another authkey"):
        challenger.feed(answer)
    assert not challenger.done


def test_client_refuses_a_wrong_key() -> None:
    """A server that welcomes everybody has yet to prove that it knows the key."""
    responder = Responder(KEY)
    _, challenge = responder.answer(Challenger(KEY).hello())
    for answer in (modern_answer(b"other", message_of(challenge)), b"{sha256}", b"x" * 16):
        with pytest.raises(AuthenticationError, match="the server has another authkey"):
            responder.check_response(answer)


def test_client_is_told_that_its_key_is_wrong() -> None:
    with pytest.raises(AuthenticationError, match="digest sent was rejected"):
        Responder(KEY).check_welcome(FAILURE)


# Ours with the stdlib of the interpreter at hand


class OurServer:
    """A connection to a server of ours, as the stdlib's functions see one."""

    def __init__(self, key: bytes) -> None:
        self.challenger = Challenger(key)
        self.inbox = deque([self.challenger.hello()])

    def send_bytes(self, frame: bytes) -> None:
        try:
            self.inbox.extend(self.challenger.feed(frame))
        except AuthenticationError:
            self.inbox.append(FAILURE)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        frame = self.inbox.popleft()
        assert maxlength is None or len(frame) <= maxlength
        return frame


class OurClient:
    """A connection to a client of ours, as the stdlib's functions see one."""

    def __init__(self, key: bytes) -> None:
        self.responder = Responder(key)
        self.steps = iter([self.responder.answer, self._welcomed, self._checked])
        self.inbox: deque[bytes] = deque()

    def _welcomed(self, frame: bytes) -> list[bytes]:
        self.responder.check_welcome(frame)
        return []

    def _checked(self, frame: bytes) -> list[bytes]:
        return [self.responder.check_response(frame)]

    def send_bytes(self, frame: bytes) -> None:
        self.inbox.extend(next(self.steps)(frame))

    recv_bytes = OurServer.recv_bytes


def test_stdlib_client() -> None:
    conn = OurServer(KEY)
    connection.answer_challenge(conn, KEY)  # type: ignore[attr-defined]
    connection.deliver_challenge(conn, KEY)  # type: ignore[attr-defined]
    assert conn.challenger.done


def test_stdlib_client_with_a_wrong_key() -> None:
    conn = OurServer(KEY)
    with pytest.raises(AuthenticationError, match="digest sent was rejected"):
        connection.answer_challenge(conn, b"other")  # type: ignore[attr-defined]
    assert not conn.challenger.done


def test_stdlib_server() -> None:
    conn = OurClient(KEY)
    connection.deliver_challenge(conn, KEY)  # type: ignore[attr-defined]
    connection.answer_challenge(conn, KEY)  # type: ignore[attr-defined]
    assert not conn.inbox
    assert next(conn.steps, None) is None


def test_stdlib_server_with_another_key() -> None:
    conn = OurClient(b"other")
    # It tells the client, which raises as well, within this very call.
    with pytest.raises(AuthenticationError, match="digest"):
        connection.deliver_challenge(conn, KEY)  # type: ignore[attr-defined]


# Ours with Python up to 3.11


def test_legacy_client() -> None:
    challenger = Challenger(KEY)
    assert challenger.feed(legacy_answer(KEY, message_of(challenger.hello()))) == [WELCOME]
    message = os.urandom(20)
    assert challenger.feed(CHALLENGE + message) == [legacy_answer(KEY, message)]
    assert not challenger.done
    assert challenger.feed(WELCOME) == []
    assert challenger.done


def test_legacy_client_with_a_wrong_key() -> None:
    challenger = Challenger(KEY)
    with pytest.raises(AuthenticationError):
        challenger.feed(legacy_answer(b"other", message_of(challenger.hello())))


def test_legacy_server() -> None:
    responder = Responder(KEY)
    message = os.urandom(20)
    answer, challenge = responder.answer(CHALLENGE + message)
    assert answer == legacy_answer(KEY, message)
    responder.check_welcome(WELCOME)
    assert responder.check_response(legacy_answer(KEY, message_of(challenge))) == WELCOME


@pytest.mark.parametrize("digest", DIGESTS)
def test_every_digest_of_python_3_12(digest: str) -> None:
    message = b"{%s}%s" % (digest.encode(), os.urandom(40))
    responder = Responder(KEY)
    answer, challenge = responder.answer(CHALLENGE + message)
    assert answer == modern_answer(KEY, message, digest)
    reply = modern_answer(KEY, message_of(challenge), digest)
    assert responder.check_response(reply) == WELCOME
    challenger = Challenger(KEY)
    hello = message_of(challenger.hello())
    assert challenger.feed(modern_answer(KEY, hello, digest)) == [WELCOME]
    assert challenger.feed(CHALLENGE + message) == [modern_answer(KEY, message, digest)]


# What is no handshake

BAD_CHALLENGES = [
    b"",
    b"x" * 15,
    b"x" * 19,
    b"x" * 21,
    b"x" * 245,
    b"{sha256}",
    b"{sha256}" + b"x" * 19,
    b"{md5}" + b"x" * 5,
    b"{crc32}" + b"x" * 40,
    b"{sha1}" + b"x" * 40,
    b"{}" + b"x" * 40,
    b"{sha256" + b"x" * 40,
    b"{\xff\xfe}" + b"x" * 40,
]


@pytest.mark.parametrize("message", BAD_CHALLENGES)
def test_client_answers_no_strange_challenge(message: bytes) -> None:
    with pytest.raises(AuthenticationError):
        Responder(KEY).answer(CHALLENGE + message)


@pytest.mark.parametrize("message", BAD_CHALLENGES)
def test_server_answers_no_strange_challenge(message: bytes) -> None:
    challenger = Challenger(KEY)
    challenger.feed(modern_answer(KEY, message_of(challenger.hello())))
    with pytest.raises(Garbage):
        challenger.feed(CHALLENGE + message)
    assert not challenger.done


@pytest.mark.parametrize("frame", [b"", b"HTTP/1.1 400 Bad Request", WELCOME, b"#CHALLENGE"])
def test_client_says_that_this_is_no_manager(frame: bytes) -> None:
    with pytest.raises(AuthenticationError, match="did not ask for a key"):
        Responder(KEY).answer(frame)


@pytest.mark.parametrize("frame", [b"", b"short", WELCOME, b"x" * 200, b"{sha1}" + b"x" * 20])
def test_answers_that_are_none(frame: bytes) -> None:
    with pytest.raises(Garbage):
        Challenger(KEY).feed(frame)
    with pytest.raises(AuthenticationError, match="the server answered with"):
        Responder(KEY).check_response(frame)


def test_server_proves_nothing_before_its_peer_has() -> None:
    """Or a stranger would have the server itself answer the server's challenge."""
    challenger = Challenger(KEY)
    with pytest.raises(Garbage):
        challenger.feed(challenger.hello())
    assert not challenger.done


@pytest.mark.parametrize("frame", [b"", FAILURE, WELCOME + b"#", WELCOME[:-1]])
def test_server_is_not_done_without_a_welcome(frame: bytes) -> None:
    challenger = Challenger(KEY)
    _, challenge = (responder := Responder(KEY)).answer(challenger.hello())
    challenger.feed(modern_answer(KEY, message_of(challenger.hello())))
    responder.check_response(challenger.feed(challenge)[0])
    with pytest.raises(Garbage):
        challenger.feed(frame)
    assert not challenger.done


frames = st.one_of(
    st.binary(max_size=300),
    st.binary(min_size=16, max_size=16),
    st.sampled_from([WELCOME, FAILURE, CHALLENGE]),
    st.builds(lambda tail: CHALLENGE + tail, st.binary(max_size=60)),
    st.builds(
        lambda start, digest, tail: start + b"{%s}" % digest + tail,
        st.sampled_from([b"", CHALLENGE]),
        st.sampled_from([name.encode() for name in DIGESTS]) | st.binary(max_size=8),
        st.binary(max_size=60),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(frames, min_size=1, max_size=4))
def test_nobody_guesses_his_way_past_the_server(said: list[bytes]) -> None:
    challenger = Challenger(KEY)
    with pytest.raises((AuthenticationError, Garbage)):
        for frame in said:
            # Without proof there is nothing that the server would reply to.
            assert challenger.feed(frame) is None
    assert not challenger.done


@settings(max_examples=200, deadline=None)
@given(frames, frames)
def test_client_that_knows_the_key_may_still_talk_nonsense(first: bytes, second: bytes) -> None:
    challenger = Challenger(KEY)
    challenger.feed(modern_answer(KEY, message_of(challenger.hello())))
    try:
        challenger.feed(first)
        challenger.feed(second)
    except Garbage:
        assert not challenger.done
    else:
        assert first.startswith(CHALLENGE)
        assert second == WELCOME
        assert challenger.done


@settings(max_examples=300, deadline=None)
@given(frames, frames, frames)
def test_nobody_guesses_his_way_past_the_client(hello: bytes, verdict: bytes, proof: bytes) -> None:
    responder = Responder(KEY)
    with pytest.raises(AuthenticationError):
        responder.answer(hello)
        responder.check_welcome(verdict)
        responder.check_response(proof)
