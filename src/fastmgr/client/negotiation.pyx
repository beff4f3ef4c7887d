# cython: auto_pickle=False
"""A session in the dialect that the server speaks, which the first connection shows.

A server that has spoken the fast dialect must go on doing so, for in the stdlib's dialect another
could answer in its place.
"""

cimport cython

from fastmgr.client.fast cimport FastSession
from fastmgr.client.session cimport Session, Target

from fastmgr.client.fast import OtherDialect
from fastmgr.client.stock import StockSession
from fastmgr.stock.dialect import uses_raw_sockets


@cython.final
cdef class ClientSession(FastSession):
    """A session in the fast dialect, until the server turns out to speak the stdlib's alone.

    From then on another session, in that dialect, does all its work.
    """

    cdef Session other(self):
        """The session that does the work; None for this one itself."""
        if not self.is_fast and self.fallback is None:
            try:
                if not uses_raw_sockets(self.serializer):
                    raise OtherDialect
                self.channel()
                self.is_fast = True
            except OtherDialect:
                fallback = StockSession(
                    self.address, self.serializer, self.authkey, self.timeout)
                if self.fallback is None:   # another thread may have found out meanwhile
                    self.fallback = fallback
        return self.fallback

    cpdef object call(self, Target target, object name, object args, object kwds):
        if self.is_fast or self.other() is None:
            return FastSession.call(self, target, name, args, kwds)
        return self.fallback.call(target, name, args, kwds)

    cdef object call_after_posts(
        self, Target target, object name, object args, object kwds, bint takes
    ):
        if self.is_fast or self.other() is None:
            return FastSession.call_after_posts(self, target, name, args, kwds, takes)
        return self.fallback.call_after_posts(target, name, args, kwds, takes)

    def pipeline(self, list calls):
        if not calls or self.other() is None:
            return FastSession.pipeline(self, calls)
        return self.fallback.pipeline(calls)

    def post(self, Target target, name, args, kwds):
        if self.other() is None:
            return FastSession.post(self, target, name, args, kwds)
        return self.fallback.post(target, name, args, kwds)

    def create(self, typeid, args, kwds, bint anonymous=False):
        if self.other() is None:
            return FastSession.create(self, typeid, args, kwds, anonymous)
        return self.fallback.create(typeid, args, kwds, anonymous)

    def acquire(self, Target target):
        if self.is_fast or target._id in self.holdings or self.other() is None:
            return FastSession.acquire(self, target)
        return self.fallback.acquire(target)

    def control(self, name, args=(), kwds=None):
        if self.other() is None:
            return FastSession.control(self, name, args, kwds)
        return self.fallback.control(name, args, kwds)

    cpdef object locate(self, Target target):
        return FastSession.locate(self, target) if self.other() is None else None

    def connect(self):
        cdef bool was_fast = self.is_fast
        if self.other() is not None:
            self.fallback.connect()
        elif was_fast:      # else it has just connected
            FastSession.connect(self)

    # -- what makes no connection -------------------------------------------

    def held(self):
        return FastSession.held(self) if self.fallback is None else self.fallback.held()

    def lost_connection(self):
        if self.fallback is None:
            return FastSession.lost_connection(self)
        return self.fallback.lost_connection()

    def stock_connection(self):
        if self.fallback is None:
            return FastSession.stock_connection(self)
        return self.fallback.stock_connection()

    def forget_connection(self):
        if self.fallback is None:
            FastSession.forget_connection(self)
        else:
            self.fallback.forget_connection()

    def close(self):
        FastSession.close(self)
        if self.fallback is not None:
            self.fallback.close()

    def retire(self):
        FastSession.retire(self)
        if self.fallback is not None:
            self.fallback.retire()
