"""What `help` says of the public names: all have a text that names each parameter, and runs."""

from __future__ import annotations

import doctest
import inspect
import multiprocessing
import re
from collections.abc import Iterator
from typing import Any

import pytest

import fastmgr
import fastmgr.testing
from fastmgr import BaseProxy, SyncManager

#: What has no text of its own that `help` would show.
DATA = {"listener_client"}
#: Names that are there because the stdlib's module has them, and what only code in a server meets:
#: to these there is no example. Nor is there to errors that take another server to provoke.
NO_EXAMPLE = {
    "Array", "AutoProxy", "BaseListProxy", "BasePoolProxy", "ConnectionLost", "LockLost",
    "PipelineError", "ProcessLocalSet", "RebuildProxy", "Server", "ServerRestarted",
    "SharedMemoryServer", "StaleFence", "State", "Token", "Value", "all_methods",
    "convert_to_error", "dispatch", "installed", "public_methods", "uninstall", "CallTimeout",
}  # fmt: skip

PUBLIC: dict[str, Any] = {
    **{name: getattr(fastmgr, name) for name in {*fastmgr.__all__, *fastmgr._OF_VALKEY} - DATA},
    "testing.left_behind": fastmgr.testing.left_behind,
}


def members() -> Iterator[tuple[str, Any]]:
    """The public methods and properties of public classes; of errors only their own."""
    for name, thing in PUBLIC.items():
        if not isinstance(thing, type):
            continue
        for method in dir(thing) if not issubclass(thing, BaseException) else vars(thing):
            found = inspect.getattr_static(thing, method)
            if not method.startswith("_") and (callable(found) or hasattr(found, "__get__")):
                yield f"{name}.{method}", getattr(thing, method)


MEMBERS = {name: found for name, found in members() if not inspect.ismemberdescriptor(found)}
FACTORIES = {f"SyncManager.{typeid}" for typeid in SyncManager._registry}


def parameters(thing: Any) -> list[str]:
    """What it has to be given, by name; of proxies nothing, for managers make them."""
    if isinstance(thing, type) and issubclass(thing, BaseProxy) and thing is not BaseProxy:
        return []
    try:
        found = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):  # as of a property, or of what is compiled
        return []
    given = [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [name for name in given if name != "self" and not name.startswith("_")]


def undescribed(thing: Any) -> list[str]:
    """The parameters that the text's section of that name has not."""
    text = inspect.getdoc(thing) or ""
    section = re.search(r"(?ms)^Parameters\n-+\n(.*?)(?=\n\n\S+\n-+\n|\Z)", text)
    named = re.findall(r"(?m)^\S.*?(?= : |$)", section[1] if section else "")
    known = {name.strip("* ") for line in named for name in line.split(",")}
    return [name for name in parameters(thing) if name not in known]


@pytest.mark.parametrize("name", [*PUBLIC, *MEMBERS])
def test_each_public_name_says_what_it_is(name: str) -> None:
    thing = PUBLIC.get(name) or MEMBERS[name]
    assert (inspect.getdoc(thing) or "").strip(), f"{name} has no text"
    assert thing.__doc__, f"{name} has only what it inherits"


#: Methods that say in a sentence what they do: those whose meaning is the stdlib's, and a server's.
IN_A_SENTENCE = (BaseProxy, fastmgr.Server, fastmgr.Value)
TOLD = [
    *PUBLIC,
    *(name for name in MEMBERS if not issubclass(PUBLIC[name.partition(".")[0]], IN_A_SENTENCE)),
]


@pytest.mark.parametrize("name", TOLD)
def test_each_parameter_is_described(name: str) -> None:
    thing = PUBLIC.get(name) or MEMBERS[name]
    inherits = re.search(r"[Pp]arameters are those\s+of", inspect.getdoc(thing) or "")
    assert inherits or not undescribed(thing)


EXAMPLES = {
    name: found
    for name, thing in {**PUBLIC, **MEMBERS}.items()
    if (found := doctest.DocTestParser().get_examples(inspect.getdoc(thing) or ""))
}


def test_what_users_call_has_an_example() -> None:
    assert PUBLIC.keys() | FACTORIES - {"SyncManager.Iterator", "SyncManager.AsyncResult"} <= (
        EXAMPLES.keys() | NO_EXAMPLE | {"SyncManager.JoinableQueue"}
    )
    assert not EXAMPLES.keys() & NO_EXAMPLE  # no longer on the list


@pytest.fixture(scope="module")
def given() -> Iterator[dict[str, Any]]:
    """What examples take for granted; a class of theirs is one that only a fork has, too."""
    with SyncManager() as manager:
        fork = multiprocessing.get_context("fork")
        yield {"fastmgr": fastmgr, "manager": manager, "fork": fork, **vars(fastmgr.testing)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_comes_to_what_it_says(name: str, given: dict[str, Any]) -> None:
    shown: list[str] = []
    text = inspect.getdoc(PUBLIC.get(name) or MEMBERS[name]) or ""
    example = doctest.DocTestParser().get_doctest(text, given, name, None, None)
    doctest.DocTestRunner(verbose=False).run(example, out=shown.append)
    assert not shown, "".join(shown)


def test_help_of_a_create_method_reads_well() -> None:
    assert SyncManager.dict.__doc__ != dict.__doc__
    assert inspect.getdoc(SyncManager.dict).startswith("Return a shared dict")
