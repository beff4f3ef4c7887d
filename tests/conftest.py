"""Tests collect garbage all the time: what was there before them is left out of every search."""

import gc


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
