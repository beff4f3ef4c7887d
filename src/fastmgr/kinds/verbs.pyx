"""Verbs that read, change and write in one step.

``d[k] += 1`` through a proxy is two calls, between which another client may have
written.  These are one, and within the server one step as well: on plain values
nothing here gives the GIL away, so neither the loop nor a worker comes between.

Each verb has the name that clients call it by: the messages of wrong arguments show that.
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
        old = obj[key]
        obj[key] = value
        return old

    @staticmethod
    def compare_exchange(dict obj not None, key, expected, desired):
        """Replace a key's value if it equals `expected`; return whether it did."""
        if obj[key] != expected:
            return False
        obj[key] = desired
        return True


class ListVerbs:
    """The verb of a list."""

    @staticmethod
    def incr(list obj not None, key=None, amount=1, default=MISSING):
        """Add to an item and return the sum; no item is missing, so `default` stands for none."""
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
