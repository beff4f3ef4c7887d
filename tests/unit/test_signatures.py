"""Name by name, what the interpreter's own `multiprocessing.managers` has is here."""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
from collections.abc import Iterator
from multiprocessing import managers as stock
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fastmgr
from fastmgr import managers
from fastmgr.kinds import queues
from fastmgr.managers import MakeProxyType, SyncManager, public_methods

#: Attributes that say how a class was made, or (3.15) number its proxies to tell them apart.
NOT_MEANT = {
    "__builtins__", "__firstlineno__", "__static_attributes__", "__weakref__", "_all_serials",
    "_next_serial", "_serial",
}  # fmt: skip

DIFFERENT_SIGNATURES = {
    # Later versions have a parameter more.
    "BaseProxy._decref",
    # The stdlib exposes it (3.14), so that `_BaseSetProxy[int]` does not work there.
    "_BaseSetProxy.__class_getitem__",
    # A file, or none, for what is shared by memory.
    "BaseManager.__init__",
    "BaseManager._run_server",
    # Beside an engine's address some types can be in a server of their own; readers may be named.
    "BaseManager.register",
    # Of a semaphore several permits are given back at once, as with `threading`.
    "AcquirerProxy.release",
    # Special methods of compiled classes do not show their parameters' names.
    "BaseListProxy.__contains__",
    "BaseListProxy.__getitem__",
    "BaseListProxy.__len__",
    "DictProxy.__contains__",
    "DictProxy.__getitem__",
    "DictProxy.__len__",
    "NamespaceProxy.__getattr__",
    "_BaseDictProxy.__contains__",
    "_BaseDictProxy.__getitem__",
    "_BaseDictProxy.__len__",
    "_BaseSetProxy.__contains__",
    "_BaseSetProxy.__len__",
    "ArrayProxy.__getitem__",
    "ArrayProxy.__len__",
    "ArrayProxy.__setitem__",
    "Value.__init__",
    "Value.__repr__",
}

if sys.version_info < (3, 11):
    # It has no time limit there.
    DIFFERENT_SIGNATURES.add("BaseManager._finalize_manager")
if stock.HAS_SHMEM and vars(stock)["_SharedMemoryTracker"].__init__.__defaults__ != (None,):
    # One list that all trackers share; later versions have None, as here.
    DIFFERENT_SIGNATURES.add("_SharedMemoryTracker.__init__")


def module_names() -> list[str]:
    return sorted(
        name
        for name, value in vars(stock).items()
        if not (name.startswith("__") and name.endswith("__")) and not isinstance(value, ModuleType)
    )


def test_names_of_the_module() -> None:
    missing = [name for name in module_names() if not hasattr(managers, name)]
    assert missing == []


def test_what_the_module_imports() -> None:
    """Programs reach `managers.time` and the like through it, and their tests patch them."""
    different = [
        name
        for name, value in vars(stock).items()
        if isinstance(value, ModuleType)
        or getattr(value, "__module__", stock.__name__) != stock.__name__
        if getattr(managers, name, None) is not value and not name.startswith("__")
    ]
    assert different == []


def test_public_names() -> None:
    assert sorted(managers.__all__) == sorted(stock.__all__)
    assert set(stock.__all__) <= set(fastmgr.__all__)
    for name in fastmgr.__all__:
        assert hasattr(fastmgr, name)


def test_same_kind_of_thing() -> None:
    for name in module_names():
        theirs, ours = getattr(stock, name), getattr(managers, name)
        assert isinstance(ours, type) == isinstance(theirs, type), name
        assert callable(ours) == callable(theirs), name
        if isinstance(theirs, type):
            assert ours.__name__ == theirs.__name__ or ours.__name__ == name  # 3.13: "DictProxy"
            assert issubclass(ours, BaseException) == issubclass(theirs, BaseException)


def test_constants() -> None:
    for name in ("INITIAL", "STARTED", "SHUTDOWN"):
        assert getattr(managers.State, name) == getattr(stock.State, name)
    assert managers.HAS_SHMEM == stock.HAS_SHMEM
    assert set(managers.listener_client) == set(stock.listener_client)


def classes() -> Iterator[tuple[str, type, type]]:
    for name in module_names():
        value = getattr(stock, name)
        if isinstance(value, type) and value.__module__ == stock.__name__:
            yield name, value, getattr(managers, name)


CLASSES = {name: (theirs, ours) for name, theirs, ours in classes()}


@pytest.mark.parametrize("name", CLASSES)
def test_attributes_of_classes(name: str) -> None:
    theirs, ours = CLASSES[name]
    missing = [
        attribute
        for attribute in vars(theirs)
        if not hasattr(ours, attribute) and attribute not in NOT_MEANT
    ]
    assert missing == []


MAKES = {
    "Array": ("i", [1]), "Barrier": (1,), "BoundedSemaphore": (), "Condition": (), "Event": (),
    "JoinableQueue": (), "Lock": (), "Namespace": (), "Pool": (1,), "Queue": (), "RLock": (),
    "Semaphore": (), "Value": ("i", 1), "dict": (), "list": (),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_attributes_of_instances() -> None:
    """Of the managers, their servers, and a proxy of each type."""
    servers = [module.Server({}, None, b"key", "pickle") for module in (stock, managers)]
    with stock.SyncManager() as theirs, managers.SyncManager() as ours:
        pairs: list[tuple[Any, Any]] = [(theirs, ours), (servers[0], servers[1])]
        for name, arguments in MAKES.items():
            pairs.append((getattr(theirs, name)(*arguments), getattr(ours, name)(*arguments)))
        missing = [
            (type(their_own).__name__, attribute)
            for their_own, our_own in pairs
            for attribute in dir(their_own)
            if not hasattr(our_own, attribute) and attribute not in NOT_MEANT
        ]
        assert missing == []
        del pairs  # the proxies go before their managers
    for server in servers:
        server.listener.close()


@pytest.mark.parametrize("name", CLASSES)
def test_base_classes(name: str) -> None:
    """What is a subclass of what, among the classes of the module."""
    theirs, ours = CLASSES[name]
    for other, (their_other, our_other) in CLASSES.items():
        if issubclass(theirs, their_other):
            assert issubclass(ours, our_other), f"{name} is no {other}"


@pytest.mark.parametrize("name", [n for n in CLASSES if hasattr(CLASSES[n][0], "_exposed_")])
def test_exposed_methods(name: str) -> None:
    theirs, ours = CLASSES[name]
    assert set(theirs._exposed_) <= set(ours._exposed_)
    for method, typeid in (getattr(theirs, "_method_to_typeid_", None) or {}).items():
        assert ours._method_to_typeid_[method] == typeid


def test_registered_types() -> None:
    theirs, ours = stock.SyncManager._registry, managers.SyncManager._registry
    assert set(theirs) <= set(ours)
    for typeid, (function, exposed, method_to_typeid, proxytype) in theirs.items():
        our_function, our_exposed, our_methods, our_proxytype = ours[typeid]
        assert (our_function is None) == (function is None)
        assert set(exposed or ()) <= set(our_exposed or ())
        assert set(method_to_typeid or ()) <= set(our_methods or ())
        assert our_proxytype.__name__ == proxytype.__name__
        assert hasattr(managers.SyncManager, typeid) == hasattr(stock.SyncManager, typeid)


# Signatures


def functions() -> Iterator[tuple[str, Any, Any]]:
    for name in module_names():
        theirs, ours = getattr(stock, name), getattr(managers, name)
        if inspect.isfunction(theirs) and theirs.__module__ == stock.__name__:
            yield name, theirs, ours
    for name, (their_class, our_class) in CLASSES.items():
        for attribute, value in vars(their_class).items():
            plain = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            if inspect.isfunction(plain) and attribute not in NOT_MEANT:
                ours = inspect.getattr_static(our_class, attribute)
                yield f"{name}.{attribute}", value, ours


FUNCTIONS = {name: (theirs, ours) for name, theirs, ours in functions()}


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults; what takes all that is left has no name to callers."""
    plain = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
    found = []
    for parameter in inspect.signature(plain).parameters.values():
        default = parameter.default
        if default is not inspect.Parameter.empty and not isinstance(
            default, (type(None), bool, int, float, str, tuple)
        ):
            default = "some object"
        takes_all = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        found.append(("" if takes_all else parameter.name, parameter.kind, default))
    return found


def is_forwarding(name: str) -> bool:
    """Methods that MakeProxyType wrote: (self, /, *args, **kwds)."""
    return [kind for _, kind, _ in shape(FUNCTIONS[name][0])][1:] == [
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    ]


#: Create methods, which tell more.
CREATE = {f"SyncManager.{typeid}" for typeid in SyncManager._registry}


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in DIFFERENT_SIGNATURES | CREATE])
def test_signatures(name: str) -> None:
    theirs, ours = FUNCTIONS[name]
    try:
        found = shape(ours)
    except (TypeError, ValueError) as error:
        pytest.fail(f"{name} has no signature: {error}")
    if is_forwarding(name):
        assert [kind for _, kind, _ in found] == [kind for _, kind, _ in shape(theirs)]
        return
    assert found == shape(theirs)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in DIFFERENT_SIGNATURES])
def test_how_methods_are_bound(name: str) -> None:
    theirs, ours = FUNCTIONS[name]
    for kind in (classmethod, staticmethod):
        assert isinstance(ours, kind) == isinstance(theirs, kind), name


def test_lists_of_differences_are_not_longer_than_they_need_be() -> None:
    for name in DIFFERENT_SIGNATURES & set(FUNCTIONS):
        theirs, ours = FUNCTIONS[name]
        with contextlib.suppress(ValueError):  # a compiled one may show none at all
            assert shape(ours) != shape(theirs)


# What type checkers are told in place of what is made at run time


def told(body: list[ast.stmt]) -> set[str]:
    """The names of the functions in the body of a class, also where a version decides."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.If):
            found |= told(node.body) | told(node.orelse)
    return found


STUB = ast.parse((Path(fastmgr.__file__).parent / "_typing.pyi").read_text())
TOLD = {node.name: told(node.body) for node in STUB.body if isinstance(node, ast.ClassDef)}
RECORDED = {
    "ListRecorder": managers.ListProxy,
    "DictRecorder": managers.DictProxy,
    "SetRecorder": managers.SetProxy,
    "QueueRecorder": MakeProxyType("Q", public_methods(queues.Queue())),
    "ValueRecorder": managers.ValueProxy,
    "CounterRecorder": managers.CounterProxy,
    "CountersRecorder": managers.CountersProxy,
    "ArrayRecorder": managers.ArrayProxy,
    "LockRecorder": managers.AcquirerProxy,
    "EventRecorder": managers.EventProxy,
    "BarrierRecorder": managers.BarrierProxy,
}


def test_every_recorder_is_looked_at() -> None:
    inherited = {"ConditionRecorder", "NamespaceRecorder"}
    assert {name for name in TOLD if name.endswith("Recorder")} == RECORDED.keys() | inherited


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorder_is_said_to_have_what_is_exposed(name: str) -> None:
    statements = {"__getitem__", "__setitem__", "__delitem__"}
    exposed = {m for m in RECORDED[name]._exposed_ if m in statements or m[0] != "_"}
    assert TOLD[name] - {"shutdown"} == exposed - {"shutdown"}


@pytest.mark.parametrize("name", ["BaseListProxy", "_BaseDictProxy", "_BaseSetProxy", "QueueProxy"])
def test_a_proxy_has_what_it_is_said_to_have(name: str) -> None:
    made = RECORDED["QueueRecorder"] if name == "QueueProxy" else getattr(managers, name)
    assert [m for m in TOLD[name] if not hasattr(made, m)] == []


def test_a_manager_is_said_to_make_what_is_registered() -> None:
    registered = {name for name in SyncManager._registry if hasattr(SyncManager, name)}
    assert TOLD["CreateMethods"] == registered
