"""How long calls may take."""

# Whether this process has ever limited its calls: the others need not ask.
cdef bint limits

cdef int note_limits() except -1
cdef double end_of_calls() except -1.0
cdef double begin_limited() except -1.0
cdef double seconds_to_dial(double seconds) except -1.0
