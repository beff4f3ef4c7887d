# cython: auto_pickle=False
"""A session with a cluster: each object lies on the primary that owns the slot of its key.

Each thread has a connection with each node that it has used.  A request whose reply says that
another node is to be asked, or that the cluster is not ready, has not been run: it is made again,
for some time.  A request that may have been run is made again only if it changes nothing.
"""

cimport cython

from fastmgr.engines.valkey.connection cimport Connection
from fastmgr.engines.valkey.session cimport ThreadConnections, ValkeySession, wrong_type

from binascii import crc_hqx
from time import monotonic, sleep

from fastmgr.client.limits import CallTimeout, dial_limit
from fastmgr.engines.valkey import library, pipelines
from fastmgr.engines.valkey.dialing import dial, require_fit
from fastmgr.engines.valkey.errors import (
    ConnectionLost, PipelineError, ReplyError, exception_of, lost_again,
)
from fastmgr.engines.valkey.fences import fence_words
from fastmgr.engines.valkey.sightings import ClusterLife
from fastmgr.engines.valkey.topology import SLOTS, Topology

cdef enum:
    MOST_HOPS = 5               # redirections that are followed without a pause
    MOST_LOSSES = 5             # connections that a request which reads may cost

# Seconds for which a request is made again that no server has run, unless the caller says less.
cdef double PATIENCE = 30.0
# Seconds between two attempts.
cdef double FIRST_PAUSE = 0.005, LONGEST_PAUSE = 0.2
# Error replies of servers that have not run a request, and that another may run, or the same later.
cdef frozenset UNREADY = frozenset((
    "CLUSTERDOWN", "TRYAGAIN", "ASK", "MOVED", "READONLY", "UNBLOCKED", "MASTERDOWN", "LOADING",
    "BUSY"))
# What a function replies before it does anything, where its slot is on its way to another node.
cdef str MOVING = "non local key"


# -- slots --------------------------------------------------------------------------


cpdef int slot_of(bytes key) except -1:
    """Return the slot of a key: of the part in braces, if it has one."""
    cdef Py_ssize_t end, start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1:end]
    return <int>crc_hqx(key, 0) & (SLOT_COUNT - 1)


cdef int SLOT_COUNT = SLOTS


cdef int slot_of_request(object words) except -2:
    """Return the slot of the first key in a request; -1 where it has no key."""
    cdef object first = words[0], key
    if type(first) is not bytes:
        first = str(first).encode()
    if first in FUNCTION_CALLS:
        if int(words[2]) == 0:
            return -1
        key = words[3]
    elif len(words) < 2 or first in KEYLESS:
        return -1
    else:
        key = words[1]
    return slot_of(key if type(key) is bytes else str(key).encode())


cdef frozenset FUNCTION_CALLS = frozenset((b"FCALL", b"FCALL_RO"))
cdef frozenset KEYLESS = frozenset((
    b"PING", b"ECHO", b"INFO", b"CLIENT", b"FUNCTION", b"SCAN", b"TIME", b"PUBSUB", b"CONFIG",
    b"FLUSHALL", b"CLUSTER", b"WAIT", b"ROLE", b"DBSIZE"))


# -- the session ----------------------------------------------------------------------


cdef class NodeConnections(ThreadConnections):
    """The connections of one thread with the nodes of a cluster."""

    def __cinit__(self):
        self.at = {}
        self.epoch = 0


cdef class ClusterSession(ValkeySession):
    """What this process and one cluster have with each other."""

    def __init__(self, address, serializer, authkey, where):
        self.topology = Topology(where)
        self.table = self.topology.table
        super().__init__(address, serializer, authkey, where)
        self.clustered = True

    def make_life(self):
        return ClusterLife(self)

    def after_fork_in_child(self):
        self.topology.abandon()
        ValkeySession.after_fork_in_child(self)

    # -- connections ----------------------------------------------------------

    cdef NodeConnections own(self):
        """The calling thread's connections."""
        cdef NodeConnections mine = getattr(self.local, "connections", None)
        if mine is None:
            mine = NodeConnections()
            self.local.connections = mine
            self.opened.add(mine)
        return mine

    cdef Connection at(self, object node):
        """Return a connection of the calling thread with a node; it is opened if need be."""
        cdef NodeConnections mine = self.own()
        cdef Connection connection
        cdef list there = mine.at.get(node)
        if mine.epoch is not self.topology.epoch and not mine.settling:
            mine.lost = mine.lost or mine.epoch != 0    # what the thread has changed is elsewhere
            mine.epoch = self.topology.epoch
            if self.posting:    # of calls of one object the earlier one comes first
                pipelines.await_own_posts(self)
        if there is not None:
            for connection in there:
                if connection.usable and not connection.busy:
                    return connection
        connection = dial(self.where, node.host)
        connection.node = node
        mine.drop_unusable()
        mine.at[node] = [one for one in there or () if (<Connection>one).usable]
        mine.at[node].append(connection)
        mine.connections = [one for there in mine.at.values() for one in there]
        return connection

    cdef object owner(self, int slot):
        """Return the node that owns a slot, or any primary for -1."""
        cdef object node = None
        if slot >= 0:
            node = self.table[slot]
            if node is not None:
                return node
        if node is None and not self.topology.primaries or slot >= 0:
            self.topology.refresh()
        node = self.table[slot] if slot >= 0 else None
        if node is None:
            # It says that nobody owns the slot, if so.
            node = (self.topology.primaries or self.topology.nodes)[0]
        return node

    cpdef Connection connection(self):
        return self.at(self.owner(-1))

    cpdef Connection connection_of(self, words):
        cdef int slot = slot_of_request(words)
        cdef Connection connection
        while True:
            epoch = self.topology.epoch
            connection = self.at(self.owner(slot))
            # Another thread may learn of another owner before `at` looks: a call that is posted to
            # the old owner would be overtaken by the next.
            if epoch is self.topology.epoch:
                return connection

    def connect(self):
        self.topology.refresh()
        self.forget_idle()
        for node in self.topology.primaries:
            require_fit(self.at(node))

    def forget_idle(self):
        """Drop the calling thread's connections, but for those in use."""
        cdef NodeConnections mine = self.own()
        mine.connections = [one for one in mine.connections if (<Connection>one).busy]
        mine.at = {}
        for connection in mine.connections:
            mine.at.setdefault(connection.node, []).append(connection)

    def server(self, node):
        """Return what makes requests of one node."""
        return Server(self, node)

    def servers(self):
        return [Server(self, node) for node in self.topology.primaries]

    # -- requests -------------------------------------------------------------

    cpdef object ask(self, words, bint reads=False, timeout=None):
        cdef Connection connection = None
        cdef object reply
        if self.pending:
            self.references.flush()
        if self.fences and not reads:
            words = fence_words(self, words)
        if timeout is None:
            timeout = self.timeout
        try:
            connection = self.at(self.owner(slot_of_request(words)))
            reply = connection.call(words, timeout)
        except BaseException as error:
            if connection is not None and (connection.posted or connection.answered):
                pipelines.fail_posts(self, connection)
            if not may_be_made_again(error, connection, reads):
                raise
            return self.persist(words, error, connection, reads, timeout)
        if connection.answered:
            pipelines.settle_posts(self, connection)
        if type(reply) is ReplyError:
            return self.after_error_at(connection, words, reply, reads, timeout)
        return reply

    def after_error(self, words, reply, timeout=None):
        return self.after_error_at(None, words, reply, False, timeout)

    def after_error_at(self, Connection connection, words, reply, bint reads, timeout):
        """Do what `after_error` does, with the connection over which the reply came, if known."""
        reply = self.persist(words, reply, connection, reads, timeout)
        if type(reply) is ReplyError and reply.code == "WRONGTYPE":
            return wrong_type(reply, words, self.connection_of(words))
        return reply

    def persist(self, words, failure, Connection connection, bint reads, timeout):
        """Make a request again until a server has run it, or too long.

        Parameters
        ----------
        words : sequence of bytes, str or int
        failure : ReplyError or OSError
            What came of the request.
        connection : Connection, optional
            Where that was.
        reads : bool
        timeout : float, optional

        Returns
        -------
        object
            The reply; an error reply that more attempts do not help is a `ReplyError`.
        """
        return Attempts(self, words, reads, timeout).run(failure, connection)

    def look_again(self):
        """Ask which node owns what, of any node that answers."""
        try:
            self.topology.refresh()
        except OSError:
            pass    # the request itself will tell


@cython.final
cdef class Attempts:
    """A request that is made more than once, as no server has run it yet."""

    cdef ClusterSession session
    cdef object words, timeout
    cdef bint reads
    cdef int slot
    cdef double end, pause
    cdef int hops, loads, losses
    # What is to be done next:
    cdef object node                # where to ask, unless that is the slot's owner
    cdef bint asking                # by ``ASKING``
    cdef bint waits                 # a while before
    cdef bint is_over

    def __init__(self, ClusterSession session, words, bint reads, timeout):
        self.session = session
        self.words = words
        self.reads = reads
        self.timeout = timeout
        self.slot = slot_of_request(words)
        self.end = monotonic() + dial_limit(PATIENCE if timeout is None else timeout)
        self.pause = FIRST_PAUSE

    cdef object run(self, object failure, Connection connection):
        """Make the request until it is done; `failure` came of the first attempt."""
        cdef object reply
        while True:
            self.consider(failure, connection)
            if self.is_over:
                return failure
            if self.waits:
                if monotonic() > self.end:
                    return self.give_up(failure)
                sleep(self.pause)
                self.pause = min(2 * self.pause, LONGEST_PAUSE)
            connection = None
            try:
                connection = self.session.at(self.node or self.session.owner(self.slot))
                if self.asking:
                    reply = connection.pipeline([[b"ASKING"], self.words], self.timeout)[1]
                else:
                    reply = connection.call(self.words, self.timeout)
            except BaseException as error:
                if connection is not None and (connection.posted or connection.answered):
                    pipelines.fail_posts(self.session, connection)
                if not may_be_made_again(error, connection, self.reads):
                    raise
                failure = error
                continue
            if connection.answered:
                pipelines.settle_posts(self.session, connection)
            if type(reply) is not ReplyError:
                return reply
            failure = reply

    cdef int consider(self, object failure, Connection connection) except -1:
        """Decide what is to be done after a failure; learn what it says of the cluster."""
        cdef ClusterSession session = self.session
        self.node = None
        self.asking = False
        self.waits = True
        if type(failure) is not ReplyError:
            if isinstance(failure, ConnectionLost) and failure.applied is not False:
                self.losses += 1
                if self.losses > MOST_LOSSES:
                    raise lost_again(failure)
            session.look_again()
        elif failure.code == "MOVED" or failure.code == "ASK":
            self.follow(
                failure, session.owner(self.slot) if connection is None else connection.node)
        elif failure.is_missing_function and self.loads < 2:
            self.loads += 1
            self.waits = False
            self.node = session.owner(self.slot) if connection is None else connection.node
            library.load(Server(session, self.node))
        elif failure.code in UNREADY:
            if failure.code not in ("BUSY", "TRYAGAIN"):
                session.look_again()
        elif MOVING not in failure.text:
            self.is_over = True
        return 0

    cdef int follow(self, object failure, object beside) except -1:
        """Go where a redirection leads; `beside` is the node that has said so."""
        cdef object topology = self.session.topology
        self.hops += 1
        self.waits = self.hops > MOST_HOPS
        if failure.code == "MOVED":
            topology.learn(failure.text, beside)
            if self.waits:
                self.session.look_again()
        elif self.words[0] in FUNCTION_CALLS:
            self.waits = True       # not all keys of the object are there yet
        else:
            self.asking = True
            self.node = topology.read_redirection(failure.text, beside)[1]
        return 0

    cdef object give_up(self, object failure):
        """Return an error reply, or raise what says that the request was not made."""
        if type(failure) is not ReplyError:
            raise failure
        if failure.code in ("BUSY", "LOADING"):
            return failure
        why = "its slot is being moved" if MOVING in failure.text else str(failure)
        raise ConnectionLost(
            f"the cluster at {self.session.address!r} is not ready: {why}; the call was not made",
            False)


cdef bint may_be_made_again(object error, Connection connection, bint reads) except -1:
    """Whether a request failed for want of a server, and no server has run it, or it only reads."""
    if isinstance(error, ConnectionLost):
        return error.applied is False or reads
    if type(error) is CallTimeout:
        return False
    if connection is None and isinstance(error, OSError):
        return isinstance(error, ConnectionError) or error.errno is not None
    return False


class Server:
    """One node of a cluster: requests to this are not for the owner of a key.

    Parameters
    ----------
    session : ClusterSession
    node : Node
    """

    def __init__(self, session, node):
        self.session = session
        self.node = node

    def ask(self, words, bint reads=False, timeout=None):
        """Make a request as `ValkeySession.ask` does."""
        cdef ClusterSession session = self.session
        cdef Connection connection = session.at(self.node)
        reply = connection.call(words, session.timeout if timeout is None else timeout)
        if connection.answered:
            pipelines.settle_posts(session, connection)
        if type(reply) is ReplyError and reply.is_missing_function:
            library.load(self)
            reply = connection.call(words, session.timeout if timeout is None else timeout)
        return reply

    def run(self, words, bint reads=False, timeout=None):
        """Make a request as `ValkeySession.run` does."""
        reply = self.ask(words, reads, timeout)
        if type(reply) is ReplyError:
            raise exception_of(reply)
        return reply


# -- pipelines --------------------------------------------------------------------------


def run_by_node(ClusterSession session, list requests):
    """Make the requests of a pipeline, those of each node together.

    Returns
    -------
    replies : list
        In the order of the requests; `pipelines.UNANSWERED` for one that may have been run, or not.
    error : ConnectionLost or None
        How the connection with a node was lost.
    """
    cdef list replies = [pipelines.UNANSWERED] * len(requests)
    cdef list begun = []
    cdef dict groups = {}
    cdef Connection connection
    cdef list places
    cdef Py_ssize_t i
    lost = None
    for i in range(len(requests)):
        node = session.owner(slot_of_request(requests[i]))
        if node not in groups:
            groups[node] = []
        (<list>groups[node]).append(i)
    try:
        for node, places in groups.items():
            connection = None
            try:
                connection = session.at(node)
                connection.start_pipeline([requests[i] for i in places], session.timeout)
            except BaseException as error:
                if may_be_made_again(error, connection, False):
                    for i in places:
                        replies[i] = session.persist(
                            requests[i], error, connection, False, session.timeout)
                    continue
                if not isinstance(error, ConnectionLost):
                    raise
                lost = error
                pipelines.fail_posts(session, connection)
                if isinstance(error, PipelineError):    # not all of it could be sent
                    for i in range(len(error.results)):
                        replies[<Py_ssize_t>places[i]] = error.results[i]
                continue
            begun.append((connection, places))
        while begun:
            connection, places = begun[0]
            try:
                found = connection.finish_pipeline()
            except PipelineError as error:
                pipelines.fail_posts(session, connection)
                lost, found = error, error.results
            del begun[0]
            if connection.answered:
                pipelines.settle_posts(session, connection)
            for i in range(len(found)):
                replies[<Py_ssize_t>places[i]] = found[i]
    finally:
        for connection, _ in begun:     # their replies are never received
            connection.abandon()
    return replies, lost
