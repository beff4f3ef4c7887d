"""A program of which one import was changed: its annotations still are the stdlib's."""

from __future__ import annotations

import multiprocessing.managers as stdlib
import multiprocessing.pool
import queue
import threading

import fastmgr

manager = fastmgr.Manager()
whole: stdlib.SyncManager = manager
base: stdlib.BaseManager = manager
server: stdlib.Server = manager.get_server()
mapping: stdlib.DictProxy[str, int] = manager.dict(a=1)
items: stdlib.ListProxy[int] = manager.list([1])
value: stdlib.ValueProxy[int] = manager.Value("i", 0)
namespace: stdlib.Namespace = manager.Namespace()
proxies: list[stdlib.BaseProxy] = [manager.dict(), manager.Lock(), manager.Counter()]
lock: threading.Lock = manager.Lock()
condition = threading.Condition(manager.Lock())
tasks: queue.Queue[bytes] = manager.Queue()
workers: multiprocessing.pool.Pool = manager.Pool()
memory = fastmgr.SharedMemoryManager()
segments: stdlib.SharedMemoryManager = memory
its_server: stdlib.SharedMemoryServer = memory.get_server()


class Locked:
    def __init__(self, lock: threading.RLock, done: threading.Event) -> None:
        self.lock, self.done = lock, done


Locked(manager.RLock(), manager.Event())
