# cython: auto_pickle=False
"""What the methods of shared types are made of on a Valkey server."""

from fastmgr.engines.valkey.errors import exception_of

#: By a type's id, then by a method's name: a `Command` or a `Procedure`.  The method ``#create``
#: makes the object, with the arguments of the manager's create method.
METHODS = {}


cdef class Command:
    """A method that is one request and its reply: it can be pipelined, and posted.

    Attributes
    ----------
    reads : bool
        The request changes nothing: after a lost connection it may be sent again.
    joins : int
        In a pipeline up to so many consecutive calls, of one object, may be one request: as
        `join_calls` says, or, where that returns None, one call of the function that each of them
        calls, with the arguments of all.  Such a function returns an array of what each call comes
        to, also for one call.  0 and 1: each call is a request.
    """

    def __cinit__(self, *args, **kwds):
        # An attribute of a subclass hides ours of the same name, which the session looks at.
        if isinstance(type(self).reads, bool):
            self.reads = type(self).reads
        if isinstance(type(self).joins, int):
            self.joins = type(self).joins

    cpdef object request(self, bytes key, object args, object kwds, object session):
        """Return the request.

        Parameters
        ----------
        key : bytes
            The object's main key.
        args : sequence
        kwds : mapping or None
        session : ValkeySession

        Returns
        -------
        list of bytes, str or int

        Raises
        ------
        Exception
            What the method raises for such arguments; nothing has been sent.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define request()")

    cpdef object result(self, object reply, bytes key, object args, object kwds, object session):
        """Return what the method returns for a reply, or raise what the method raises."""
        return reply

    cpdef object failure(self, object reply, bytes key, object args, object kwds, object session):
        """Return the exception for an error reply."""
        return exception_of(reply, args)

    cpdef tuple join_calls(self, bytes key, list calls, object session):
        """Return one request for several calls; None where it cannot, and has done nothing.

        Parameters
        ----------
        key : bytes
        calls : list
            The arguments of the first call, its keywords (or None), those of the second ...

        Returns
        -------
        words : list of bytes, str or int
        state : object
            What `split_reply` needs to know.
        """
        return None

    cpdef list split_reply(self, object reply, object state):
        """Return what the calls of a joined request return.

        `NotImplemented` stands for a call that was not made and is to be made by itself.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define split_reply()")


cdef class Procedure:
    """A method of several steps, as one that waits: it runs in the caller's thread.

    A subclass defines ``__call__(session, key, args, kwds)``, which returns what the method
    returns, or raises what the method raises.
    """

    def __call__(self, session, bytes key, args, kwds):
        raise NotImplementedError(f"{type(self).__name__} does not define __call__()")


cdef class FunctionMethod(Procedure):
    """A method that is a function of the session, the key and the arguments.

    It is compiled so that no signal's handler can raise between the end of the function, which has
    taken a lock for the caller, and the caller.
    """

    def __init__(self, function):
        self.function = function

    def __call__(self, session, bytes key, args, kwds):
        return self.apply(session, key, args, kwds)

    cdef object apply(self, object session, bytes key, object args, object kwds):
        if kwds:
            return self.function(session, key, *args, **kwds)
        if not args:
            return self.function(session, key)
        return self.function(session, key, *args)
