"""Servers of other kinds than ours, and managers of what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE, poll, valkeys
from support.valkeys import Server, ValkeyCensus
from support.waiters import Worker

import fastmgr


@pytest.fixture(params=valkeys.SLOW_KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that keeps its data where a test kills it."""
    with valkeys.server(request.param, appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def manager(server: Server) -> Iterator[Any]:
    there = fastmgr.SyncManager(address=server.url(ns="lives"))
    there.connect()
    yield there


@pytest.fixture
def census(manager: Any) -> ValkeyCensus:
    return ValkeyCensus(manager._session)


@pytest.fixture
def start(census: ValkeyCensus) -> Iterator[Callable[..., Worker]]:
    """Start a client process; with `parks` it is known to wait when it is returned."""
    workers: list[Worker] = []

    def start_one(name: str, function: Callable[..., Any], *args: Any, parks: bool) -> Worker:
        workers.append(Worker(name, function, *args))
        if parks:
            poll(lambda: name in census.waiting(), f"{name} waits")
        return workers[-1]

    yield start_one
    for worker in workers:
        worker.process.kill()
        worker.process.join(DEADLINE)
        worker.pipe.close()
