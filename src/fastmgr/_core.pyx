"""The engine of a server: its parts are made here, and joined.

=============  ====================================================================
`Loop`         accepts, authenticates and watches connections on one thread
`Service`      what the loop asks of the parts; and workers, of which each serves one connection
`Operations`   what each operation of the fast dialect does; the loop and workers call it
`StockPeers`   the same in the stdlib's dialect
`Calls`        makes objects, calls their methods, and shares what these return
`Replies`      encodes replies, and tells of calls that get none
`Parking`      calls that wait
`Gifts`        what replies gave, until the client is known to have taken it
`Disposal`     drops objects where a destructor may run
`Reporter`     says what has been counted
=============  ====================================================================

A part is given the parts that it uses, and calls none that uses it.
"""

cimport cython

from fastmgr.memory.arena cimport Arena
from fastmgr.server.calls cimport Calls
from fastmgr.server.driver cimport Disposal, Load
from fastmgr.server.gifts cimport Gifts, Parking
from fastmgr.server.loop cimport Loop
from fastmgr.server.operations cimport Operations
from fastmgr.server.replies cimport Replies

from fastmgr.server.report import Reporter
from fastmgr.server.service import Service
from fastmgr.server.stock_peers import StockPeers


@cython.final
cdef class Engine:
    """What serves the clients of a server, which is `hooks`.

    There is no `listener` where the server accepts connections itself, on threads.  A user's
    ``Server.create`` is `create`: it shares what methods return to stock peers.
    """

    cdef readonly Loop loop
    cdef readonly object stock_peers, reporter
    cdef Disposal disposal
    cdef object service

    def __init__(self, hooks, listener, workers, bint offers_fast, create=None, Arena arena=None):
        load = Load()
        self.loop = Loop(hooks, listener, load)
        self.disposal = Disposal(workers)
        replies = Replies(hooks.table, self.disposal, load)
        gifts = Gifts(hooks.table, self.disposal)
        calls = Calls(hooks, gifts, create)
        parking = Parking(self.loop, replies, gifts, self.disposal)
        operations = Operations(hooks, load, calls, replies, gifts, parking, self.disposal, arena)
        self.stock_peers = StockPeers(hooks, calls)
        self.reporter = Reporter(hooks, workers, self.loop, arena)
        self.service = Service(self.stock_peers, workers, self.loop, operations, offers_fast)

    def run(self):
        """Serve until the loop is stopped."""
        self.loop.run(self.service)

    @property
    def disposing(self):
        """How many threads are dropping objects this moment."""
        return self.disposal.disposing
