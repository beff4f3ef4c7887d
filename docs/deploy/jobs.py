"""Workers that count the words of texts, which come from a queue that all workers share.

``python jobs.py`` is a worker.  ``python jobs.py TEXT ...`` puts texts into the queue, waits until
they are done, and shows the counts.  FASTMGR_SERVER in the environment is the path of the socket of
a ``fastmgr serve``, FASTMGR_AUTHKEY its key, if it has one.
"""

import os
import signal
import sys

import fastmgr


def shared(manager, name, make):
    """Return the object of a name; the first to come makes it."""
    root = manager.Value("O", None, name=name)
    if root.value is None:
        root.compare_exchange(None, make())
    return root.value


def main(texts):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # end in order
    key = os.environ.get("FASTMGR_AUTHKEY", "").encode()
    manager = fastmgr.SyncManager.from_address(os.environ["FASTMGR_SERVER"], authkey=key)
    jobs = shared(manager, "jobs", manager.JoinableQueue)
    counts = shared(manager, "counts", manager.dict)
    total = manager.Counter(name="words")
    for text in texts:
        jobs.put(text)
    if texts:
        jobs.join()
        print(total.value, counts)
        return
    while True:
        for word in jobs.get().split():
            counts.incr(word)
            total.incr()
        jobs.task_done()


if __name__ == "__main__":
    main(sys.argv[1:])
