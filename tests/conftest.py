"""What holds for every test: how garbage is searched for, and that Ctrl-C is heard."""

import gc
import signal

import pytest


def pytest_configure() -> None:
    # A shell starts what is to run in the background with SIGINT ignored, and so would be every
    # process that the tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    # Tests collect garbage all the time: what was there before them is left out of every search.
    gc.collect()
    gc.freeze()


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    # The server of a module's tests is a fork of this process: what is garbage here would be
    # held in other servers by its copy, which is looked for by nobody.
    if fixturedef.scope == "module":
        gc.collect()
