"""Slots and redirections, with nodes of a cluster that the test plays itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.fakenodes import CUT, SLOTS, FakeNode, share
from support.hashes import hash_of, hosted
from support.waiting import poll

from fastmgr import SyncManager, oneway
from fastmgr.engines.valkey.engine import ENGINE
from fastmgr.engines.valkey.errors import ConnectionLost, PipelineError
from fastmgr.engines.valkey.nodes import ClusterSession, slot_of
from fastmgr.engines.valkey.topology import Topology

HOST = "127.0.0.1"
#: After so many one-way calls a connection looks for replies.
POSTED_AT_ONCE = 64
#: A key of the first half of the slots, and one of the second.
LOW, HIGH = b"bar", b"foo"


@pytest.mark.parametrize(
    "key, slot",
    [
        (b"123456789", 0x31C3),  # the check of the CRC
        (b"foo", 12182),
        (b"bar", 5061),
        (b"", 0),
        (b"foo{bar}{zap}", 5061),
        (b"{bar}x{foo}", 5061),
    ],
)
def test_slots_of_keys(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@pytest.mark.parametrize("key", [b"foo{}{bar}", b"{foo", b"foo}bar{"])
def test_a_key_without_a_tag_counts_as_a_whole(key: bytes) -> None:
    assert slot_of(key) == slot_of(b"{" + key.replace(b"}", b"!") + b"}") or b"}" in key
    assert slot_of(key) != slot_of(b"foo") and slot_of(key) != slot_of(b"bar")


class Nodes:
    """Two nodes, of which one owns the first half of the slots and the other the second."""

    def __init__(self) -> None:
        self.both = self.low, self.high = FakeNode(), FakeNode()
        self.share(SLOTS // 2)

    def share(self, border: int, host: str = HOST) -> None:
        share([(self.low, border), (self.high, SLOTS)], self.both, host)

    @property
    def url(self) -> str:
        return f"valkey+cluster://{HOST}:{self.low.port},{HOST}:{self.high.port}"

    def moved(self, node: FakeNode, kind: str = "MOVED", host: str = HOST) -> bytes:
        return f"-{kind} {slot_of(LOW)} {host}:{node.port}\r\n".encode()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    yield found
    for node in found.both:
        node.close()


@pytest.fixture
def session(nodes: Nodes) -> Iterator[ClusterSession]:
    found = ENGINE.open_session(nodes.url, "pickle", b"key")
    assert isinstance(found, ClusterSession)
    yield found
    found.close()


def test_each_node_gets_the_requests_for_its_slots(nodes: Nodes, session: ClusterSession) -> None:
    session.run(["GET", LOW])
    session.run(["GET", HIGH])
    session.run(["FCALL", "f", "1", HIGH, LOW])
    session.run([b"FCALL", b"f", 1, b"x{bar}", b"x"])
    assert nodes.low.served == [[b"GET", LOW], [b"FCALL", b"f", b"1", b"x{bar}", b"x"]]
    assert nodes.high.served == [[b"GET", HIGH], [b"FCALL", b"f", b"1", HIGH, LOW]]


@pytest.mark.parametrize("host", [HOST, ""])
def test_moved_is_learned(nodes: Nodes, session: ClusterSession, host: str) -> None:
    """Also from a node that does not know its own host: the port is then on the same one."""
    nodes.share(SLOTS // 2, host)
    nodes.low.say("INCR", nodes.moved(nodes.high, host=host))
    assert session.run(["INCR", LOW]) == b"OK"
    assert session.run(["INCR", LOW]) == b"OK"
    assert nodes.low.served == [[b"INCR", LOW]]
    assert nodes.high.served == [[b"INCR", LOW]] * 2


def test_asked_is_asked_and_not_learned(nodes: Nodes, session: ClusterSession) -> None:
    nodes.low.say("INCR", nodes.moved(nodes.high, "ASK"))
    assert session.run(["INCR", LOW]) == b"OK"
    assert nodes.high.served == [[b"ASKING"], [b"INCR", LOW]]
    session.run(["INCR", LOW])
    assert len(nodes.low.served) == 2


def test_a_function_waits_until_all_keys_of_the_object_have_been_moved(
    nodes: Nodes, session: ClusterSession
) -> None:
    """It declares one of them: the node that imports the slot would run it without the others."""
    nodes.low.say(
        "FCALL",
        nodes.moved(nodes.high, "ASK"),
        b"-ERR Script attempted to access a non local key in a cluster node script: f\r\n",
        nodes.moved(nodes.high),
    )
    assert session.run([b"FCALL", b"f", 1, LOW]) == b"OK"
    assert nodes.high.served == [[b"FCALL", b"f", b"1", LOW]]


@pytest.mark.parametrize(
    "text",
    [
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "MASTERDOWN Link with MASTER is down",
        "LOADING the dataset in memory",
        "BUSY running a script",
        "READONLY You can't write against a read only replica.",
        "UNBLOCKED force unblock from blocking operation",
    ],
)
def test_what_no_node_has_run_is_made_again(
    nodes: Nodes, session: ClusterSession, text: str
) -> None:
    nodes.low.say("INCR", *[f"-{text}\r\n".encode()] * 3, b":1\r\n")
    assert session.run(["INCR", LOW]) == 1
    assert len(nodes.low.served) == 4


def test_a_cluster_that_stays_down(nodes: Nodes, session: ClusterSession) -> None:
    nodes.low.say("INCR", *[b"-CLUSTERDOWN The cluster is down\r\n"] * 1000)
    with pytest.raises(ConnectionLost, match="is down; the call was not made") as caught:
        session.run(["INCR", LOW], timeout=0.2)
    assert caught.value.applied is False


def test_redirections_in_a_circle_end(nodes: Nodes, session: ClusterSession) -> None:
    nodes.low.say("INCR", *[nodes.moved(nodes.high)] * 1000)
    nodes.high.say("INCR", *[nodes.moved(nodes.low)] * 1000)
    with pytest.raises(ConnectionLost, match="the call was not made"):
        session.run(["INCR", LOW], timeout=0.2)
    assert len(nodes.low.served) < 100  # with pauses


def test_a_lost_node_that_may_have_run_the_request(nodes: Nodes, session: ClusterSession) -> None:
    """What changes something is not made again; what reads is."""
    nodes.low.say("INCR", CUT)
    nodes.low.say("GET", CUT)
    with pytest.raises(ConnectionLost, match="may have been applied") as caught:
        session.run(["INCR", LOW])
    assert caught.value.applied is None
    assert session.run(["GET", LOW], True) == b"OK"
    assert nodes.low.served == [[b"INCR", LOW], [b"GET", LOW], [b"GET", LOW]]


def test_a_node_that_is_gone_is_replaced(nodes: Nodes, session: ClusterSession) -> None:
    session.run(["INCR", HIGH])
    nodes.low.close()
    nodes.share(0)
    assert session.run(["INCR", LOW]) == b"OK"
    assert nodes.high.served == [[b"INCR", HIGH], [b"INCR", LOW]]


def test_no_node_is_there(nodes: Nodes, session: ClusterSession) -> None:
    for node in nodes.both:
        node.close()
    with pytest.raises(ConnectionRefusedError, match="nothing serves"):
        session.connect()


def test_a_single_server_is_no_cluster(nodes: Nodes, session: ClusterSession) -> None:
    for node in nodes.both:
        node.shards = b"-ERR This instance has cluster support disabled\r\n"
    with pytest.raises(ConnectionError, match=r"no node of a cluster.*begins with valkey://"):
        session.connect()


# -- pipelines and one-way calls ----------------------------------------------------------


@pytest.fixture
def hashes(nodes: Nodes) -> Iterator[list[Any]]:
    """Hashes of which the first two lie on one node and the third on the other."""
    with hosted():
        manager = SyncManager.from_address(nodes.url)
        session = manager._session
        found: dict[bool, list[Any]] = {False: [], True: []}
        for number in range(20):
            proxy = hash_of(manager, str(number))
            found[slot_of(session.key_of(proxy._id)) < SLOTS // 2].append(proxy)
        yield [*found[True][:2], found[False][0]]
        session.close()


def fill(hashes: list[Any]) -> Any:
    """A pipeline of six calls, of the hashes by turns."""
    pipe = hashes[0]._manager.pipeline()
    for _ in range(2):
        for proxy in hashes:
            pipe(proxy).add("n", 1)
    return pipe


def test_a_pipeline_is_grouped_by_node(nodes: Nodes, hashes: list[Any]) -> None:
    nodes.low.say("HINCRBY", b":1\r\n", b":2\r\n", b":4\r\n", b":5\r\n")
    nodes.high.say("HINCRBY", b":3\r\n", b":6\r\n")
    assert fill(hashes).execute() == [1, 2, 3, 4, 5, 6]


def test_calls_of_a_pipeline_are_redirected(nodes: Nodes, hashes: list[Any]) -> None:
    key = hashes[0]._session_of().key_of(hashes[0]._id)
    moved = f"-MOVED {slot_of(key)} {HOST}:{nodes.high.port}\r\n".encode()
    nodes.low.say("HINCRBY", moved, b":2\r\n", moved, b":5\r\n")
    nodes.high.say("HINCRBY", b":3\r\n", b":6\r\n", b":1\r\n", b":4\r\n")
    assert fill(hashes).execute() == [1, 2, 3, 4, 5, 6]


def test_a_pipeline_that_one_node_has_cut(nodes: Nodes, hashes: list[Any]) -> None:
    nodes.low.say("HINCRBY", b":1\r\n", CUT)
    nodes.high.say("HINCRBY", b":3\r\n", b":6\r\n")
    with pytest.raises(PipelineError, match="3 of 6 calls of the pipeline were answered") as caught:
        fill(hashes).execute()
    assert caught.value.results == [1, None, 3, None, None, 6]
    assert list(caught.value.unknown) == [1, 3, 4]


def test_calls_that_nobody_waits_for_keep_their_order(nodes: Nodes, hashes: list[Any]) -> None:
    """The redirected one comes before the later ones, which go to the other node at once."""
    session = hashes[0]._session_of()
    key = session.key_of(hashes[0]._id)
    moved = f"-MOVED {slot_of(key)} {HOST}:{nodes.high.port}\r\n"
    posted = oneway(hashes[0])
    nodes.low.say("HSET", moved.encode())
    posted.set("a", "first")
    session.topology.learn(moved[7:].strip(), session.topology.primaries[0])
    posted.set("a", "second")
    assert hashes[0].push("x") == b"OK"
    assert [words[-1] for words in nodes.high.served] == [b"first", b"second", b"x"]


class Changing(Topology):
    """Learns something when somebody looks at its epoch for the so manyth time."""

    looks = 0

    def learn_at(self, look: int, *what: Any) -> None:
        self.looks, self.what = look, what

    @property
    def epoch(self) -> int:
        self.looks -= 1
        if self.looks == 0:
            self.learn(*self.what)
        return int(self.__dict__["epoch"])

    @epoch.setter
    def epoch(self, new: int) -> None:
        self.__dict__["epoch"] = new


@pytest.mark.parametrize("look", [1, 2, 3])
def test_another_thread_learns_of_the_owner_while_a_call_is_posted(
    nodes: Nodes, hashes: list[Any], look: int
) -> None:
    session = hashes[0]._session_of()
    moved = f"{slot_of(session.key_of(hashes[0]._id))} {HOST}:{nodes.high.port}"
    posted = oneway(hashes[0])
    nodes.low.say("HSET", *[f"-MOVED {moved}\r\n".encode()] * 2)
    posted.set("a", "first")
    session.topology.__class__ = Changing
    session.topology.learn_at(look, moved, session.topology.primaries[0])
    for text in ("second", "third"):
        posted.set("a", text)
    assert hashes[0].push("x") == b"OK"
    assert [words[-1] for words in nodes.high.served] == [b"first", b"second", b"third", b"x"]


def test_redirected_calls_come_before_those_that_are_not_answered(
    nodes: Nodes, hashes: list[Any]
) -> None:
    """Also where the first redirection shows the thread that slots have other owners."""
    key = hashes[0]._session_of().key_of(hashes[0]._id)
    moved = f"-MOVED {slot_of(key)} {HOST}:{nodes.high.port}\r\n".encode()
    posted = oneway(hashes[0])
    count = 3 * POSTED_AT_ONCE // 2
    nodes.low.say("HSET", *[moved] * count)
    for number in range(POSTED_AT_ONCE - 1):
        posted.set("a", number)
    poll(lambda: len(nodes.low.served) == POSTED_AT_ONCE - 1, "the calls are answered")
    for number in range(POSTED_AT_ONCE - 1, count):
        posted.set("a", number)
    assert hashes[0].push("x") == b"OK"
    served = [words[-1] for words in nodes.high.served]
    assert served == [str(number).encode() for number in range(count)] + [b"x"]


def test_redirected_calls_of_two_nodes_keep_their_order(nodes: Nodes, hashes: list[Any]) -> None:
    """Each node has got what is the other's: what is made again finds calls that are not answered.

    The last answer of the one comes while the first of its calls is made again.
    """
    here, there = hashes[0], hashes[2]
    session = here._session_of()
    key, other = session.key_of(here._id), session.key_of(there._id)
    count = POSTED_AT_ONCE
    for node, wrong, right, most in (
        (nodes.low, key, nodes.high, count), (nodes.high, other, nodes.low, 3),
    ):  # fmt: skip
        moved = f"-MOVED {slot_of(wrong)} {HOST}:{right.port}\r\n"
        node.say("HSET", *[moved.encode()] * most)
    for number in range(3):
        oneway(there).set("a", number)
    for number in range(count - 1):
        oneway(here).set("a", number)
    poll(lambda: len(nodes.low.served) == count - 1, "the calls are answered")
    oneway(here).set("a", count - 1)
    assert (here.push("x"), there.push("x")) == (b"OK", b"OK")
    for node, which, most in ((nodes.high, key, count), (nodes.low, other, 3)):
        served = [words[-1] for words in node.served if words[1] == which]
        assert served == [str(number).encode() for number in range(most)] + [b"x"]
