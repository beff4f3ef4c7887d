"""The server; `fastmgr._core` joins its parts.  What it hosts is known from here on."""

from fastmgr.kinds import standard as _standard  # noqa: F401 (declares the rows)
from fastmgr.kinds.rows import fill_tables

fill_tables()
