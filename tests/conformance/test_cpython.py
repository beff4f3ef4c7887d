"""CPython's own manager tests must pass, as installed, with fastmgr in place of the managers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import runner
from support import clusters, valkeys

Run = tuple[str, str]
RUNS = runner.plan(list(runner.GROUPS), runner.START_METHODS)
#: The runs that are made once more with the objects on a server of another kind, by its kind.
#: `runner.py --address` makes them all.
HOSTED = {
    "valkey": ("manager", "fork"),
    "redis": ("misc", "fork"),
    "cluster": ("manager", "fork"),
}

Outcomes = dict[Run, concurrent.futures.Future[runner.Outcome]]


@pytest.fixture(scope="module")
def python() -> str:
    if not runner.has_test_package(sys.executable):
        pytest.skip("this interpreter ships no test package (test._test_multiprocessing)")
    return sys.executable


@pytest.fixture(scope="module")
def stock(python: str, tmp_path_factory: pytest.TempPathFactory) -> runner.Environment:
    return runner.Environment(python, tmp_path_factory.mktemp("conformance") / "stock", None)


def environment(python: str, directory: Path, **options: Any) -> runner.Environment:
    import fastmgr

    path = os.path.dirname(os.path.dirname(os.path.abspath(fastmgr.__file__)))
    return runner.Environment(python, directory / "fast", path, **options)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    python: str,
    stock: runner.Environment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Outcomes]:
    """Start all selected runs at once: they mostly wait, so they run side by side."""
    fast = environment(python, tmp_path_factory.mktemp("conformance"))
    wanted = {
        item.callspec.params["run"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and "run" in getattr(item, "callspec", _NoParameters).params
    }
    executor = concurrent.futures.ThreadPoolExecutor(runner.JOBS)
    yield {run: executor.submit(runner.check, fast, stock, *run) for run in RUNS if run in wanted}
    executor.shutdown(wait=False, cancel_futures=True)
    runner.abort()


class _NoParameters:
    params: ClassVar[dict[str, Any]] = {}


def judge(outcome: runner.Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    if outcome.retried or outcome.missing_modules:
        with capsys.disabled():
            print(f"\n{runner.row(outcome)}\n{outcome.report()}")
    if outcome.problems:
        pytest.fail(outcome.report(), pytrace=False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: "-".join(filter(None, run)))
def test_cpython(run: Run, outcomes: Outcomes, capsys: pytest.CaptureFixture[str]) -> None:
    judge(outcomes[run].result(), capsys)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", HOSTED)
def test_cpython_on_another_server(
    kind: str,
    python: str,
    stock: runner.Environment,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """But for what not_hosted.py lists."""
    valkeys.program("redis" if kind == "redis" else "valkey")
    others = runner.directories_of_engine(python)
    with contextlib.ExitStack() as stack:
        address = "valkey+embedded://"
        if kind == "redis":
            server = stack.enter_context(valkeys.server(kind))
            address = server.url()
        elif kind == "cluster":
            address = clusters.cluster().url()
        fast = environment(python, tmp_path, address=address, others=others)
        judge(runner.check(fast, stock, *HOSTED[kind]), capsys)
