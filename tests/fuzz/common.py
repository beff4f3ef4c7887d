"""What the fuzz targets share: their seeds, their dictionary and the way into libFuzzer.

A target is a program ``fuzz_NAME.py`` that hands a function of bytes to `fuzz`. The function
returns, or raises: whatever it raises is a finding. ``run.py`` starts the targets on a build that
has sanitizers and coverage counters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import atheris

__all__ = ["fuzz", "instrumented"]


def instrumented() -> atheris.instrument_imports:
    """In its `with` block Python's modules are imported with counters as the compiled ones have."""
    return atheris.instrument_imports(include=["fastmgr"])


def fuzz(
    one_input: Callable[[bytes], None], seeds: Iterable[bytes], words: Iterable[bytes] = ()
) -> None:
    """Be a fuzzer; does not return.

    The first command line argument is a folder for seeds, dictionary and corpus, the others are
    libFuzzer's. Files among them are tried, and nothing else is.

    Parameters
    ----------
    one_input : callable
    seeds : iterable of bytes
        Inputs to start from.
    words : iterable of bytes
        Sequences that are worth inserting.
    """
    program, place, *options = sys.argv
    if all(option.startswith("-") for option in options):
        work = Path(place)
        found, given = work / "corpus", work / "seeds"
        for folder in (found, given):
            folder.mkdir(parents=True, exist_ok=True)
        for old in given.iterdir():
            old.unlink()
        for number, seed in enumerate(seeds):
            (given / f"{number:04}").write_bytes(seed)
        dictionary = work / "words"
        dictionary.write_text("".join(f'"{escaped(word)}"\n' for word in words if word))
        options += [f"-dict={dictionary}"] * bool(dictionary.stat().st_size)
        options += [str(found), str(given)]
    atheris.Setup([program, *options], one_input)
    atheris.Fuzz()


def escaped(word: bytes) -> str:
    """The form in which libFuzzer's dictionaries have bytes."""
    return "".join(f"\\x{byte:02x}" for byte in word)
