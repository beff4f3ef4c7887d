"""The model of `processors.py`, with parts of a call that make it easy to see what is right."""

import pytest
from processors import Parts

PARTS = Parts(server=1.0, client=3.0, alone=2.0)


@pytest.mark.parametrize(
    ("processors", "clients", "rate"),
    [
        (2, 1, 0.5),  # the round trip
        (3, 2, 0.8),  # half of the time the other one is being served
        (1000, 999, 1.0),  # the server has no more to give
        (2, 8, 0.5),  # both processors work all the time: four for each call
    ],
)
def test_calls_a_second(processors: int, clients: int, rate: float) -> None:
    assert PARTS.rate(processors, clients) == pytest.approx(rate)


def test_several_servers_share_the_processors() -> None:
    assert PARTS.of_servers(2) == (0.5, 1)
    rate, servers = PARTS.of_servers(12)
    assert servers == 4 and rate == pytest.approx(4 * 0.8)
