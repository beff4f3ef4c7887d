"""What we hand out: an sdist with every source, and a wheel made from it that works on its own."""

from __future__ import annotations

import email
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import fastmgr

pytestmark = pytest.mark.timeout(600)  # to build with optimisation on a busy machine

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "fastmgr"

# In the repository, but of no use to who has an sdist.
NOT_IN_SDIST = [".ci/*", ".github/*", ".gitignore", ".gitattributes"]

# Left behind by builds and tools; looked at only where there is no git to ask.
NOT_SOURCE = [
    ".*",
    "build",
    "dist",
    "wheelhouse",
    "*.egg-info",
    "PKG-INFO",
    "setup.cfg",
    "__pycache__",
    "*.py[cod]",
    "*.so",
    "*.c",
]

USE_IT = '''
"""Run by a Python that has nothing but the wheel."""
import importlib.util
import multiprocessing
import sys

import fastmgr
from fastmgr.managers import SyncManager


def increment(shared):
    shared["n"] += 1


if __name__ == "__main__":
    assert fastmgr.__file__.startswith(sys.prefix), fastmgr.__file__
    assert importlib.util.find_spec("Cython") is None
    multiprocessing.set_start_method("spawn")
    with SyncManager() as manager:
        shared = manager.dict(n=1)
        child = multiprocessing.Process(target=increment, args=(shared,))
        child.start()
        child.join()
        assert child.exitcode == 0, child.exitcode
        assert shared.copy() == {"n": 2}, shared
        server = manager._process
    assert not server.is_alive()
    print("it works")
'''


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command outside the influence of this checkout, and show what it said if it fails."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FASTMGR_"))}
    environ |= variables
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command[0]} exited with {done.returncode}:\n{done.stdout}"
    return done.stdout


def source_files() -> set[str]:
    """The repository's files: what git tracks or would, or all that does not look generated."""

    def git(*arguments: str) -> str | None:
        try:
            return subprocess.check_output(
                ["git", "-C", str(ROOT), *arguments], text=True, stderr=subprocess.DEVNULL
            )
        except (OSError, subprocess.CalledProcessError):
            return None

    top = git("rev-parse", "--show-toplevel")
    if top is not None and Path(top.strip()).resolve() == ROOT:
        listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        assert listed is not None
        return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}

    found = set()
    for directory, subdirectories, files in os.walk(ROOT):
        here = Path(directory).relative_to(ROOT)
        subdirectories[:] = [name for name in subdirectories if not matches(name, NOT_SOURCE)]
        found |= {(here / name).as_posix() for name in files if not matches(name, NOT_SOURCE)}
    return found


def matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sdist built as from a fresh checkout: what earlier builds left here must not count."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in source_files():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    target = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", target, cwd=checkout)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the sdist."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (project,) = unpacked.iterdir()
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", target, cwd=project)
    (built,) = target.iterdir()
    return built


def sdist_files(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        names = [PurePosixPath(member.name) for member in archive if member.isfile()]
    return {PurePosixPath(*name.parts[1:]).as_posix() for name in names}


def test_sdist_has_every_source(sdist: Path) -> None:
    wanted = {name for name in source_files() if not matches(name, NOT_IN_SDIST)}
    assert wanted - sdist_files(sdist) == set()


def test_sdist_has_nothing_built(sdist: Path) -> None:
    built = [name for name in sdist_files(sdist) if name.endswith((".c", ".so", ".pyc"))]
    peers = [f"benchmarks/peers/{name}.c" for name in ("line", "valkey_loop")]
    assert sorted(built) == ["benchmarks/echo.c", *peers]


def test_wheel_has_what_running_needs_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [PurePosixPath(name) for name in archive.namelist()]
    licences = [name for name in names if name.match("*.dist-info/licenses/LICENSE")]
    assert len(licences) == 1
    assert PurePosixPath("_fastmgr_pytest.py") in names

    found = {name.as_posix() for name in names if name.parts[0] == "fastmgr"}
    copied = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix in {".py", ".pyi", ".lua"} or path.name == "py.typed"
    }
    assert "fastmgr/py.typed" in copied
    compiled = {
        path.relative_to(PACKAGE.parent).with_suffix("").as_posix()
        for path in PACKAGE.rglob("*.pyx")
    }
    assert compiled

    modules = {name for name in found if name.endswith(".so")}
    # Beside them a module of Cython's own, which all of them use.
    assert {name.partition(".")[0] for name in modules} - {"fastmgr/_shared"} == compiled
    assert found - modules == copied


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere debug information is not in it")
def test_wheel_has_no_debug_information(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        core = [info for info in archive.infolist() if "/engines/" not in info.filename]
        assert (
            sum(info.compress_size for info in core) < 1_900_000
        )  # it would be several times that
        modules = [archive.read(name) for name in archive.namelist() if name.endswith(".so")]
    assert not [module for module in modules if b".debug_info" in module or b".symtab" in module]


def test_what_a_wheel_says_of_itself_leads_somewhere(wheel: Path) -> None:
    """A link into the repository is dead on a page that shows the README elsewhere."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    links = re.findall(r"\]\(([^)]*)\)", str(metadata.get_payload()))
    assert links and all(link.startswith("https://") for link in links), links
    ours = r"https://(?:github\.com/fastmgr/fastmgr/blob|raw\.githubusercontent\.com/fastmgr/fastmgr)/main/"
    for link in links:
        if into := re.match(ours, link):
            assert (ROOT / link[into.end() :].partition("#")[0]).is_file(), link
    assert {"Homepage", "Changelog", "Issues"} <= {
        url.partition(",")[0] for url in metadata.get_all("Project-URL", [])
    }
    assert metadata["Version"] == fastmgr.__version__
    needed = metadata.get_all("Requires-Dist", [])
    assert needed and all("extra ==" in one for one in needed), needed


def test_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python),
        *("install", "--no-deps", "--no-index", "--no-compile", wheel),
        cwd=tmp_path,
    )
    script = tmp_path / "use_it.py"
    script.write_text(USE_IT)
    assert "it works" in run(python, "-W", "error", script, cwd=tmp_path)
    said = run(python, "-m", "fastmgr", "--version", cwd=tmp_path)
    assert said == f"fastmgr {fastmgr.__version__}\n"
    for extra in ("prometheus", "opentelemetry"):
        program = f"""
try:
    import fastmgr.contrib.{extra}
except ModuleNotFoundError as error:
    print(error)
"""
        said = run(python, "-c", program, cwd=tmp_path)
        assert said.count("\n") == 1 and f"pip install 'fastmgr[{extra}]'" in said
    program = "import sys; from fastmgr.__main__ import main; sys.exit(main(sys.argv[1:]) - 2)"
    served = ("serve", "--address", tmp_path / "s", "--metrics", "127.0.0.1:0")
    assert "pip install 'fastmgr[prometheus]'" in run(python, "-c", program, *served, cwd=tmp_path)


def test_the_layout_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    layout = text[text.index("## Rooms") : text.index("## The way of a call")]
    named = {
        PurePosixPath(name).stem
        for row in layout.splitlines()
        if row.startswith("- ")
        for name in re.findall(r"`([^`]+)`", row)
    }
    modules = {
        path.name.split(".")[0]
        for path in PACKAGE.rglob("*")
        if path.suffix in {".py", ".pyx", ".pxd", ".pyi", ".h"}
        and path.parent.name != "__pycache__"
        and (path.stem != "__init__" or path.parent == PACKAGE)
    }
    assert modules <= named
