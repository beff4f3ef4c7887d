"""CPython's own manager tests must pass, as installed, with fastmgr in place of the managers."""

from __future__ import annotations

import concurrent.futures
import os
import sys
from collections.abc import Iterator

import pytest
import runner

Run = tuple[str, str]
RUNS = runner.plan(list(runner.GROUPS), runner.START_METHODS)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Run, concurrent.futures.Future[runner.Outcome]]]:
    """Start all selected runs at once: they mostly wait, so they run side by side."""
    if not runner.has_test_package(sys.executable):
        pytest.skip("this interpreter ships no test package (test._test_multiprocessing)")
    import fastmgr

    path = os.path.dirname(os.path.dirname(os.path.abspath(fastmgr.__file__)))
    directory = tmp_path_factory.mktemp("conformance")
    fast = runner.Environment(sys.executable, directory / "fast", path)
    stock = runner.Environment(sys.executable, directory / "stock", None)
    wanted = {
        item.callspec.params["run"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and hasattr(item, "callspec")
    }
    executor = concurrent.futures.ThreadPoolExecutor(runner.JOBS)
    yield {run: executor.submit(runner.check, fast, stock, *run) for run in RUNS if run in wanted}
    executor.shutdown(wait=False, cancel_futures=True)
    runner.abort()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: "-".join(filter(None, run)))
def test_cpython(
    run: Run,
    outcomes: dict[Run, concurrent.futures.Future[runner.Outcome]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = outcomes[run].result()
    if outcome.retried or outcome.missing_modules:
        with capsys.disabled():
            print(f"\n{runner.row(outcome)}\n{outcome.report()}")
    if outcome.problems:
        pytest.fail(outcome.report(), pytrace=False)
