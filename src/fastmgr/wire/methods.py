"""The methods that a call names by number: those of the stdlib's proxies, and ours.

The numbers are part of the fast dialect.  A name is added at the end, with a new
version of the introduction; other names travel as they are.
"""

from __future__ import annotations

__all__ = ["METHODS"]

_NAMES = """
    #GETVALUE __repr__ __str__

    __getitem__ __setitem__ __delitem__ __contains__ __len__ __iter__ __reversed__
    get setdefault pop popitem update keys values items copy clear
    append extend insert remove index count reverse sort
    __add__ __iadd__ __mul__ __rmul__ __imul__ __or__ __ior__ __ror__
    __and__ __rand__ __iand__ __sub__ __rsub__ __isub__ __xor__ __rxor__ __ixor__
    __eq__ __ne__ __lt__ __le__ __gt__ __ge__
    add discard union intersection difference symmetric_difference
    issubset issuperset isdisjoint
    intersection_update difference_update symmetric_difference_update

    set __getattribute__ __setattr__ __delattr__ __next__ send throw close

    acquire release locked wait notify notify_all is_set
    abort reset parties n_waiting broken __getstate__
    put put_nowait get_nowait empty full qsize join task_done shutdown

    incr exchange compare_exchange

    apply apply_async map map_async imap imap_unordered starmap starmap_async terminate
    fromkeys

    decr owner_died consistent snapshot as_dict
"""

METHODS = tuple(_NAMES.split())
