"""The conformance harness itself: whatever goes wrong in a run must make it fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import runner

pytestmark = pytest.mark.timeout(120)

Check = Callable[..., runner.Outcome]


@pytest.fixture(scope="module")
def environments(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[runner.Environment, runner.Environment]:
    if not runner.has_test_package(sys.executable):
        pytest.skip("this interpreter ships no test package (test._test_multiprocessing)")
    import fastmgr

    path = os.path.dirname(os.path.dirname(os.path.abspath(fastmgr.__file__)))
    directory = tmp_path_factory.mktemp("harness")
    return (
        runner.Environment(sys.executable, directory / "fast", path),
        runner.Environment(sys.executable, directory / "stock", None),
    )


@pytest.fixture
def check(
    environments: tuple[runner.Environment, runner.Environment], monkeypatch: pytest.MonkeyPatch
) -> Check:
    monkeypatch.setattr(runner, "EXIT_TIMEOUT", 1.0)

    def check_samples(*patterns: str, timeout: float = 60.0) -> runner.Outcome:
        group = runner.Group((runner.Selection("harness_samples", patterns),), ("",))
        monkeypatch.setitem(runner.GROUPS, "samples", group)
        return runner.check(*environments, "samples", "", timeout=timeout)

    return check_samples


PROBLEMS = {
    "fails": "failed: harness_samples.Sample.fails",
    "fails_in_subtest": "failed: harness_samples.Sample.fails_in_subtest",
    "raises": "error: harness_samples.Sample.raises",
    "warns": "standard error of harness_samples.Sample.warns:\nWarning -- a warning",
    "warns_on_stdout": "warning: warns_on_stdout",
    "alters_environment": "the environment was altered",
    "leaks_object": (
        "standard error of harness_samples.Sample.leaks_object:\nWarning -- Shared objects"
    ),
    "writes_to_stderr": "standard error of harness_samples.Sample.writes_to_stderr",
    "child_writes_to_stderr": "standard error of harness_samples.Sample.child_writes",
    "leaves_process": "processes were left behind",
    "leaves_thread": "dangling: <Thread",
    "leaves_file": "files were left behind: ['left']",
    "hangs": "hung: aborted",
    "is_slow": "too slow",
    "crashes": "the test process ended with status 3",
    "is_killed": "the test process ended with status -9",
    "skips_with_fastmgr": "skipped, but not with the stock managers: harness_samples.Sample",
    "restores_stock": "the tests used <module",
    "no_such_test": "no test was found",
}


@pytest.fixture(scope="module")
def outcomes(
    environments: tuple[runner.Environment, runner.Environment],
) -> dict[str, Future[runner.Outcome]]:
    """Run the samples with problems side by side: some of them wait for a timeout."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(runner.JOBS) as executor:
        patch.setattr(runner, "EXIT_TIMEOUT", 2.0)
        patch.setattr(runner, "SLOW_TEST", 0.1)
        for sample in PROBLEMS:
            selection = runner.Selection("harness_samples", (f"Sample.{sample}",))
            patch.setitem(runner.GROUPS, sample, runner.Group((selection,), ("",)))

        def check_sample(sample: str) -> runner.Outcome:
            timeout = 2.0 if sample == "hangs" else 60.0
            return runner.check(*environments, sample, "", timeout=timeout)

        # Those that wait are begun first.
        samples = sorted(PROBLEMS, key=lambda sample: sample not in ("hangs", "leaves_process"))
        return {sample: executor.submit(check_sample, sample) for sample in samples}


@pytest.mark.parametrize("sample", PROBLEMS)
def test_problem_is_found(outcomes: dict[str, Future[runner.Outcome]], sample: str) -> None:
    problems = outcomes[sample].result().problems
    assert any(found.startswith(PROBLEMS[sample]) for found in problems), problems


def test_class_skipped_only_here(check: Check) -> None:
    (problem,) = check("ClassSkips.*").problems
    assert problem.startswith("skipped, but not with the stock managers: setUpClass")


def test_fine(check: Check) -> None:
    outcome = check("Sample.fine", "Sample.skips")
    assert outcome.problems == []
    assert outcome.passed == ["harness_samples.Sample.fine"]
    assert outcome.skipped == {"harness_samples.Sample.skips": "everywhere"}


@pytest.mark.parametrize("flaky", [True, False])
def test_only_named_tests_run_again(
    check: Check, flaky: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HARNESS_ATTEMPTS", str(tmp_path / "attempts"))
    monkeypatch.setattr(runner, "FLAKY", ("Sample.fails_once",) if flaky else ())
    outcome = check("Sample.fine", "Sample.fails_once")
    assert bool(outcome.problems) is not flaky
    assert outcome.retried == ([["harness_samples.Sample.fails_once"]] if flaky else [])
    assert "harness_samples.Sample.fine" in outcome.passed


def test_retries_are_bounded(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FLAKY", ("Sample.fails",))
    outcome = check("Sample.fails")
    assert len(outcome.retried) == runner.RETRIES
    assert outcome.problems


def test_silent_use_of_the_stock_module_is_found(
    environments: tuple[runner.Environment, runner.Environment], tmp_path: Path
) -> None:
    unhooked = runner.Environment(sys.executable, tmp_path / "unhooked", None)
    unhooked.stock = False
    outcome = runner.check(unhooked, environments[1], "elsewhere", "")
    assert any("instead of fastmgr.managers" in problem for problem in outcome.problems)


def test_tests_that_an_engine_refuses_are_listed(
    environments: tuple[runner.Environment, runner.Environment],
    check: Check,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environments[0], "address", "valkey+embedded://")
    monkeypatch.setattr(runner, "NOT_HOSTED", {"Sample.raises": ("why", "an error")})
    outcome = check("Sample.fine", "Sample.raises")
    assert (outcome.problems, outcome.refused) == ([], ["harness_samples.Sample.raises"])
    monkeypatch.setattr(runner, "NOT_HOSTED", {"Sample.fine": ("why", "an error")})
    (problem,) = check("Sample.fine").problems
    assert problem.startswith("not_hosted.py lists it, but it does not fail with 'an error'")
