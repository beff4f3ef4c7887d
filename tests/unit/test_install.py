"""Standing in for `multiprocessing.managers`, in processes of their own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
from support import call_in_subprocess
from support.valkeys import program

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


def stock_program() -> list[Any]:
    """What a program does that knows the stdlib alone."""
    fastmgr.install()
    from multiprocessing import Manager

    with Manager() as manager:
        counts, done = manager.dict(), manager.Queue()
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=stock_worker, args=(counts, done)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        return [manager.address, dict(counts), sorted([done.get(), done.get()])]


def stock_worker(counts: Any, done: Any) -> None:
    name = multiprocessing.current_process().name
    counts[name] = 1
    done.put(name)


def test_the_address_of_the_environment_is_for_stock_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program("valkey")
    monkeypatch.setenv("FASTMGR_ADDRESS", "valkey+embedded://")
    address, counts, done = call_in_subprocess(stock_program)
    assert address.startswith("valkey+embedded:///")
    assert counts == dict.fromkeys(done, 1) and len(done) == 2


def only_imported() -> list[Any]:
    return [NAME in sys.modules, fastmgr.installed()]


def test_importing_changes_nothing() -> None:
    assert call_in_subprocess(only_imported) == [False, False]


def proxies_from_before(method: str) -> list[Any]:
    """What arrives of them: in our container, in the stdlib's own, by a queue, in a child."""
    stock = importlib.import_module(NAME)
    context = multiprocessing.get_context(method)
    with stock.SyncManager(ctx=context) as old:
        proxies = [old.list([1]), old.dict(a=1), old.Value("i", 2), old.Namespace(x=3)]
        proxies += [old.Queue(), old.list([old.list([4])])]
        proxies[4].put(5)
        plain = [
            stock.Token("list", old.address, "1"),
            stock.Namespace(y=1),
            (stock.AutoProxy, stock.DictProxy),
        ]
        fastmgr.install()
        seen = []
        queue, (receiver, sender) = context.SimpleQueue(), context.Pipe(duplex=False)
        with fastmgr.managers.SyncManager(ctx=context) as manager:
            for holder in (manager.list(), old.list()):
                for value in proxies + plain:
                    holder.append(value)
                seen.append([str(holder[i]) for i in range(4)])
                holder[0].append(0)  # it is still that list
                seen[-1] += [holder[4].qsize(), holder[5][0][0], holder[6].typeid, holder[7].y]
            with stock.BaseManager(ctx=context) as another:
                seen.append(another._number_of_objects())
            queue.put(proxies[0])
            seen.append(queue.get()[:])
            child = context.Process(target=tell_length, args=(sender, proxies[0]))
            child.start()
            seen.append(receiver.recv())
            child.join()
        fastmgr.uninstall()
        seen.append(hasattr(ForkingPickler, "reducer_override"))
        proxies[5].append(proxies[0])  # as before
        seen.append(proxies[5][1][:])
        return seen


def tell_length(sender: Any, proxy: Any) -> None:
    sender.send(len(proxy))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_was_made_before_it_can_still_be_sent(method: str) -> None:
    old = ["{'a': 1}", "Value('i', 2)", "Namespace(x=3)", 1, 4, "list", 1]
    assert call_in_subprocess(proxies_from_before, method) == [
        ["[1]", *old], ["[1, 0]", *old], 0, [1, 0, 0], 3, False, [1, 0, 0],
    ]  # fmt: skip
