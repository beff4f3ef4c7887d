"""Fixtures for tests of code that uses managers: a plugin that pytest finds by itself.

It stands beside the package and not in it, for pytest imports it in every run, and with the package
would come the compiled modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

    from fastmgr import SyncManager


@pytest.fixture
def fastmgr_manager(fastmgr_manager_factory: Callable[..., Any]) -> SyncManager:
    """A started fastmgr.SyncManager, which is shut down when the test is over."""
    manager: SyncManager = fastmgr_manager_factory()
    return manager


@pytest.fixture
def fastmgr_manager_factory(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """A function that starts managers: make(MyManager, authkey=b"..."); SyncManager by default.

    They are shut down when the test is over. One that passed fails if locks are still held then, or
    if other processes still are clients, but for managers that were made with check=False.
    """
    from fastmgr import SyncManager
    from fastmgr.testing import left_behind

    failures = request.session.testsfailed
    made: list[tuple[Any, bool]] = []

    def make(kind: Any = SyncManager, /, *, check: bool = True, **options: Any) -> Any:
        manager = kind(**options)
        manager.start()
        made.append((manager, check))
        return manager

    yield make
    left: list[str] = []
    # What a test has left that failed says nothing new.
    looks = request.session.testsfailed == failures
    for manager, check in reversed(made):
        try:
            if check and looks and manager._state.value == manager._state.STARTED:
                left += left_behind(manager)
        finally:
            manager.shutdown()
    if left:
        pytest.fail(f"{request.node.name} has left behind: {', '.join(left)}", pytrace=False)


@pytest.fixture
def fastmgr_installed() -> Iterator[ModuleType]:
    """Managers of multiprocessing are fastmgr's in the test, as after fastmgr.install()."""
    import fastmgr

    before = fastmgr.installed()
    fastmgr.install()
    yield fastmgr.managers
    if not before:
        fastmgr.uninstall()
