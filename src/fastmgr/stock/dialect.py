"""The stdlib's wire: serializers, connection objects, and its names for our classes.

A stock peer knows our classes as ``multiprocessing.managers.*``.  Our pickles for it name them so,
and its pickles are read as ours.  Neither loads the stock module here.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import types
from collections.abc import Callable
from multiprocessing import AuthenticationError, connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn

from fastmgr.link.introduction import stock_is_refused
from fastmgr.link.sockets import connect, settle
from fastmgr.link.stream import Stream
from fastmgr.wire.opaque import check_nesting

__all__ = [
    "FORGOTTEN", "RESTARTED", "SERIALIZERS", "Idle", "LockLost", "NotHosted", "RemoteError",
    "ServerRestarted", "StaleFence", "StockConnection", "Token",
    "convert_to_error", "dispatch", "listener_and_client", "listener_client", "receive",
    "stock_client", "uses_raw_sockets",
]  # fmt: skip

STOCK_MODULE = "multiprocessing.managers"
OUR_MODULE = "fastmgr.managers"

#: By the name of a serializer: what listens and what connects in the stdlib's dialect.  Users add
#: their own here, which managers with ``serializer=name`` then use.
listener_client: dict[str, tuple[Any, Any]] = {
    "pickle": (connection.Listener, connection.Client),
    "xmlrpclib": (connection.XmlListener, connection.XmlClient),  # type: ignore[attr-defined]
}
_OWN_ENTRIES = dict(listener_client)


def listener_and_client(serializer: str) -> tuple[Any, Any]:
    """Return the entry of `listener_client` for `serializer`; KeyError where there is none."""
    try:
        return listener_client[serializer]
    except KeyError:
        raise KeyError(
            f"no serializer is called {serializer!r}: take one of "
            f"{', '.join(map(repr, listener_client))}, or add yours to listener_client"
        ) from None


def uses_raw_sockets(serializer: str) -> bool:
    """Whether the entry for `serializer` is the stdlib's, which we replace by our sockets."""
    return listener_and_client(serializer) == _OWN_ENTRIES.get(serializer)


class Token:
    """What names a shared object.

    Parameters
    ----------
    typeid : str
        The name under which its type is registered.
    address : address
        Its server's.
    id : str
        Its ident there.
    """

    __slots__ = ("address", "id", "typeid")

    def __init__(self, typeid: str, address: Any, id: str) -> None:
        self.typeid, self.address, self.id = typeid, address, id

    def __getstate__(self) -> tuple[str, Any, str]:
        return self.typeid, self.address, self.id

    def __setstate__(self, state: tuple[str, Any, str]) -> None:
        self.typeid, self.address, self.id = state

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(typeid={self.typeid!r}, "
            f"address={self.address!r}, id={self.id!r})"
        )


class RemoteError(Exception):
    """What went wrong in the server, as the server's own traceback.

    It stands for what is no exception of the method that was called: the method is not exposed, the
    object is gone, its result cannot be pickled.

    Examples
    --------
    >>> try:
    ...     manager.dict()._callmethod("no_such_method")
    ... except fastmgr.RemoteError as error:
    ...     "no_such_method" in str(error)
    True
    """

    def __str__(self) -> str:
        rule = "-" * 75
        return f"\n{rule}\n{self.args[0]}{rule}"


class LockLost(RuntimeError):
    """The lock was the thread's, and others may have taken it since.

    The server that had the lock has ended, and another one serves at its address.  Or the
    connection was lost that shows an engine's server that this process lives, and the server has
    gone on without this process.
    """


class StaleFence(RuntimeError):
    """Nothing was changed, for a later holder of the lock has changed the object."""


class ServerRestarted(RemoteError):
    """The object was that of a server which has ended: another one serves at its address now.

    The call was not made.  Objects that have a name (``name=``) are found again, if the server
    keeps them in a file (``arena=``), or once somebody has made one of that name.  Where such a
    name may have been forgotten instead (`BaseManager.forget`), the message says so.

    Attributes
    ----------
    applied : bool
        False: the server has not run the call.
    """

    applied = False

    def __str__(self) -> str:
        return str(self.args[0])


#: What a server says of an ident that is not one of its own, and of one that only a name explains
#: which the server had, or another one before. Clients of other versions look for these texts.
RESTARTED = "another server shared it: the one at this address was restarted"
FORGOTTEN = "the server keeps no object of its name (any more)"


class NotHosted(RemoteError):
    """What serves at the manager's address cannot host such an object, or do that with one.

    The message says what to use in its place.

    Examples
    --------
    >>> try:
    ...     manager.wait_for_replicas()
    ... except fastmgr.NotHosted:
    ...     print("a fastmgr server has no replicas")
    a fastmgr server has no replicas
    """


def convert_to_error(kind: str, result: Any) -> BaseException:
    """Return the exception that a reply of the stdlib's dialect stands for.

    Parameters
    ----------
    kind : str
        What the reply begins with: ``#ERROR``, ``#TRACEBACK`` or ``#UNSERIALIZABLE``.
    result : object
        An exception, or a text.

    Returns
    -------
    BaseException
        A ValueError for any other kind.

    Raises
    ------
    TypeError
        It should be a text, and is none.
    """
    if kind == "#ERROR":
        return result
    if kind not in ("#TRACEBACK", "#UNSERIALIZABLE"):
        return ValueError(f"Unrecognized message type {kind!r}")
    if not isinstance(result, str):
        raise TypeError(f"Result {result!r} (kind '{kind}') type is {type(result)}, not str")
    if kind == "#UNSERIALIZABLE":
        return RemoteError(f"Unserializable message: {result}\n")
    return RemoteError(result)


def dispatch(
    c: Any,
    id: str | None,
    methodname: str,
    args: tuple[Any, ...] = (),
    kwds: dict[str, Any] = {},  # noqa: B006  (the stdlib's signature; never changed)
) -> Any:
    """Send a request over a connection and return the result, or raise what it raised.

    Parameters
    ----------
    c : connection
        Anything with ``send`` and ``recv``.
    id : str or None
        A shared object's ident; None for one of the server's own functions.
    methodname : str
        What is called.
    args, kwds
        What it is called with.

    Returns
    -------
    object
        What it returned.

    Raises
    ------
    Exception
        What it raised; `RemoteError` as `convert_to_error` has it.
    """
    c.send((id, methodname, args, kwds))
    kind, result = c.recv()
    if kind == "#RETURN":
        return result
    try:
        raise convert_to_error(kind, result)
    finally:
        del result  # the exception's traceback leads back to this frame


def receive(c: Any) -> Any:
    """Receive an object over a connection, also over the stdlib's own, which checks no pickle."""
    if type(c) is not connection.Connection:
        return c.recv()
    data = c.recv_bytes()
    check_nesting(data)
    return ForkingPickler.loads(data)


class Idle(BaseException):
    """Nothing came for a while.  It is no `Exception`, so that no server code catches it."""


def _is_ours(obj: object) -> bool:
    module = getattr(obj, "__module__", None)
    return (
        isinstance(module, str)
        and module.partition(".")[0] == "fastmgr"
        and isinstance(obj, (type, types.FunctionType))
        and getattr(sys.modules.get(OUR_MODULE), obj.__name__, None) is obj
    )


class _StockPickler(ForkingPickler):
    """Pickle for a stock peer.

    The pickler insists that a global's name leads back to the object, so it cannot give a class of
    ours the stock module's name.  Instead the pickle has the peer look the attribute up.
    """

    def reducer_override(self, obj: object) -> Any:
        if obj is _StockModule:
            return importlib.import_module, (STOCK_MODULE,)
        if _is_ours(obj):
            name = obj.__name__  # type: ignore[attr-defined]
            # CPython up to 3.13 has no SetProxy; an AutoProxy with the same methods is one.
            return getattr, (_StockModule, "AutoProxy" if name == "SetProxy" else name)
        # Where the stock module was replaced, its objects are pickled by this.
        override = getattr(ForkingPickler, "reducer_override", None)
        return override(self, obj) if override is not None else NotImplemented


class _StockModule:
    """The stand-in, in a pickle, for the module that stock peers import."""


class _StockUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == STOCK_MODULE:
            module = OUR_MODULE
        return super().find_class(module, name)


def _pickle_dumps(message: object) -> bytes:
    buffer = io.BytesIO()
    # The oldest protocol that every supported peer writes by default.
    _StockPickler(buffer, 4).dump(message)
    return buffer.getvalue()


def _pickle_loads(data: bytes) -> Any:
    check_nesting(data)
    return _StockUnpickler(io.BytesIO(data)).load()


def _xml_dumps(message: object) -> bytes:
    import xmlrpc.client  # few programs need it, and it takes long

    text = xmlrpc.client.dumps((message,), None, None, None, True)  # type: ignore[arg-type]
    return text.encode("utf-8")


def _xml_loads(data: bytes) -> Any:
    import xmlrpc.client

    ((message,), _method) = xmlrpc.client.loads(data.decode("utf-8"))
    return message


SERIALIZERS: dict[str, tuple[Callable[[object], bytes], Callable[[bytes], Any]]] = {
    "pickle": (_pickle_dumps, _pickle_loads),
    "xmlrpclib": (_xml_dumps, _xml_loads),
}


class StockConnection:
    """A `multiprocessing.connection.Connection` over a stream that it owns.

    `recv` waits for `timeout` seconds at most.
    """

    def __init__(self, stream: Stream, serializer: str, *, timeout: float | None = None) -> None:
        self.stream = stream
        self.timeout = timeout
        self._dumps, self._loads = SERIALIZERS[serializer]
        #: Whether something may have been sent in part.
        self.sends = False
        #: Whether `recv_request` gives up when nothing comes.
        self.may_idle = False
        #: The objects in the last reply, until the peer has taken its references to them.
        self.in_transit: list[object] = []

    def send(self, obj: object) -> None:
        """Send an object; nothing is sent where it cannot be pickled."""
        data = self._dumps(obj)
        self.sends = True
        self.stream.send_bytes(data)
        self.sends = False

    def recv(self) -> Any:
        """Receive an object; EOFError where the peer has closed."""
        if self.timeout is not None:
            self.stream.set_deadline(self.timeout)
        data = self.stream.recv_bytes()
        self.in_transit = []
        return self._loads(data)

    def recv_request(self) -> Any:
        """Receive an object, or raise `Idle` where that is allowed and nothing comes."""
        if not self.may_idle:
            return self.recv()
        try:
            data = self.stream.recv_bytes(patient=False)
        except TimeoutError:
            raise Idle from None
        self.in_transit = []
        return self._loads(data)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether something can be received within `timeout` seconds (None: at any time)."""
        return self.stream.poll(timeout)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.stream.fileno()

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return self.stream.closed

    def close(self) -> None:
        """Close the connection."""
        self.stream.close()

    def __enter__(self) -> StockConnection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _refuse(address: Any, *args: Any, **kwds: Any) -> NoReturn:
    raise AuthenticationError(
        f"the server at {address!r} would have to be asked in the standard library's dialect, in "
        "which it cannot prove that no other answers in its place: FASTMGR_STOCK_PEERS=off "
        "forbids that"
    )


def stock_client(serializer: str, timeout: float | None = None) -> Callable[..., Any]:
    """Return what connects to a server in the stdlib's dialect: ``client(address, authkey=key)``.

    In place of the stdlib's own client this is one that gives our classes the stock module's names,
    and waits `timeout` seconds at most for the handshake and for each answer.  Where stock peers
    are refused it connects to none.
    """
    if stock_is_refused():
        return _refuse
    if not uses_raw_sockets(serializer):
        return listener_and_client(serializer)[1]

    def client(
        address: Any, family: str | None = None, authkey: bytes | None = None
    ) -> StockConnection:
        stream = connect(address, authkey, timeout=timeout)
        settle(stream)
        return StockConnection(stream, serializer, timeout=timeout)

    return client
