"""Every shared type, every kind of proxy: stock client and fastmgr server, and the reverse.

And clients of engines, which have neither.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import scenarios
from peers import KEY, FastServers, Peer, connect
from support import valkeys

pytestmark = pytest.mark.timeout(90)

# Over TCP, a connection of the stock library takes 40 ms and more until it is served (Nagle's
# algorithm against delayed acknowledgements): enough of them to see that TCP is no different.
BRIEF = [scenarios.queues, scenarios.exceptions, scenarios.typed_results, scenarios.big_payloads]
CASES = [
    pytest.param(family, scenario, id=f"{family}-{scenario.__name__}")
    for family in ("unix", "tcp")
    for scenario in scenarios.TYPES + scenarios.PROXIES
    if family == "unix" or scenario in BRIEF
]


@pytest.mark.parametrize(("family", "scenario"), CASES)
def test_stock_client_of_fastmgr_server(
    scenario: Any, peer: Peer, family: str, fast_servers: FastServers
) -> None:
    with fast_servers.clean(family) as server:  # every reference it takes has to be returned
        peer.call("scenario", name=scenario.__name__, address=server.address, key=KEY)


@pytest.mark.parametrize(("family", "scenario"), CASES)
def test_fastmgr_client_of_stock_server(scenario: Any, peer: Peer, family: str) -> None:
    with peer.clean_server(family) as manager:
        scenario(manager)


@pytest.mark.parametrize(("family", "scenario"), CASES)
def test_fastmgr_client_of_fastmgr_server(
    scenario: Any, family: str, fast_servers: FastServers
) -> None:
    with fast_servers.clean(family) as server:
        scenario(connect(server.address))


#: What takes a class of a user's, a process of ours over there, or the stdlib's dialect.
UNHOSTED = {
    scenarios.pools, scenarios.async_results, scenarios.iterators, scenarios.exceptions,
    scenarios.unknown_ident, scenarios.custom_classes, scenarios.typed_results,
    scenarios.nested_proxies, scenarios.pickled_proxies, scenarios.management,
}  # fmt: skip


@pytest.fixture(scope="module", params=[*valkeys.PLACES, *valkeys.ENCRYPTED])
def engines_manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    with valkeys.manager(request.param) as manager:
        yield manager


@pytest.mark.parametrize(
    "scenario",
    [one for one in [*scenarios.TYPES, *scenarios.PROXIES, scenarios.sets] if one not in UNHOSTED],
)
def test_client_of_an_engine(scenario: Any, engines_manager: Any) -> None:
    scenario(engines_manager)
    gc.collect()
    assert engines_manager._number_of_objects() == 0


def test_sets_where_both_ends_have_them(peer: Peer, fast_servers: FastServers) -> None:
    """The type came with 3.14; a server without it says so."""
    stock = connect(peer.server("unix"))
    if peer.version >= (3, 14):
        address = fast_servers.get("unix").address
        peer.call("scenario", name="sets", address=address, key=KEY)
        scenarios.sets(stock)
    else:
        error = scenarios.raises(scenarios.managers.RemoteError, stock._create, "set")
        assert "KeyError: 'set'" in str(error)
