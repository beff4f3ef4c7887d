"""The two contenders: the stock manager and fastmgr's, each with the same user's class."""

import multiprocessing.managers as stock_managers
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import fastmgr.managers as fast_managers

STOCK_PACKAGE = "multiprocessing"
FAST_PACKAGE = "fastmgr"


class Account:
    """A class as users write it: the server knows nothing about it."""

    def __init__(self) -> None:
        self.balance = 0

    def deposit(self, amount: int) -> int:
        """Add to the balance and return what was added."""
        self.balance += amount
        return amount


# The classes below are written out for each leg, not made in a function: a start method other than
# fork pickles them by name.


class StockAccountProxy(stock_managers.BaseProxy):
    """A user's own proxy class, on the stock one."""

    _exposed_ = ("deposit",)

    def deposit(self, amount: int) -> Any:
        """Add to the balance and return what was added."""
        return self._callmethod("deposit", (amount,))


class FastAccountProxy(fast_managers.BaseProxy):
    """A user's own proxy class, on fastmgr's."""

    _exposed_ = ("deposit",)

    def deposit(self, amount: int) -> Any:
        """Add to the balance and return what was added."""
        return self._callmethod("deposit", (amount,))


class StockManager(stock_managers.SyncManager):
    """The stock manager with the user's class."""


class FastManager(fast_managers.SyncManager):
    """fastmgr's manager with the user's class."""


StockManager.register("AutoAccount", Account)
StockManager.register("Account", Account, proxytype=StockAccountProxy)
FastManager.register("AutoAccount", Account)
FastManager.register("Account", Account, proxytype=FastAccountProxy)


@dataclass(frozen=True)
class Leg:
    """One contender."""

    name: str
    package: str
    managers: ModuleType
    manager_class: Any

    def start(self, address: Any = None) -> Any:
        """Start a manager, and make sure that it is this leg's."""
        manager = self.manager_class(address=address)
        self.assert_own(manager)
        assert package_of(manager._Server) == self.package, "the server is another leg's"
        manager.start()
        return manager

    def connect(self, address: Any) -> Any:
        """Connect another manager object to a started one."""
        manager = self.manager_class(address=address)
        manager.connect()
        self.assert_own(manager)
        return manager

    def assert_own(self, *subjects: object) -> None:
        """Make sure that managers and proxies are of this leg's classes, not of the other's."""
        for subject in subjects:
            bases = (self.managers.BaseManager, self.managers.BaseProxy)
            assert isinstance(subject, bases), f"{type(subject)} is not {self.name}'s"
            assert {package_of(base) for base in bases} == {self.package}


def package_of(cls: type) -> str:
    """Return the package that a class comes from."""
    return cls.__module__.partition(".")[0]


STOCK = Leg("stock", STOCK_PACKAGE, stock_managers, StockManager)
FAST = Leg("fastmgr", FAST_PACKAGE, fast_managers, FastManager)
LEGS = {leg.name: leg for leg in (STOCK, FAST)}
