"""FreeBSD's vmem(9): an allocator of addresses, or of any other numbers, that sleeps until there are some.

An arena has spans, given or imported from somewhere else, and hands out parts of them. Without room it imports; then it
empties its quantum caches and calls its reclaim function; and if that has not made more room, a caller that may not wait
gets ENOMEM, and another sleeps until somebody frees something. For an import, and for the two after it, the arena's lock
is given up. They look whether there is more room than before *them*, and nobody looks again after a failed import:

- what was freed during the import is not seen by a thread that then goes to sleep, and its wakeup came too early;
- with M_WAITOK the import waits, too, in the arena that it imports from: who frees into the first arena wakes nobody there;
- what is freed into a quantum cache wakes nobody at all.

Every ten seconds (vmem_periodic) all sleepers of all arenas are woken, which ends the first and the third of these. The calls
are in `vmem`.

What is left out: boundary tags may run out; "best fit" looks for the smallest free block within a class of sizes only, and
takes the latest of those. Here best fit is the smallest free block, and first fit the lowest that fits. Of the caches,
those of processors.

Source: sys/kern/subr_vmem.c of release/10.4 and releng/13.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from stressvm.kernel.condvar import CondVar
from stressvm.kernel.errors import UsageError
from stressvm.kernel.mutex import Mutex
from stressvm.vm.entry import Entry
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.skiplist import EntryList

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from stressvm.kernel.kernel import Kernel

    #: Get a span of so many bytes, given M_* flags, for whoever waits for `wanted`: its address, or None.
    Import: TypeAlias = Callable[[int, int, Callable[[], bool]], Awaitable[int | None]]
    #: Give a span back: address and bytes.
    Release: TypeAlias = Callable[[int, int], Awaitable[None]]
    #: Make room, given M_* flags, if there is a way.
    Reclaim: TypeAlias = Callable[[int], Awaitable[None]]

M_NOWAIT: Final = 0x0001
M_WAITOK: Final = 0x0002
M_ZERO: Final = 0x0100
M_USE_RESERVE: Final = 0x0400
M_FIRSTFIT: Final = 0x1000
M_BESTFIT: Final = 0x2000
M_EXEC: Final = 0x4000
ENOMEM: Final = 12


class Span:
    """A span, and what of it is busy. `static`: it was given, and is not given back."""

    __slots__ = ("busy", "static")

    def __init__(self, start: int, size: int, *, static: bool) -> None:
        self.busy: EntryList[Entry] = EntryList(start, start + size)
        self.static = static

    @property
    def size(self) -> int:
        """Bytes."""
        return self.busy.max - self.busy.min

    def gaps(self) -> Iterator[tuple[int, int]]:
        """The free blocks in order of address: (address, bytes)."""
        at = self.busy.min
        for entry in self.busy:
            if entry.start > at:
                yield at, entry.start - at
            at = entry.end
        if self.busy.max > at:
            yield at, self.busy.max - at


class Vmem:
    """An arena.

    Args:
        k: the kernel.
        name: as reports show it.
        base: where its first span begins.
        size: of that, in bytes; 0 for none.
        quantum: all sizes are rounded up to multiples of it, a power of two.
        qcache_max: sizes up to this have quantum caches, a multiple of the quantum; 0 for none.
        import_quantum: it imports multiples of it.

    Attributes:
        importfn, releasefn, reclaimfn: where spans come from, where they go when they are free, and what else makes room.
        importable: the model's own: pure: could so many bytes be imported? For judging who sleeps in vain.
        size: of all spans; `inuse`: of what of them is busy.
        lock: vm_lock; protects all of it.
        cv: vm_cv; who waits for room sleeps here.
        qcache: what is in the quantum caches, by size, with a lock each.
    """

    importfn: Import | None = None
    releasefn: Release | None = None
    reclaimfn: Reclaim | None = None
    importable: Callable[[int], bool] | None = None

    def __init__(
        self,
        k: Kernel,
        name: str,
        base: int = 0,
        size: int = 0,
        *,
        quantum: int = F.PAGE_SIZE,
        qcache_max: int = 0,
        import_quantum: int = F.NBPDR,
    ) -> None:
        if quantum < 1 or quantum & (quantum - 1) or qcache_max % quantum or import_quantum % quantum:
            given = f"quantum={quantum:#x}, qcache_max={qcache_max:#x}, import_quantum={import_quantum:#x}"
            raise UsageError(f"Vmem({name}, {given}): a power of two, and multiples of it")
        self.k = k
        self.name = name
        self.quantum = quantum
        self.qcache_max = qcache_max
        self.import_quantum = import_quantum
        self.lock = Mutex(k, name)
        self.cv = CondVar(k, f"{name}.cv", timeout_signals=False)
        self.spans: list[Span] = []
        self.size = 0
        self.inuse = 0
        sizes = range(quantum, qcache_max + 1, quantum)
        self.qcache: dict[int, tuple[Mutex, list[int]]] = {n: (Mutex(k, f"{name}-{n}"), []) for n in sizes}
        vmem_list(k).append(self)
        if size:
            self.add(base, size, static=True)

    def roundup(self, size: int) -> int:
        """vmem_roundup_size."""
        return (size + self.quantum - 1) & -self.quantum

    def add(self, addr: int, size: int, *, static: bool) -> None:
        """vmem_add1: one more span. Locks: the arena's, or while the world is built."""
        if size % self.quantum or any(addr < span.busy.max and span.busy.min < addr + size for span in self.spans):
            raise self.k.panic(f"vmem_add1: {self.name}: {addr:#x}-{addr + size:#x} is no new span", "invariant")
        self.spans.append(Span(addr, size, static=static))
        self.size += size

    # ------------------------------------------------------------ allocation

    async def xalloc(self, size: int, flags: int, align: int, wanted: Callable[[], bool] | None) -> int | None:
        """vmem_xalloc. Locks: takes the arena's. Sleeps: for it; with M_WAITOK for room, for ever. See `vmem_xalloc`."""
        self.check_flags(flags)
        size = self.roundup(size)

        def until() -> bool:
            return (
                self.fit(size, flags, align) is not None
                or (self.importable is not None and self.importable(self.import_size(size, align)))
                or (wanted is not None and wanted())
            )

        await self.lock.lock()
        while True:
            addr = self.take(size, flags, align)
            if addr is not None:
                await self.unlock()
                return addr
            if not await self.try_fetch(size, flags, align, until):
                await self.unlock()
                return None

    def check_flags(self, flags: int) -> None:
        """What vmem_xalloc asserts: one way of fitting, one of waiting; and whoever waits may sleep."""
        waits, fits = flags & (M_NOWAIT | M_WAITOK), flags & (M_FIRSTFIT | M_BESTFIT)
        if waits not in {M_NOWAIT, M_WAITOK} or fits not in {M_FIRSTFIT, M_BESTFIT}:
            raise self.k.panic(f"vmem_xalloc: MPASS: {self.name}: flags {flags:#x}")
        if waits == M_WAITOK:
            self.k.may_sleep(f"vmem_alloc of {self.name}")

    def fit(self, size: int, flags: int, align: int) -> int | None:
        """The address of a free block, or None. Pure."""
        best: tuple[int, int] | None = None
        for span in self.spans:
            if flags & M_FIRSTFIT:
                addr = span.busy.first_fit(size, span.busy.min, align=align)
                if addr is not None and (best is None or addr < best[1]):
                    best = (0, addr)
                continue
            for start, free in span.gaps():
                addr = (start + align - 1) & -align
                if addr + size <= start + free and (best is None or (free, addr) < best):
                    best = (free, addr)
        return best[1] if best is not None else None

    def take(self, size: int, flags: int, align: int) -> int | None:
        """vmem_fit and vmem_clip: make a free block busy; its address. Locks: the arena's."""
        addr = self.fit(size, flags, align)
        if addr is not None:
            self.span_of(addr).busy.insert(Entry(addr, addr + size))
            self.inuse += size
        return addr

    def span_of(self, addr: int) -> Span:
        """The span that an address is in."""
        span = next((span for span in self.spans if span.busy.min <= addr < span.busy.max), None)
        if span is None:
            raise self.k.panic(f"vmem_xfree: MPASS: {addr:#x} is in no span of {self.name}")
        return span

    async def try_fetch(self, size: int, flags: int, align: int, until: Callable[[], bool]) -> bool:
        """vmem_try_fetch: there is no room: get some, or wait. False: there is none; else it is worth another look.

        Locks: the arena's on entry and exit, given up meanwhile.
        """
        if await self.import_span(size, flags, align, until):
            return True
        if self.qcache_max or self.reclaimfn is not None:
            before = self.size - self.inuse
            await self.unlock()
            await self.reclaim(flags)
            await self.lock.lock()
            if self.size - self.inuse > before:
                return True
        if flags & M_NOWAIT:
            return False
        await self.wait(until)
        return True

    async def import_span(self, size: int, flags: int, align: int, wanted: Callable[[], bool]) -> bool:
        """vmem_import: get another span. Locks: the arena's on entry and exit, given up for the call."""
        if self.importfn is None:
            return False
        size = self.import_size(size, align)
        await self.unlock()
        addr = await self.importfn(size, flags, wanted)
        await self.lock.lock()
        if addr is None:
            return False
        self.add(addr, size, static=False)
        return True

    def import_size(self, size: int, align: int) -> int:
        """How much is imported for a request: enough to hold an aligned part of that size, in whole import quanta."""
        if align != self.quantum:
            size += align * 2
        return -(-size // self.import_quantum) * self.import_quantum

    async def reclaim(self, flags: int) -> None:
        """qc_drain, and the reclaim function. Locks: none."""
        for size, (lock, cached) in self.qcache.items():
            await lock.lock()
            addrs = cached[:]
            cached.clear()
            await lock.unlock()
            for addr in addrs:
                await self.xfree(addr, size)
        if self.reclaimfn is not None:
            await self.reclaimfn(flags)

    async def wait(self, until: Callable[[], bool]) -> None:
        """VMEM_CONDVAR_WAIT. Locks: the arena's, given up while asleep."""
        self.prove()
        await self.cv.wait(self.lock, wmesg=self.name, until=until)

    # ------------------------------------------------------------ freeing

    async def xfree(self, addr: int, size: int) -> None:
        """vmem_xfree. Locks: takes the arena's. Sleeps: for it. Wakes: all who wait for room."""
        size = self.roundup(size)
        await self.lock.lock()
        span = self.span_of(addr)
        found, entry = span.busy.lookup(addr)
        if not found or entry is None or entry.start != addr or entry.end != addr + size:
            raise self.k.panic(f"vmem_xfree: MPASS: {self.name}: {addr:#x}-{addr + size:#x} was not allocated so")
        span.busy.delete(entry)
        self.inuse -= size
        gone = self.releasefn is not None and not span.static and not len(span.busy)
        if gone:
            self.spans.remove(span)
            self.size -= span.size
        await self.broadcast()
        await self.unlock()
        if gone and self.releasefn is not None:
            await self.releasefn(span.busy.min, span.size)

    async def broadcast(self) -> None:
        """VMEM_CONDVAR_BROADCAST. Locks: the arena's, or none."""
        await self.cv.broadcast()

    # ------------------------------------------------------------ proofs

    async def unlock(self) -> None:
        """VMEM_UNLOCK, after the invariants."""
        self.prove()
        await self.lock.unlock()

    def prove(self) -> None:
        """What is busy is disjoint and within the spans; the sums are right. A violation is a panic of kind `invariant`."""
        size = busy = 0
        for span in self.spans:
            try:
                span.busy._check()  # noqa: SLF001 - the list's own proof
            except AssertionError as exc:
                raise self.k.panic(f"{self.name}: vmem: {exc}", "invariant") from None
            size += span.size
            busy += sum(entry.end - entry.start for entry in span.busy)
        if (size, busy) != (self.size, self.inuse):
            text = f"{self.inuse:#x} of {self.size:#x} bytes are counted as busy, and {busy:#x} of {size:#x} are"
            raise self.k.panic(f"{self.name}: vmem: {text}", "invariant")

    def __repr__(self) -> str:
        """Name and sizes."""
        return f"<Vmem {self.name}, {self.inuse:#x} of {self.size:#x} bytes busy>"


def vmem_list(k: Kernel) -> list[Vmem]:
    """All arenas of a kernel."""
    return k.once("vmem_list", list)
