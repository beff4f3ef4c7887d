"""Make every process of an environment use fastmgr in place of `multiprocessing.managers`.

The runner copies this file into the environment's site-packages next to a .pth file which
imports it.  That reaches every process, also `python -I` ones which ignore PYTHONPATH.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

NAME = "multiprocessing.managers"
SHUTDOWN_TIMEOUT = 10.0


class Hook:
    """A finder and a loader for exactly one module; it loads nothing until asked for it."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        return ModuleSpec(NAME, self) if fullname == NAME else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        import fastmgr

        # The import system returns what it finds in sys.modules after this.
        fastmgr.install()
        if sys.modules[NAME] is not fastmgr.managers:
            raise ImportError("fastmgr.install() did not replace " + NAME)
        # On a busy machine a second is not much for all that a server's process may have to end:
        # one that is terminated meanwhile leaves warnings, as the stdlib's does.
        fastmgr.managers.BaseManager.__init__.__kwdefaults__["shutdown_timeout"] = SHUTDOWN_TIMEOUT


sys.meta_path.insert(0, Hook())  # type: ignore[arg-type]
