# cython: auto_pickle=False
"""Many calls in one go, and calls whose replies the caller does not wait for.

The requests of a pipeline are sent and their replies received by turns.  Consecutive calls of a
method that joins, of one object, are one request.  Between two of its requests a pipeline makes the
calls that are no single request, as those that wait.

The reply to a posted call comes before the reply to the thread's next call over the same
connection.  A failure is kept for that call (`Session.keep_failure`).
"""

cimport cython

from fastmgr.client.session cimport (
    FOR_DISPLAY, Outcome, Target, error_of, failed_before, note_oneway_calls, outcome_of,
)
from fastmgr.engines.valkey.commands cimport Command
from fastmgr.engines.valkey.connection cimport Connection
from fastmgr.engines.valkey.session cimport ThreadConnections, ValkeySession
from fastmgr.link.stream cimport OP_REFUSED

from multiprocessing import util
from time import monotonic

from fastmgr.client.session import raised
from fastmgr.engines.valkey.errors import ConnectionLost, PipelineError, ReplyError

# Seconds in which a process that ends waits for the replies to its posted calls.
cdef double EXIT_TIMEOUT = 5.0


@cython.final
cdef class Entry:
    """A call of a pipeline, or a posted call, that is one request."""

    cdef Target target
    cdef object name, words, args, kwds
    cdef Command command
    cdef bytes key

    cdef object outcome(self, ValkeySession session, object reply, bint is_last):
        """What the call came to, by its reply; `is_last`: no call after it has been made yet."""
        try:
            if type(reply) is not ReplyError:
                return self.command.result(reply, self.key, self.args, self.kwds, session)
            if is_last or not is_refused(reply):
                reply = session.after_error(self.words, reply, session.timeout)
            if type(reply) is not ReplyError:
                return self.command.result(reply, self.key, self.args, self.kwds, session)
            return raised(
                self.command.failure(reply, self.key, self.args, self.kwds, session))
        except ConnectionLost:
            raise
        except Exception as error:
            return raised(error)


cdef inline bint is_refused(object reply):
    """Whether the server has refused a call for a while: to make it later would change the order.

    (For a function that the server lacks there is no such care: a server has the functions from the
    first call of a session on.)
    """
    return type(reply) is ReplyError and reply.code in ("BUSY", "LOADING")


cdef object entry_of(ValkeySession session, Target target, name, args, kwds):
    """Return the entry of a call, an outcome where it cannot be made, None for several steps."""
    cdef Entry entry
    method = session.methods_of(target._token.typeid).get(name)
    if not isinstance(method, Command):
        return None
    entry = Entry.__new__(Entry)
    entry.target = target
    entry.name = name
    entry.args = args
    entry.kwds = kwds
    entry.command = method
    entry.key = session.key_of(target._id)
    try:
        entry.words = entry.command.request(entry.key, args, kwds, session)
    except Exception as error:
        return raised(error)
    if not entry.command.reads and entry.words[0] in READS:
        return None     # what is read is computed with, and written
    return entry


# Commands that only read: a method that writes has further requests to make.
cdef frozenset READS = frozenset((
    b"FCALL_RO", b"GET", b"GETRANGE", b"HGET", b"HGETALL", b"HMGET", b"LINDEX", b"LLEN", b"LRANGE",
    b"SMEMBERS", b"ZRANGE",
))


# -- pipelines --------------------------------------------------------------------


@cython.final
cdef class Group:
    """Consecutive calls of a pipeline that are one request."""

    cdef Command command
    cdef bytes key
    cdef list calls                 # arguments and keywords, by turns
    cdef Py_ssize_t first           # which call of the pipeline is the first
    cdef object words, state


@cython.final
cdef class Joint:
    """Entries whose requests call one function of our library: they are one request."""

    cdef list entries, places       # and which call of the pipeline each is
    cdef object words

    def __cinit__(self, Entry entry, Py_ssize_t place):
        self.entries = [entry]
        self.places = [place]
        self.words = list(entry.words)

    cdef bint takes(self, Entry entry) except -1:
        """Whether an entry can be part of the request."""
        cdef Entry first = self.entries[0]
        return (
            len(self.entries) < entry.command.joins
            and first.command is entry.command and first.key == entry.key
            and entry.words[0] == b"FCALL" and entry.words[1] == first.words[1]
        )

    cdef int add(self, Entry entry, Py_ssize_t place) except -1:
        self.entries.append(entry)
        self.places.append(place)
        self.words += entry.words[OWN_WORDS:]
        return 0


# The words that all calls of a function of one object have in common: FCALL, its name, 1, the key.
cdef Py_ssize_t OWN_WORDS = 4


@cython.final
cdef class Batch:
    """Calls of a pipeline that are sent together.

    `units` are entries, joints and groups, `requests` theirs, and `places` say which call of the
    pipeline each is, or begins with.
    """

    cdef ValkeySession session
    cdef list calls, results        # of the whole pipeline
    cdef list units, requests, places

    def __cinit__(self, ValkeySession session, list calls, list results):
        self.session = session
        self.calls = calls
        self.results = results
        self.clear()

    cdef int clear(self) except -1:
        self.units = []
        self.requests = []
        self.places = []
        return 0

    cdef Py_ssize_t add_group(self, Command command, Py_ssize_t first) except -1:
        """Add the call at `first`, and those after it that may be one request with it.

        Returns how many calls these are.
        """
        cdef Py_ssize_t i = first, count = len(self.results)
        cdef Target target = self.calls[4 * first]
        cdef object name = self.calls[4 * first + 1]
        cdef list calls = self.calls, given = []
        cdef Group group
        while (
            i < count and i - first < command.joins
            and calls[4 * i] is target and calls[4 * i + 1] == name
        ):
            given.append(calls[4 * i + 2])
            given.append(calls[4 * i + 3])
            i += 1
        group = Group.__new__(Group)
        group.command = command
        group.key = self.session.key_of(target._id)
        joined = None
        if i - first > 1:
            joined = command.join_calls(group.key, given, self.session)
        if joined is None:
            count = i
            for i in range(first, count):
                self.add(i)
            return count - first
        group.words, group.state = joined
        group.calls = given
        group.first = first
        self.units.append(group)
        self.requests.append(group.words)
        self.places.append(first)
        return i - first

    cdef int add(self, Py_ssize_t place) except -1:
        """Add a call; one of several steps is made at once, after all before it."""
        cdef Py_ssize_t at = 4 * place
        cdef list calls = self.calls
        entry = entry_of(
            self.session, calls[at], calls[at + 1], calls[at + 2], calls[at + 3])
        if type(entry) is Entry:
            self.add_entry(<Entry>entry, place)
        elif entry is not None:
            self.results[place] = entry
        else:
            self.run()
            self.results[place] = self.session.call(
                calls[at], calls[at + 1], calls[at + 2], calls[at + 3])
        return 0

    cdef int add_entry(self, Entry entry, Py_ssize_t place) except -1:
        cdef Joint joint
        if entry.command.joins > 1 and entry.words[0] == b"FCALL":
            last = self.units[len(self.units) - 1] if self.units else None
            if type(last) is Joint and (<Joint>last).takes(entry):
                (<Joint>last).add(entry, place)
                return 0
            joint = Joint(entry, place)
            self.units.append(joint)
            self.requests.append(joint.words)
        else:
            self.units.append(entry)
            self.requests.append(entry.words)
        self.places.append(place)
        return 0

    cdef int run(self) except -1:
        """Make the requests, and put what the calls came to among the results."""
        cdef Connection connection
        if not self.requests:
            return 0
        if self.session.clustered:
            return self.run_by_node()
        connection = self.session.connection()
        try:
            replies = connection.pipeline(self.requests, self.session.timeout)
        except BaseException as error:
            fail_posts(self.session, connection)
            if isinstance(error, PipelineError):
                raise self.cut(error) from None
            if not isinstance(error, ConnectionLost) or error.applied is not False:
                raise
            replies = None
        if replies is None:     # the connection was closed before anything was sent
            replies = self.session.connection().pipeline(self.requests, self.session.timeout)
        if connection.answered:
            settle_posts(self.session, connection)
        self.settle(replies)
        self.clear()
        return 0

    cdef int run_by_node(self) except -1:
        """Make the requests to several nodes of a cluster; otherwise as `run`."""
        from fastmgr.engines.valkey import nodes

        replies, lost = nodes.run_by_node(self.session, self.requests)
        self.settle(replies)
        if lost is not None:
            raise self.cut_by_node(replies, lost)
        self.clear()
        return 0

    cdef int settle(self, list replies) except -1:
        """Put what calls came to among the results; some replies may not have come."""
        cdef Py_ssize_t i, tail = len(replies)
        while tail and is_refused(replies[tail - 1]):
            tail -= 1           # from here on all are made now, in order
        for i in range(len(replies)):
            reply = replies[i]
            if reply is UNANSWERED:
                continue
            replies[i] = None       # with its result a reply would take twice the memory
            unit = self.units[i]
            if type(unit) is Group:
                self.settle_group(<Group>unit, reply, i >= tail)
            elif type(unit) is Joint:
                self.settle_joint(<Joint>unit, reply, i >= tail)
            else:
                self.results[<Py_ssize_t>self.places[i]] = (<Entry>unit).outcome(
                    self.session, reply, i >= tail)
        return 0

    cdef int settle_joint(self, Joint joint, object reply, bint is_last) except -1:
        cdef Py_ssize_t i
        for i in range(len(joint.entries)):
            one = reply
            if type(reply) is list and len(joint.entries) > 1:
                one = (<list>reply)[i]
                if type(one) is not ReplyError:
                    one = [one]     # as if the call had been alone
            self.results[<Py_ssize_t>joint.places[i]] = (<Entry>joint.entries[i]).outcome(
                self.session, one, is_last)
        return 0

    cdef int settle_group(self, Group group, object reply, bint is_last) except -1:
        cdef Py_ssize_t i, count = len(group.calls) // 2
        cdef list parts
        cdef ValkeySession session = self.session
        if type(reply) is ReplyError and (is_last or not is_refused(reply)):
            reply = session.after_error(group.words, reply, session.timeout)
        if type(reply) is ReplyError:
            for i in range(count):
                self.results[group.first + i] = raised(group.command.failure(
                    reply, group.key, group.calls[2 * i], group.calls[2 * i + 1], session))
            return 0
        parts = group.command.split_reply(reply, group.state)
        for i in range(count):
            if parts[i] is NotImplemented:
                parts[i] = self.alone(group, i)
        self.results[group.first:group.first + count] = parts
        return 0

    cdef object alone(self, Group group, Py_ssize_t i):
        """Make a call of a group by itself."""
        try:
            return self.session.perform(
                group.command, group.key, group.calls[2 * i], group.calls[2 * i + 1])
        except ConnectionLost:
            raise
        except Exception as error:
            return raised(error)

    cdef object cut(self, error):
        """The error of a pipeline that was cut, in terms of calls."""
        cdef Py_ssize_t first, count = len(self.results)
        try:
            self.settle(error.results)
        except ConnectionLost:
            pass                # of a call that was to be made by itself
        first = self.places[len(error.results)]
        done = [error_of(one) if type(one) is Outcome else one for one in self.results[:first]]
        return PipelineError(
            f"{str(error).partition(';')[0]}; {first} of {count} calls of the pipeline were "
            "answered, the others may have been applied", done, range(first, count))

    cdef object cut_by_node(self, list replies, error):
        """The error of a pipeline that a node did not answer in full, in terms of calls."""
        cdef Py_ssize_t i, count = len(self.results)
        cdef set known = set(range(<Py_ssize_t>self.places[0]))
        for i in range(len(replies)):
            if replies[i] is not UNANSWERED:
                known.update(self.calls_of(i))
        known.update(i for i in range(count) if self.results[i] is not None)
        unknown = sorted(set(range(count)) - known)
        done = [error_of(one) if type(one) is Outcome else one for one in self.results]
        return PipelineError(
            f"{str(error).partition(';')[0]}; {len(known)} of {count} calls of the pipeline were "
            "answered, the others may have been applied", done, unknown)

    cdef object calls_of(self, Py_ssize_t i):
        """Which calls of the pipeline a unit is."""
        unit = self.units[i]
        if type(unit) is Group:
            return range((<Group>unit).first, (<Group>unit).first + len((<Group>unit).calls) // 2)
        return (<Joint>unit).places if type(unit) is Joint else (self.places[i],)


# What stands for a reply that has not come, as the connection with a node was lost.
UNANSWERED = object()


def run_pipeline(ValkeySession session, list calls):
    """Make many calls together, as `Session.pipeline` says."""
    cdef Py_ssize_t i = 0, count = len(calls) // 4
    cdef list results = [None] * count
    cdef Batch batch = Batch(session, calls, results)
    if session.pending:
        session.references.flush()
    while i < count:
        method = session.methods_of((<Target>calls[4 * i])._token.typeid).get(calls[4 * i + 1])
        if isinstance(method, Command) and (<Command>method).joins > 1:
            i += batch.add_group(<Command>method, i)
        else:
            batch.add(i)
            i += 1
    batch.run()
    failure = getattr(session.local, "failure", None)
    if failure is not None and count:
        session.local.failure = None
        results[0] = failed_before(failure[0], failure[1], results[0])
    return results, [i for i in range(count) if type(results[i]) is Outcome]


# -- posted calls -------------------------------------------------------------------


def post_call(ValkeySession session, Target target, name, args, kwds):
    """Make a call and do not wait for its reply."""
    cdef Connection connection
    note_oneway_calls()
    entry = entry_of(session, target, name, args, kwds)
    if type(entry) is not Entry:
        await_own_posts(session)    # the first failure is the one that is told
        outcome = session.call(target, name, args, kwds) if entry is None else entry
        session.keep_failure(target, name, outcome)
        return
    connection = session.connection_of((<Entry>entry).words)
    try:
        connection.post((<Entry>entry).words, entry)
    except BaseException as error:
        fail_posts(session, connection)
        if not isinstance(error, ConnectionLost) or error.applied is not False:
            raise
        connection = session.connection_of((<Entry>entry).words)
        connection.post((<Entry>entry).words, entry)
    if session.posting is None:
        session.posting = {}
        util.Finalize(session, await_posts, args=(session.posting,), exitpriority=20)
    # A connection with replies to come stays open though its thread ends.
    session.posting[id(connection)] = connection
    if connection.answered:
        settle_posts(session, connection)


def settle_posts(ValkeySession session, Connection connection):
    """Take the replies to posted calls; what they raised is kept for the thread's next call.

    Returns whether some were errors: such a call may have been made again by now.
    """
    cdef Entry entry
    cdef bint again = False
    cdef ThreadConnections mine = getattr(session.local, "connections", None) or unused
    cdef bint before = mine.settling
    if not connection.posted and session.posting is not None:
        session.posting.pop(id(connection), None)
    if connection.settling:
        return False    # by who has begun with it: the earlier ones come first
    connection.settling = True
    mine.settling = True    # a call that is made again comes before those that are not answered
    try:
        while connection.answered:
            answered = connection.answered
            connection.answered = []
            for entry, reply in answered:
                again = again or type(reply) is ReplyError
                session.keep_failure(entry.target, entry.name, entry.outcome(session, reply, False))
    finally:
        connection.settling = False
        mine.settling = before
    if not connection.posted and session.posting is not None:
        session.posting.pop(id(connection), None)
    return again


# Of a thread that has none.
cdef ThreadConnections unused = ThreadConnections()


def fail_posts(ValkeySession session, Connection connection):
    """Posted calls may not have been made: their connection was lost."""
    cdef Entry entry
    cdef list unknown
    if connection.usable:
        return
    unknown = connection.posted[:]
    connection.posted.clear()
    if connection.answered:
        settle_posts(session, connection)
    if session.posting is not None:
        session.posting.pop(id(connection), None)
    for entry in unknown:
        session.keep_failure(entry.target, entry.name, raised(ConnectionLost(
            "the connection was lost before a one-way call was answered: it may have been "
            "applied")))


def call_after(
    ValkeySession session, Target target, object name, object args, object kwds, bint takes
):
    """Make a call; if posted calls of the thread have failed before, the outcome says so."""
    if name in FOR_DISPLAY:
        return session.call(target, name, args, kwds)
    outcome = None
    if takes:
        await_own_posts(session)
    if not takes or getattr(session.local, "failure", None) is None:
        outcome = session.call(target, name, args, kwds)
    else:
        outcome = outcome_of(OP_REFUSED, None, 0)
    failure = getattr(session.local, "failure", None)
    if failure is None:
        return outcome
    session.local.failure = None
    return failed_before(failure[0], failure[1], outcome)


cpdef int await_own_posts(ValkeySession session) except -1:
    """Wait for the replies to the calling thread's posted calls."""
    cdef ThreadConnections mine = getattr(session.local, "connections", None)
    cdef Connection connection
    if mine is None:
        return 0
    for connection in mine.connections[:]:
        if not connection.posted or connection.busy:
            continue
        try:
            connection.await_posted(session.timeout)
        except ConnectionLost:
            fail_posts(session, connection)
            continue
        except BaseException:
            fail_posts(session, connection)
            raise
        settle_posts(session, connection)
    return 0


def await_posts(dict posting):
    """At the end of the process: wait until the server has served what was posted."""
    cdef Connection connection
    cdef double end = monotonic() + EXIT_TIMEOUT
    for connection in list(posting.values()):
        try:
            if connection.usable and not connection.busy:
                connection.await_posted(max(end - monotonic(), 0.001))
        except OSError as error:
            util.debug("one-way calls may not have been served: %s", error)
