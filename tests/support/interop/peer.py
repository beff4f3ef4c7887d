"""A process with nothing but the standard library, driven by JSON lines.

Each line on standard input is a request `{"do": name, ...}`, each line on standard output its
answer, `{"result": ...}` or `{"error": traceback}`. At the end of its input, which comes with
the death of the test at the latest, the process ends with all its children.
"""

from __future__ import annotations

import sys

# Whatever is installed here, a peer is stock. Children that import this file are peers, too.
sys.modules["fastmgr"] = None  # type: ignore[assignment]

import gc  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import queue  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
import traceback  # noqa: E402
from multiprocessing import AuthenticationError, current_process, managers  # noqa: E402
from multiprocessing.managers import SharedMemoryManager  # noqa: E402
from typing import Any  # noqa: E402

import interop_types  # noqa: E402
import scenarios  # noqa: E402

SERVERS: dict[str, Any] = {}


def place(address: Any) -> Any:
    """JSON has no tuples; an address (host, port) is one."""
    return tuple(address) if isinstance(address, list) else address


def client(address: Any, key: str, serializer: str = "pickle") -> Any:
    manager = interop_types.InteropManager(place(address), key.encode(), serializer)
    manager.connect()
    return manager


def hello(key: str) -> dict[str, Any]:
    current_process().authkey = key.encode()
    interop_types.add_json()
    assert interop_types.managers is managers
    return {"version": list(sys.version_info[:2]), "file": managers.__file__}


def serve(name: str, address: Any, key: str, serializer: str = "pickle") -> Any:
    """Start a stock server; its address."""
    manager = interop_types.InteropManager(place(address), key.encode(), serializer)
    manager.start(initializer=interop_types.add_json)
    SERVERS[name] = manager
    return manager.address


def stop(name: str) -> None:
    SERVERS.pop(name).shutdown()


def scenario(name: str, address: Any, key: str, serializer: str = "pickle") -> Any:
    """Play a scenario as a client; what it returns."""
    return getattr(scenarios, name)(client(address, key, serializer))


def cross(name: str, addresses: list[Any], key: str) -> Any:
    """Play a scenario as a client of several servers."""
    return getattr(scenarios, name)(*(client(address, key) for address in addresses))


def wrong_key(address: Any, key: str) -> str:
    """How the attempt to connect with a wrong key ends."""
    try:
        client(address, key)
    except AuthenticationError as error:
        return f"AuthenticationError: {error}"
    return "connected"


def run(name: str, source: str, folders: list[str], arguments: list[Any], key: str) -> Any:
    """Define functions, and call the one of this name."""
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
    names = {"Any": Any, "managers": managers, "KEY": key}
    exec("from __future__ import annotations\n" + source, names)
    return names[name](*arguments)  # type: ignore[operator]


def shared_memory(address: Any, key: str) -> list[Any]:
    """Create and fill a block through a SharedMemoryManager; its name, and all that it tracks."""
    manager = SharedMemoryManager(place(address), key.encode())
    manager.connect()
    block = manager.SharedMemory(64)
    block.buf[:5] = b"stock"
    listed = manager.ShareableList([1, "two", 3.0])
    names = [block.name, listed.shm.name]
    block.close()
    listed.shm.close()
    conn = manager._Client(manager.address, authkey=manager._authkey)  # type: ignore
    with conn:
        tracked = managers.dispatch(conn, None, "list_segments")  # type: ignore
    return [names, tracked]


COMMANDS = {
    function.__name__: function
    for function in (hello, serve, stop, scenario, cross, wrong_key, run, shared_memory)
}


def read_requests(descriptor: int, requests: queue.SimpleQueue[bytes]) -> None:
    # Not through sys.stdin: a forked child would find its lock held by this thread.
    data = b""
    while True:
        more = os.read(descriptor, 65536)
        if not more:
            os.killpg(os.getpgid(0), signal.SIGKILL)
        *lines, data = (data + more).split(b"\n")
        for line in lines:
            requests.put(line)


def main() -> None:
    if os.getpid() != os.getpgid(0):
        sys.exit("a peer has to lead a process group: it ends with all of it")
    # Standard output is for answers alone, standard input for this process alone.
    source, answers = os.dup(0), os.fdopen(os.dup(1), "w")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    gc.freeze()  # to collect garbage is quick when there is little to look at
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=read_requests, args=(source, requests), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        try:
            answer = {"result": COMMANDS[request.pop("do")](**request)}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        gc.collect()  # what the request left behind is gone when it is answered
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
