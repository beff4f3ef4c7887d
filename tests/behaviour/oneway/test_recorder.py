"""What stands for a proxy whose calls are one-way."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import pytest
from support.oneway import OnewayManager, exposing_everything, failure_of

from fastmgr import oneway


def test_recorder_has_the_exposed_methods(manager: OnewayManager) -> None:
    d = manager.dict()
    for calls in (oneway(d), manager.pipeline()(d)):
        for name in type(d)._exposed_:
            assert callable(getattr(calls, name))
        assert calls.get is calls.get
        for name in ("nothing", "append", "_callmethod", "__reversed", "_exposed_"):
            with pytest.raises(AttributeError, match=f"exposes no method {name!r}"):
                getattr(calls, name)
        assert not hasattr(calls, "append")
    calls = oneway(exposing_everything(d))
    assert callable(calls.nothing)


def test_recorder_has_items(any_manager: OnewayManager) -> None:
    d, items = any_manager.dict(), any_manager.list([0, 1, 2])
    calls = oneway(d)
    calls["a"] = 1
    calls["b"] = 2
    del calls["a"]
    calls["b"]
    assert d.copy() == {"b": 2}
    del oneway(items)[0:2]
    oneway(items)[0] = "two"
    oneway(items)[0:0] = ["one"]
    assert items[:] == ["one", "two"]
    oneway(items)[5]
    del oneway(items)[5]
    oneway(items)[5] = 5
    assert failure_of(len, items).failed == 3


def test_what_is_no_proxy_is_refused() -> None:
    """A segmentation fault: Posting.__call__ casts without looking (<ProxyCore>)."""
    code = (
        "import fastmgr\ntry: fastmgr.oneway({}).get('a')\nexcept (TypeError, AttributeError): pass"
    )
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def test_recorder_does_not_swallow_attributes(own_manager: Any) -> None:
    """``oneway(value).value = 7`` sets an attribute of the Recorder, and says nothing."""
    value, namespace = own_manager.Value("i", 1), own_manager.Namespace(x=1)
    with contextlib.suppress(AttributeError):
        oneway(value).value = 7
        assert value.value == 7
    with contextlib.suppress(AttributeError):
        oneway(namespace).x = 7
        assert namespace.x == 7
