"""The references that a process holds: one for all proxies of an object."""

from __future__ import annotations

import gc
import pickle

from support import ProbeManager, settle


def test_proxies_of_one_object_share_its_references(manager: ProbeManager) -> None:
    shared = manager.list([1])
    others = [pickle.loads(pickle.dumps(shared)) for _ in range(5)]
    assert [other.pop() if i == 0 else len(other) for i, other in enumerate(others)] == [1] + [
        0
    ] * 4
    del shared, others[1:]
    gc.collect()
    assert manager._number_of_objects() == 1
    assert others[0][:] == []
    others.clear()
    gc.collect()
    settle(manager, 0)


def test_decref_by_hand(manager: ProbeManager) -> None:
    shared = manager.list()
    other = pickle.loads(pickle.dumps(shared))
    shared._close()
    shared._close()
    other.append(1)
    shared._incref()
    del other
    gc.collect()
    assert shared[:] == [1]
