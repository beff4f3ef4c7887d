"""A server for the tests of a module, and the type that it hosts in them."""

from support.hashes import hashes, running

__all__ = ["hashes", "running"]
