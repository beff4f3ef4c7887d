"""What goes wrong with a cluster, and what then holds: a test for each failure."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll
from support.clusters import NODE_TIMEOUT, Cluster, Node, cluster
from support.places import Client
from support.valkeys import SLOW_KINDS
from support.waiters import Worker, call

import fastmgr
from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.dialing import connect_to_path
from fastmgr.engines.valkey.errors import ConnectionLost, LockLost
from fastmgr.engines.valkey.life import GRACE
from fastmgr.engines.valkey.nodes import slot_of

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", params=SLOW_KINDS)
def shared(request: pytest.FixtureRequest) -> Cluster:
    return cluster(request.param)


@pytest.fixture
def running(shared: Cluster) -> Iterator[Cluster]:
    yield shared
    shared.heal()


@pytest.fixture
def manager(running: Cluster, request: pytest.FixtureRequest) -> Iterator[Any]:
    found = fastmgr.SyncManager(address=running.url(ns=f"n{os.urandom(4).hex()}"))
    found.connect()
    yield found
    found._session.close()


def key_of(proxy: Any) -> bytes:
    key: bytes = proxy._session_of().key_of(proxy._id)
    return key


def on(node: Node, running: Cluster, make: Callable[[], Any]) -> Any:
    """Make objects until one lies on a node."""
    while True:
        proxy = make()
        if running.owner(key_of(proxy)) is node:
            return proxy


class Load:
    """Calls again and again in a thread; counts the calls, and those of which nobody knows."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.done = self.unknown = 0
        self.over = threading.Event()
        self.client = Client(self.make_calls)

    def make_calls(self) -> None:
        while not self.over.is_set():
            try:
                self.function()
                self.done += 1
            except ConnectionLost as error:
                assert error.applied is None, error
                self.unknown += 1

    def goes_on(self) -> None:
        """Wait until more calls have been made."""
        before = self.done
        poll(lambda: self.done > before + 10, "calls are made")

    def end(self) -> None:
        self.over.set()
        self.client.result()


def await_replication(primary: Node, replica: Node) -> None:
    """Wait until the replica has what the primary has now: `WAIT` asks for one connection's."""
    wanted = int(primary.info("replication")["master_repl_offset"])
    poll(
        lambda: int(replica.info("replication")["master_repl_offset"]) >= wanted,
        "the replica has it",
    )


def kill_primary(running: Cluster) -> Node:
    """Kill the primary that has a replica; return the replica when it is the primary."""
    primary, replica = running.guarded()
    await_replication(primary, replica)
    primary.kill()
    poll(lambda: replica.is_primary, "the failover")
    return replica


# -- failover -------------------------------------------------------------------------------


def test_primary_killed_while_counting(running: Cluster, manager: Any) -> None:
    """No call is made twice, and what has been replicated is there.

    Increments that were acknowledged in the last moment may be lost, as not replicated.
    """
    primary, replica = running.guarded()
    counter = on(primary, running, lambda: manager.Value("q", 0))
    load = Load(lambda: counter.incr())
    load.goes_on()
    before = load.done
    await_replication(primary, replica)
    primary.kill()
    load.goes_on()
    load.end()
    assert before <= counter.value <= load.done + load.unknown
    assert load.unknown <= 1
    assert replica.is_primary


def test_primary_killed_while_clients_wait(running: Cluster, manager: Any) -> None:
    primary, _ = running.guarded()
    queue, lock, event, condition = (
        on(primary, running, make)
        for make in (manager.Queue, manager.Lock, manager.Event, manager.Condition)
    )
    lock.acquire()

    def sleep() -> Any:
        with condition:
            return condition.wait()

    clients = [Client(queue.get), Client(lock.acquire), Client(event.wait), Client(sleep)]
    for waited in (queue, lock, event, condition):
        lists = [key_of(waited) + suffix for suffix in (b":g", b":q", b":c")]
        poll(lambda lists=lists: any(  # type: ignore[misc]
            primary.call("EXISTS", name) for name in lists
        ), "all wait")  # fmt: skip
    kill_primary(running)
    queue.put("item")
    lock.release()
    event.set()
    with condition:
        condition.notify()
    assert [one.result() for one in clients] == ["item", True, True, True]


class Holder:
    """Holds a lock as a session of its own, which nodes see over connections made by hand."""

    def __init__(self, lock: Any) -> None:
        self.id = os.urandom(8).hex()
        self.key = key_of(lock)
        self.connections: list[Connection] = []

    def be_seen_by(self, node: Node) -> None:
        connection = Connection(connect_to_path(node.path, DEADLINE))
        connection.call(["HELLO", 3])
        connection.send(["SUBSCRIBE", f"fm:s:{self.id}"])
        assert connection.push(DEADLINE)
        self.connections.append(connection)

    def acquire(self, node: Node) -> int:
        node.call("FCALL", "fm1_hello", 0, self.id)
        name = f"{self.id}/1/1"
        granted: tuple[int, int] = node.call(
            "FCALL", "fm1_lock_acquire", 1, self.key, name, "1", "L"
        )
        assert granted[0] == 1
        return granted[1]

    def end(self) -> None:
        for connection in self.connections:
            connection.close()


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_lock_is_not_handed_on_early_after_a_failover(
    running: Cluster, manager: Any, comes_back: bool
) -> None:
    """The new primary has not seen the holder: it waits for twice the node timeout."""
    primary, replica = running.guarded()
    lock = on(primary, running, manager.Lock)
    holder = Holder(lock)
    holder.be_seen_by(primary)
    before = holder.acquire(primary)
    heir = Client(lock.acquire)
    poll(lambda: primary.call("LLEN", key_of(lock) + b":q"), "the heir waits")
    kill_primary(running)
    start = time.monotonic()
    if comes_back:
        holder.be_seen_by(replica)
        heir.join(GRACE + 1)
        assert heir.is_alive()  # the holder lives: there is no lease
        replica.call("FCALL", "fm1_hello", 0, holder.id)
        holder.end()
        heir.result()
    else:
        holder.end()
        heir.result()
        assert time.monotonic() - start > max(GRACE, 2 * NODE_TIMEOUT / 1000) - 1
    session = manager._session
    assert session.life.fence(key_of(lock)) > before


def test_who_holds_a_lock_keeps_it_over_a_failover(running: Cluster, manager: Any) -> None:
    """The replica has seen the holder before it became the primary."""
    primary, _ = running.guarded()
    lock = on(primary, running, manager.Lock)
    lock.acquire()
    session, before = manager._session, manager._session.id
    fence = session.life.fence(key_of(lock))
    heir = Client(lock.acquire)
    poll(lambda: primary.call("LLEN", key_of(lock) + b":q"), "the heir waits")
    kill_primary(running)
    heir.join(GRACE + 2)
    assert heir.is_alive()
    lock.release()
    assert heir.result() is True
    assert session.id == before
    assert session.life.fence(key_of(lock)) == fence + 1


def test_a_primary_without_a_replica_is_killed_and_comes_back(
    running: Cluster, manager: Any
) -> None:
    """Calls fail while it is away, and say that they were not made."""
    primary = next(node for node in running.primaries if node not in running.guarded())
    quick = fastmgr.SyncManager(address=running.url(ns="quick", timeout="2"))
    quick.connect()
    counter = on(primary, running, lambda: quick.Value("q", 0))
    counter.incr()
    primary.kill()
    with pytest.raises(ConnectionError, match=r"not made|nothing serves|was lost") as caught:
        counter.incr()
    assert not isinstance(caught.value, ConnectionLost) or not caught.value.applied
    running.heal()
    poll(lambda: in_thread(counter.incr) >= 2, "the counter is there again")
    quick._session.close()


# -- the sessions' connections -----------------------------------------------------------------


def subscribers(node: Node, manager: Any) -> int:
    channel = b"fm:s:" + manager._session.id
    return int(node.call("PUBSUB", "NUMSUB", channel)[1])


def test_all_nodes_see_a_session(running: Cluster, manager: Any) -> None:
    """Replicas, too: one may become a primary."""
    manager.Lock()
    for node in running.nodes:
        poll(lambda node=node: subscribers(node, manager) == 1, "it is seen")  # type: ignore[misc]


def test_a_primary_that_sees_the_session_no_more_takes_it_for_dead(
    running: Cluster, manager: Any
) -> None:
    """It is then dead everywhere, for nobody can hold a lock half."""
    first, second = running.primaries[:2]
    mine, other = (on(node, running, manager.Lock) for node in (first, second))
    mine.acquire()
    other.acquire()
    before = manager._session.id
    first.call("CLIENT", "KILL", "TYPE", "pubsub")
    poll(lambda: manager._session.id != before, "the session is another")
    for lock in (mine, other):
        with pytest.raises(LockLost):
            lock.release()
        assert lock.acquire(True, DEADLINE)
        lock.release()


def test_a_replica_that_sees_the_session_no_more_changes_nothing(
    running: Cluster, manager: Any
) -> None:
    lock = manager.Lock()
    lock.acquire()
    before = manager._session.id
    _, replica = running.guarded()
    poll(lambda: subscribers(replica, manager) == 1, "it is seen")
    replica.call("CLIENT", "KILL", "TYPE", "pubsub")
    poll(lambda: subscribers(replica, manager) == 1, "it is seen again")
    lock.release()
    assert manager._session.id == before


def hold(lock: Any, items: Any, text: str) -> int:
    lock.acquire()
    items.append(text)
    return os.getpid()


def test_what_a_killed_client_held_is_put_right_on_all_nodes(
    running: Cluster, manager: Any
) -> None:
    locks = [on(node, running, manager.Lock) for node in running.primaries]
    items = manager.list()
    before = manager._number_of_objects()
    workers = [Worker("holder", hold, lock, items, "x") for lock in locks]
    for worker in workers:
        assert worker.said() == worker.process.pid
        worker.kill()
    for lock in locks:
        assert lock.acquire(True, DEADLINE)
        lock.release()
    assert len(items) == len(locks)
    poll(lambda: manager._number_of_objects() == before, "nothing is left")
    del locks, lock, items
    poll(lambda: manager._number_of_objects() == 0, "no object is left")


def test_a_client_that_stands_still_over_a_failover_keeps_its_lock(
    running: Cluster, manager: Any
) -> None:
    """No lease runs out: its connections are open."""
    primary, _ = running.guarded()
    lock = on(primary, running, manager.Lock)
    worker = Worker("holder", call, lock, "acquire")
    assert worker.said() is True
    assert worker.process.pid is not None
    os.kill(worker.process.pid, signal.SIGSTOP)
    try:
        kill_primary(running)
        assert in_thread(lock.acquire, True, GRACE + 1) is False
    finally:
        os.kill(worker.process.pid, signal.SIGCONT)
    worker.kill()
    assert lock.acquire(True, DEADLINE)
    lock.release()


# -- slots that move ----------------------------------------------------------------------------


@pytest.fixture(params=["key by key", "at once"])
def move(request: pytest.FixtureRequest, running: Cluster) -> Iterator[Callable[..., None]]:
    """Move a slot; no node is taken for dead meanwhile, however busy the machine is."""
    if request.param == "at once" and running.kind != "valkey":
        pytest.skip("only Valkey 9 moves slots at once")
    running.be_patient(15)
    yield running.move if request.param == "key by key" else running.move_at_once
    running.be_patient(1)


def move_on(running: Cluster, move: Callable[..., None], key: bytes) -> None:
    """Move the slot of a key to another primary."""
    source = running.owner(key)
    target = next(node for node in running.primaries if node is not source)
    move(slot_of(key), source, target)


def test_slots_move_under_load(running: Cluster, manager: Any, move: Callable[..., None]) -> None:
    """Totals are exact, and no item is lost or doubled."""
    numbers, lock, queue = manager.dict(total=0), manager.Lock(), manager.Queue(5)
    plain = manager.Value("q", 0)
    taken: list[int] = []
    put = iter(range(10**9))

    def count() -> None:
        numbers.incr("total")
        numbers.setdefault("other", 1)
        numbers.pop("other", None)
        with lock:
            plain.value = plain.value + 1

    loads = [Load(count), Load(count), Load(lambda: queue.put(next(put)))]
    loads.append(Load(lambda: taken.append(queue.get())))
    keys = [key_of(one) for one in (numbers, lock, queue, plain)]
    for _ in range(4):
        for key in keys:
            move_on(running, move, key)
        for load in loads:
            load.goes_on()
    for load in loads[:3]:
        load.end()
    loads[3].over.set()
    last = Client(queue.put, -1)  # for a getter that waits; the queue may be full, if none does
    loads[3].client.result()
    while taken[-1] != -1:
        taken.append(queue.get())
    last.result()
    total = loads[0].done + loads[1].done
    assert (numbers["total"], plain.value) == (total, total)
    assert taken[:-1] == list(range(loads[2].done)) and queue.empty()


def test_clients_that_wait_go_on_where_the_slot_is(
    running: Cluster, manager: Any, move: Callable[..., None]
) -> None:
    queue = manager.Queue()
    getters = [Client(queue.get) for _ in range(2)]
    poll(lambda: running.owner(key_of(queue)).call("LLEN", key_of(queue) + b":g") == 2, "both wait")
    move_on(running, move, key_of(queue))
    queue.put("a")
    queue.put("b")
    assert sorted(one.result() for one in getters) == ["a", "b"]


def test_a_lock_stays_its_holders_where_the_slot_moves(
    running: Cluster, manager: Any, move: Callable[..., None]
) -> None:
    lock = manager.Lock()
    lock.acquire()
    fence = manager._session.life.fence(key_of(lock))
    move_on(running, move, key_of(lock))
    assert in_thread(lock.acquire, True, 0.5) is False
    lock.release()
    assert lock.acquire()
    assert manager._session.life.fence(key_of(lock)) == fence + 1
    lock.release()


@pytest.mark.parametrize("moved", ["", "the hash", ":m", ":z"])
def test_no_function_sees_half_an_object(running: Cluster, manager: Any, moved: str) -> None:
    """Functions use keys that they do not declare: they wait until the slot has been moved."""
    numbers = manager.dict(a=1)
    key = key_of(numbers)
    source = running.owner(key)
    target = next(node for node in running.primaries if node is not source)
    running.begin_move(slot_of(key), source, target)
    if moved:
        half = key + moved.encode() if moved.startswith(":") else key
        source.call("MIGRATE", "127.0.0.1", target.port, half, 0, 30000)
    clients = [Client(numbers.incr, "a"), Client(numbers.__setitem__, "b", 3)]
    assert numbers["a"] == 1  # a single key is asked for where it is
    for client in clients:
        client.join(0.3)
        assert client.is_alive()
    running.end_move(slot_of(key), source, target)
    for client in clients:
        client.result()
    assert numbers.items() == [("a", 2), ("b", 3)]


def test_a_pipeline_is_redirected(
    running: Cluster, manager: Any, move: Callable[..., None]
) -> None:
    """In a pipeline and as one-way calls, calls of one object keep their order."""
    objects = [on(node, running, manager.list) for node in running.primaries]
    pipe = manager.pipeline()
    posted = [fastmgr.oneway(one) for one in objects]
    for number in range(50):
        for one in objects:
            pipe(one).append(number)
    for one in objects:
        move_on(running, move, key_of(one))
    pipe.execute()
    for one in objects:
        move_on(running, move, key_of(one))
    for number in range(50, 100):
        for target in posted:
            target.append(number)
    for one in objects:
        assert one[:] == list(range(100))


def test_slots_move_to_a_node_that_has_just_joined(
    running: Cluster, manager: Any, move: Callable[..., None]
) -> None:
    """It sees the sessions before it owns what they hold."""
    lock = manager.Lock()
    lock.acquire()
    node = running.add()
    running.meet(node)
    running.settle()
    poll(lambda: subscribers(node, manager) == 1, "the new node sees the session")
    source, slot = running.owner(key_of(lock)), slot_of(key_of(lock))
    move(slot, source, node)
    assert in_thread(lock.acquire, True, 0.5) is False
    lock.release()
    assert lock.acquire()
    move(slot, node, source)
    lock.release()
    running.remove(node)
