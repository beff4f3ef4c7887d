"""Mailboxes: one request and its reply at a time; `tests/model` explores who may do what when."""

from __future__ import annotations

from typing import Any

import pytest
from model.compiled import compiled
from support import TESTS

probes = compiled("probes", TESTS / "support")


@pytest.fixture
def boxes() -> Any:
    return probes.Mailboxes()


def test_a_request_and_its_reply(boxes: Any) -> None:
    boxes.open(0)
    assert boxes.post(0, b"request")
    assert not boxes.post(0, b"another")  # the first is not answered
    assert boxes.take(0) == b"request"
    assert boxes.answer(0, b"reply")
    assert boxes.wait(0) == b"reply"
    assert boxes.post(0, b"another")


def test_a_client_that_sleeps_is_answered_over_the_socket(boxes: Any) -> None:
    boxes.open(0)
    boxes.post(0, b"request")
    assert boxes.wait(0) is None
    boxes.take(0)
    assert not boxes.answer(0, b"reply")
    assert boxes.post(0, b"another")


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_large_requests_go_over_the_socket(boxes: Any, more: int, fits: bool) -> None:
    boxes.open(0)
    request = b"x" * (boxes.most_bytes + more)
    assert boxes.post(0, request) == fits
    assert boxes.sleep() == ([0] if fits else [])


def test_a_loop_that_sleeps_has_shut_all(boxes: Any) -> None:
    for i in range(3):
        boxes.open(i)
    boxes.post(2, b"request")
    assert boxes.sleep() == [2]
    assert not any(boxes.post(i, b"late") for i in range(3))
    assert boxes.sleep() == []


def test_a_forgotten_mailbox_is_looked_into_no_more(boxes: Any) -> None:
    for i in range(3):
        boxes.open(i)
        boxes.post(i, b"request")
    boxes.forget(0)
    assert sorted(boxes.sleep()) == [1, 2]


def test_so_many_are_open_and_no_more(boxes: Any) -> None:
    for i in range(boxes.most + 1):
        boxes.open(i)
    assert [boxes.post(i, b"x") for i in (0, boxes.most - 1, boxes.most)] == [True, True, False]
    assert boxes.sleep() == [0, boxes.most - 1]
