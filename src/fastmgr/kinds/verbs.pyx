"""Verbs that read, change and write in one step.

``d[k] += 1`` through a proxy is two calls, and another client may write between them.  A verb is
one call, and one step within the server: on plain values nothing here gives the GIL away.

Each verb has the name that clients call it by: messages about wrong arguments show the name.
"""

cdef object MISSING = object()


class DictVerbs:
    """The verbs of a dict."""

    @staticmethod
    def incr(dict obj not None, key=None, amount=1, default=MISSING):
        """Add to a key's value and return the sum; a missing key counts as `default`, or 0."""
        new = obj.get(key, 0 if default is MISSING else default) + amount
        obj[key] = new
        return new

    @staticmethod
    def exchange(dict obj not None, key, value):
        """Replace a key's value and return what it was (KeyError if there is no such key)."""
        old = (<object>obj)[key]    # of a dict Cython would raise KeyError() for None
        obj[key] = value
        return old

    @staticmethod
    def compare_exchange(dict obj not None, key, expected, desired):
        """Replace a key's value if it equals `expected`; return whether it did."""
        if (<object>obj)[key] != expected:
            return False
        obj[key] = desired
        return True


class ListVerbs:
    """The verb of a list."""

    @staticmethod
    def incr(list obj not None, key=None, amount=1, default=MISSING):
        """Add to an item and return the sum; no item can be missing, so `default` is ignored."""
        new = obj[key] + amount
        obj[key] = new
        return new


class NamespaceVerbs:
    """The verb of an object's attributes."""

    @staticmethod
    def incr(obj, key=None, amount=1, default=MISSING):
        """Add to an attribute and return the sum; a missing one counts as `default`, or 0."""
        new = getattr(obj, key, 0 if default is MISSING else default) + amount
        setattr(obj, key, new)
        return new


def sets_value(tuple args not None):
    """Whether ``__setattr__`` sets a value: `__dict__` and its like are none."""
    return not str(args[0]).startswith("__")
