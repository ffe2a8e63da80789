"""Maps of either face whose wait for addresses follows a policy: steps of the protocol replaced, as planted defects are.

    kmap = netbsd.submap(k, pages=64, cls=waiting(netbsd.VmMap, WakeFirst))
    emap = freebsd.exec_map(k, pages=64, cls=waiting(freebsd.VmMap13, HandOver))
    kmap.point.wakeups, kmap.point.wasted, kmap.point.overtakes       # see WaitPoint

Under a policy the flag that says that somebody waits stays up as long as somebody sleeps, for not all are woken; and who
was chosen looks again even if nothing else tells it to (INTRSAFE maps of NetBSD 5.2 never move their timestamp). Who waits
for a busy mark, or for an entry in transition, is woken by those as ever.

The model's proofs of the map's invariants are left out unless asked for: they take time with every release, and much of it
with thousands of sleepers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from stressvm.kernel.errors import UsageError
from stressvm.kernel.thread import Wake
from stressvm.study.policies import Backoff, Space, Waiter, WakeAll, WakePolicy
from stressvm.study.wait_point import WaitPoint
from stressvm.vm import netbsd
from stressvm.vm.freebsd.vm_map import VmMap as FreeBSDVmMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.netbsd.findspace import Found

M = TypeVar("M")

#: `recheck`: as the kernel has it.
AS_IS: int = -1


class _NetBSDWait(netbsd.VmMap):
    """NetBSD's steps; the settings are given by `waiting`."""

    wake: Callable[[], WakePolicy]
    recheck: int
    backoff: Backoff | None
    proofs: bool

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.point = WaitPoint(self.k, self.wake())
        self.requests: dict[int, tuple[int, int, int, int]] = {}
        if self.point.policy.hands_over and self.topdown:
            raise UsageError(f"{self!r}: a policy that hands over is for maps that are searched from below")

    def check(self) -> None:
        """The invariants, if they are asked for."""
        if self.proofs:
            super().check()

    async def prepare(self, hint: int, size: int, align: int, flags: int) -> tuple[int, int]:
        """See VmMap."""
        self.requests[self.k.cur] = size, hint, align, flags
        error, va = await super().prepare(hint, size, align, flags)
        self.point.over(got=not error)
        del self.requests[self.k.cur]
        return error, va

    async def lock_for_prepare(self, flags: int) -> bool:
        """Try, back off, try again, and so on; then lock."""
        if self.backoff is not None and not (flags & netbsd.UVM_FLAG_TRYLOCK and not self.ignores_trylock()):
            for ticks in self.backoff.waits():
                if await self.lock.lock_try():
                    return True
                await self.k.delay(ticks)
        return await super().lock_for_prepare(flags)

    def findspace(self, hint: int, size: int, align: int = 0, flags: int = 0) -> int | None:
        """The place that the caller was handed, or any that nobody was."""
        own = self.point.own_place(size) if self.point.reserved else None
        return own if own is not None else super().findspace(hint, size, align, flags)

    def look_for(self, hint: int, size: int, align: int, flags: int) -> Found:
        """Past the places that others have been handed."""
        found = super().look_for(hint, size, align, flags)
        if self.point.reserved:
            while found.address is not None and (end := self.point.taken(found.address, size)) is not None:
                found = super().look_for(end, size, align, flags)
        return found

    async def no_room(self) -> int:
        """As it is; who fails is noted."""
        size, _, _, flags = self.requests[self.k.cur]
        if flags & netbsd.UVM_FLAG_WAITVA:
            self.point.fails(size)
        return await super().no_room()

    async def unchanged_since(self, timestamp: int) -> bool:
        """Who has been called looks again."""
        same = await super().unchanged_since(timestamp)
        return same and not self.point.take_call()

    async def sleep_for_va(self, hint: int, size: int, align: int, flags: int) -> None:
        """As it is, for as long as the recheck says."""
        self.point.sleeps()
        woken = await self.lock.cv.timedwait(
            self.lock.misc_lock,
            self.k.hz if self.recheck == AS_IS else self.recheck,
            wmesg="addresses",
            until=lambda: self.room_for(hint, size, align, flags),
        )
        self.point.awake(timed_out=woken is Wake.TIMEOUT)

    async def remove(self, start: int, end: int, flags: int = 0) -> list[Any]:
        """As it is; what is freed is noted."""
        self.point.freed = start, end
        return await super().remove(start, end, flags)

    async def wake_va_waiters(self) -> None:
        """Those whom the policy chooses; the flag stays up while somebody sleeps."""
        if not self.flags.peek() & netbsd.VM_MAP_WANTVA:
            return
        await self.lock.misc_lock.lock()
        await self.point.wake(self.lock.cv, lambda: _space(self), self._place)
        if not self.point.asleep:
            self.flags.write(self.flags.peek() & ~netbsd.VM_MAP_WANTVA)
        await self.lock.misc_lock.unlock()

    def _place(self, one: Waiter) -> int | None:
        _, hint, align, flags = self.requests[one.thread]
        return self.look_for(hint, one.size, align or 1, flags).address


class _FreeBSDWait(FreeBSDVmMap):
    """FreeBSD's steps."""

    wake: Callable[[], WakePolicy]
    recheck: int
    backoff: Backoff | None
    proofs: bool

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.point = WaitPoint(self.k, self.wake())

    def check(self) -> None:
        """The invariants, if they are asked for."""
        if self.proofs:
            super().check()

    async def try_alloc(self, size: int) -> int | None:
        """See VmMap."""
        if self.backoff is not None:
            for ticks in self.backoff.waits():
                if await self.lock.trylock():
                    await self.lock.unlock()
                    break
                await self.k.delay(ticks)
        addr = await super().try_alloc(size)
        if addr is not None:
            self.point.over(got=bool(addr))
        return addr

    def findspace(self, start: int, length: int) -> int | None:
        """The place that the caller was handed, or any that nobody was."""
        own = self.point.own_place(length) if self.point.reserved else None
        return own if own is not None else self._search(start, length)

    def _search(self, start: int, length: int) -> int | None:
        found = super().findspace(start, length)
        while found is not None and (end := self.point.taken(found, length)) is not None:
            found = super().findspace(end, length)
        return found

    async def wait_for_space(self, size: int) -> None:
        """As it is, for as long as the recheck says."""
        self.needs_wakeup = True
        self.point.fails(size)
        self.point.sleeps()
        timo = 0 if self.recheck == AS_IS else self.recheck
        woken = await self.lock.unlock_and_wait(timo, until=lambda: self.fits(size))
        self.point.awake(timed_out=woken is Wake.TIMEOUT)

    async def delete(self, start: int, end: int) -> int:
        """As it is; what is freed is noted."""
        self.point.freed = start, end
        return await super().delete(start, end)

    async def wake_for_space(self) -> None:
        """Those whom the policy chooses; the flag stays up while somebody sleeps."""
        if not self.needs_wakeup:
            return
        await self.lock.map_sleep_mtx.lock()
        await self.lock.map_sleep_mtx.unlock()
        await self.point.wake(self.lock.root, lambda: _space(self), self._place)
        if not self.point.asleep:
            self.needs_wakeup = False

    def _place(self, one: Waiter) -> int | None:
        return self._search(self.min_offset, one.size)


def _space(vm_map: _NetBSDWait | _FreeBSDWait) -> Space:
    total = vm_map.max_offset - vm_map.min_offset
    return Space(vm_map.k.now, total, total - vm_map.size, vm_map.entries.largest_gap, vm_map.point.freed)


def waiting(
    base: type[M],
    wake: Callable[[], WakePolicy] = WakeAll,
    *,
    recheck: int = AS_IS,
    backoff: Backoff | None = None,
    proofs: bool = False,
) -> type[M]:
    """A class of maps whose wait for addresses follows a policy, for `cls=` of the calls that make maps.

    Args:
        base: `netbsd.VmMap`, or one of FreeBSD's: `freebsd.VmMap13`, `freebsd.VmMap2013`; or a subclass.
        wake: makes the policy: a class, or a function without arguments (see policies.py). Called for each map.
        recheck: ticks after which a sleeper looks again by itself; 0 for never; AS_IS for the kernel's own: a second on
            NetBSD, never on FreeBSD.
        backoff: before a request queues for the map's lock; on NetBSD in place of its one trylock.
        proofs: prove the map's invariants with every release of its lock.

    Raises:
        UsageError: another class, or a negative recheck.
    """
    if recheck < AS_IS:
        raise UsageError(f"waiting(recheck={recheck}): ticks, 0 for never")
    if issubclass(base, netbsd.VmMap):
        mixin: type[Any] = _NetBSDWait
    elif issubclass(base, FreeBSDVmMap):
        mixin = _FreeBSDWait
    else:
        raise UsageError(f"waiting({base!r}): netbsd.VmMap, freebsd.VmMap13, freebsd.VmMap2013, or a subclass")
    space = {"wake": staticmethod(wake), "recheck": recheck, "backoff": backoff, "proofs": proofs}
    made: type[M] = type(f"{base.__name__}Waiting", (mixin, base), space)
    return made
