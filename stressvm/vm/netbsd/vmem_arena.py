"""NetBSD's vmem(9): an arena of addresses that are handed out in blocks, by size classes, and slept for.

An arena has spans, given or imported from another arena, cut into blocks. Free blocks are kept in lists by the logarithm of
their size, the one that was freed last first. To allocate, the first block of a list is taken in which all are large enough
(VM_INSTANTFIT); if there is none, or with VM_BESTFIT, the first that is large enough in a list in which some may be.

Without room an arena imports. If that fails, a caller with VM_SLEEP kicks the page daemon and sleeps until somebody frees
something. But the search, the import and the sleep each take the arena's lock anew, and nothing is looked at again before
the sleep: what was freed since the search has woken nobody, and a thread may sleep for ever beside the room that it wants.
Nor is anybody woken when an arena gets a new span, nor where somebody sleeps for an import, when that becomes needless.

Left out: boundary tags, which may run out; alignment and bounds (vmem_xalloc); quantum caches.

Source: sys/kern/subr_vmem.c as of 2013 (NetBSD 6.99), vmem_xalloc, vmem_xfree, vmem_import, vmem_add1.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from stressvm.kernel.condvar import CondVar
from stressvm.kernel.errors import UsageError
from stressvm.kernel.mutex import SpinMutex
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm.kernel.kernel import Kernel

#: An import into an arena with VM_LARGEIMPORT is so many times as large as what is wanted.
LARGE: Final = 16
#: Size classes: one for each bit of a size.
VMEM_MAXORDER: Final = 64


class BtType(enum.Enum):
    """What a boundary tag stands for: a span that was given, or imported; a block that is free, or busy."""

    SPAN_STATIC = "static span"
    SPAN = "span"
    FREE = "free"
    BUSY = "busy"


class Btag:
    """struct vmem_btag: a span, or a block of one."""

    __slots__ = ("kind", "size", "start")

    def __init__(self, kind: BtType, start: int, size: int) -> None:
        self.kind = kind
        self.start = start
        self.size = size

    def __repr__(self) -> str:
        """What, and where."""
        return f"<{self.kind.value} {self.start:#x}-{self.start + self.size:#x}>"


class Vmem:
    """An arena.

    Args:
        k: the kernel.
        name: as reports show it.
        base: where its span begins.
        size: of that, bytes; 0 for none.
        quantum: all sizes are rounded up to multiples of it, a power of two.
        source: the arena that it imports from, if any.
        large: VM_LARGEIMPORT: it imports much more than it needs.

    Attributes:
        segs: vm_seglist: spans in the order in which they came, each followed by its blocks in order of address.
        freelist: the free blocks by size class, the latest first.
        busy: the busy blocks by address.
        size, inuse: bytes of all spans, and of what of them is busy.
        lock: vm_lock, a spin mutex; protects all of it.
        cv: vm_cv; who waits for room sleeps here.
        kick: awaited by who is about to sleep: uvm_kick_pdaemon.
    """

    kick: Callable[[], Awaitable[None]] | None = None

    def __init__(
        self,
        k: Kernel,
        name: str,
        base: int = 0,
        size: int = 0,
        *,
        quantum: int = F.PAGE_SIZE,
        source: Vmem | None = None,
        large: bool = False,
    ) -> None:
        if quantum < 1 or quantum & (quantum - 1) or base % quantum or size % quantum:
            raise UsageError(
                f"Vmem({name}, {base:#x}, {size:#x}, quantum={quantum:#x}): a power of two, and multiples of it"
            )
        self.k = k
        self.name = name
        self.quantum = quantum
        self.source = source
        self.large = large
        self.lock = SpinMutex(k, name)
        self.cv = CondVar(k, f"{name}.cv")
        self.segs: list[Btag] = []
        self.freelist: list[list[Btag]] = [[] for _ in range(VMEM_MAXORDER)]
        self.busy: dict[int, Btag] = {}
        self.size = self.inuse = 0
        if size:
            self.add(base, size, BtType.SPAN_STATIC)

    def roundup(self, size: int) -> int:
        """vmem_roundup_size."""
        return (size + self.quantum - 1) & -self.quantum

    def add(self, addr: int, size: int, kind: BtType) -> None:
        """vmem_add1: one more span, free. Wakes nobody. Locks: the arena's, or while the world is built."""
        for bt in self.segs:
            if addr < bt.start + bt.size and bt.start < addr + size:
                raise self.k.panic(f"vmem_add1: {self.name}: {addr:#x}-{addr + size:#x} overlaps {bt!r}", "invariant")
        free = Btag(BtType.FREE, addr, size)
        self.segs += [Btag(kind, addr, size), free]
        self.insfree(free)
        self.size += size

    # ------------------------------------------------------------ the lists

    def order(self, size: int) -> int:
        """SIZE2ORDER: the size class of a block."""
        return (size // self.quantum).bit_length() - 1

    def insfree(self, bt: Btag) -> None:
        """bt_insfree: to the front of its list."""
        self.freelist[self.order(bt.size)].insert(0, bt)

    def remfree(self, bt: Btag) -> None:
        """bt_remfree."""
        self.freelist[self.order(bt.size)].remove(bt)

    def fit(self, size: int, *, instant: bool) -> Btag | None:
        """The free block that a search finds, or None. Pure."""
        first = self.order(size)
        if instant:
            if self.quantum << first != size:
                first += 1
            return next((blocks[0] for blocks in self.freelist[first:] if blocks), None)
        return next((bt for blocks in self.freelist[first:] for bt in blocks if bt.size >= size), None)

    def could(self, size: int) -> bool:
        """Is there room, here or where it would be imported from? For judging who sleeps in vain. Pure."""
        if self.fit(size, instant=False) is not None:
            return True
        return self.source is not None and self.source.could(self.source.roundup(self.import_size(size)))

    # ------------------------------------------------------------ allocation

    async def alloc(self, size: int, flags: int, wanted: Callable[[], bool] | None = None) -> int | None:
        """vmem_xalloc without restrictions: the address, or None. See `vmem_alloc`.

        Args:
            size: bytes.
            flags: VM_SLEEP or VM_NOSLEEP, with VM_INSTANTFIT or VM_BESTFIT.
            wanted: the model's own: true if whoever imports from here has found room elsewhere.
        """
        self.check_request(size, flags)
        size = self.roundup(size)
        addr = await self.search(size, instant=True) if flags & F.VM_INSTANTFIT else None
        while addr is None:
            addr = await self.search(size, instant=False)
            if addr is not None or await self.import_span(size, flags):
                continue
            if not flags & F.VM_SLEEP:
                return None
            if self.kick is not None:
                await self.kick()
            await self.wait(lambda: self.could(size) or (wanted is not None and wanted()))
        return addr

    def check_request(self, size: int, flags: int) -> None:
        """What vmem_alloc asserts: a size, one way of waiting, one of fitting; and whoever waits may sleep."""
        waits, fits = flags & (F.VM_SLEEP | F.VM_NOSLEEP), flags & (F.VM_INSTANTFIT | F.VM_BESTFIT)
        if size <= 0 or waits not in {F.VM_SLEEP, F.VM_NOSLEEP} or fits not in {F.VM_INSTANTFIT, F.VM_BESTFIT}:
            raise self.k.panic(f"vmem_alloc: KASSERT: {self.name}: size {size:#x}, flags {flags:#x}")
        if waits == F.VM_SLEEP:
            self.k.may_sleep(f"vmem_alloc of {self.name}")

    async def search(self, size: int, *, instant: bool) -> int | None:
        """Look for a free block and make it busy, or its front; its address. Locks: takes the arena's. Sleeps: no, it spins."""
        await self.lock.lock()
        bt = self.fit(size, instant=instant)
        addr = None if bt is None else self.take(bt, size)
        await self.unlock()
        return addr

    def take(self, bt: Btag, size: int) -> int:
        """Make a free block busy; if it is larger, its front, and the rest goes to the front of its list."""
        self.remfree(bt)
        if bt.size == size:
            bt.kind = BtType.BUSY
        else:
            front = Btag(BtType.BUSY, bt.start, size)
            self.segs.insert(self.segs.index(bt), front)
            bt.start += size
            bt.size -= size
            self.insfree(bt)
            bt = front
        self.busy[bt.start] = bt
        self.inuse += size
        return bt.start

    def import_size(self, size: int) -> int:
        """How much is imported for a request."""
        return size * LARGE if self.large else size

    async def import_span(self, size: int, flags: int) -> bool:
        """vmem_import: one more span, from the source; with VM_SLEEP that sleeps there. False: there is none."""
        if self.source is None:
            return False
        more = self.import_size(size)
        addr = await self.source.alloc(more, flags, lambda: self.fit(size, instant=False) is not None)
        if addr is None:
            return False
        await self.lock.lock()
        self.add(addr, more, BtType.SPAN)
        await self.unlock()
        return True

    async def wait(self, until: Callable[[], bool]) -> None:
        """VMEM_CONDVAR_WAIT, and nothing is looked at before. Locks: takes the arena's. Sleeps: until something is freed."""
        await self.lock.lock()
        await self.cv.wait(self.lock, wmesg=self.name, until=until)
        await self.lock.unlock()

    # ------------------------------------------------------------ freeing

    async def free(self, addr: int, size: int) -> None:
        """vmem_xfree. Locks: takes the arena's. Sleeps: no, it spins. Wakes: all who wait for room."""
        size = self.roundup(size)
        await self.lock.lock()
        bt = self.busy.get(addr)
        if bt is None or bt.size != size:
            raise self.k.panic(
                f"vmem_xfree: KASSERT: {self.name}: {addr:#x}-{addr + size:#x} was not allocated so: {bt!r}"
            )
        del self.busy[addr]
        self.inuse -= size
        bt.kind = BtType.FREE
        self.coalesce(bt)
        span = self.segs[self.segs.index(bt) - 1]
        gone = self.source is not None and span.kind is BtType.SPAN and span.size == bt.size
        if gone:
            self.segs.remove(bt)
            self.segs.remove(span)
            self.size -= span.size
        else:
            self.insfree(bt)
        await self.broadcast()
        await self.unlock()
        if gone and self.source is not None:
            await self.source.free(span.start, span.size)

    def coalesce(self, bt: Btag) -> None:
        """A block that has become free becomes one with its free neighbours; it is in no list yet."""
        at = self.segs.index(bt)
        for other in self.segs[at + 1 : at + 2] + self.segs[at - 1 : at]:
            if other.kind is BtType.FREE:
                self.remfree(other)
                self.segs.remove(other)
                bt.start = min(bt.start, other.start)
                bt.size += other.size

    async def broadcast(self) -> None:
        """VMEM_CONDVAR_BROADCAST. Locks: the arena's."""
        await self.cv.broadcast()

    # ------------------------------------------------------------ proofs

    async def unlock(self) -> None:
        """VMEM_UNLOCK, after the invariants."""
        wrong = self.wrong()
        if wrong is not None:
            raise self.k.violation(self.name, "vmem", wrong)
        await self.lock.unlock()

    def wrong(self) -> str | None:
        """Spans are covered by their blocks, no two free ones touch, each is in its list, and the sums are right."""
        spans = busy = 0
        at = end = 0
        before = None
        for bt in self.segs:
            if bt.kind in {BtType.SPAN, BtType.SPAN_STATIC}:
                if at != end:
                    return f"{before!r} is not followed to the end of its span, {end:#x}"
                spans += bt.size
                at, end = bt.start, bt.start + bt.size
            elif bt.start != at or (bt.kind is BtType.FREE and before is not None and before.kind is BtType.FREE):
                return f"{bt!r} follows {before!r}"
            else:
                at += bt.size
                busy += bt.size if bt.kind is BtType.BUSY else 0
                if bt.kind is BtType.FREE and bt not in self.freelist[self.order(bt.size)]:
                    return f"{bt!r} is in no list"
            before = bt
        if (at, spans, busy) != (end, self.size, self.inuse):
            return f"{self.inuse:#x} of {self.size:#x} bytes are counted as busy, and {busy:#x} of {spans:#x} are"
        return None

    def __repr__(self) -> str:
        """Name and sizes."""
        return f"<Vmem {self.name}, {self.inuse:#x} of {self.size:#x} bytes busy>"
