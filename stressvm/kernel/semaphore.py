"""Counting semaphores, as sema(9), with the weakest promise: a unit goes to any thread that asks when it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from stressvm.kernel.errors import UsageError
from stressvm.kernel.object import KernelObject
from stressvm.kernel.op import ALONE, EVERYTHING

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId, Op


class _Ops(NamedTuple):
    wait: Op
    trywait: Op
    trywait_failed: Op
    post: Op


def _make_ops(k: Kernel, ident: ObjectId) -> _Ops:
    return _Ops(
        k.op("sema_wait", ident, write=True, needs=ALONE),
        k.op("sema_trywait", ident, write=True),
        k.op("sema_trywait-failed", ident, write=False),
        k.op("sema_post", ident, write=True),
    )


@dataclass(frozen=True, slots=True)
class SemaphoreStatistics:
    """A snapshot: units left, and who waits for one."""

    value: int
    waiters: tuple[str, ...]


class Semaphore(KernelObject):
    """A counting semaphore.

    Args:
        k: the kernel.
        value: units at the start, 0 or more.
        name: as reports show it.
    """

    __slots__ = ("ops", "value", "want")

    def __init__(self, k: Kernel, value: int = 0, name: str | None = None) -> None:
        if value < 0:
            raise UsageError(f"Semaphore({value}): a semaphore starts with 0 units or more")
        self.k = k
        self.ident, self.ops = k.adopt(self, "semaphore", name, _make_ops)
        self.value = value
        self.want = 0

    async def wait(self) -> None:
        """Take a unit. Sleeps: until there is one; panics in interrupt context and with a spin mutex held."""
        k = self.k
        me = k.cur
        bit = 1 << me
        if k.atomic & bit:
            k.may_sleep(f"sema_wait {self.ident.name}")
        self.want |= bit
        if not self.value:
            k.enabled &= ~bit
        if k.away(self.ops.wait):
            await k.baton
        self.want &= ~bit
        self._take()
        k.trace.append(self.ops.wait.events[me])

    async def trywait(self) -> bool:
        """Take a unit if there is one. Sleeps: no."""
        k = self.k
        if k.away(self.ops.trywait):
            await k.baton
        if not self.value:
            k.trace.append(self.ops.trywait_failed.events[k.cur])
            return False
        self._take()
        k.trace.append(self.ops.trywait.events[k.cur])
        return True

    async def post(self) -> None:
        """Put a unit back. Sleeps: no."""
        k = self.k
        if k.away(self.ops.post):
            await k.baton
        self.value += 1
        k.enabled |= self.want
        k.trace.append(self.ops.post.events[k.cur])

    def _take(self) -> None:
        self.value -= 1
        if not self.value:
            self.k.enabled &= ~self.want

    def offers(self) -> int:
        """See KernelObject."""
        return ALONE if self.value else 0

    def statistics(self) -> SemaphoreStatistics:
        """Units left and waiters."""
        # Who waits is known from announcements, which belong to steps on anything.
        self.k.touch(EVERYTHING, write=True)
        return SemaphoreStatistics(self.value, self.names(self.want))
