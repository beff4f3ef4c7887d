"""Numbers for people: three digits, and a unit that fits."""

from __future__ import annotations

import pytest

from fastmgr.cli.units import as_bytes, as_number, as_seconds, counted, one_line

SHOWN = [
    (as_number, 0, "0"),
    (as_number, 0.25, "0.2"),
    (as_number, 9.96, "10"),
    (as_number, 12345.6, "12,346"),
    (as_number, 99_999.7, "100k"),
    (as_number, 999_600, "1M"),
    (as_number, 1.23e15, "1.23e+03T"),
    (as_bytes, 1023, "0.999 KiB"),
    (as_bytes, 999, "999 B"),
    (as_bytes, 1536, "1.5 KiB"),
    (as_bytes, 3 * 2**30, "3 GiB"),
    (as_seconds, 0, "0 s"),
    (as_seconds, 1.25e-5, "12.5 µs"),
    (as_seconds, 0.9996, "1 s"),
    (as_seconds, 99.4, "99.4 s"),
    (as_seconds, 99.6, "1 min 40 s"),
    (as_seconds, 3600 * 3 + 301, "3 h 5 min"),
    (as_seconds, 86400 * 2, "2 d 0 h"),
]


@pytest.mark.parametrize(("show", "number", "text"), SHOWN)
def test_what_is_shown(show, number: float, text: str) -> None:  # type: ignore[no-untyped-def]
    assert show(number) == text


@pytest.mark.parametrize("show", [as_number, as_bytes, as_seconds])
def test_what_cannot_be_had_is_not_shown(show) -> None:  # type: ignore[no-untyped-def]
    assert show(None) == ""


def test_numbers_of_things() -> None:
    assert [counted(number, "client") for number in (0, 1, 2, 1000)] == [
        "0 clients", "1 client", "2 clients", "1,000 clients"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("jobs of Zoë", "jobs of Zoë"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x9b0m\x7f", r"\x1b[31mred\x9b0m\x7f"),
        ("\u202eturned\u2028", r"\u202eturned\u2028"),
        ("\udcff", r"\udcff"),
        (7, "7"),
    ],
)
def test_text_that_would_command_the_terminal(text: object, shown: str) -> None:
    assert one_line(text) == shown
