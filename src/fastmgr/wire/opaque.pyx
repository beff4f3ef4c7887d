"""Pickles among the values: made, looked over, read, or carried unread."""

cimport cython
from cpython.bytearray cimport PyByteArray_CheckExact
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastmgr.wire.tags cimport LARGE

import copyreg
import threading
from functools import partial
from io import BytesIO
from multiprocessing.reduction import ForkingPickler
from pickle import Pickler, loads as _loads

cdef extern from "wire/nesting.h" nogil:
    int FM_NESTING_FINE, FM_NESTING_MEMO, FM_NESTING_NO_MEMORY
    int fm_nesting_of(const char *data, size_t n, int limit)

cdef enum:
    PICKLE_DEPTH = 10000        # levels: each may take some hundred bytes of a thread's stack

cdef dict _own_reducers = ForkingPickler._extra_reducers
cdef dict _global_reducers = copyreg.dispatch_table
cdef object _pickler = Pickler


class WireError(ValueError):
    """The bytes are not a value, or not one that is allowed here."""


class _Transit(threading.local):
    sink = None     # while this thread encodes a reply: a list of the entries of the proxies in it


transit = _Transit()


def note_transit(entry):
    """Note that a proxy held in this process is being pickled for a client.

    The client takes its own reference only when it has read the proxy, so the connection holds the
    entry until the client's next request.
    """
    if transit.sink is not None:
        transit.sink.append(entry)


cpdef int check_nesting(bytes data) except -1:
    """Refuse a pickle that would harm the process that reads it, whatever code it names.

    Such a pickle nests too deeply, or has the unpickler make a table that it could not fill.
    """
    cdef int outcome = fm_nesting_of(
        PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), PICKLE_DEPTH)
    if outcome == FM_NESTING_FINE:
        return 0
    if outcome == FM_NESTING_NO_MEMORY:
        raise MemoryError(f"no memory to look over a pickle of {len(data)} bytes")
    if outcome == FM_NESTING_MEMO:
        raise WireError(f"a pickle of {len(data)} bytes that remembers more than it can have")
    raise WireError(
        f"a value nested more than {PICKLE_DEPTH} levels deep: hashing it could end the process. "
        "Pass it in a flatter form"
    )


cdef object unpickle(bytes data, object buffers):
    check_nesting(data)
    return _loads(data, buffers=buffers)


@cython.final
@cython.auto_pickle(False)
cdef class Opaque:
    """A value that is kept as the pickle that it came as.  Its own pickle is that of the value."""

    cpdef object load(self):
        # Bytearrays are copied, for another thread may be sending ours.
        return unpickle(self.data, None if self.buffers is None else [
            bytearray(buffer) if PyByteArray_CheckExact(buffer) else buffer
            for buffer in self.buffers
        ])

    def __reduce__(self):
        loads = partial(_loads, buffers=list(self.buffers)) if self.buffers else _loads
        return loads, (self.data,)

    def __repr__(self):
        try:
            return repr(self.load())
        except Exception:
            return f"<pickled object, {len(self.data)} bytes>"


def _stays(list outside, buffer):
    """Whether a buffer stays in the pickle; a large one goes to `outside`."""
    raw = buffer.raw()
    if raw.nbytes < LARGE:
        return True
    # A copy: the program may write to the buffer while it is sent.
    outside.append(bytes(raw) if raw.readonly else bytearray(raw))
    return False


def use_pickler(kind):
    """Pickle by `kind`, a subclass of `pickle.Pickler`, from now on."""
    global _pickler
    _pickler = kind


cdef bint has_reducer(object kind) except -1:
    """Whether the program has taught pickle another way with the type, as tblib does."""
    return kind in _own_reducers or kind in _global_reducers


cdef bytes pickled(object value, list buffers):
    """Return the pickle of a value; its large buffers go to `buffers`, unless that is None."""
    file = BytesIO()
    stays = None if buffers is None else partial(_stays, buffers)
    pickler = _pickler(file, 5, buffer_callback=stays)
    # What ForkingPickler does, with a dict in place of its slower chain of dicts.
    pickler.dispatch_table = {**_global_reducers, **_own_reducers}
    pickler.dump(value)
    return file.getvalue()


cdef bint names_a_process(bytes data) except -1:
    """Whether a pickle may refer to a process, as those of proxies, connections and sockets do.

    The server has to read it and hold the object.  Such a pickle names the module that makes it.
    """
    return b"multiprocessing" in data or b"fastmgr" in data
