# cython: auto_pickle=False
"""Semaphores: each of the first permits is a slot (`kinds/slots.pxd`)."""

from fastmgr.kinds.slots cimport OWNER_DIED, holder_of, mark_owner_died, party_of, session_of
from fastmgr.kinds.waits cimport Slots, Waiter, counted, current_owner
from fastmgr.memory.arena cimport KIND_NONE, KIND_SEMAPHORE
from fastmgr.memory.atomics cimport THREAD_BITS, uint64_t

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    MOST_SLOTS = 64     # permits that clients take and give back by themselves


cdef class Semaphore(Slots):
    """As `threading.Semaphore`; `kinds.primitives` says what a release by others does."""

    # The permits beyond `MOST_SLOTS`, and those that somebody released who had not taken them, have
    # no slot: the server alone changes these numbers.
    cdef Py_ssize_t spare       # free permits without a slot
    cdef dict held              # session -> how many permits without a slot it has
    cdef Py_ssize_t unsure      # permits that were released for a party that nobody knows

    def __init__(self, value=1):
        if value < 0:
            raise ValueError("semaphore initial value must be >= 0")
        value = counted(value)
        self.make_slots(value if value < MOST_SLOTS else MOST_SLOTS)
        self.kind = KIND_SEMAPHORE if self.slots else KIND_NONE
        self.spare = value - <Py_ssize_t>self.slots
        self.held = {}

    cdef Py_ssize_t value(self) noexcept:
        """How many permits are free."""
        cdef Py_ssize_t free = self.spare
        cdef size_t i
        for i in range(self.slots):
            free += holder_of(self.slot(i)) == 0
        return free

    cdef str state(self):
        return f"value={self.value()}"

    cdef bint take_now(self, uint64_t owner, bint wanted) except -1:
        if self.take_any(owner, wanted and self.spare == 0):
            return True
        if self.spare == 0:
            return False
        self.spare -= 1
        self.book(owner)
        return True

    cdef int book(self, uint64_t owner) except -1:
        """Note that a session has a permit without a slot; those of other owners are not noted."""
        session = session_of(owner)
        if session:
            self.held[session] = self.held.get(session, 0) + 1
        return 0

    cdef bint unbook(self, object session) except -1:
        """Note that a session has given such a permit back; False where it has none."""
        cdef Py_ssize_t left = self.held.get(session, 0) - 1
        if left > 0:
            self.held[session] = left
        else:
            self.held.pop(session, None)
        return left >= 0

    cdef dict taken(self):
        """How many permits each party has (`party_of`)."""
        cdef dict taken = self.held.copy()
        cdef uint64_t party
        cdef size_t i
        for i in range(self.slots):
            party = party_of(holder_of(self.slot(i)))
            if party:
                taken[party] = taken.get(party, 0) + 1
        return taken

    cdef int doubt(self, dict taken) except -1:
        """Note that a party has released a permit of one of those that have `taken` them."""
        cdef Py_ssize_t left = sum(taken.values()) - 1
        self.unsure = min(self.unsure + (len(taken) > 1), left)
        return 0

    cdef Py_ssize_t unreturned(self, Py_ssize_t n) except -1:
        """How many of `n` permits that the calling thread releases no death has given back."""
        cdef Py_ssize_t foreign
        if self.returned == 0:
            return n
        foreign = n - <Py_ssize_t>self.taken().get(party_of(current_owner().number), 0)
        return n - min(max(foreign, 0), self.returned)

    cdef int give_back(self, uint64_t owner) except -1:
        """Give back a permit of the releaser, or else of any party that has one."""
        cdef uint64_t session = session_of(owner), holder = 0, word
        cdef size_t i, found
        cdef dict others
        while True:
            found = self.slots
            for i in range(self.slots):
                word = holder_of(self.slot(i))
                if word == owner or (session and session_of(word) == session):
                    found, holder = i, word
                    break
                if word and session not in self.held:
                    found, holder = i, word
            if found == self.slots:
                break
            others = self.taken() if party_of(holder) != party_of(owner) else None
            if self.hand_on(found, holder, 0):
                if others is not None:
                    self.doubt(others)
                return 0
        if not self.unbook(session) and self.held:
            self.doubt(self.taken())
            self.unbook(next(iter(self.held)))
        return self.give_spare()

    cdef list holders(self):
        cdef list found = Slots.holders(self)
        for session, permits in self.held.items():
            found += [(session << THREAD_BITS, 0)] * permits
        return found

    cdef int give_spare(self) except -1:
        """Give a permit that has no slot to the first in the queue, or count it as free."""
        cdef Waiter waiter = self.next_waiter()
        if waiter is None:
            self.spare += 1
        else:
            self.book(waiter.owner.number)
            waiter.done(True)
        return 0

    cdef int hand_on_all_of(self, uint64_t session) except -1:
        cdef uint64_t holder
        cdef size_t i
        cdef Py_ssize_t held = self.held.get(session, 0), kept, given
        kept = min(held, self.unsure)
        if kept < held:
            given = held - kept
            self.held[session] = kept
            self.returned += given
            if self.slots:
                mark_owner_died(self.slot(0))
            for _ in range(given):
                self.give_spare()
        if kept == 0:
            self.held.pop(session, None)
        self.unsure -= kept
        for i in range(self.slots):
            holder = holder_of(self.slot(i))
            if session_of(holder) == session:
                if self.unsure:
                    self.unsure -= 1
                else:
                    self.returned += self.hand_on(i, holder, OWNER_DIED)
        return 0

    cdef int take_back(self, Waiter waiter) except -1:
        if waiter.value is True:
            self.give_back(waiter.owner.number)
        return 0

    def _acquire(self, Waiter waiter, blocking=True, timeout=None):
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        if self.take_now(waiter.owner.number, False):
            waiter.done(True)
        elif not blocking or (timeout is not None and <double>timeout <= 0):
            waiter.done(False)
        elif self.take_now(waiter.owner.number, True):
            waiter.done(True)
        else:
            self.park(waiter, self.waiting, timeout)

    def acquire(self, blocking=True, timeout=None):
        return self.block("acquire", (blocking, timeout))

    def release(self, n=1):
        if n < 1:
            raise ValueError("n must be one or more")
        cdef Py_ssize_t left = self.unreturned(n)
        if left > PY_SSIZE_T_MAX - self.value() - <Py_ssize_t>self.slots:
            raise OverflowError(f"release({n}): the semaphore's counter cannot be so high")
        self.returned -= n - left
        cdef uint64_t owner = current_owner().number
        # At most so many steps, for n may be large, and the loop has others to serve.
        cdef Py_ssize_t steps = len(self.waiting) + sum(self.held.values()) + self.slots
        while left and steps and (
            self.waiting or self.held or self.value() < self.spare + <Py_ssize_t>self.slots
        ):
            self.give_back(owner)
            left -= 1
            steps -= 1
        self.spare += left

    def locked(self):
        return self.value() == 0


cdef class BoundedSemaphore(Semaphore):
    """As `threading.BoundedSemaphore`."""

    cdef Py_ssize_t bound

    def __init__(self, value=1):
        Semaphore.__init__(self, value)
        self.bound = int(value)

    cdef str state(self):
        return f"value={self.value()}/{self.bound}"

    def release(self, n=1):
        if n < 1:
            raise ValueError("n must be one or more")
        if n > self.bound or self.value() + self.unreturned(n) > self.bound:
            raise ValueError("Semaphore released too many times")
        Semaphore.release(self, n)

    cdef int give_spare(self) except -1:
        if self.spare + <Py_ssize_t>sum(self.held.values()) >= self.bound - <Py_ssize_t>self.slots:
            return 0        # a client has just freed its slot: this permit would be one too many
        return Semaphore.give_spare(self)
