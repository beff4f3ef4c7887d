# cython: language_level=3
"""What a call of compiled code costs at least."""


cdef class Empty:
    """Has a method that does nothing."""

    def method(self):
        """Do nothing."""
