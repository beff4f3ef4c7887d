"""Show that the gate fails when fastmgr gets worse: ``python benchmarks/sabotage.py``.

Each sabotage makes a copy of fastmgr worse in one way, builds it, and runs the benchmarks that have
to fail, or the test of what clients keep. The exit status is 0 only if each of them was noticed,
and the copy as it is passed. ``python benchmarks/sabotage.py WORD`` tries those alone whose names
have the word.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = ("src", "benchmarks", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
SEND = r"static inline ssize_t fm_send\([^)]*\) \{"
PUT = r"static inline void fm_mail_put\([^)]*\) \{"
LOOP = " for (volatile int i = 0; i < {}; i++) {{}}"
CYTHON_LOOP = "    cdef volatile int i = 0\n    while i < {}:\n        i += 1\n"


@dataclass(frozen=True)
class Sabotage:
    """What is inserted into a file behind what matches `anchor`; which test has to say what.

    `also` has to be said, too, where there is any.
    """

    name: str
    file: str
    anchor: str
    damage: str
    test: str
    said: str
    also: str = ""
    place: str = "benchmarks"

    def apply(self, text: str) -> str:
        """Return the file's text with the damage done."""
        damaged, count = re.subn(self.anchor, lambda found: found[0] + self.damage, text)
        if count != 1:
            sys.exit(f"{self.name}: {count} places in {self.file} look like {self.anchor}, not 1")
        return damaged


SABOTAGES = (
    Sabotage(
        name="a loop in the encoding of numbers",
        file="wire/tags.pxd",
        anchor=r"cdef inline void store\(.*:\n",
        damage=CYTHON_LOOP.format(200),
        test="test_instructions.py -k encode",
        said="instructions, encode int: ",
    ),
    Sabotage(
        name="a loop in the decoding of numbers",
        file="wire/tags.pxd",
        anchor=r"cdef inline int32_t load_4\(.*:\n",
        damage=CYTHON_LOOP.format(50),
        test="test_instructions.py -k decode",
        said="instructions, decode list: ",
    ),
    Sabotage(
        name="sizes as long as those of long values",
        file="wire/writer.pyx",
        anchor=r"\n    if n < 255",
        damage=" and n < 0",
        test="test_counts.py -k test_bytes",
        said="bytes, dict_get: ",
    ),
    Sabotage(
        name="a loop before posting",
        file="link/mailbox.h",
        anchor=PUT,
        damage=LOOP.format(2000),
        test="test_instructions.py -k dict_get",
        said="instructions, (client|server) dict_get: ",
    ),
    Sabotage(
        name="a queue whose place no client asks for",
        file="client/queues.pyx",
        anchor=r"        if self\.calls_before < ASK_AFTER",
        damage=" + 100_000",
        test="test_instructions.py test_counts.py -k queue",
        said="instructions, client queue: ",
        also="syscalls, queue: ",
    ),
    Sabotage(
        name="a loop before what was kept is returned",
        file="memory/versions.pxd",
        anchor=r"cdef inline bint stands\(.*:\n",
        damage=CYTHON_LOOP.format(100),
        test="test_instructions.py -k dict_kept",
        said="instructions, client dict_kept: ",
    ),
    Sabotage(
        name="replies that say no version",
        file="server/replies.pyx",
        anchor=r"if header\.op == OP_RETURN and header\.flags == 0",
        damage=" and False",
        test="test_instructions.py test_counts.py -k dict_kept",
        said="instructions, client dict_kept: ",
        also="syscalls, dict_kept: ",
    ),
    Sabotage(
        name="a system call more before sending",
        file="link/system.h",
        anchor=SEND,
        damage=" (void)getppid();",
        test="test_counts.py -k test_syscalls",
        said="syscalls, dict_get: ",
    ),
    Sabotage(
        name="a long loop before posting",
        file="link/mailbox.h",
        anchor=PUT,
        damage=LOOP.format(50000),
        test="test_calls.py -k dict_get",
        said="calls, dict_get: stock/fastmgr is ",
    ),
    Sabotage(
        name="no mailboxes",
        file="server/operations.pyx",
        anchor=r"elif conn\.stream\.mailbox_segment is None",
        damage=" and False",
        test="test_calls.py -k dict_get",
        said="calls, dict_get: stock/fastmgr is ",
    ),
    Sabotage(
        name="a thread for each connection",
        file="server/service.pyx",
        anchor=r"\n        cdef bytes frame\n",
        damage="        import threading\n"
        "        threading.Thread(target=threading.Event().wait, daemon=True).start()\n",
        test="test_counts.py -k test_idle_threads",
        said="threads, idle: ",
    ),
)
STALE = r".*(was \d+ after \d+|its own one-way call)"
SABOTAGES += tuple(
    Sabotage(
        name=f"no step on the version {when} a change",
        file="memory/versions.pxd",
        anchor=rf"cdef inline void {step}_change\(.*:\n",
        damage=damage,
        test="tests/faults/test_coherence.py",
        said=STALE,
        place=".",
    )
    for when, step, damage in (
        ("before", "begin", "    return\n"),
        ("after", "end", "    version = fm_load(word) & ~<uint64_t>1 or version\n"),
    )
)
EVERYTHING = "test_instructions.py test_counts.py test_calls.py::test_call[dict_get]"


def failures(copy: Path, test: str, place: str = "benchmarks") -> list[str]:
    """Build the copy and run some benchmarks, or tests; return what those that failed said."""
    environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
    environment.setdefault("FASTMGR_COHERENCE_SECONDS", "30")

    def run(directory: str, *arguments: str) -> tuple[int, str]:
        command, place = [sys.executable, *arguments], copy / directory
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    status, output = run(".", "setup.py", "--quiet", "build_ext", "--inplace")
    assert status == 0, output
    status, output = run(".", "-c", "import fastmgr; print(fastmgr.__file__)")
    assert Path(output.strip()).is_relative_to(copy), f"not the copy: {output}"
    status, output = run(place, "-m", "pytest", "-q", *test.split())
    found = re.findall(r"^E +Failed: (.*)$", output, re.MULTILINE)
    if bool(found) != bool(status) or re.search(r"\d (skipped|error)", output):
        sys.exit(f"not measured:\n{output}")
    return found


def main() -> int:
    """Try the copy as it is, then each sabotage."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for source in (ROOT / name for name in NEEDED):  # with what is built of it
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy / source.name)
        chosen = [one for one in SABOTAGES if word in one.name]
        found = [] if word else failures(copy, EVERYTHING)
        for test in {one.test for one in chosen if one.place == "."}:
            found += failures(copy, test, ".")
        print("as it is:", *(found or ["passed"]), flush=True)
        unexpected = bool(found)
        for sabotage in chosen:
            target = copy / "src/fastmgr" / sabotage.file
            text = target.read_text()
            target.write_text(sabotage.apply(text))
            found = failures(copy, sabotage.test, sabotage.place)
            target.write_text(text)
            noticed = all(
                any(re.match(said, line) for line in found)
                for said in (sabotage.said, sabotage.also)
            )
            unexpected |= not noticed
            found[2:] = [f"{len(found) - 2} more"] * (len(found) > 2)
            verdict = "noticed" if noticed else "UNNOTICED"
            print(f"{sabotage.name}: {verdict}", *found, sep="\n    ", flush=True)
    print("something is wrong" if unexpected else "the gate fails when it has to")
    return int(unexpected)


if __name__ == "__main__":
    sys.exit(main())
