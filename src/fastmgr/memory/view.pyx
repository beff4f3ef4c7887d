# cython: auto_pickle=False
"""What a client's process has mapped of a server's arena."""

from fastmgr.memory.arena cimport home_here

from weakref import WeakValueDictionary

cdef uint64_t views = 0


cdef class View:
    """What this process has mapped of one server's arena.

    Parameters
    ----------
    owner : int
        This process as the owner of a slot.
    place : int
        Where the session's number is in the control segment; 0: there is no arena, or it is
        not to be used.
    instance : bytes
        The server's.
    before : View or None
        The process's view until now, perhaps from before a fork; its segments stay mapped.
    """

    def __init__(self, uint64_t owner, size_t place, instance, View before):
        global views
        views += 1
        self.serial = views
        self.owner = owner
        self.instance = instance
        self.usable = True
        self.place = place
        self.none = place == 0
        self.shared = {}
        self.large = WeakValueDictionary()
        if before is not None and before.instance == instance and before.control is not None:
            self.look_at(before.control)
            self.shared = before.shared
            self.large = before.large

    cdef int look_at(self, Segment control) except -1:
        if self.place >= control.size // sizeof(uint64_t):
            raise OSError(f"session {self.place} has no place in the manager's arena")
        self.control = control
        self.alive = <const uint32_t *>control.at
        self.entry = <const uint64_t *>control.at + self.place
        return 0

    cdef int keep(self, Segment segment) except -1:
        # In the server's own process closing any descriptor of the file would lift its lock.
        if not segment.is_file or home_here() is None:
            segment.forget_fd()
        if segment.number == 0:
            self.look_at(segment)
        elif segment.lasts():
            self.shared[segment.number] = segment
        else:
            self.large[segment.number] = segment
        return 0

    def segment(self, number):
        """The segment of that number, if it is mapped already."""
        if number == 0:
            return self.control
        return self.shared.get(number) or self.large.get(number)
