"""Many calls in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastmgr._frame import Op
from fastmgr._proxy import ClientSession
from fastmgr.proxies import BaseProxy

__all__ = ["Pipeline"]

Call = tuple[BaseProxy, str, tuple[Any, ...], "dict[str, Any] | None"]


class Pipeline:
    """Collects calls of any proxies of one manager, and makes them together.

    The calls are served in order; those of other clients may come in between.

    Examples
    --------
    ::

        with manager.pipeline() as pipe:
            counts = pipe(manager_dict)
            counts.incr("a")
            counts["b"] = 1
            counts.get("c")
            results = pipe.execute()

    A block that ends without `execute` executes what is left; its results are in
    `results`.  A block left by an exception makes no call.

    Parameters
    ----------
    session : ClientSession
        The manager's.
    errors : {'raise', 'return'}
        Whether the first error is raised once all calls have been made, or each
        stands in its call's place among the results.
    """

    def __init__(
        self, session: ClientSession, errors: Literal["raise", "return"] = "raise"
    ) -> None:
        if errors not in ("raise", "return"):
            raise ValueError(f"errors={errors!r}: 'raise' or 'return' is needed")
        self._session = session
        self._errors = errors
        self._calls: list[Call] = []
        #: What the last `execute` returned.
        self.results: list[Any] = []

    def __call__(self, proxy: BaseProxy) -> Recorder:
        """Return an object whose methods record calls of `proxy`.

        Raises
        ------
        ValueError
            It is a proxy of another manager.
        """
        if proxy._session_of() is not self._session:
            raise ValueError(
                f"{proxy!r} belongs to the manager at {proxy._token.address!r}, "
                f"the pipeline to the one at {self._session.address!r}"
            )
        return Recorder(self._calls, proxy)

    def __len__(self) -> int:
        return len(self._calls)

    def execute(self) -> list[Any]:
        """Make the calls recorded so far; return their results in order.

        Raises
        ------
        Exception
            The first that a call raised, with ``errors='raise'``; all calls have
            been made all the same.
        OSError, EOFError
            The connection failed; how many calls were made is unknown.
        """
        calls = self._calls[:]
        self._calls.clear()
        results: list[Any] = []
        first: Exception | None = None
        returned = Op.OP_RETURN
        for (op, payload), call in zip(self._session.pipeline(calls), calls, strict=True):
            if op != returned:
                try:
                    payload = call[0]._settle(op, payload)
                except Exception as error:
                    first = first or error
                    payload = error
            results.append(payload)
        self.results = results
        if first is not None and self._errors == "raise":
            raise first
        return results

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, exc_type: object, *exc_info: object) -> None:
        if exc_type is None and self._calls:
            self.execute()


class Recorder:
    """Stands for a proxy in a pipeline: a call is recorded and returns nothing yet."""

    def __init__(self, calls: list[Call], proxy: BaseProxy) -> None:
        self._record = calls.append
        self._proxy = proxy
        self._exposed: tuple[str, ...] | None = getattr(proxy, "_exposed_", None)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if self._exposed is not None and name not in self._exposed:
            raise AttributeError(f"{self._proxy!r} exposes no method {name!r}")
        record, proxy = self._record, self._proxy

        def method(*args: Any, **kwds: Any) -> None:
            record((proxy, name, args, kwds or None))

        self.__dict__[name] = method  # found without asking us from now on
        return method

    def __getitem__(self, key: Any) -> None:
        self._record((self._proxy, "__getitem__", (key,), None))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._record((self._proxy, "__setitem__", (key, value), None))

    def __delitem__(self, key: Any) -> None:
        self._record((self._proxy, "__delitem__", (key,), None))
