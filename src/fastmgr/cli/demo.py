"""Count the words of the standard library in shared state, on fastmgr and on the stock manager.

Worker processes take file names from a shared queue and add up the words of the files in one shared
dict. They do it the way such programs are usually written: a read and a write of the shared dict
for every word of a file, under a shared lock. So the job makes tens of thousands of small calls,
with ``--all`` more than a million, and its time shows what a call costs. On fastmgr it is done once
more with `Counters`, which the workers add to in memory that they share with the manager: no lock,
and no call. Their names, the words, must be known beforehand; here they are, for all totals must
equal those of a count that one process makes first, without a manager.

fastmgr comes first. The stock manager, which takes longest, is the last.

With ``--address`` a server of another kind keeps the shared state, as that of ``valkey://host`` or
``valkey+embedded://``. A call is a round trip over a socket there, so the job is done once more by
pipelines. The stock manager, which has no such addresses, is left out.
"""

import argparse
import os
import queue
import re
import shutil
import signal
import sys
import sysconfig
import textwrap
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import (
    AuthenticationError,
    connection,
    get_context,
    managers as stock,
    process,
    resource_tracker,
)
from multiprocessing.context import BaseContext
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, cast

from fastmgr import managers as fast
from fastmgr.cli.doctor import BUSY
from fastmgr.cli.options import add_start_method
from fastmgr.client.sessions import carried_address

#: How many words a worker adds before it lets another worker have the lock.
WORDS_PER_LOCK = 50
SECONDS_BETWEEN_LINES = 5.0  # where there is no terminal
#: So many files that the stock manager counts them within seconds.
FILES = 150
WORD = re.compile(r"[^\W\d]\w*")
#: What says that nothing can keep the shared state at an address.
CANNOT_START = (OSError, ValueError, ImportError, AuthenticationError)


class WorkerError(Exception):
    """A worker process failed; it has shown its own traceback."""


@dataclass(frozen=True)
class Result:
    """What a count found, and how long it took with the start and the end of the workers."""

    words: Mapping[str, int]
    seconds: float

    @property
    def total(self) -> int:
        """The number of words, each occurrence counted."""
        return sum(self.words.values())


Counts = Sequence[tuple[str, int]]


class Shared:
    """The shared state as it usually is; every attribute is a proxy."""

    def __init__(self, manager: stock.SyncManager, expected: Result) -> None:
        self.files: queue.Queue[str] = manager.Queue()
        self.words: stock.DictProxy[str, int] = manager.dict()
        self.done: stock.ValueProxy[int] = manager.Value("q", 0)
        self.lock: AbstractContextManager[object] = manager.Lock()

    def add(self, counts: Counts) -> None:
        """Add to the totals. Reading and writing are two calls: only the lock makes them one."""
        with self.lock:
            for word, count in counts:
                self.words[word] = self.words.get(word, 0) + count

    def add_file(self) -> None:
        with self.lock:
            self.done.value += 1

    def totals(self) -> Mapping[str, int]:
        return self.words.copy()


class SharedCounters(Shared):
    """The shared state in counters, which add in one step."""

    def __init__(self, manager: Any, expected: Result) -> None:
        self.files = manager.Queue()
        self.words = manager.Counters(list(expected.words))
        self.done = manager.Counter()

    def add(self, counts: Counts) -> None:
        words = cast("Any", self.words)
        for word, count in counts:
            words.incr(word, count)

    def add_file(self) -> None:
        cast("Any", self.done).incr()

    def totals(self) -> Mapping[str, int]:
        return cast("Any", self.words).as_dict()


class SharedPipelines(Shared):
    """The shared state in dicts, whose verb adds in one step; many steps go in one pipeline."""

    def __init__(self, manager: Any, expected: Result) -> None:
        super().__init__(manager, expected)
        self.manager = manager

    def add(self, counts: Counts) -> None:
        with self.manager.pipeline() as pipe:
            recorded = pipe(self.words)
            for word, count in counts:
                recorded.incr(word, count)


@dataclass(frozen=True)
class Contender:
    """One way to do the job."""

    name: str
    manager: Callable[..., Any]
    shared: Callable[[Any, Result], Shared]


STOCK = Contender("multiprocessing", stock.SyncManager, Shared)
FAST = Contender("fastmgr", fast.SyncManager, Shared)
COUNTERS = Contender("fastmgr, Counters", fast.SyncManager, SharedCounters)
PIPELINES = Contender("fastmgr, pipelines", fast.SyncManager, SharedPipelines)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give what shows how many files are done: a bar on a terminal, else a line now and then."""
    on_terminal = sys.stderr.isatty()
    next_line = monotonic() + SECONDS_BETWEEN_LINES

    def show(done: int) -> None:
        nonlocal next_line
        if on_terminal:
            print(end="\r" + bar(title, done, total, width()), file=sys.stderr, flush=True)
        elif monotonic() >= next_line:
            next_line = monotonic() + SECONDS_BETWEEN_LINES
            print(f"{title}: {done} of {total} files", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if on_terminal:
            print(end="\r" + " " * width() + "\r", file=sys.stderr, flush=True)


def width() -> int:
    """How many columns a line may take: in the last one a terminal would begin another line."""
    return min(shutil.get_terminal_size().columns, 80) - 1


def bar(title: str, done: int, total: int, columns: int) -> str:
    """Return a line that shows how many files are done, cut where there is no room for it."""
    number = f"{done:>5} of {total} files"
    room = min(columns - len(title) - len(number) - 4, 30)
    drawn = f" [{('#' * (room * done // max(total, 1))).ljust(room, '.')}] " if room >= 5 else " "
    return (title + drawn + number)[:columns]


def python_files(root: str | os.PathLike[str]) -> list[Path]:
    """List the Python files under a directory, without those of installed packages.

    They are in alphabetical order, so that a limited demo always counts the same files.
    """
    files: list[Path] = []
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if not name.endswith("-packages")]
        files += [Path(directory, name) for name in names if name.endswith(".py")]
    return sorted(path for path in files if path.is_file())  # a symbolic link may lead nowhere


def count_words(path: str | os.PathLike[str]) -> Counter[str]:
    """Count the words of one file; the names and keywords of its code are words, too."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return Counter(WORD.findall(text))


def count_alone(files: Sequence[Path], title: str) -> Result:
    """Count in this process, without any shared state: the truth to compare with."""
    words: Counter[str] = Counter()
    start = perf_counter()
    with progress(title, len(files)) as show:
        for done, path in enumerate(files):
            words.update(count_words(path))
            show(done + 1)
    return Result(words, perf_counter() - start)


def count_shared(
    files: Sequence[Path], title: str, contender: Contender, workers: int,
    context: BaseContext, expected: Result,
) -> Result:  # fmt: skip
    """Count with worker processes that share everything through a manager.

    `expected` is the count alone, whose words name the counters. If a worker fails, no process of
    this count is left.
    """
    start = perf_counter()
    with ExitStack() as stack:
        shared = contender.shared(started(contender.manager, context, stack), expected)
        for path in files:
            shared.files.put(os.fspath(path))
        make: Any = context.Process  # type: ignore[attr-defined]
        names = (f"Worker-{number + 1}" for number in range(workers))
        processes = [make(target=work, args=(shared,), name=name) for name in names]
        with uninterrupted():
            stack.callback(stop, processes)
            for child in processes:
                child.start()
        with progress(title, len(files)) as show:
            wait(processes, lambda: show(shared.done.value))
        return Result(shared.totals(), perf_counter() - start)


def started(kind: Callable[..., Any], context: BaseContext, stack: ExitStack) -> Any:
    """Start a manager, which ends with the stack."""
    if context.get_start_method() != "fork":
        resource_tracker.ensure_running()  # before `uninterrupted`: it may unblock the signal
    with uninterrupted():
        return stack.enter_context(kind(ctx=context))


def work(shared: Shared) -> None:
    """Count files until the queue is empty: what a worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it stops the workers
    try:
        while True:
            try:
                path = shared.files.get_nowait()
            except queue.Empty:
                return
            count_file(path, shared)
    except Exception:
        sys.stderr.write(f"\n{process.current_process().name}: {traceback.format_exc()}")
        sys.exit(1)


def count_file(path: str, shared: Shared) -> None:
    """Add one file's words to the shared totals."""
    words = iter(count_words(path).items())
    while batch := list(islice(words, WORDS_PER_LOCK)):
        shared.add(batch)
    shared.add_file()


def wait(processes: Sequence[process.BaseProcess], show: Callable[[], None]) -> None:
    """Wait for the workers to end, and show the progress while they run."""
    running = True
    while running:
        sentinels = [child.sentinel for child in processes if child.is_alive()]
        running = bool(sentinels)  # those that have ended by now are looked at once more
        connection.wait(sentinels, timeout=0.1)
        for child in processes:
            if child.exitcode:
                raise WorkerError(f"{child.name} failed with exit status {child.exitcode}")
        show()


def stop(processes: Sequence[process.BaseProcess]) -> None:
    """End the workers that still run: none are, unless the count failed or was interrupted."""
    with uninterrupted():
        started = [child for child in processes if child.pid is not None]
        for child in started:
            child.terminate()
        for child in started:
            child.join()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off, so that no process is half started or half stopped when it comes.

    The processes that are started inside begin their life with the signal blocked.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def differences(expected: Mapping[str, int], got: Mapping[str, int]) -> list[str]:
    """Say which totals are not the expected ones."""
    return [
        f"{key}: expected {expected.get(key, 0)}, got {got.get(key, 0)}"
        for key in sorted(expected.keys() | got.keys())
        if expected.get(key, 0) != got.get(key, 0)
    ]


def report(root: Path, files: Sequence[Path], limited: bool, result: Result) -> None:
    """Print what was counted, in lines that the terminal has room for."""
    which = f"the first {len(files)}" if limited else f"all {len(files):,}"
    commonest = sorted(result.words.items(), key=lambda item: (-item[1], item[0]))[:6]
    told = (
        f"The words of {which} .py files under {root}:",
        f"{result.total:,} words, {len(result.words):,} different ones; the commonest are "
        + ", ".join(f"{word} {count:,}" for word, count in commonest)
        + ".",
    )
    for text in told:
        print(textwrap.fill(text, width(), break_long_words=False, break_on_hyphens=False))
    print()


def show_time(title: str, result: Result) -> None:
    """Print how long a count took, as soon as it is known."""
    print(f"{title:<30}{result.seconds:>9.2f}{result.total / result.seconds:>12,.0f}", flush=True)


def run(options: argparse.Namespace) -> int:
    """Run the demo and print its report; return the exit status, 0 if all counts are exact."""
    root = Path(sysconfig.get_path("stdlib"))
    found = python_files(root)
    files = found if options.all else found[: options.files]
    context = get_context(options.start_method)
    contenders = [COUNTERS, FAST] if options.no_stock else [COUNTERS, FAST, STOCK]
    if options.address is not None:
        manager = partial(fast.SyncManager, options.address)
        contenders = [replace(way, manager=manager) for way in (COUNTERS, PIPELINES, FAST)]
        try:
            with manager():
                pass
        except CANNOT_START as error:
            print(error, file=sys.stderr)
            return 1

    title = "one process, no manager"
    expected = count_alone(files, title)
    report(root, files, len(files) < len(found), expected)
    if options.address is not None:
        print(f"The shared state is kept at {carried_address(options.address)}.")
        print("The stock manager has no such addresses: it is left out.\n")
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY * processors:
        busy = f"The machine is busy (load {load:.0f}, processors: {processors})"
        print(textwrap.fill(f"{busy}: the times say little.", width()) + "\n")
    print(f"{'':<30}{'seconds':>9}{'words/s':>12}")
    show_time(title, expected)
    seconds: dict[str, float] = {}
    for contender in contenders:
        title = f"{contender.name}, {options.workers} worker{'s' * (options.workers > 1)}"
        try:
            result = count_shared(files, title, contender, options.workers, context, expected)
        except WorkerError as error:
            print(f"{title}: {error}", file=sys.stderr)
            return 1
        show_time(title, result)
        if wrong := differences(expected.words, result.words):
            print(f"{title}: {len(wrong)} totals are wrong", *wrong[:20], sep="\n  ")
            return 1
        seconds[contender.name] = result.seconds
    print("\nAll totals are exact.")
    if STOCK.name in seconds:
        faster, fastest = (seconds[STOCK.name] / seconds[way.name] for way in (FAST, COUNTERS))
        print(f"fastmgr is {faster:.1f} times as fast, with Counters {fastest:.1f} times.")
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    add_start_method(parser)
    parser.add_argument(
        "--workers",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="worker processes (default: one per processor, %(default)s here)",
    )
    parser.add_argument(
        "--files",
        type=positive,
        default=FILES,
        metavar="LIMIT",
        help="count only the first LIMIT files (default: %(default)s)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="count all files, which takes the stock manager minutes",
    )
    parser.add_argument(
        "--no-stock", action="store_true", help="do not run the job on the stock manager"
    )
    parser.add_argument(
        "--address",
        type=engine_address,
        metavar="URL",
        help="where the shared state is kept, such as valkey+embedded://",
    )


def engine_address(text: str) -> str:
    """Read an address that has a scheme: the others are for servers that start here anyway."""
    if "://" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not scheme://...")
    return text


def positive(text: str) -> int:
    """Read a whole number that is at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number
