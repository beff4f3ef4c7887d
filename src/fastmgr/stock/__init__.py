"""What crosses the wire besides the fast dialect: the stdlib's own ways."""
