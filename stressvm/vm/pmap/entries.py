"""The state of a pmap, and how its entries are changed.

Every change of an entry goes through `store_pte` or one of the superpage stores. They keep count on their own, so that
the kernel's counts can be proven, and note which entries of TLBs the change obsoletes: these must be gone when somebody
says that they are (see `tlb`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from stressvm.kernel.errors import UsageError
from stressvm.kernel.mutex import Mutex
from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.tables import Directory, PageTable, PageTables, Pdp
from stressvm.vm.pmap.tlb import Shootdown, Tlb

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Unpack

    from stressvm.vm.pmap.machine import Machine
    from stressvm.vm.pmap.page import AllocPtp, FreePtp, MdPage, PhysPage

_INDEX = F.NPTEPG - 1


class PmapSettings(TypedDict, total=False):
    """What else can be said of a pmap when it is made.

    Attributes:
        kernel: it is the kernel's pmap, which is active on every processor and of which there is one.
        min_address, max_address: what it can map, page aligned, half open, in bytes.
        kernel_vm_end: the kernel's page tables are there up to this address from the start; by default there are none.
        alloc_ptp: where pages for page tables come from; by default there always is one.
        free_ptp: where they go.
    """

    kernel: bool
    min_address: int
    max_address: int
    kernel_vm_end: int
    alloc_ptp: AllocPtp | None
    free_ptp: FreePtp | None


class Entries:
    """The state of a pmap; use the class of a kernel, `FreeBSDPmap` or `NetBSDPmap`.

    Args:
        machine: its processors and memory.
        name: as reports show it.
        settings: the rest, see `PmapSettings`.

    Attributes:
        resident_count, wired_count: as the kernel counts them.
        active: the processors it is active on, as bits.
        valid, wired: as the stores count them (the model's own).
        touched, touched_supers: what this hold of the lock has changed: addresses of pages and of superpages.
        listed: the pages on whose lists it has put a mapping, or taken one off.
        owed: pages whose modified bit it has taken out of an entry, and that have not been told so far.
    """

    # With so many attributes instances without slots are slow: Python gives each a dictionary of its own.
    __slots__ = (
        "active",
        "alloc_ptp",
        "demotion_failures",
        "demotions",
        "faults",
        "free_ptp",
        "hits",
        "invalidations",
        "k",
        "kernel",
        "kernel_vm_end",
        "listed",
        "lock",
        "machine",
        "max_address",
        "min_address",
        "name",
        "number",
        "owed",
        "promotion_failures",
        "promotions",
        "releases",
        "resident_count",
        "spurious_faults",
        "stale_uses",
        "superpages",
        "tables",
        "tlbs",
        "touched",
        "touched_supers",
        "valid",
        "walks",
        "wired",
        "wired_count",
    )

    def __init__(self, machine: Machine, name: str = "pmap", **settings: Unpack[PmapSettings]) -> None:
        kernel = settings.get("kernel", False)
        min_address = settings.get("min_address", 0)
        max_address = settings.get("max_address", F.VM_MAXUSER_ADDRESS)
        if not 0 <= min_address < max_address <= 1 << 64 or (min_address | max_address) & F.PAGE_MASK:
            raise UsageError(
                f"a pmap from {min_address:#x} to {max_address:#x}: page aligned, the second larger, 64 bits"
            )
        if kernel and machine.kernel_pmap is not None:
            raise UsageError(f"{name}: this machine has a kernel pmap already, {machine.kernel_pmap.name}")
        self.k = machine.k
        self.machine = machine
        self.name: str = name
        self.kernel = kernel
        self.number = len(machine.pmaps)
        self.min_address = min_address
        self.max_address = max_address
        self.kernel_vm_end = settings.get("kernel_vm_end", min_address) if kernel else 0
        self.alloc_ptp: AllocPtp = settings.get("alloc_ptp") or machine.boot_ptp
        self.free_ptp: FreePtp = settings.get("free_ptp") or _gone
        self.lock = Mutex(self.k, f"{name}.lock")
        self.tables = PageTables(self.k, f"{name}.tables")
        self.tlbs = tuple(Tlb(self.k, cpu, name, self.tables) for cpu in range(machine.ncpu))
        self.active = (1 << machine.ncpu) - 1 if kernel else 0
        self.resident_count = 0
        self.wired_count = 0
        self.valid = 0
        self.wired = 0
        self.touched: dict[int, None] = {}
        self.touched_supers: dict[int, None] = {}
        self.listed: dict[MdPage, None] = {}
        self.owed: dict[MdPage, None] = {}
        self.superpages = 0
        #: Releases of the lock so far.
        self.releases = 0
        self.hits = self.walks = self.faults = self.spurious_faults = self.stale_uses = 0
        self.invalidations = 0
        self.promotions = self.promotion_failures = self.demotions = self.demotion_failures = 0

    def broken(self, name: str, text: str) -> Exception:
        """The panic for an invariant that does not hold."""
        return self.k.violation(self.name, name, text)

    def kassert(self, call: str, text: str) -> Exception:
        """The panic for a call that the kernel's assertions forbid."""
        return self.k.panic(f"{call}: KASSERT: {self.name}: {text}")

    # ------------------------------------------------------------ changing entries

    def account(self) -> Shootdown:
        """Whose duty it is to invalidate what the change at hand obsoletes."""
        raise NotImplementedError

    def store_pte(self, table: PageTable, va: int, new: int, *, strict: bool = True, keep: bool = True) -> int:
        """Change the entry of a small page; the old one. Locks: the pmap's, but for kernel mappings by hand. No switch.

        Args:
            table: its page table.
            va: its address.
            new: 0 for none.
            strict: another page than some processor remembers is a bug, where the kernel breaks before it makes.
            keep: a modified bit that goes must be kept with the page.
        """
        entries = table.entries
        index = va >> F.PAGE_SHIFT & _INDEX
        old = entries.get(index, 0)
        if new:
            entries[index] = new
        else:
            entries.pop(index, None)
        self.touched[va] = None
        if (old and not old & F.PG_MANAGED) or (new and not new & F.PG_MANAGED):
            if old:
                self._count_unlisted(old, -1)
            if new:
                self._count_unlisted(new, 1)
        else:
            self.valid += (new & 1) - (old & 1)
            if (old ^ new) & F.PG_W:
                self.wired += 1 if new & F.PG_W else -1
        if old:
            self.account().obsolete(self.tlbs, va, new)
            if keep and old & F.PG_MANAGED and old & F.PG_DIRTY == F.PG_DIRTY and not new & F.PG_M:
                self._owe((self.machine.md(old),))
        if new and strict:
            self.made(va, new)
        return old

    def _count_unlisted(self, pte: int, sign: int) -> None:
        """What is on no pv list is counted for its page; and what is by hand, for nothing else."""
        if not pte & F.PG_MANAGED:
            self.machine.md(pte).unlisted += sign
        if not pte & F.PG_RAW:
            self.valid += sign
            self.wired += sign if pte & F.PG_W else 0

    def _owe(self, pages: Iterable[MdPage]) -> None:
        """A modified bit has gone from an entry. If the pages do not have it already, `vm_page_dirty` must follow."""
        for md in pages:
            if not md.page.md_modified:
                self.owed[md] = None

    def vm_page_dirty(self, md: MdPage) -> None:
        """The page was written through a mapping: it knows that by itself from now on."""
        md.page.md_modified = True
        self.owed.pop(md, None)

    def made(self, va: int, new: int) -> None:
        """A valid entry is there now. Where the kernel breaks before it makes: no processor may know another page."""

    def store_super(self, directory: Directory, va: int, new: int) -> int:
        """Change the entry of a superpage, or make one (0: unmake it); the old entry. Locks: the pmap's. No switch."""
        index = va >> F.PDRSHIFT & _INDEX
        old = directory.supers.pop(index, 0)
        if new:
            directory.supers[index] = new
        self.touched_supers[va] = None
        self.superpages += (new & 1) - (old & 1)
        self.valid += F.NPTEPG * ((new & 1) - (old & 1))
        self.wired += F.NPTEPG * (((new & F.PG_W) - (old & F.PG_W)) // F.PG_W)
        for pde, sign in ((old, -1), (new, 1)):
            if pde and not pde & F.PG_MANAGED:
                for md in self.machine.superpage(pde):
                    md.unlisted += sign
        if old:
            self.account().obsolete_superpage(self.tlbs, va, new)
            if old & F.PG_MANAGED and old & F.PG_DIRTY == F.PG_DIRTY and not new & F.PG_M:
                self._owe(self.machine.superpage(old))
        return old

    def join_super(self, directory: Directory, va: int, new: int) -> None:
        """A superpage takes the place of a full page table, which is saved. Nothing is obsolete: they say the same."""
        index = va >> F.PDRSHIFT & _INDEX
        directory.saved[index] = directory.tables.pop(index)
        directory.supers[index] = new
        self.superpages += 1
        self.touched_supers[va] = None

    def split_super(self, directory: Directory, va: int, table: PageTable) -> None:
        """A page table that says the same takes the place of a superpage."""
        index = va >> F.PDRSHIFT & _INDEX
        del directory.supers[index]
        directory.tables[index] = table
        self.superpages -= 1
        self.touched_supers[va] = None

    # ------------------------------------------------------------ page tables

    async def alloc_table(self, va: int, pages: list[PhysPage], *, leaf: bool = True) -> bool:
        """_pmap_allocpte: a page table for an address, and the levels above it; False: out of pages, no table has changed.

        Locks: the pmap's. Sleeps: no.

        Args:
            va: the address.
            pages: pages to use; with False, those that it got are in there, and the caller's to keep or to free.
            leaf: False: only the levels above the page table.
        """
        tables = self.tables
        if self.kernel and self.kernel_vm_end > self.min_address:
            # The levels above were made when what lies below was.
            self.table_at(self.kernel_vm_end - 1)
        missing = self._missing(va, leaf=leaf)
        while len(pages) < missing:
            page = await self.alloc_ptp(False)
            if page is None:
                return False
            pages.append(page)
        pdp = tables.pml4.get(va >> F.PML4SHIFT & _INDEX)
        if pdp is None:
            pdp = tables.pml4[va >> F.PML4SHIFT & _INDEX] = Pdp(pages.pop())
        directory = pdp.directories.get(va >> F.PDPSHIFT & _INDEX)
        if directory is None:
            directory = pdp.directories[va >> F.PDPSHIFT & _INDEX] = Directory(pages.pop())
        index = va >> F.PDRSHIFT & _INDEX
        if leaf and index not in directory.tables and index not in directory.supers:
            directory.tables[index] = PageTable(pages.pop())
        return True

    def _missing(self, va: int, *, leaf: bool) -> int:
        """How many tables there are to allocate."""
        pdp = self.tables.pml4.get(va >> F.PML4SHIFT & _INDEX)
        if pdp is None:
            return 2 + leaf
        directory = pdp.directories.get(va >> F.PDPSHIFT & _INDEX)
        if directory is None:
            return 1 + leaf
        index = va >> F.PDRSHIFT & _INDEX
        return int(leaf and index not in directory.tables and index not in directory.supers)

    def unuse_table(self, va: int, free: list[PhysPage]) -> bool:
        """pmap_unuse_pt: an entry for `va` is gone; is its page table, too? What is not needed any more goes to `free`."""
        if self.kernel:
            return False
        pdp = self.tables.pml4[va >> F.PML4SHIFT & _INDEX]
        directory = pdp.directories[va >> F.PDPSHIFT & _INDEX]
        index = va >> F.PDRSHIFT & _INDEX
        table = directory.tables.get(index)
        if table is not None:
            if table.entries or table.holds:
                return False
            del directory.tables[index]
            _keep(free, table.page)
        if directory.empty():
            del pdp.directories[va >> F.PDPSHIFT & _INDEX]
            _keep(free, directory.page)
            if not pdp.directories:
                del self.tables.pml4[va >> F.PML4SHIFT & _INDEX]
                _keep(free, pdp.page)
        return True

    async def free_tables(self, free: list[PhysPage]) -> None:
        """vm_page_free_pages_toq: pages of page tables go back. Locks: none is needed. Sleeps: as `free_ptp` does."""
        for page in free:
            await self.free_ptp(page)
        free.clear()

    def kernel_table(self, va: int) -> PageTable | None:
        """The page table of a kernel address; None where `pmap_growkernel` has not been yet."""
        if not self.min_address <= va < self.kernel_vm_end:
            return None
        return self.tables.table(va) or self.table_at(va)

    def table_at(self, va: int) -> PageTable | None:
        """The page table of an address, made if it is missing, without asking anybody; None where a superpage is."""
        tables = self.tables
        directory = tables.directory(va)
        if directory is None:
            pdp = tables.pml4.setdefault(va >> F.PML4SHIFT & _INDEX, Pdp())
            directory = pdp.directories.setdefault(va >> F.PDPSHIFT & _INDEX, Directory())
        index = va >> F.PDRSHIFT & _INDEX
        if index in directory.supers:
            return None
        return directory.tables.setdefault(index, PageTable())

    def grown(self, end: int) -> None:
        """The kernel's page tables reach to `end` now."""
        if end < self.kernel_vm_end:
            raise self.broken("kernel_vm_end", f"it goes back from {self.kernel_vm_end:#x} to {end:#x}")
        self.kernel_vm_end = end


def _keep(free: list[PhysPage], page: PhysPage | None) -> None:
    """Pages that were there from the start are nobody's to free."""
    if page is not None:
        free.append(page)


async def _gone(page: Any) -> None:
    """Nobody counts these pages."""
