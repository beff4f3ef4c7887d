"""Other serializers than pickle, of the stdlib's and of a user's."""

from __future__ import annotations

from typing import Any

import interop_types
import pytest
import scenarios
from peers import KEY, FastServers, Peer

from fastmgr import managers

pytestmark = pytest.mark.timeout(90)

SERIALIZERS = pytest.mark.parametrize(
    ("serializer", "family"), [("xmlrpclib", "tcp"), ("json", "unix")]
)


@pytest.fixture
def json_here() -> Any:
    """The serializer "json", in this process as in the servers and the peers."""
    interop_types.add_json()
    yield
    del managers.listener_client["json"]


@SERIALIZERS
def test_stock_client_with_another_serializer(
    serializer: str, peer: Peer, family: str, fast_servers: FastServers, json_here: None
) -> None:
    with fast_servers.clean(family, serializer) as server:
        peer.call(
            "scenario",
            name="plain_values",
            address=server.address,
            key=KEY,
            serializer=serializer,
        )


@SERIALIZERS
def test_fastmgr_client_with_another_serializer(
    serializer: str, peer: Peer, family: str, json_here: None
) -> None:
    with peer.clean_server(family, serializer) as manager:
        scenarios.plain_values(manager)


@SERIALIZERS
def test_both_ends_with_another_serializer(
    serializer: str, family: str, fast_servers: FastServers, json_here: None
) -> None:
    with fast_servers.clean(family, serializer) as manager:
        scenarios.plain_values(manager)
        if serializer == "json":
            # What the user's own serializer cannot write is reported, not swallowed.
            d = manager.dict()
            with pytest.raises(managers.RemoteError, match="Unserializable"):
                d["missing"]
            d["there"] = 1
            assert d["there"] == 1
            del d
