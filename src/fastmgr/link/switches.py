"""What the environment can turn off."""

from __future__ import annotations

import os

__all__ = ["is_off"]


def is_off(variable: str) -> bool:
    """Whether an environment variable says ``off``; what is not set is on.

    Raises
    ------
    ValueError
        It says neither ``on`` nor ``off``: whoever set it would be safe in their belief alone.
    """
    said = os.environ.get(variable, "on")
    word = said.strip().lower()
    if word not in ("on", "off"):
        raise ValueError(f"{variable}={said!r} in the environment: 'on' or 'off' is needed")
    return word == "off"
