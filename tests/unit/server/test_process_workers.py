"""Threads for connections: as many as there are jobs, and no more than that."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support import DEADLINE, poll

from fastmgr.server import process as module
from fastmgr.server.process import Workers


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    # Idle threads are to end within the tests that look at it.
    monkeypatch.setattr(module, "LINGER", DEADLINE)
    return Workers()


class Job:
    """Notes the thread it runs on."""

    def __init__(self, result: object = True) -> None:
        self.result = result
        self.done = threading.Event()
        self.thread: threading.Thread | None = None
        self.name = ""
        self.args: tuple[object, ...] = ()

    def __call__(self, *args: object) -> object:
        self.thread = threading.current_thread()
        self.name = self.thread.name
        self.args = args
        self.done.set()
        return self.result


def run(workers: Workers, result: object = True, name: str = "job") -> Job:
    job = Job(result)
    workers.submit(job, name)
    assert job.done.wait(DEADLINE)
    return job


def idle(workers: Workers, count: int) -> Callable[[], bool]:
    return lambda: len(workers._idle) == count


def test_job_gets_its_arguments_and_its_name(workers: Workers) -> None:
    job = Job()
    workers.submit(job, "the name", 1, "two")
    assert job.done.wait(DEADLINE)
    assert (job.name, job.args) == ("the name", (1, "two"))
    assert job.thread is not None
    assert job.thread is not threading.current_thread()
    assert job.thread.daemon


@pytest.mark.parametrize("result", [True, None, 0, ""])
def test_thread_is_used_again(workers: Workers, result: object) -> None:
    first = run(workers, result, "first")
    poll(idle(workers, 1), "the thread is idle")
    second = run(workers, result, "second")
    assert second.thread is first.thread
    assert second.name == "second"


def test_thread_is_not_used_again_after_false(workers: Workers) -> None:
    first = run(workers, False)
    assert first.thread is not None
    first.thread.join(DEADLINE)
    assert not first.thread.is_alive()
    assert workers._idle == []
    assert run(workers).thread is not first.thread


def test_job_never_waits_for_a_blocked_one(workers: Workers) -> None:
    """The `put` that frees N blocked `get` calls comes after them."""
    count = 50
    barrier = threading.Barrier(count + 1)
    for _ in range(count):
        workers.submit(barrier.wait, "blocked", DEADLINE)
    assert run(workers).name == "job"
    barrier.wait(DEADLINE)  # so all of them have been running at once
    poll(idle(workers, count + 1), "all threads are idle")


def test_only_as_many_threads_as_jobs_at_once(workers: Workers) -> None:
    threads = set()
    for _ in range(20):
        threads.add(run(workers).thread)
        poll(idle(workers, 1), "the thread is idle")
    assert len(threads) == 1


def test_idle_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.01)
    workers = Workers()
    job = run(workers)
    assert job.thread is not None
    job.thread.join(DEADLINE)
    assert not job.thread.is_alive()
    assert workers._idle == []
    assert run(workers).thread is not job.thread


def test_no_job_is_lost_to_a_thread_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.0001)
    workers = Workers()
    ran: list[int] = []
    for i in range(400):
        done = threading.Event()

        def job(i: int = i, done: threading.Event = done) -> None:
            ran.append(i)
            done.set()

        workers.submit(job, "job")
        assert done.wait(DEADLINE), f"job {i} did not run"
    assert ran == list(range(400))


def test_job_that_comes_as_its_thread_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """`submit` takes the thread's inbox in the moment before the thread does."""
    monkeypatch.setattr(module, "LINGER", 0.01)
    workers, late = Workers(), Job()

    class Raced(list[Any]):
        def remove(self, inbox: Any) -> None:
            if self:  # it has had its first job, which may have taken longer to come
                assert self.pop() is inbox
                inbox.put((late, "late", ()))
            super().remove(inbox)  # which raises

    workers._idle = Raced()
    run(workers)
    assert late.done.wait(DEADLINE)


class Thing:
    pass


def test_idle_thread_holds_nothing_of_its_last_job(workers: Workers) -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    workers.submit(lambda thing: None, "job", thing)
    del thing
    poll(idle(workers, 1), "the thread is idle")
    poll(lambda: gone() is None, "the argument is gone")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_job_that_fails_takes_its_thread_alone(workers: Workers) -> None:
    def fail() -> None:
        raise LookupError("on purpose")

    threads = {run(workers).thread}
    poll(idle(workers, 1), "the thread is idle")
    workers.submit(fail, "failing")
    for thread in threads:
        assert thread is not None
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert run(workers).done.is_set()
