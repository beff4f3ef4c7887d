"""Cython modules of tests, over the package's own sources: compiled when they are first needed."""

from __future__ import annotations

import fcntl
import importlib
import sys
from pathlib import Path
from types import ModuleType

from Cython.Build import cythonize
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
BUILD = HERE.parents[1] / "build" / "model" / str(sys.implementation.cache_tag)


def compiled(name: str, folder: Path = HERE) -> ModuleType:
    """Import the module of that name in a folder, built anew where a source has changed."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:  # another run of tests may want it, too
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(name, folder)
    if str(BUILD) not in sys.path:
        sys.path.insert(0, str(BUILD))
    return importlib.import_module(name)


def _build(name: str, folder: Path) -> None:
    source = str(folder / f"{name}.pyx")
    extension = Extension(name, [source], include_dirs=[str(SOURCE / "fastmgr")])
    extensions = cythonize(
        extension,
        include_path=[str(SOURCE)],
        build_dir=str(BUILD),
        compiler_directives={"language_level": "3", "legacy_implicit_noexcept": False},
        quiet=True,
    )
    command = build_ext(Distribution({"ext_modules": extensions}))
    command.build_lib = command.build_temp = str(BUILD)
    command.ensure_finalized()
    command.run()
