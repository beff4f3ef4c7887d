"""What makes a counter's proxy a number, and a row of counters an array."""

from __future__ import annotations

import array
import math
import operator
from fractions import Fraction
from typing import Any

import pytest
from support import KEY, ProbeManager
from support.numbers import CODES

from fastmgr.managers import RemoteError

pytestmark = pytest.mark.timeout(90)


def test_counter_proxy_looks_like_a_number(manager: ProbeManager) -> None:
    counter = same = manager.Counter(5)
    counter += 3
    counter -= 1
    assert counter is same
    assert (counter.value, int(counter), counter._getvalue()) == (7, 7, 7)
    counter.value = 2
    assert "CounterProxy 2," in repr(counter)
    assert str(counter) == "2"
    holder = manager.dict(c=counter)
    assert holder["c"].incr() == 3
    del holder


@pytest.mark.parametrize("place", ["shared_manager", "off_manager"])
def test_a_counter_in_an_expression_is_its_number(
    request: pytest.FixtureRequest, manager: ProbeManager, place: str
) -> None:
    counter: Any = request.getfixturevalue(place).Counter(5)
    other: Any = manager.Counter(7)
    for operation in (
        operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
        operator.pow, operator.lshift, operator.rshift, operator.and_, operator.or_, operator.xor,
        divmod, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    ):  # fmt: skip
        for left, right in ((5, 7), (5, 5), (7, 5)):
            proxies = [counter if side == 5 else other for side in (left, right)]
            assert operation(*proxies) == operation(left, right)
            assert operation(proxies[0], right) == operation(left, proxies[1])
            assert operation(proxies[0], right) == operation(left, right)
    assert counter + 0.5 == 5.5 and Fraction(1, 2) * counter == Fraction(5, 2)
    assert (counter == "5", counter != "5") == (False, True)
    assert pow(counter, 2, 3) == 1
    for alone in (
        operator.neg, operator.pos, operator.inv, abs, round, int, float, bool, str, hex, range,
        operator.index, complex, math.floor, math.ceil, math.trunc, math.sqrt,
        "{:,}".format, "{}".format, "%d".__mod__, lambda n: round(n, -1), [0, 1, 2, 3, 4, 5].index,
    ):  # fmt: skip
        assert alone(counter) == alone(5), alone
    assert bool(manager.Counter(0)) is False and sorted([other, counter, 6]) == [5, 6, 7]
    with pytest.raises(TypeError, match="unhashable"):  # what it equals changes
        hash(counter)
    for name in ("imul", "ifloordiv", "ipow", "ior"):
        with pytest.raises(TypeError, match="write to its `value`"):
            getattr(operator, name)(counter, 2)
    with pytest.raises(TypeError, match="unsupported operand"):
        counter + "1"


def test_counters_as_an_array_are_their_numbers(
    manager: ProbeManager, off_manager: ProbeManager
) -> None:
    numpy = pytest.importorskip("numpy")
    for source in (manager, off_manager):
        counters = source.Counters(["a", "b"])
        counters.incr("b", 3)
        found = numpy.asarray(counters)
        assert found.dtype == "int64" and found.tolist() == [0, 3]
        assert not found.flags.writeable and numpy.array(counters).flags.writeable
        assert numpy.asarray(source.Counter(5)) == 5


def test_an_array_without_memory_is_no_writable_array(off_manager: ProbeManager) -> None:
    """What is written to a copy would be lost."""
    numpy = pytest.importorskip("numpy")
    for code in CODES:
        shared = off_manager.Array(code, [1, 2, 3])
        found = numpy.asarray(shared)
        assert found.dtype == numpy.asarray(array.array(code)).dtype and found.tolist() == [1, 2, 3]
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 2
        own = numpy.array(shared)
        own[0] = 2
        assert (own[0], shared[0]) == (2, 1)
    with ProbeManager(authkey=KEY) as own_manager:
        gone = own_manager.Array("i", [1]), own_manager.Counters(1)
    for proxy in gone:
        with pytest.raises((OSError, EOFError, RemoteError)):
            numpy.asarray(proxy)
