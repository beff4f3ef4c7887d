from array import array
from collections.abc import Sequence
from multiprocessing import managers as stock
from types import GenericAlias
from typing import Any, SupportsIndex, TypeVar, overload

from fastmgr._typing import (
    ArrayRecorder,
    CounterMethods,
    CounterRecorder,
    CountersMethods,
    CountersRecorder,
    ValueMethods,
    ValueRecorder,
)
from fastmgr.client.proxy import CellCore

_T = TypeVar("_T")
_K = TypeVar("_K")

class CounterCore(CellCore, CounterMethods):
    _recorder_: CounterRecorder
    value: int

class CountersCore(CellCore, CountersMethods[_K]):
    _recorder_: CountersRecorder[_K]
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...

class ValueCore(CellCore, ValueMethods[_T], stock.ValueProxy[_T]):
    _recorder_: ValueRecorder[_T]
    value: _T
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...

class ArrayCore(CellCore, Sequence[_T]):
    _recorder_: ArrayRecorder[_T]
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, key: SupportsIndex, /) -> _T: ...
    # Of numbers, as is `_T` by what is made: only of such can there be an array.
    @overload
    def __getitem__(self, key: slice, /) -> array[_T]: ...  # type: ignore[type-var]
    @overload
    def __setitem__(self, key: SupportsIndex, value: _T, /) -> None: ...
    @overload
    def __setitem__(self, key: slice, value: array[_T], /) -> None: ...  # type: ignore[type-var]
    def incr(self, key: int, amount: int = 1) -> int: ...
