from collections.abc import Mapping, Sequence
from multiprocessing import managers as stock
from typing import Any, final

from fastmgr.client.session import Outcome, Session, Target
from fastmgr.stock.dialect import Token

class OnewayError(Exception):
    failed: int
    result: Any
    call: str
    reason: str
    made: bool
    def __init__(
        self, failed: int, result: object, call: str = "", reason: str = "", made: bool = True
    ) -> None: ...

class ProxyCore(Target, stock.BaseProxy):
    _gains: frozenset[str]
    _keeps: bool
    _awaits_reference: bool
    _token: Token
    _id: str
    _manager: Any
    _serializer: str
    _authkey: bytes
    _owned_by_manager: bool
    _referent: Any
    def _callmethod(
        self, methodname: str, args: Sequence[Any] = (), kwds: Mapping[str, Any] = {}
    ) -> Any: ...
    def _getvalue(self) -> Any: ...
    def _settle(self, outcome: Outcome) -> Any: ...
    def _session_of(self) -> Session: ...
    def _set_token(self, token: Token) -> None: ...
    def _take_reference(self) -> None: ...
    def _close(self) -> None: ...
    def _connect(self) -> None: ...

class CellCore(ProxyCore):
    _has_cell: bool
    def _seen(self) -> str | None: ...

class ContainerCore(ProxyCore):
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int: ...

class ItemsCore(ContainerCore):
    def __getitem__(self, key: Any, /) -> Any: ...

class DictCore(ItemsCore):
    def get(self, *args: Any, **kwds: Any) -> Any: ...

class NamespaceCore(ProxyCore):
    def __getattr__(self, key: str, /) -> Any: ...

@final
class Recording:
    def __init__(self, calls: list[Any], proxy: ProxyCore, name: str) -> None: ...
    def __call__(self, *args: Any, **kwds: Any) -> None: ...

@final
class Posting:
    def __init__(self, proxy: ProxyCore, name: str) -> None: ...
    def __call__(self, *args: Any, **kwds: Any) -> None: ...
