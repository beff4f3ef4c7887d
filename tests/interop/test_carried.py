"""Stock processes beside values that a fastmgr server keeps unread, and beside large buffers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from interop_types import Book
from peers import KEY, FastServers, Peer, connect
from scenarios import Background
from support import in_thread

from fastmgr import managers

pytestmark = pytest.mark.timeout(90)

# A module that the clients have, of either kind, and the servers have not
GHOSTS = "only_the_clients_have_it"
SOURCE = '''
from pickle import PickleBuffer


class Ghost:
    """Leaves its buffer to pickle."""

    def __init__(self, name, data=b""):
        self.name, self.data = name, data

    def __reduce_ex__(self, protocol):
        data = PickleBuffer(self.data) if protocol >= 5 else self.data
        return Ghost, (self.name, data)

    def __eq__(self, other):
        return type(other) is Ghost and (self.name, self.data) == (other.name, other.data)

    def __hash__(self):
        return hash(self.name)

    def tell(self):
        return [self.name, type(self.data).__name__, len(self.data), sum(self.data)]
'''


@pytest.fixture(scope="module")
def ghosts(fast_servers: FastServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    for family in ("unix", "tcp"):  # before the module can be imported
        fast_servers.get(family)
    folder = tmp_path_factory.mktemp("ghosts")
    (folder / f"{GHOSTS}.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    yield __import__(GHOSTS)
    sys.path.remove(str(folder))
    del sys.modules[GHOSTS]


def in_stock(peer: Peer, function: Callable[..., Any], address: Any, *args: Any) -> Any:
    """What a function of this module returns in a process with nothing but the stdlib."""
    folders = []
    if GHOSTS in sys.modules:
        folders.append(str(Path(str(sys.modules[GHOSTS].__file__)).parent))
    return peer.call(
        "run",
        name=function.__name__,
        source="\n".join(map(inspect.getsource, (proxies_of, fill, sample, function))),
        folders=folders,
        arguments=[address, *args],
        key=KEY,
    )


def proxies_of(address: Any, idents: dict[str, str], serializer: str = "pickle") -> dict[str, Any]:
    """The stdlib's proxies, by type, of objects of the server at `address`."""
    place = tuple(address) if isinstance(address, list) else address
    types = {
        "dict": managers.DictProxy,
        "list": managers.ListProxy,
        "Namespace": managers.NamespaceProxy,
        "Value": managers.ValueProxy,
        "Queue": managers.MakeProxyType("Queue", ("get", "put", "qsize")),
    }
    return {
        name: types[name](managers.Token(name, place, ident), serializer, authkey=KEY.encode())
        for name, ident in idents.items()
    }


def make_all(manager: Any) -> dict[str, Any]:
    """One object of each type that carries values."""
    return {
        "dict": manager.dict(),
        "list": manager.list(),
        "Namespace": manager.Namespace(),
        "Value": manager.Value("O", None),
        "Queue": manager.Queue(),
    }


def idents_of(objects: dict[str, Any]) -> dict[str, str]:
    return {name: proxy._token.id for name, proxy in objects.items()}


def fill(objects: dict[str, Any], *values: Any) -> None:
    for number, value in enumerate(values):
        objects["dict"][number] = value
        objects["list"].append(value)
        objects["Queue"].put(value)
        setattr(objects["Namespace"], f"x{number}", value)
        objects["Value"].value = value


def read_all_ways(address: Any, idents: dict[str, str], count: int) -> Any:
    """In a stock process: everything that was filled in, by every way of reading it."""
    shared = proxies_of(address, idents)
    d, items, space, value, q = (
        shared[name] for name in ("dict", "list", "Namespace", "Value", "Queue")
    )
    keys = d.keys()  # iterating over a proxy without its manager is beyond the stdlib
    for _ in range(2):
        rows = [
            [d[i] for i in range(count)],
            [d.get(i) for i in range(count)],
            [d.setdefault(i, None) for i in range(count)],
            list(d.values()),
            [v for _, v in d.items()],
            list(d.copy().values()),
            list(d._getvalue().values()),
            [d[i] for i in keys],
            [items[i] for i in range(count)],
            items[:],
            list(items),
            items._getvalue(),
            [getattr(space, f"x{i}") for i in range(count)],
            [vars(space._getvalue())[f"x{i}"] for i in range(count)],
        ]
    rows.append([q.get() for _ in range(count)])
    lasts = [value.value, value.get(), value._getvalue()._value, items.pop(), d.popitem()[1]]
    lasts += [items.pop(0), d.pop(0)]
    return [[[v.tell() for v in row] for row in rows], [v.tell() for v in lasts]]


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_stock_processes_get_the_values(
    family: str, peer: Peer, ghosts: Any, fast_servers: FastServers
) -> None:
    """Those that the server cannot import, with large buffers and without."""
    values = [
        ghosts.Ghost("small"),
        ghosts.Ghost("fixed", b"x" * 70_000),
        ghosts.Ghost("writable", bytearray(b"y" * 70_001)),
        ghosts.Ghost("last", bytearray(3)),
    ]
    told = [value.tell() for value in values]
    with fast_servers.clean(family) as server:
        objects = make_all(connect(server.address))
        # In a thread of its own: by a client whose calls the loop serves.
        in_thread(fill, objects, *values)
        rows, lasts = in_stock(peer, read_all_ways, server.address, idents_of(objects), len(values))
        assert rows == [told] * len(rows)
        assert lasts == [told[-1]] * 5 + [told[0]] * 2
        # What they have left is what it was.
        assert objects["dict"].copy() == {1: values[1], 2: values[2]}
        assert objects["list"][:] == values[1:-1]
        assert objects["Value"].value == values[-1]
        assert type(objects["dict"][2].data) is bytearray and type(objects["dict"][1].data) is bytes
        objects.clear()


def look_and_write(address: Any, idents: dict[str, str]) -> Any:
    """In a stock process: methods that look at values nobody can read, and values put beside."""
    from fractions import Fraction

    from interop_types import Book
    from only_the_clients_have_it import Ghost  # type: ignore[import-not-found]

    shared = proxies_of(address, idents)
    d, items = shared["dict"], shared["list"]
    said = []
    for look in (
        lambda: items.count(1),
        lambda: items.index(1),
        lambda: 1 in items,
        lambda: items.sort(),
        lambda: items.append(Ghost("of a stock client")),
        lambda: d.__setitem__("x", Ghost("of a stock client")),
    ):
        try:
            look()
        except managers.RemoteError as error:
            said.append(str(error))
    shown = [str(d), str(items), str(shared["Value"]), str(shared["Namespace"])]
    d["half"] = Fraction(1, 2)
    d["book"] = Book("of a stock client", 5)
    items.append([Fraction(1, 3), {"a": None}])
    shared["Queue"].put(Fraction(1, 4))
    shared["Namespace"].y = Fraction(1, 5)
    return [said, shown, d["half"] == Fraction(1, 2), d[0].tell(), items[0].tell()]


def test_stock_processes_that_look(peer: Peer, ghosts: Any, fast_servers: FastServers) -> None:
    """They are told what is missing, and lose nothing; what they put beside arrives."""
    ghost = ghosts.Ghost("boo", b"x" * 70_000)
    with fast_servers.clean("unix") as server:
        objects = make_all(connect(server.address))
        in_thread(fill, objects, ghost)
        said, shown, right, first, second = in_stock(
            peer, look_and_write, server.address, idents_of(objects)
        )
        assert len(said) == 6 and all(GHOSTS in text for text in said), said
        assert all("pickled object" in text for text in shown)
        assert right and first == second == ghost.tell()
        d, items, q = objects["dict"], objects["list"], objects["Queue"]
        assert (d[0], d["half"], d["book"].title()) == (ghost, Fraction(1, 2), "of a stock client")
        assert items[:] == [ghost, [Fraction(1, 3), {"a": None}]]
        assert [q.get(), q.get()] == [ghost, Fraction(1, 4)]
        assert (objects["Namespace"].x0, objects["Namespace"].y) == (ghost, Fraction(1, 5))
        # And ours beside theirs, which the server has read.
        d["mine"] = Fraction(1, 6)
        items.append(Book("of a fastmgr client", 6))
        assert d["mine"] == Fraction(1, 6) and len(items[2]) == 6
        objects.clear()
        del d, items, q


def look_at_readable(address: Any, idents: dict[str, str]) -> Any:
    from fractions import Fraction

    shared = proxies_of(address, idents)
    d, items = shared["dict"], shared["list"]
    seen = [items.count(Fraction(1, 2)), items.index(Fraction(1, 3)), Fraction(1, 3) in items]
    items.sort()
    items.append(Fraction(1, 9))
    seen += [str(items[:]), str(d), str(shared["Value"]), items.pop() == Fraction(1, 9)]
    shared["Value"].value += 1
    return seen


def test_stock_processes_look_at_what_can_be_read(
    peer: Peer, ghosts: Any, fast_servers: FastServers
) -> None:
    with fast_servers.clean("unix") as server:
        objects = make_all(connect(server.address))
        in_thread(fill, objects, Fraction(1, 2), Fraction(1, 3))
        assert in_stock(peer, look_at_readable, server.address, idents_of(objects)) == [
            1,
            1,
            True,
            "[Fraction(1, 3), Fraction(1, 2), Fraction(1, 9)]",
            "{0: Fraction(1, 2), 1: Fraction(1, 3)}",
            "Value('O', Fraction(1, 3))",
            True,
        ]
        assert objects["Value"].value == Fraction(4, 3)
        assert objects["list"][:] == [Fraction(1, 3), Fraction(1, 2)]
        objects.clear()


def take_and_hand_on(address: Any, idents: dict[str, str], count: int) -> Any:
    """In a stock process: take out what comes, tell of it, and put it into a list if it may be."""
    shared = proxies_of(address, idents)
    told = []
    for _ in range(count):
        value = shared["Queue"].get()
        if hasattr(value, "tell"):
            told.append(value.tell())
        else:
            shared["list"].append([value, value])
    return told


def test_a_stock_process_waits_for_values(
    peer: Peer, ghosts: Any, fast_servers: FastServers
) -> None:
    """It takes out of a queue what was carried into it, then what is put while it waits."""
    ghost = ghosts.Ghost("boo", bytearray(b"z" * 100_000))
    with fast_servers.clean("unix") as server:
        objects = make_all(connect(server.address))
        in_thread(fill, objects, ghost, "before")
        stock = Background(in_stock, peer, take_and_hand_on, server.address, idents_of(objects), 4)
        objects["Queue"].put(Fraction(1, 2))
        objects["Queue"].put(b"x" * 100_000)
        assert stock.result() == [ghost.tell()]
        found = objects["list"][2:]
        assert found == [[v, v] for v in ("before", Fraction(1, 2), b"x" * 100_000)]
        assert found[1][0] is found[1][1]
        objects.clear()


# All kinds of clients and servers


def sample() -> list[Any]:
    """Values that need pickle, and large ones."""
    from fractions import Fraction

    from interop_types import InteropError

    part = b"p" * 70_000
    return [
        Fraction(1, 2),
        {"half": [Fraction(1, 2)], (1, 2): InteropError("no", 1).args},
        b"x" * 200_000,
        [bytearray(b"y" * 70_000), bytearray(b""), part, (part,)],
        "text" * 40_000,
        {part: [bytearray(part)]},
        None,
    ]


def write_values(address: Any, idents: dict[str, str]) -> None:
    shared = proxies_of(address, idents)
    values = sample()
    fill(shared, *values)
    shared["list"].insert(0, values)
    shared["dict"].update({"all": values, "more": values[:2]})
    assert shared["dict"].pop("none", values[0]) == values[0]


def check_values(address: Any, idents: dict[str, str]) -> None:
    shared = proxies_of(address, idents)
    values = sample()
    d, items, space = shared["dict"], shared["list"], shared["Namespace"]
    count = len(values)
    assert [d[i] for i in range(count)] == [d.get(i) for i in range(count)] == values
    assert d["all"] == values and d["more"] == values[:2]
    assert items[:] == [values, *values] and items[-1] is None
    assert items.index(values[0]) == 1 and items.count(values[2]) == 1
    assert [getattr(space, f"x{i}") for i in range(count)] == values
    assert [shared["Queue"].get() for _ in range(count)] == values
    assert shared["Value"].value is None
    found = d[3]
    assert [type(part) for part in found] == [bytearray, bytearray, bytes, tuple]
    assert found[2] is found[3][0]
    found[0][0] = 1
    assert d[3] == values[3]
    assert d.copy() == {**dict(enumerate(values)), "all": values, "more": values[:2]}


@pytest.mark.parametrize(
    ("server", "writer", "reader"),
    [
        ("fastmgr", "stock", "fastmgr"),
        ("fastmgr", "fastmgr", "stock"),
        ("stock", "fastmgr", "stock"),
        ("stock", "stock", "fastmgr"),
        ("stock", "fastmgr", "fastmgr"),
    ],
)
def test_one_writes_another_reads(
    server: str, writer: str, reader: str, peer: Peer, fast_servers: FastServers
) -> None:
    clean: Any = fast_servers.clean if server == "fastmgr" else peer.clean_server
    with clean("unix") as manager:
        objects = make_all(manager)
        for kind, job in ((writer, write_values), (reader, check_values)):
            if kind == "stock":
                in_stock(peer, job, manager.address, idents_of(objects))
            else:
                in_thread(job, manager.address, idents_of(objects))
        objects.clear()


def write_by_xml(address: Any, idents: dict[str, str]) -> Any:
    """At either end: what XML can say, large; and what it cannot."""
    d = proxies_of(address, idents, "xmlrpclib")["dict"]
    before = [d["number"], len(d["data"].data), len(d["text"])]
    for wrong in ({1, 2}, 1j):
        try:
            d["wrong"] = wrong
        except TypeError as error:
            before.append(str(error).startswith("cannot marshal"))
    d["number"] += 1
    d["data"] = d["data"].data + b"!"
    d["text"] = [d["text"], "!"] if isinstance(d["text"], str) else d["text"]
    return before


def test_xml_carries_what_it_can(peer: Peer, fast_servers: FastServers) -> None:
    """Large bytes arrive as the stdlib's XML has them; nothing is carried unread."""
    with fast_servers.clean("unix", "xmlrpclib") as server:
        d = connect(server.address, "xmlrpclib").dict()
        d["number"], d["data"], d["text"] = 1, b"x" * 200_000, "t" * 200_000
        idents = {"dict": d._token.id}
        told = in_stock(peer, write_by_xml, server.address, idents)
        assert told == [1, 200_000, 200_000, True, True]
        told = in_thread(write_by_xml, server.address, idents)
        assert told == [2, 200_001, 2, True, True]
        assert d["number"] == 3 and d["data"].data == b"x" * 200_000 + b"!!"
        assert len(d) == 3 and "wrong" not in d
        del d
