"""Values that are encoded without pickle."""

from fastmgr.wire.codec import WireError, dumps, loads

PICKLE, TUPLE, LIST, DICT, SET, INT_1, STR = (
    dumps(object)[0],
    *(dumps(value)[0] for value in ((), [], {}, set(), 1, "")),
)


def dumps_compact(value):
    """What is written of a value; None where that is a pickle, or where pickle refuses, too."""
    try:
        data = dumps(value)
    except Exception:
        return None
    return None if data[0] == PICKLE else data


VALID = [
    dumps_compact(value)
    for value in (
        None, True, 5, 1000, 2**40, -(2**100), 1.5, 2j, "a", "é" * 300, b"abc", bytearray(b"x"),
        (1, "a", None), [1, [2, (3,)]], {"a": 1, "b": [1, 2, {3: ()}]}, {1, "a"},
        frozenset([1, (2,)]), slice(1, None, 2), KeyError("a", [1]), list(range(300)),
        {(): {"x": frozenset()}},
    )
]  # fmt: skip


def only_wire_error(data):
    try:
        value = loads(data, allow_pickle=False)
    except WireError:
        return
    # What was understood can be told again.
    dumps(value)
