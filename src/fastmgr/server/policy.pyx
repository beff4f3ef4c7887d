"""What may run where: values that are kept unread, and the methods that look at them.

An entry is *known* while only plain values have reached an object that a built-in callable made:
the loop may run its methods.  Of what a client brings pickled the entry may hold the pickle
(`Opaque`), as long as no method looks at it; before one does, all of them are read.
"""

from fastmgr.wire.opaque cimport Opaque

from time import sleep

from fastmgr.kinds import rows
from fastmgr.kinds.carried import put_in_place, read_values

# What is particular to the types; filled as they are declared.
cdef set MADE_ON_LOOP = rows.MADE_ON_LOOP
cdef dict KEPT_ARGUMENT = rows.KEPT_ARGUMENT
cdef dict UNREAD = rows.UNREAD


cdef bint may_make(object function) except -1:
    """Whether the loop may call what is registered for a type, with plain arguments."""
    return function in MADE_ON_LOOP


cdef int note_carried(Entry entry) except -1:
    """See whether the object may hold `Opaque` values, and whether it does."""
    cdef object unread = UNREAD.get(type(entry.obj))
    entry.carries = entry.known
    if unread is not None and unread.beside_cell is not None:
        # One with a name may have had a life before.
        held = unread.beside_cell(entry.obj)
        if held is not None:
            entry.opaque = type(held) is Opaque
            entry.known = entry.known and entry.opaque
    assert entry.is_legal()
    return 0


cdef bint keeps(Entry entry, object name, object args) except -1:
    """Whether the method keeps the `Opaque` among its arguments without looking at it."""
    cdef Py_ssize_t i, kept
    cdef object obj = entry.obj
    if type(args) is not tuple or entry.method_to_typeid and name in entry.method_to_typeid:
        return False
    kept = KEPT_ARGUMENT.get((type(obj), name), -1)
    if not 0 <= kept < len(<tuple>args):
        return False
    for i in range(len(<tuple>args)):
        if type((<tuple>args)[i]) is Opaque and i != kept:
            return False
    keeps_if = UNREAD[type(obj)].keeps_if
    return keeps_if is None or keeps_if(args)


cdef bint is_blind(object obj, object name):
    """Whether the method does not look at what `obj` holds."""
    unread = UNREAD.get(type(obj))
    return unread is not None and (unread.blind is None or name in unread.blind)


cdef bint shows_values(Entry entry, object name) except -1:
    """Whether a call of the method needs what the object holds unread."""
    if not entry.opaque or name == "__repr__" or name == "__str__":     # as far as it can be had
        return False
    if not is_blind(entry.obj, name):
        return True
    # What it returns is shared by itself, and not only sent.
    return (
        entry.method_to_typeid is not None and name in entry.method_to_typeid
        and name not in UNREAD[type(entry.obj)].bare
    )


cpdef int look_inside(Entry entry) except -1:
    """Unpickle what the object holds unread.

    Raises
    ------
    Exception
        Whatever unpickling raises; then nothing has changed.
    """
    cdef dict read = {}
    if not entry.opaque:
        return 0
    # It may take long, or fail: others go on carrying meanwhile.
    read_values(entry.obj, read)
    entry.looking += 1      # from here on no call begins to carry
    try:
        while entry.carrying:
            sleep(0)        # a few steps of another thread are left
        while read_values(entry.obj, read):
            pass
        entry.known = False
        # Whoever else looks meanwhile reads too; what one has put in place the other leaves.
        put_in_place(entry.obj, read)
        entry.opaque = False
    finally:
        entry.looking -= 1
        assert entry.is_legal()
    return 0
