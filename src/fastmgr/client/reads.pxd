"""What a client has read of an object, and may return again."""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject

from fastmgr.client.session cimport Kept, Session, posting_channels
from fastmgr.memory.arena cimport View
from fastmgr.memory.atomics cimport uint64_t
from fastmgr.memory.segments cimport Segment
from fastmgr.memory.versions cimport stands

# Bytes that all `Reads` of this process keep.
cdef Py_ssize_t kept_bytes

cdef class Reads:
    cdef Session session
    cdef View view
    cdef Segment segment
    cdef const uint64_t *word       # the object's version, in `segment`
    cdef dict tables                # name of a reader -> {argument: Kept}
    cdef dict items                 # some of these tables
    cdef dict gets, members, lengths
    cdef dict attributes            # what `__getattribute__` returned that the proxy does not have
    cdef Py_ssize_t size            # bytes kept here
    cdef Py_ssize_t hits, asked     # since they were compared

    cdef int keep(self, dict table, object key, Kept kept) except -1
    cdef int note_attribute(self, str name) except -1
    cdef int clear(self) except -1
    cdef bint pays(self) noexcept

    @cython.final
    cdef inline bint may_look(self) except -1:
        """Whether the calling thread may return what was kept; see `client.proxy`."""
        return (
            posting_channels == 0 or not self.session.has_posted()) and self.view.serves()

    @cython.final
    cdef inline Kept find(self, dict table, object key):
        """What may be returned for a key, a str, an int or None; None: ask the server."""
        cdef PyObject *found
        if not self.may_look():
            return None
        found = PyDict_GetItemWithError(table, key)
        if found is NULL or not stands(self.word, (<Kept>found).version):
            return None
        self.hits += 1
        return <Kept>found

cdef object key_of_call(object args, object kwds)
cdef bint is_plain(object value) noexcept


cdef inline bint is_key(object key) noexcept:
    """Whether nothing but an equal value of the same type equals the argument."""
    return type(key) is str or type(key) is int
