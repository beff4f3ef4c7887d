"""Build the compiled core; everything else is declared in pyproject.toml.

Environment
-----------
FASTMGR_DEBUG=1
    No optimisation, full debug symbols; the assertions of our own code are made, in Cython and in
    C, and indexes checked (``make debug``).
FASTMGR_SANITIZE=1
    The same checks under AddressSanitizer and UndefinedBehaviorSanitizer (``make asan``).
FASTMGR_FUZZ=1
    The same, by clang, with the counters that guide a fuzzer (``make fuzz``). The run-time library
    of both comes with the fuzzer, and must be in the process first.
FASTMGR_WERROR=1
    A warning of Cython or of the C compiler is an error (``make lint``).

The compiler's flags are not part of what decides whether a module is rebuilt, so each of these
belongs in a build directory of its own, as the Makefile has it.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

DEBUG, SANITIZE, FUZZ, WERROR = (
    bool(os.environ.get(f"FASTMGR_{name}")) for name in ("DEBUG", "SANITIZE", "FUZZ", "WERROR")
)
#: Whether assertions are made and indexes checked.
CHECKED = DEBUG or SANITIZE or FUZZ or WERROR
#: Whether what is built is for users, and not in place for us: stripped, in a directory of its own.
WHEEL = "bdist_wheel" in sys.argv
# Python 3.13 brings os.process_cpu_count; macOS has no affinity to ask for.
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def extensions() -> list[Extension]:
    """Translate every .pyx of the package, one extension module each."""
    import Cython
    from Cython.Build import cythonize
    from Cython.Compiler import Options

    compile_args = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
    link_args: list[str] = []
    sources = {
        ".".join(path.relative_to("src").with_suffix("").parts): path
        for path in sorted(Path("src/fastmgr").rglob("*.pyx"))
    }
    build_dir = None
    if FUZZ:
        compile_args += ["-fsanitize=fuzzer-no-link,address,undefined"]
        compile_args += ["-fno-sanitize=function", "-fno-sanitize-recover=undefined"]
        compile_args += ["-O1", "-gline-tables-only", "-fno-omit-frame-pointer", "-UNDEBUG"]
        sources |= {name: Path(f"tests/fuzz/{name}.pyx") for name in ("fuzz_cutter", "fuzz_cells")}
        sources["rings"] = Path("tests/support/rings.pyx")
        build_dir = "build/fuzz"
    elif SANITIZE:
        link_args = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
        compile_args += [*link_args, "-O1", "-g", "-fno-omit-frame-pointer", "-UNDEBUG"]
        build_dir = "build/asan"
    elif DEBUG:
        compile_args += ["-O0", "-g3", "-UNDEBUG"]
        build_dir = "build/debug"
    else:
        compile_args += ["-O2"]
        if WHEEL:
            # The interpreter's own flags ask for debug information: most of a wheel's size.
            compile_args += ["-g0"]
            link_args += ["-Wl,-s"] if sys.platform == "linux" else []
    if not CHECKED:
        # Those of assertions that are left out.
        compile_args += ["-Wno-unused-variable", "-Wno-unused-function"]
    if WERROR:
        compile_args += ["-Werror"]
        Options.warning_errors = True
        # Cython's warnings appear only when it translates: a build of its own sees all of them.
        build_dir = "build/werror"

    options: dict[str, object] = {}
    if tuple(map(int, Cython.__version__.split(".")[:2])) >= (3, 3):
        # What all modules need of Cython's own code is then compiled once, into a module of its
        # own, which makes a wheel smaller and loads faster. No module of ours needs memory views.
        sources["fastmgr._shared"] = Path("src/fastmgr/_shared.c")
        options["shared_utility_qualified_name"] = "fastmgr._shared"
        options["shared_utility_features_disabled"] = ["MemoryView"]

    return cythonize(
        [
            Extension(
                name,
                [source.as_posix()],
                include_dirs=["src/fastmgr"],
                extra_compile_args=compile_args,
                extra_link_args=link_args,
                define_macros=[] if CHECKED else [("CYTHON_WITHOUT_ASSERTIONS", "1")],
            )
            for name, source in sources.items()
        ],
        include_path=["src"],
        build_dir=build_dir,
        nthreads=0 if WERROR else CPUS,
        compiler_directives={
            "language_level": "3",
            "boundscheck": CHECKED,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
            "legacy_implicit_noexcept": False,
        },
        **options,
    )


# Translation uses processes, which may import this file anew: nothing may happen then.
if __name__ == "__main__":
    if os.name != "posix":
        sys.exit("fastmgr supports Linux and macOS: it needs POSIX sockets, which are not here.")
    # An sdist and the metadata need no translation: MANIFEST.in names the sources.
    builds = {"sdist", "egg_info", "dist_info"}.isdisjoint(sys.argv)
    setup(
        ext_modules=extensions() if builds else [],
        options={
            "build_ext": {"parallel": CPUS},
            "build": {"build_base": "build/wheel"} if WHEEL else {},
        },
    )
