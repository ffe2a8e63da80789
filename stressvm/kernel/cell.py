"""Memory that threads share: atomic cells, and plain ones whose unordered use is a race.

Every access is a visible operation, so that all orders of accesses are explored. `peek`, `poke` and `write` are for
code that holds the lock which protects the cell: no switch there could be seen by anybody, so none is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from stressvm.kernel.object import KernelObject
from stressvm.kernel.op import READ, WRITE

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId, Op

T = TypeVar("T")


class _Ops(NamedTuple):
    load: Op
    store: Op
    write: Op
    cas: Op
    cas_failed: Op
    fetchadd: Op
    swap: Op


def _make_ops(k: Kernel, ident: ObjectId) -> _Ops:
    return _Ops(
        k.op("load", ident, write=False),
        k.op("store", ident, write=True),
        k.op("write", ident, write=True),
        k.op("cas", ident, write=True),
        k.op("cas-failed", ident, write=False),
        k.op("fetchadd", ident, write=True),
        k.op("swap", ident, write=True),
    )


class Cell(KernelObject, Generic[T]):
    """A plain variable shared by threads.

    Args:
        k: the kernel.
        value: at the start.
        name: as reports show it.
        benign: why its unordered uses are no bug, if the code that is modelled relies on them; "" if they are one.
    """

    __slots__ = ("benign", "ops", "value")

    TYPE = "cell"

    def __init__(self, k: Kernel, value: T, name: str | None = None, benign: str = "") -> None:
        self.k = k
        self.ident, self.ops = k.adopt(self, self.TYPE, name, _make_ops)
        self.value = value
        self.benign = benign

    async def load(self) -> T:
        """Read it."""
        k = self.k
        op = self.ops.load
        if k.away(op):
            await k.baton
        k.trace.append((k.cur, op, self.value))
        return self.value

    async def store(self, value: T) -> None:
        """Write it."""
        k = self.k
        if k.away(self.ops.store):
            await k.baton
        self.value = value
        k.trace.append((k.cur, self.ops.store, value))

    def write(self, value: T) -> None:
        """As `poke`, and the trace shows it."""
        k = self.k
        self.value = value
        k.trace.append((k.cur, self.ops.write, value))

    def peek(self) -> T:
        """Read it within the current step: for code under the lock that protects it, and for predicates."""
        k = self.k
        if k.cur >= 0:
            k.touched.append((len(k.trace), k.cur, self.ident.number, READ))
        return self.value

    def poke(self, value: T) -> None:
        """Write it within the current step: for code under the lock that protects it."""
        k = self.k
        if k.cur >= 0:
            k.touched.append((len(k.trace), k.cur, self.ident.number, WRITE))
        self.value = value


class Atomic(Cell[int]):
    """An atomic integer: its accesses are ordered, and read-modify-write is one step."""

    __slots__ = ()

    TYPE = "atomic"

    def __init__(self, k: Kernel, value: int = 0, name: str | None = None) -> None:
        super().__init__(k, value, name)

    async def cas(self, expected: int, new: int) -> bool:
        """Compare and swap: store `new` if the value is `expected`; say whether it was."""
        k = self.k
        if k.away(self.ops.cas):
            await k.baton
        if self.value != expected:
            k.trace.append((k.cur, self.ops.cas_failed, self.value))
            return False
        self.value = new
        k.trace.append((k.cur, self.ops.cas, new))
        return True

    async def fetchadd(self, delta: int) -> int:
        """Add; the value from before."""
        k = self.k
        if k.away(self.ops.fetchadd):
            await k.baton
        old = self.value
        self.value = old + delta
        k.trace.append((k.cur, self.ops.fetchadd, self.value))
        return old

    async def swap(self, new: int) -> int:
        """Store `new`; the value from before."""
        k = self.k
        if k.away(self.ops.swap):
            await k.baton
        old = self.value
        self.value = new
        k.trace.append((k.cur, self.ops.swap, new))
        return old
