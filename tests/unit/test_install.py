"""Standing in for `multiprocessing.managers`, in processes of their own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from typing import Any

import pytest
from support import call_in_subprocess

import fastmgr

NAME = "multiprocessing.managers"


def module_names() -> list[str]:
    """What the three ways to the module lead to."""
    modules = [importlib.import_module(NAME), sys.modules[NAME], vars(multiprocessing)["managers"]]
    return [module.__name__ for module in modules]


def manager_modules() -> list[str]:
    """The modules of the managers that programs get."""
    found = []
    makers: list[Any] = [multiprocessing.Manager]
    makers += [multiprocessing.get_context(m).Manager for m in ("fork", "spawn")]
    for make in makers:
        with make() as manager:
            found.append(type(manager).__module__)
            assert manager.list([1])[:] == [1]
    return found


OURS = ["fastmgr.managers"] * 3
STOCK = [NAME] * 3


def install_and_back(imported_before: bool) -> list[Any]:
    if imported_before:
        importlib.import_module(NAME)
    stock = sys.modules.get(NAME)
    seen: list[Any] = [fastmgr.installed()]
    fastmgr.uninstall()  # nothing to undo
    fastmgr.install()
    fastmgr.install()
    seen += [fastmgr.installed(), module_names()]
    fastmgr.uninstall()
    # As it was: the same module, or none.
    seen += [
        fastmgr.installed(),
        sys.modules.get(NAME) is stock,
        vars(multiprocessing).get("managers") is stock,
        ("managers" in vars(multiprocessing)) is imported_before,
    ]
    fastmgr.uninstall()
    seen.append(module_names())
    fastmgr.install()
    seen.append(module_names())
    return seen


@pytest.mark.parametrize("imported_before", [False, True])
def test_install_and_uninstall(imported_before: bool) -> None:
    seen = call_in_subprocess(install_and_back, imported_before)
    assert seen == [False, True, OURS, False, True, True, True, STOCK, OURS]


def managers_of_contexts() -> list[Any]:
    fastmgr.install()
    seen: list[Any] = [manager_modules()]
    fastmgr.uninstall()
    seen.append(manager_modules())
    return seen


def test_manager_and_contexts() -> None:
    ours, stock = call_in_subprocess(managers_of_contexts)
    assert ours == OURS
    assert stock == STOCK


def from_import() -> list[str]:
    fastmgr.install()
    from multiprocessing.managers import BaseManager, BaseProxy, RemoteError, SyncManager

    return [c.__module__ for c in (BaseManager, SyncManager, BaseProxy, RemoteError)]


def test_imports_find_ours() -> None:
    assert all(name.startswith("fastmgr") for name in call_in_subprocess(from_import))


def forked_child() -> Any:
    fastmgr.install()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with multiprocessing.Manager() as manager:
                os.write(write, f"{type(manager).__module__} {manager.list([5])[0]}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return os.read(read, 100).decode()


def test_forked_child_inherits_it() -> None:
    assert call_in_subprocess(forked_child) == "fastmgr.managers 5"


def only_imported() -> list[Any]:
    return [NAME in sys.modules, fastmgr.installed()]


def test_importing_changes_nothing() -> None:
    assert call_in_subprocess(only_imported) == [False, False]
