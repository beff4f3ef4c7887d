"""The methods by which a manager creates objects: what they say that they take."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest

from fastmgr import SyncManager


@pytest.mark.parametrize(
    ("typeid", "told"),
    [
        ("Barrier", "parties, action=None, timeout=None"),
        ("BoundedSemaphore", "value=1"),
        ("Condition", "lock=None"),
        ("Counter", "initial=0, *, name=None"),
        ("Event", ""),
        ("Queue", "maxsize=0"),
        ("RLock", ""),
        ("Value", "typecode, value, lock=True, *, name=None"),
        ("dict", "*args, **kwds"),
        ("frozenset", "x, y=2"),
    ],
)
def test_create_methods_tell_their_parameters(typeid: str, told: str) -> None:
    class Manager(SyncManager):
        pass

    Manager.register("frozenset", lambda x, y=2: frozenset((x, y)))
    for of, first in ((Manager(), ""), (Manager, "self, /, " if told else "self, /")):
        method = getattr(of, typeid)
        found = inspect.signature(method).parameters.values()
        plain = inspect.Signature([each.replace(annotation=each.empty) for each in found])
        assert str(plain) == f"({first}{told})"
        assert get_type_hints(method) == {}


def test_help_of_create_methods_says_what_they_take() -> None:
    for name in ("Counter", "Counters", "Value", "Array"):
        assert "name : str, optional" in getattr(SyncManager, name).__doc__
    # And nothing of how they are built.
    helps = [getattr(SyncManager, name, int).__doc__ or "" for name in SyncManager._registry]
    assert not [text for text in helps if "slot" in text or " cell" in text]
