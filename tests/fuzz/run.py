"""Run the fuzz targets, one on each processor (``make fuzz``), or one of them on given inputs.

A finding's input stays in ``build/fuzz/findings``; ``run.py TARGET FILE`` tries it again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "fuzz"
FINDINGS = BUILD / "findings"
SHM = "/dev/shm"

TARGETS = {
    # What a short input makes the decoder allocate in one piece is never large.
    "wire": ["-max_len=4096", "-malloc_limit_mb=16"],
    "frame": ["-max_len=4096"],
    "intro": ["-max_len=1024"],
    "names": ["-max_len=4096"],
    "resp": ["-max_len=2048"],
    "ring": ["-max_len=1024"],
    "server": ["-max_len=1024"],
}
COMMON = ["-timeout=25", "-rss_limit_mb=1500", "-print_final_stats=1", "-detect_leaks=0"]
# CPython keeps objects at exit on purpose; large requests fail at once, as they would elsewhere.
ASAN = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=32:allow_addr2line=1"
GRACE = 90  # seconds a target may take besides: it starts, and tries its corpus


def run(target: str, seconds: int, files: list[str], scratch: str) -> bool:
    """Whether the target has run to its end without a finding."""
    environ = {
        **os.environ,
        "LD_PRELOAD": f"{atheris.path()}/asan_with_fuzzer.so",
        "PYTHONPATH": str(BUILD / "lib"),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": f"{ASAN}:quarantine_size_mb=32",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TMPDIR": scratch,
    }
    command = [sys.executable, str(HERE / f"fuzz_{target}.py"), str(BUILD / target)]
    command += [*COMMON, *TARGETS[target], f"-artifact_prefix={FINDINGS}/{target}-"]
    command += files or [f"-max_total_time={seconds}"]
    log = BUILD / f"{target}.log"
    with log.open("wb") as output:
        try:
            status = subprocess.run(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds + GRACE,
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    said = log.read_text("utf-8", "replace")
    lines = [f"{target:7} {summary(said)}; {'no finding' if status == 0 else 'FAILED'}"]
    if status:
        lines += [excerpt(said), f"The whole log is {log}, the input in {FINDINGS}."]
    print("\n".join(lines), flush=True)  # at once: other targets run beside this one
    return status == 0


def summary(said: str) -> str:
    """How much was tried: inputs, speed, and what of the code they reached."""
    numbers = {}
    for name, pattern in {
        "inputs": r"^stat::number_of_executed_units: +(\d+)",
        "a second": r"^stat::average_exec_per_sec: +(\d+)",
        "edges": r" cov: (\d+)",
        "features": r" ft: (\d+)",
        "inputs kept": r" corp: (\d+)",
    }.items():
        found: list[str] = re.findall(pattern, said, re.MULTILINE)
        if found:
            numbers[name] = found[-1]
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


def excerpt(said: str) -> str:
    """Where the trouble begins, of the stack what is ours, and the lines that name it."""
    trouble = re.compile(r"runtime error:|ERROR: |Uncaught Python exception|^Traceback|ALARM: ")
    others = re.compile(r"^    #\d+ (?!.*fastmgr|.*/tests/fuzz/)|failed to allocate")
    end = ("SUMMARY:", "artifact_prefix")
    lines = [line[:300] for line in said.splitlines() if not others.search(line)]
    first = next((i for i, line in enumerate(lines) if trouble.search(line)), len(lines) - 30)
    last = [line for line in lines[first + 30 :] if line.startswith(end)]
    return "\n".join([*lines[first : first + 30], *last])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("what", nargs="*", help="targets, all by default; or a target and files")
    arguments = parser.parse_args()
    targets = [name for name in arguments.what if name in TARGETS] or [*TARGETS]
    files = [name for name in arguments.what if name not in TARGETS]
    if files and len(targets) != 1:
        parser.error(f"files are for one target: {', '.join(TARGETS)}")
    FINDINGS.mkdir(parents=True, exist_ok=True)
    memory = SHM if os.access(SHM, os.W_OK) else None  # a disk would be slow
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as scratch,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        runs = [pool.submit(run, name, arguments.seconds, files, scratch) for name in targets]
        outcomes = [one.result() for one in runs]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
