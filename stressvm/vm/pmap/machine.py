"""Processors, and what all pmaps share: physical pages, the locks of their lists, and a supply of list entries.

A kernel thread runs on one processor: that of its number modulo the number of processors, unless it was pinned to
another or migrates. A processor has the kernel's pmap always and one user pmap at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stressvm.kernel.cell import Cell
from stressvm.kernel.errors import UsageError
from stressvm.kernel.field import Field
from stressvm.kernel.rwlock import Rw, RwLock
from stressvm.vm.pmap.delayed import DelayedInvl
from stressvm.vm.pmap.flags import NBPDR, PAGE_SIZE, PDRSHIFT, PG_FRAME, PG_PS_FRAME, trunc_2mpage
from stressvm.vm.pmap.page import Frame, MdPage, PhysPage, PvHeader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.pmap.core import PmapCore

#: Why entries of pv lists are counted without a lock that all who do so hold.
_PV_BENIGN: Final = (
    "the supply is counted by atomic additions, and who finds it empty takes entries from other mappings"
)


@dataclass(frozen=True, slots=True)
class MachineStatistics:
    """A snapshot: the user pmap of each processor (None: none), entries of pv lists in use, and how many were reclaimed."""

    user_pmaps: tuple[str | None, ...]
    pv_entries: int
    pv_reclaimed: int


class Machine:
    """The processors and the memory. Make it with `machine(k)`, or with other than the defaults before anybody asks.

    Args:
        k: the kernel.
        ncpu: processors.
        npvlocks: locks of pv lists, of which a page has one by its physical address.
        pv_entries_max: entries of pv lists that there is memory for; None: any number.
        pcid: translations outlive the switch to another user pmap (as with the processor's process-context ids).
        fullpop: is the reservation that a page belongs to fully populated? Only such pages are promoted.
        page_owned: is the object of a page locked? Given, a managed page may be entered only busy or so.

    Attributes:
        pmaps: all, in order of creation.
        kernel_pmap: the kernel's, once there is one.
    """

    def __init__(
        self,
        k: Kernel,
        ncpu: int = 2,
        *,
        npvlocks: int = 2,
        pv_entries_max: int | None = None,
        pcid: bool = False,
        fullpop: Callable[[PhysPage], bool] | None = None,
        page_owned: Callable[[PhysPage], bool] | None = None,
    ) -> None:
        if ncpu < 1 or npvlocks < 1:
            raise UsageError(f"Machine(ncpu={ncpu}, npvlocks={npvlocks}): there must be at least one of each")
        self.k = k
        self.ncpu = ncpu
        self.pcid = pcid
        self.fullpop = fullpop
        self.page_owned = page_owned
        self.pmaps: list[PmapCore] = []
        self.kernel_pmap: PmapCore | None = None
        self.invl = DelayedInvl(k)
        self.pv_locks = tuple(RwLock(k, f"pvlist{n}") for n in range(npvlocks))
        self.pv_entries_max = pv_entries_max
        #: There are no more than so many, so who takes one changes what others get.
        self.pv_field = None if pv_entries_max is None else Field(k, "pv entries", _PV_BENIGN)
        self.pv_entries = 0
        self.pv_reclaimed = 0
        #: Which user pmap each processor has.
        self.curpmap: list[PmapCore | None] = [None] * ncpu
        #: The switch of a thread to another processor, as a visible operation.
        self._placed = Cell(k, -1, "cpu")
        self._where: dict[int, int] = {}
        self._pages: dict[int, MdPage] = {}
        self._headers: dict[int, PvHeader] = {}
        self._boot_frames = 0

    # ------------------------------------------------------------ threads and processors

    def cpu(self) -> int:
        """The number of the processor that the current thread runs on."""
        me = self.k.cur
        return self._where.get(me, me % self.ncpu)

    def pin(self, thread: int, cpu: int) -> None:
        """While the world is built: that thread, by number, runs there."""
        self._where[thread] = self._known(cpu)

    async def migrate(self, cpu: int) -> None:
        """Let the current thread go on on another processor. Locks: any. Sleeps: no.

        The processor that it leaves goes idle, which deactivates its user pmap; the new one gets that pmap.
        """
        self._known(cpu)
        old = self.cpu()
        await self._placed.store(cpu)
        pmap = self.curpmap[old]
        if cpu == old:
            return
        if pmap is not None:
            pmap.deactivated(old)
        self._where[self.k.cur] = cpu
        if pmap is not None:
            pmap.switch_to(cpu)

    def _known(self, cpu: int) -> int:
        if not 0 <= cpu < self.ncpu:
            raise UsageError(f"processor {cpu}: this machine has processors 0 to {self.ncpu - 1}")
        return cpu

    # ------------------------------------------------------------ physical pages

    def add_page(self, page: PhysPage) -> MdPage:
        """Make a page known by its physical address; once is enough, again does no harm.

        FreeBSD's calls that are given a page do it themselves; NetBSD's are given addresses.

        Raises:
            UsageError: another page is known by that address.
        """
        md = self._pages.get(page.phys_addr)
        if md is None:
            md = self._pages[page.phys_addr] = MdPage(page)
        elif md.page is not page:
            raise UsageError(f"two pages at {page.phys_addr:#x}: {md.page!r} and {page!r}")
        return md

    def add_pages(self, pages: Iterable[PhysPage]) -> None:
        """Make pages known."""
        known = self._pages
        for page in pages:
            if page.phys_addr in known:
                self.add_page(page)
            else:
                known[page.phys_addr] = MdPage(page)

    def md(self, pa: int) -> MdPage:
        """The bookkeeping of the page at a physical address, or at that of an entry of the page tables."""
        try:
            return self._pages[pa & PG_FRAME]
        except KeyError:
            raise UsageError(f"no page at {pa & PG_FRAME:#x}: call machine.add_page(page) for it first") from None

    def superpage(self, pa: int) -> list[MdPage]:
        """The 512 pages of the superpage at `pa`."""
        base = pa & PG_PS_FRAME
        return [self.md(base + offset) for offset in range(0, NBPDR, PAGE_SIZE)]

    def pvh(self, pa: int) -> PvHeader:
        """pa_to_pvh: the mappings by superpages of the 2 MiB around `pa`."""
        base = pa & PG_PS_FRAME
        header = self._headers.get(base)
        if header is None:
            header = self._headers[base] = PvHeader()
        return header

    def is_mapped(self, page: PhysPage) -> bool:
        """Is there any managed mapping of the page? Reads the lists as they are, without their lock; no switch."""
        return bool(page.pv_list) or bool(self.pvh(page.phys_addr).pv_list)

    def counts_pv_entries(self) -> None:
        """The current step asks how many entries of pv lists there are, or takes some, or gives some back."""
        if self.pv_field is not None:
            self.pv_field.write()

    def pv_lock(self, pa: int) -> RwLock:
        """PHYS_TO_PV_LIST_LOCK: one lock for all pages of 2 MiB, and for others."""
        return self.pv_locks[((pa & PG_FRAME) >> PDRSHIFT) % len(self.pv_locks)]

    async def boot_ptp(self, may_sleep: bool) -> PhysPage:  # noqa: ARG002, FBT001 - the shape of AllocPtp
        """Page-table pages of a machine whose memory nobody counts: there always is one."""
        self._boot_frames += 1
        return Frame((1 << 51) + self._boot_frames * PAGE_SIZE, managed=False)

    # ------------------------------------------------------------ the model's own proofs

    def assert_page_unused(self, page: PhysPage) -> None:
        """Panic (`invariant`) if any processor could still reach the page: it is about to be used for something else.

        That is: through a mapping, managed or not, or through an entry of any TLB. Locks: any. No switch.
        """
        k = self.k
        md = self._pages.get(page.phys_addr)
        if md is None:
            return
        if self.is_mapped(page) or md.unlisted:
            raise k.panic(f"page {page.phys_addr:#x} is reused, and still mapped", "invariant")
        base = trunc_2mpage(page.phys_addr)
        for pmap in self.pmaps:
            for tlb in pmap.tlbs:
                small = (entry for entry in tlb.small.values() if entry.pte & PG_FRAME == page.phys_addr)
                large = (entry for entry in tlb.large.values() if entry.pte & PG_PS_FRAME == base)
                if next(small, None) is not None or next(large, None) is not None:
                    raise k.panic(
                        f"page {page.phys_addr:#x} is reused, and cpu{tlb.cpu} still translates to it in {pmap.name}",
                        "invariant",
                    )

    def statistics(self) -> MachineStatistics:
        """Who is where, and what the lists need."""
        return MachineStatistics(
            tuple(pmap.name if pmap is not None else None for pmap in self.curpmap), self.pv_entries, self.pv_reclaimed
        )


class PvLock:
    """The lock of a pv list that a call holds, if any: the `lockp` of the source. It changes with the page in hand."""

    __slots__ = ("held", "machine")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.held: RwLock | None = None

    async def change_to(self, pa: int) -> None:
        """CHANGE_PV_LIST_LOCK_TO_PHYS: hold the lock for that page. Sleeps: for the lock."""
        lock = self.machine.pv_lock(pa)
        if self.held is not lock:
            await self.release()
            await lock.enter(Rw.WRITER)
            self.held = lock

    async def release(self) -> None:
        """RELEASE_PV_LIST_LOCK. Sleeps: no."""
        if self.held is not None:
            held, self.held = self.held, None
            await held.exit()


def machine(k: Kernel, ncpu: int | None = None) -> Machine:
    """The machine of this kernel; made, with the defaults, when first asked for.

    A scenario that wants other than the defaults says `k.once("machine", lambda: Machine(k, 4, pcid=True))` first.

    Args:
        k: the kernel.
        ncpu: processors; None for what there is, or 2.

    Raises:
        UsageError: there is one, with another number of processors.
    """
    made = k.once("machine", lambda: Machine(k, ncpu or 2))
    if ncpu not in (None, made.ncpu):
        raise UsageError(f"machine(ncpu={ncpu}): this kernel has one with {made.ncpu} processors already")
    return made
