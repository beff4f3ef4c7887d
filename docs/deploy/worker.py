"""Workers that count the words of texts, which come from a queue that all workers share.

``python worker.py`` is a worker.  ``python worker.py TEXT ...`` puts texts into the queue and shows
the counts.  The environment variable FASTMGR_ADDRESS, the same for all of them, says where the
shared objects are: valkey://host:6379/0?ns=words
"""

import signal
import sys

import fastmgr


def shared(manager, name, make):
    """Return the object of a name; the first to come makes it."""
    root = manager.Value("O", None, name=name)
    if root.value is None:
        root.compare_exchange(None, make())
    return root.value


def count(text, counts, manager):
    with manager.pipeline() as pipe:
        recorded = pipe(counts)
        for word in text.split():
            recorded.incr(word)


def main(texts):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # end in order
    with fastmgr.Manager() as manager:
        jobs = shared(manager, "jobs", manager.JoinableQueue)
        counts = shared(manager, "counts", manager.dict)
        for text in texts:
            jobs.put(text)
        if texts:
            jobs.join()
            print(counts)
            return
        while True:
            count(jobs.get(), counts, manager)
            jobs.task_done()


if __name__ == "__main__":
    main(sys.argv[1:])
