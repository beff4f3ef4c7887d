"""The interpreters of this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from support.waiting import DEADLINE


def interpreters() -> dict[str, str]:
    """Every working CPython 3.10+ to be found, by its "3.X", with the one at hand.

    Besides PATH, the folders next to the one at hand are searched: version managers and CI
    images install interpreters side by side. What is found has to run: a name on PATH may be a
    launcher of something that is not installed.
    """
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    # A virtual environment would bring what is installed in it.
    found = {here: getattr(sys, "_base_executable", sys.executable)}
    prefix = Path(sys.base_prefix)
    for minor in range(10, 20):
        version = f"3.{minor}"
        name = f"python{version}"
        candidates = [shutil.which(name)]
        for pattern in (f"{version}.*/bin/{name}", f"{version}.*/*/bin/{name}", f"*/bin/{name}"):
            for root in (prefix.parent, prefix.parent.parent):
                candidates += [str(path) for path in sorted(root.glob(pattern), reverse=True)]
        for candidate in candidates:
            if version not in found and candidate and _runs(candidate, version):
                found[version] = candidate
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


def _runs(executable: str, version: str) -> bool:
    code = "import sys, _multiprocessing; print('%s.%s' % sys.version_info[:2])"
    try:
        done = subprocess.run([executable, "-I", "-c", code], capture_output=True, timeout=DEADLINE)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.decode().strip() == version
