"""A server, those who wait in it, and how to start more of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE, KEY, poll, valkeys
from support.waiters import WaiterManager, Worker, call, pin_and_call, waiting


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "shared_manager" in metafunc.fixturenames:
        own = ["default", "poll"]
        tls = [pytest.param(kind, marks=pytest.mark.long) for kind in valkeys.ENCRYPTED]
        others = [*valkeys.SLOW_PLACES, *tls]
        engines = own if "own_server" in metafunc.fixturenames else [*own, *others]
        metafunc.parametrize("shared_manager", engines, indirect=True, scope="module")


@pytest.fixture
def own_server() -> None:
    """For a test that needs what only a server of ours has."""


@pytest.fixture(scope="module")
def shared_manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One whose server uses the poller of the system, one that makes do with poll(), engines'."""
    if request.param not in ("default", "poll"):
        with valkeys.manager(request.param, ns="waiters") as there:
            yield there
        return
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "poll":
            patch.setenv("FASTMGR_POLLER", "poll")
        manager = WaiterManager(authkey=KEY)
        manager.start()
    with manager:
        yield manager


@pytest.fixture(scope="module")
def shared_census(shared_manager: Any) -> Any:
    if not isinstance(shared_manager, WaiterManager):
        return valkeys.ValkeyCensus(shared_manager._session)
    return shared_manager.Census()


@pytest.fixture
def manager(shared_manager: WaiterManager, shared_census: Any) -> Iterator[WaiterManager]:
    """The module's manager; all who waited in the test are gone with it."""
    yield shared_manager
    poll(lambda: not waiting(shared_census), "nobody waits any more")


@pytest.fixture
def census(shared_census: Any) -> Any:
    return shared_census


@pytest.fixture
def start(manager: WaiterManager, census: Any) -> Iterator[Callable[..., Worker]]:
    """Start a client process; with `parks` it is known to wait when it is returned."""
    workers: list[Worker] = []

    def start_one(name: str, function: Callable[..., Any], *args: Any, parks: bool) -> Worker:
        workers.append(Worker(name, function, *args))
        if parks:
            poll(lambda: name in waiting(census), f"{name} waits")
        return workers[-1]

    yield start_one
    for worker in workers:
        worker.process.kill()
        worker.process.join(DEADLINE)
        worker.pipe.close()


@pytest.fixture(params=["parked", "pinned"])
def caller(request: pytest.FixtureRequest, manager: WaiterManager) -> tuple[Any, ...]:
    """How the client that is killed makes its call: what to run, and its first arguments."""
    if request.param == "parked" or not isinstance(manager, WaiterManager):
        return (call,)
    return pin_and_call, manager.Sleeper()
