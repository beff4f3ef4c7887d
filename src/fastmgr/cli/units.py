"""Numbers, amounts, durations and names as people read them, in few letters."""

from __future__ import annotations

__all__ = ["as_bytes", "as_number", "as_seconds", "counted", "one_line"]

LARGE = ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"))
BYTES = ((1, " B"), (2**10, " KiB"), (2**20, " MiB"), (2**30, " GiB"), (2**40, " TiB"))
SHORT = ((1e-6, " µs"), (1e-3, " ms"), (1.0, " s"))
LONG = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def as_number(number: float | None) -> str:
    """Return a number, as 1,234 or 1.23M; nothing for None."""
    if number is None:
        return ""
    if number < 99_999.5:
        return f"{number:,.0f}" if number >= 9.95 or number == int(number) else f"{number:.1f}"
    return _scaled(number, LARGE)


def as_bytes(number: float | None) -> str:
    """Return an amount of memory or traffic, as 1.5 KiB; nothing for None."""
    return "" if number is None else _scaled(number, BYTES)


def as_seconds(seconds: float | None) -> str:
    """Return a duration, as 12 µs or 3 h 5 min; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 99.5:
        return _scaled(seconds, SHORT) if seconds >= 1e-9 else "0 s"
    whole = round(seconds)
    place = next(place for place, (size, _) in enumerate(LONG) if whole >= size)
    (larger, first), (smaller, second) = LONG[place : place + 2]
    return f"{whole // larger} {first} {whole % larger // smaller} {second}"


def counted(number: int, what: str) -> str:
    """Return a number of things, as 1 client or 2 clients."""
    return f"{as_number(number)} {what}{'' if number == 1 else 's'}"


def one_line(text: object) -> str:
    """Return a text from elsewhere without what would begin a line or command the terminal.

    Such characters are escaped, as in a str's `repr`: also those that turn the direction of writing
    round, and those that cannot be encoded.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _scaled(number: float, units: tuple[tuple[float, str], ...]) -> str:
    """Return a number with three digits in the smallest unit in which it is below 1,000."""
    size, name = next((unit for unit in units if number < 999.5 * unit[0]), units[-1])
    return f"{number / size:.3g}{name}"
