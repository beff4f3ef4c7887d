"""The introduction is read back as it was written, and by pickle as what it claims to be."""

from __future__ import annotations

import pickle
from multiprocessing import AuthenticationError

import pytest
from hypothesis import example, given, settings, strategies as st
from support import KEY, ProbeManager, connected, in_thread

from fastmgr.link import handshake
from fastmgr.link.handshake import HANDSHAKE_LIMIT
from fastmgr.link.introduction import (
    SESSION_ID_SIZE,
    VERSION,
    Introducer,
    answer_introduction,
    introduction,
    is_proved,
    parse_introduction,
    stock_is_refused,
)

ID = bytes(range(SESSION_ID_SIZE))
ids = st.binary(min_size=SESSION_ID_SIZE, max_size=SESSION_ID_SIZE)


def prove(role: str, said: bytes) -> bytes:
    return handshake.prove(b"key", role, b"asked", b"asked back", said)


names = st.text(max_size=20) | st.text(min_size=150, max_size=400)


@settings(max_examples=200)
@given(ids, names, st.integers(0, 2**24 - 1))
@example(ID, "", 1)
@example(ID, "x" * 160, 2**24 - 1)
@example(ID, "x" * 161, 2**16)
@example(ID, "é" * 150, 0)
@example(ID, "x" + "é" * 150, 255)
@example(ID, "Prozess-1|Fädchen 𝄞", 256)
def test_round_trip(session_id: bytes, name: str, thread: int) -> None:
    frame = introduction(session_id, name, thread, prove)
    parsed = parse_introduction(frame)
    assert parsed is not None
    assert (parsed[0], parsed[2]) == (session_id, thread)
    encoded = name.encode("utf-8", "replace")
    if len(encoded) <= 160:
        assert parsed[1] == encoded.decode()
    else:
        # Cut, perhaps in the middle of a character.
        assert encoded.decode().startswith(parsed[1].rstrip("\ufffd"))
        assert len(parsed[1].encode("utf-8", "replace")) >= 150


@settings(max_examples=100)
@given(ids, names)
def test_is_a_stock_request(session_id: bytes, name: str) -> None:
    """So that a stock server refuses it as it refuses any function that it does not have."""
    frame = introduction(session_id, name, 1, prove)
    ident, function, args, kwds = pickle.loads(frame)
    assert (ident, function, kwds) == (None, "#fastmgr", {})
    (payload,) = args
    assert payload[1 : 1 + SESSION_ID_SIZE] == session_id
    assert payload[0] == VERSION
    # A server reads it under the limit of the handshake that it comes with.
    assert len(frame) <= HANDSHAKE_LIMIT


@pytest.mark.parametrize("name", ["", "MainProcess|Thread-1", "é" * 150, "a\x1fb"])
@pytest.mark.parametrize("host", ["", "a.host", "h" * 300])
def test_a_client_tells_its_process_and_host(name: str, host: str) -> None:
    frame = introduction(ID, name, 7, prove, 2**22, host)
    said = parse_introduction(frame)
    assert said is not None
    assert (said.thread, said.pid, said.host) == (7, 2**22, host[:48])
    assert name.startswith(said.name.rstrip("\ufffd"))
    assert len(frame) <= HANDSHAKE_LIMIT


def test_lone_surrogates_in_a_name() -> None:
    said = parse_introduction(introduction(ID, "a\udc80b", 1, prove))
    assert said == (ID, "a?b", 1, None, "")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "request_",
    [
        (None, "accept_connection", ("MainProcess",), {}),
        (None, "dummy", (), {}),
        (None, "#fastmgr", (), {}),
        ("7f0000", "#GETVALUE", (), {}),
    ],
)
def test_other_requests_are_none(request_: object, protocol: int) -> None:
    assert parse_introduction(pickle.dumps(request_, protocol)) is None


def test_another_version_is_another_request() -> None:
    frame = introduction(ID, "name", 1, prove)
    at = frame.index(bytes((VERSION,)) + ID)
    assert parse_introduction(frame[:at] + b"\x01" + frame[at + 1 :]) is None


def test_truncated_introductions_are_none() -> None:
    frame = introduction(ID, "", 1, prove)
    for end in range(len(frame)):
        assert parse_introduction(frame[:end]) is None
    assert parse_introduction(frame + b".") is None


def test_a_number_that_is_no_process_is_part_of_the_name() -> None:
    name = f"a\x1f{'9' * 30}\x1fb"
    assert parse_introduction(introduction(ID, name, 7, prove)) == (ID, name, 7, None, "")


@settings(max_examples=500)
@given(st.data())
def test_mutations(data: st.DataObject) -> None:
    frame = bytearray(introduction(data.draw(ids), data.draw(st.text(max_size=30)), 1, prove))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        length = data.draw(st.integers(0, 6))
        frame[at : at + length] = data.draw(st.binary(max_size=6))
    parsed = parse_introduction(bytes(frame))
    if parsed is not None:
        session_id, name, thread, _pid, _host = parsed
        assert type(session_id) is bytes
        assert len(session_id) == SESSION_ID_SIZE
        assert type(name) is str
        assert 0 <= thread < 2**24


@given(st.binary(max_size=300))
def test_garbage_is_none(frame: bytes) -> None:
    assert parse_introduction(frame) is None


def test_what_a_client_proves_is_no_proof_of_a_server() -> None:
    client = Introducer(ID, "name")
    frame = client.introduce(prove)
    assert is_proved(frame, prove)
    assert client.read_answer(answer_introduction(frame, (1, b"x"), prove)) == (1, b"x")
    assert client.read_answer(pickle.dumps(("#RETURN", 1))) is None

    def as_client(role: str, said: bytes) -> bytes:
        return prove("client", said)

    def of_another(role: str, said: bytes) -> bytes:
        return handshake.prove(b"key", role, b"asked", b"another's", said)

    for other in (as_client, of_another):
        with pytest.raises(AuthenticationError):
            client.read_answer(answer_introduction(frame, (1, b"x"), other))
    assert not is_proved(frame, of_another)


# What the environment turns off


@pytest.mark.parametrize("said", ["off", "OFF", " Off "])
def test_stock_peers_are_refused_however_it_is_spelled(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTMGR_STOCK_PEERS", said)
    assert stock_is_refused()


@pytest.mark.parametrize("said", ["on", "On", None])
def test_stock_peers_are_served_by_default(
    said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTMGR_STOCK_PEERS", raising=False)
    if said:
        monkeypatch.setenv("FASTMGR_STOCK_PEERS", said)
    assert not stock_is_refused()


@pytest.mark.parametrize("said", ["0", "false", "no", ""])
def test_what_is_neither_on_nor_off_is_no_setting(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProbeManager(authkey=KEY) as manager:
        server = ProbeManager(authkey=KEY)
        for variable, use in (
            ("FASTMGR_STOCK_PEERS", server.get_server),
            ("FASTMGR_ARENA", lambda: connected(manager.address)),
        ):
            with monkeypatch.context() as patch:
                patch.setenv(variable, said)
                with pytest.raises(ValueError, match=f"{variable}={said!r}.*'on' or 'off'"):
                    in_thread(use)
