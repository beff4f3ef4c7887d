"""What a session does for an engine that defines no more than it must."""

from __future__ import annotations

from typing import Any

import pytest

from fastmgr.client.session import Outcome, Session, Target, introduced, raised


class Echo(Session):
    """A session whose calls return their arguments, or raise them."""

    def call(self, target: Any, name: str, args: Any, kwds: Any) -> Any:
        return raised(args[0]) if name == "fail" else args


@pytest.fixture
def session() -> Session:
    return Echo("echo://", "pickle", b"key")


@pytest.mark.parametrize(
    "method", ["create", "acquire", "control"], ids=lambda name: f"without {name}"
)
def test_a_method_that_an_engine_must_define_is_named(session: Session, method: str) -> None:
    args: tuple[Any, ...] = {"create": ("list", (), {}), "acquire": (Target(),)}.get(method, ("x",))
    with pytest.raises(NotImplementedError, match=rf"Echo does not define {method}\(\)"):
        getattr(session, method)(*args)
    with pytest.raises(NotImplementedError, match=r"Session does not define call\(\)"):
        Session("plain://", "pickle", b"key").call(Target(), "x", (), None)


def test_a_pipeline_is_calls_one_after_the_other(session: Session) -> None:
    error = KeyError("k")
    calls = [Target(), "take", (1,), None, Target(), "fail", (error,), None]
    results, outcomes = session.pipeline(calls)
    assert results[0] == (1,) and outcomes == [1]
    assert type(results[1]) is Outcome


def test_what_a_session_without_connections_says_of_them(session: Session) -> None:
    assert session.held() == []
    assert session.stock_connection() is None and session.lost_connection() is None
    assert session.hurry(1.0) is False
    with pytest.raises(AttributeError):
        session.forget_connection()
    assert session.is_lost(EOFError()) and session.is_lost(ConnectionResetError())
    assert not session.is_lost(ValueError())
    session.retire()
    assert session.retired


def test_an_outcome_holds_the_reference_to_what_it_introduces() -> None:
    import gc
    import weakref

    class Reference:
        pass

    reference = Reference()
    seen = weakref.ref(reference)
    outcome = introduced("list", "1", ("append",), reference)
    del reference
    assert seen() is not None
    del outcome
    gc.collect()
    assert seen() is None
