"""Users' servers: what they override is called, and their listeners are used."""

from __future__ import annotations

import re
from collections.abc import Callable
from multiprocessing import AuthenticationError, connection
from typing import Any, ClassVar

import pytest
from support import KEY, ProbeManager, connected, poll, settle
from support.servers import hooked

from fastmgr import managers
from fastmgr.managers import Server, listener_client

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def forget_calls() -> None:
    CALLS.clear()


class HookServer(Server):
    public: ClassVar[list[str]] = [*Server.public, "hook_calls"]

    def hook_calls(self, c: Any) -> list[str]:
        return CALLS


def overriding(*names: str) -> type[Server]:
    """A server class that notes the calls of `names` and then does as it did."""

    def note(name: str) -> Callable[..., Any]:
        def hook(self: Server, *args: Any, **kwds: Any) -> Any:
            CALLS.append(name)
            if args and args[0] is None:
                CALLS.append(f"{name} without a connection")
            return getattr(Server, name)(self, *args, **kwds)

        return hook

    return type("_".join(names), (HookServer,), {name: note(name) for name in names})


class StdlibsOwn(HookServer):
    """With the code of the stdlib (3.11), as users copy it to add their own to it."""

    def create(self, c: Any, typeid: str, /, *args: Any, **kwds: Any) -> Any:
        CALLS.append("create")
        with self.mutex:
            callable, exposed, method_to_typeid, _ = self.registry[typeid]
            if callable is None:
                if kwds or (len(args) != 1):
                    raise ValueError("Without callable, must have one non-keyword argument")
                obj = args[0]
            else:
                obj = callable(*args, **kwds)
            if exposed is None:
                exposed = managers.public_methods(obj)
            if method_to_typeid is not None:
                exposed = list(exposed) + list(method_to_typeid)
            ident = f"{id(obj):x}"
            self.id_to_obj[ident] = (obj, set(exposed), method_to_typeid)
            if ident not in self.id_to_refcount:
                self.id_to_refcount[ident] = 0
        self.incref(c, ident)
        return ident, tuple(exposed)

    def incref(self, c: Any, ident: str) -> None:
        CALLS.append("incref")
        with self.mutex:
            try:
                self.id_to_refcount[ident] += 1
            except KeyError:
                if ident in self.id_to_local_proxy_obj:
                    self.id_to_refcount[ident] = 1
                    self.id_to_obj[ident] = self.id_to_local_proxy_obj[ident]
                else:
                    raise

    def decref(self, c: Any, ident: str) -> None:
        CALLS.append("decref")
        if ident not in self.id_to_refcount and ident in self.id_to_local_proxy_obj:
            return
        with self.mutex:
            assert self.id_to_refcount[ident] >= 1
            self.id_to_refcount[ident] -= 1
            if self.id_to_refcount[ident] == 0:
                del self.id_to_refcount[ident]
        if ident not in self.id_to_refcount:
            # Two-step process in case the object turns out to contain other proxy objects.
            self.id_to_obj[ident] = (None, (), None)
            with self.mutex:
                del self.id_to_obj[ident]


HOOKS = {
    "create": overriding("create"),
    "incref": overriding("incref"),
    "decref": overriding("decref"),
    "serve_client": overriding("serve_client"),
    "handle_request": overriding("handle_request"),
    "accepter": overriding("accepter"),
    "handle_request create": overriding("handle_request", "create"),
    "create incref decref": StdlibsOwn,
}


@pytest.mark.parametrize("names", HOOKS)
def test_hooks_are_called(names: str) -> None:
    with hooked(HOOKS[names]) as manager:
        shared = manager.list([1])
        shared.append(2)
        assert shared[:] == [1, 2]
        with pytest.raises(IndexError):
            shared[5]
        # As the stdlib does it: a reference comes, the proxy takes one, the first is returned.
        token, exposed = manager._create("list", [5])
        copy = managers.ListProxy(token, "pickle", manager=manager, authkey=KEY, exposed=exposed)
        with connection.Client(token.address, authkey=KEY) as conn:
            managers.dispatch(conn, None, "decref", (token.id,))
        assert copy.pop() == 5
        assert manager._number_of_objects() == 2
        assert len(re.findall(r"refcount=1$", manager._debug_info(), re.MULTILINE)) == 2
        for name in names.split():
            assert name in CALLS
        del shared, copy
        settle(manager, 0)


@pytest.mark.parametrize("names", HOOKS)
def test_results_that_are_shared_come_through_hooks(names: str) -> None:
    with hooked(HOOKS[names]) as manager:
        shared = manager.dict({"a": 1, "b": 2})
        assert sorted(shared) == ["a", "b"]
        assert not [name for name in CALLS if "without" in name]
        del shared
        settle(manager, 0)


@pytest.mark.parametrize("names", HOOKS)
def test_strangers_are_refused_where_there_are_hooks(names: str) -> None:
    with hooked(HOOKS[names]) as manager:
        with pytest.raises(AuthenticationError):
            connected(manager.address, b"another key")
        assert manager.list([1])[0] == 1


class Recording(connection.Listener):
    """A listener of a user's."""

    def accept(self) -> Any:
        CALLS.append("accept")
        return super().accept()


def recording_client(address: Any, authkey: bytes | None = None) -> Any:
    CALLS.append("client")
    return connection.Client(address, authkey=authkey)


def test_foreign_listener_and_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(listener_client, "pickle", (Recording, recording_client))
    with hooked(HookServer) as manager:
        shared = manager.dict(x=1)
        assert shared["x"] == 1
        assert sorted(shared) == ["x"]
        assert CALLS.count("client") >= 3
        poll(lambda: CALLS.count("accept") >= 3, "connections were accepted by it")
        del shared
        settle(manager, 0)


def test_foreign_serializer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(listener_client, "mine", (Recording, recording_client))
    CALLS.clear()
    server = ProbeManager(authkey=KEY, serializer="mine").get_server()
    assert isinstance(server.listener, Recording)
    server.listener.close()
