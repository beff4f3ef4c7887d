"""What makes a counter's proxy the number that the counter has at the moment."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

__all__ = ["AsNumber", "as_ndarray"]


class AsNumber:
    """Operators of an int for what has a ``get``; each calls it once.

    It equals its number, and that changes, so it has no hash.  ``+=`` and ``-=`` are the type's
    own; the other operators in place are refused, for they would put an int in its place.
    """

    __slots__ = ()
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def get(self) -> int:
        raise NotImplementedError

    def __int__(self) -> int:
        return self.get()

    def __index__(self) -> int:
        return self.get()

    def __float__(self) -> float:
        return float(self.get())

    def __bool__(self) -> bool:
        return self.get() != 0

    def __round__(self, ndigits: int | None = None) -> int:
        return round(self.get(), ndigits) if ndigits is not None else self.get()

    def __pow__(self, other: Any, modulus: Any = None, /) -> Any:
        return pow(self.get(), other, modulus)

    def __rpow__(self, other: Any, modulus: Any = None, /) -> Any:
        return pow(other, self.get(), modulus)

    def __format__(self, spec: str) -> str:
        return format(self.get(), spec)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """For numpy: the number."""
        return as_ndarray(self.get(), dtype, copy)

    if TYPE_CHECKING:  # what is made below

        def __eq__(self, other: object, /) -> bool: ...
        def __ne__(self, other: object, /) -> bool: ...
        def __lt__(self, other: float, /) -> bool: ...
        def __le__(self, other: float, /) -> bool: ...
        def __gt__(self, other: float, /) -> bool: ...
        def __ge__(self, other: float, /) -> bool: ...
        def __neg__(self) -> int: ...
        def __pos__(self) -> int: ...
        def __abs__(self) -> int: ...
        def __invert__(self) -> int: ...
        def __trunc__(self) -> int: ...
        def __floor__(self) -> int: ...
        def __ceil__(self) -> int: ...
        def __add__(self, other: Any, /) -> Any: ...
        def __radd__(self, other: Any, /) -> Any: ...
        def __sub__(self, other: Any, /) -> Any: ...
        def __rsub__(self, other: Any, /) -> Any: ...
        def __mul__(self, other: Any, /) -> Any: ...
        def __rmul__(self, other: Any, /) -> Any: ...
        def __truediv__(self, other: Any, /) -> Any: ...
        def __rtruediv__(self, other: Any, /) -> Any: ...
        def __floordiv__(self, other: Any, /) -> Any: ...
        def __rfloordiv__(self, other: Any, /) -> Any: ...
        def __mod__(self, other: Any, /) -> Any: ...
        def __rmod__(self, other: Any, /) -> Any: ...
        def __divmod__(self, other: Any, /) -> Any: ...
        def __rdivmod__(self, other: Any, /) -> Any: ...
        def __lshift__(self, other: Any, /) -> Any: ...
        def __rlshift__(self, other: Any, /) -> Any: ...
        def __rshift__(self, other: Any, /) -> Any: ...
        def __rrshift__(self, other: Any, /) -> Any: ...
        def __and__(self, other: Any, /) -> Any: ...
        def __rand__(self, other: Any, /) -> Any: ...
        def __or__(self, other: Any, /) -> Any: ...
        def __ror__(self, other: Any, /) -> Any: ...
        def __xor__(self, other: Any, /) -> Any: ...
        def __rxor__(self, other: Any, /) -> Any: ...


def _of_one(name: str, function: Callable[[int], Any]) -> Callable[..., Any]:
    def method(self: AsNumber, /) -> Any:
        return function(self.get())

    return _called(method, name)


def _of_two(name: str, function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def method(self: AsNumber, other: Any, /) -> Any:
        return function(self.get(), other)

    return _called(method, name)


def _reflected(name: str, function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def method(self: AsNumber, other: Any, /) -> Any:
        return function(other, self.get())

    return _called(method, name)


def _refused(name: str, sign: str) -> Callable[..., Any]:
    def method(self: AsNumber, other: Any, /) -> Any:
        raise TypeError(
            f"{sign}= of a counter: it is changed in place by += and -= only; write to its `value`"
        )

    return _called(method, name)


def _called(method: Any, name: str) -> Callable[..., Any]:
    method.__name__ = name
    method.__qualname__ = f"{AsNumber.__name__}.{name}"
    return method


_ONE: dict[str, Callable[[Any], Any]] = {
    "neg": operator.neg, "pos": operator.pos, "abs": abs, "invert": operator.invert,
    "trunc": math.trunc, "floor": math.floor, "ceil": math.ceil,
}  # fmt: skip
_COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
_TWO = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "lshift": "<<", "rshift": ">>", "and": "&", "or": "|", "xor": "^",
}  # fmt: skip

for _name, _function in _ONE.items():
    setattr(AsNumber, f"__{_name}__", _of_one(f"__{_name}__", _function))
for _name in _COMPARED:
    setattr(AsNumber, f"__{_name}__", _of_two(f"__{_name}__", getattr(operator, _name)))
for _name, _sign in (*_TWO.items(), ("divmod", "")):
    if _name != "pow":  # which takes a modulus, too
        _operation = divmod if _name == "divmod" else getattr(operator, f"__{_name}__")
        setattr(AsNumber, f"__{_name}__", _of_two(f"__{_name}__", _operation))
        setattr(AsNumber, f"__r{_name}__", _reflected(f"__r{_name}__", _operation))
    if _sign and _sign not in "+-":
        setattr(AsNumber, f"__i{_name}__", _refused(f"__i{_name}__", _sign))
AsNumber.__hash__ = None


def as_ndarray(numbers: Any, dtype: Any, copy: bool | None) -> Any:
    """Make an array for numpy of a number or an `array.array`.

    It cannot be written to, as that would not be written anywhere else; the copy that
    `numpy.array` is asked for is the caller's own, and can.
    """
    if copy is False:
        raise ValueError("only a copy can be had: the numbers are not in memory that is shared")
    made = import_module("numpy").array(numbers, dtype)
    made.flags.writeable = copy is True
    return made
