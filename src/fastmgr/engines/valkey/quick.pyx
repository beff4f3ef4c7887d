# cython: auto_pickle=False
"""The methods that programs call most, compiled: arguments and replies of the usual kinds.

What is not usual goes to the method of the same name in `containers` and `numbers`, which each of
these stands in front of.
"""

from cpython.bytes cimport PyBytes_AS_STRING

from fastmgr.client.session cimport Session
from fastmgr.engines.valkey.commands cimport Command
from fastmgr.engines.valkey.keys cimport encode_key
from fastmgr.engines.valkey.values cimport decode, encode, encode_int, encode_str

from fastmgr.engines.valkey.commands import METHODS


# In a pipeline so many calls of `incr` are one call of our function: other clients get their turn.
cdef int MOST_JOINED = 250
# An amount below this: the sum of some hundred fits 64 bits.
cdef long long SMALL = 1 << 53


cdef inline bint is_usual(object reply):
    """Whether a reply is a value that runs no code where it is read."""
    return type(reply) is bytes and PyBytes_AS_STRING(reply)[0] not in (c"p", c"R")


cdef inline bytes field_of(object key):
    """The field of a key that is a str or an int; None for another."""
    if type(key) is str:
        return encode_str(key)
    return encode_int(key) if type(key) is int else None


cdef class Quick(Command):
    """Stands in front of a method."""

    cdef Command slow

    def __init__(self, Command slow not None):
        self.slow = slow
        self.reads = slow.reads
        self.joins = slow.joins

    cpdef object request(self, bytes key, object args, object kwds, object session):
        return self.slow.request(key, args, kwds, session)

    cpdef object result(self, object reply, bytes key, object args, object kwds, object session):
        return self.slow.result(reply, key, args, kwds, session)

    cpdef object failure(self, object reply, bytes key, object args, object kwds, object session):
        return self.slow.failure(reply, key, args, kwds, session)


cdef class DictGetItem(Quick):
    """``d[key]``"""

    cpdef object request(self, bytes key, object args, object kwds, object session):
        if not kwds and len(args) == 1:
            return [b"HGET", key, encode_key(args[0])]
        return self.slow.request(key, args, kwds, session)

    cpdef object result(self, object reply, bytes key, object args, object kwds, object session):
        if is_usual(reply):
            return decode(reply, (<Session?>session).address)
        return self.slow.result(reply, key, args, kwds, session)


cdef class DictSetItem(Quick):
    """``d[key] = value``"""

    cpdef object request(self, bytes key, object args, object kwds, object session):
        cdef bytes field = None
        cdef bytes value
        if not kwds and len(args) == 2:
            field = field_of(args[0])
        if field is None:
            return self.slow.request(key, args, kwds, session)
        value = encode(args[1], (<Session?>session).address)
        if value.startswith(b"R"):      # it refers to objects, which the dict is to hold
            return self.slow.request(key, args, kwds, session)
        return [b"FCALL", b"fm1_dict_set", b"1", key, field, value, b""]

    cpdef object result(self, object reply, bytes key, object args, object kwds, object session):
        if type(reply) is list and (<list>reply)[0] is None:
            return None
        return self.slow.result(reply, key, args, kwds, session)


cdef class ValueGet(Quick):
    """``v.value``"""

    cpdef object request(self, bytes key, object args, object kwds, object session):
        if not kwds and len(args) == 0:
            return [b"GET", key]
        return self.slow.request(key, args, kwds, session)

    cpdef object result(self, object reply, bytes key, object args, object kwds, object session):
        if is_usual(reply):
            return decode(reply, (<Session?>session).address)
        return self.slow.result(reply, key, args, kwds, session)


cdef class DictIncr(Quick):
    """``d.incr(key)``, ``d.incr(key, amount)``

    In a pipeline the server adds once what several calls add to one key, and the results in between
    are computed here.  They are exact, for each such sum is of whole amounts of one sign.
    """

    def __init__(self, Command slow not None):
        Quick.__init__(self, slow)
        self.joins = MOST_JOINED

    cpdef object request(self, bytes key, object args, object kwds, object session):
        cdef Py_ssize_t count = len(args)
        cdef bytes field = None
        cdef bytes amount = b"1"
        if not kwds and 1 <= count <= 2:
            field = field_of(args[0])
            if count == 2:
                amount = encode_int(args[1]) if type(args[1]) is int else None
        if field is None or amount is None or amount.startswith(b"I"):
            return self.slow.request(key, args, kwds, session)
        return [b"FCALL", b"fm1_dict_incr", b"1", key, field, amount]

    cpdef object result(self, object reply, bytes key, object args, object kwds, object session):
        if type(reply) is list and type((<list>reply)[0]) is int:
            return (<list>reply)[0]
        return self.slow.result(reply, key, args, kwds, session)

    cpdef tuple join_calls(self, bytes key, list calls, object session):
        cdef Py_ssize_t i, at, count = len(calls) // 2
        cdef list words = [b"FCALL", b"fm1_dict_incr_whole", b"1", key]
        cdef list places = [], amounts = [], totals = []
        cdef dict latest = {}       # by key: the place of the last sum that was begun for it
        cdef tuple args
        cdef object name, amount, found
        for i in range(count):
            if calls[2 * i + 1] or type(calls[2 * i]) is not tuple:
                return None
            args = <tuple>calls[2 * i]
            if not 1 <= len(args) <= 2:
                return None
            name = args[0]
            if type(name) is not str and type(name) is not int:
                return None
            amount = args[1] if len(args) == 2 else 1
            if type(amount) is not int or not -SMALL < amount < SMALL:
                return None
            found = latest.get(name)
            at = -1 if found is None else <Py_ssize_t>found
            if at < 0 or (totals[at] < 0) != (amount < 0):
                at = len(totals)
                latest[name] = at
                totals.append(amount)
                words.append(encode_key(name))
                words.append(None)
            else:
                totals[at] = totals[at] + amount
            places.append(at)
            amounts.append(amount)
        for at in range(len(totals)):
            words[2 * at + 5] = encode_int(totals[at])
        return words, (places, amounts)

    cpdef list split_reply(self, object reply, object state):
        cdef list places, amounts, sums = list(reply)
        cdef list results
        cdef Py_ssize_t i, at
        places, amounts = state
        results = [NotImplemented] * len(places)
        for i in range(len(places) - 1, -1, -1):
            at = places[i]
            total = sums[at]
            if total is None:
                continue
            if type(total) is bytes:
                total = int(total)
            results[i] = total
            sums[at] = total - amounts[i]
        return results


cdef class CounterIncr(Quick):
    """``c.incr()``, ``c.incr(amount)``"""

    cpdef object request(self, bytes key, object args, object kwds, object session):
        cdef bytes amount = b"1"
        if not kwds and len(args) <= 1:
            if len(args):
                amount = encode_int(args[0]) if type(args[0]) is int else None
            if amount is not None and not amount.startswith(b"I"):
                return [b"FCALL", b"fm1_counter_incr", b"1", key, amount]
        return self.slow.request(key, args, kwds, session)

    cpdef object result(self, object reply, bytes key, object args, object kwds, object session):
        if type(reply) is list and type((<list>reply)[0]) is int:
            return (<list>reply)[0]
        return self.slow.result(reply, key, args, kwds, session)


# The engine loads `containers` and `numbers` before this module.
for _typeid, _name, _kind in (
    ("dict", "__getitem__", DictGetItem), ("dict", "__setitem__", DictSetItem),
    ("dict", "incr", DictIncr), ("Value", "get", ValueGet), ("Counter", "get", ValueGet),
    ("Counter", "incr", CounterIncr),
):
    METHODS[_typeid][_name] = _kind(METHODS[_typeid][_name])
