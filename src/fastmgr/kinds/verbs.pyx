"""Verbs that read, change and write in one step.

``d[k] += 1`` through a proxy is two calls, between which another client may have
written.  These are one, and within the server one step as well: on plain values
nothing here gives the GIL away, so neither the loop nor a worker comes between.
"""

from fastmgr.kinds import shared

cdef object MISSING = object()


def incr(obj, key=None, amount=1, default=MISSING):
    """Add to a value and return the sum.

    Parameters
    ----------
    obj : dict, list or Namespace
    key : object
        A dict's key, a list's index, a Namespace's attribute.
    amount : number
    default : number, optional
        What a missing key or attribute counts as: 0 by default.

    Raises
    ------
    IndexError
        There is no such index.
    TypeError
        The value and the amount cannot be added, or `obj` is of another type.
    """
    kind = type(obj)
    if kind is dict:
        new = (<dict>obj).get(key, 0 if default is MISSING else default) + amount
        (<dict>obj)[key] = new
        return new
    if kind is list:
        new = obj[key] + amount
        obj[key] = new
        return new
    if kind is shared.Namespace:
        new = getattr(obj, key, 0 if default is MISSING else default) + amount
        setattr(obj, key, new)
        return new
    raise TypeError(f"incr of {kind.__name__!r}: a dict, list or Namespace is needed")


def exchange(dict obj, key, value):
    """Replace the value of a key and return what it was.

    Raises
    ------
    KeyError
        There is no such key.
    """
    old = obj[key]
    obj[key] = value
    return old


def replace(container, key, old, new):
    """Put `new` where `old` itself still is: at a dict's key, or wherever in a list."""
    cdef Py_ssize_t i
    if type(container) is dict:
        if (<dict>container).get(key, MISSING) is old:
            (<dict>container)[key] = new
        return
    for i in range(len(<list?>container)):
        if (<list>container)[i] is old:
            (<list>container)[i] = new
            return


def compare_exchange(dict obj, key, expected, desired):
    """Replace the value of a key if it equals `expected`; return whether it did.

    Raises
    ------
    KeyError
        There is no such key.
    """
    if obj[key] != expected:
        return False
    obj[key] = desired
    return True


# By type and name: what the server calls where the type itself has no such method.
VERBS = {
    (dict, "incr"): incr,
    (dict, "exchange"): exchange,
    (dict, "compare_exchange"): compare_exchange,
    (list, "incr"): incr,
    (shared.Namespace, "incr"): incr,
}
