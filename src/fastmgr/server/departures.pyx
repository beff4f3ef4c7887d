"""The end of a connection, and of a session with its last one."""

cimport cython

from fastmgr.kinds.waits cimport Primitive
from fastmgr.server.cells cimport Cells
from fastmgr.server.connection cimport IN_ORDER, Conn
from fastmgr.server.disposal cimport Disposal
from fastmgr.server.gifts cimport Gifts
from fastmgr.server.parking cimport Parking
from fastmgr.server.table cimport Entry, Session, Table


@cython.final
cdef class Departures:
    """What is put right when a client goes."""

    def __init__(
        self, Table table, Cells cells, Gifts gifts, Parking parking, Disposal disposal
    ):
        self.table = table
        self.cells = cells
        self.gifts = gifts
        self.parking = parking
        self.disposal = disposal

    cdef int leave(self, Conn conn) except -1:
        """The client is gone; with its session's last connection go its references."""
        cdef Session session = conn.session
        try:
            self.end_exchange(conn)
        finally:
            if session is not None:
                session.broken = session.broken or conn.end != IN_ORDER
                if self.table.leave(session):
                    self.end_session(session)
        return 0

    cdef int end_session(self, Session session) except -1:
        """Return the references of a client process, and hand on what it held if it was killed."""
        cdef Entry entry
        self.cells.leave(session)
        if session.broken and not session.clean:
            # After an exit in order what it held stays held, as in the stdlib.
            for key in list(session.parked):
                entry = self.table.find(key)
                if entry is not None and entry.parks:
                    (<Primitive>entry.obj).hand_on_all_of(session.number)
        return self.disposal.drop(self.table.forsake(session))

    cdef int end_exchange(self, Conn conn) except -1:
        """End the wait of a client that is gone, and take back what it has not taken."""
        self.parking.end(conn)
        self.gifts.left(conn)
        if conn.failure is not None:
            failure, conn.failure = conn.failure, None
            self.disposal.doom(failure)
        return 0
