"""FreeBSD's page fault and fork, 2018: a page is read in where a fork has just taken it away.

A fork gives the pages of a mapping an object of its own, and moves them there one by one. When one is busy it unlocks the object,
sleeps, and begins the scan anew. What it has moved is not there any more, so it does not meet it again; or so it was thought. A
page fault that reads from swap reads the pages before its own as well, if they are not in memory, and it looked for them only
after it had unlocked the object to get a buffer. It found the places empty from which the fork had just taken pages, and filled
them. The scan then met a page that the new object had already.

Source: FreeBSD, sys/vm/swap_pager.c, swap_pager_getpages, r335171 of June 2018: pages to be read behind are made before the
object is unlocked, and a scan does not get past busy pages. Here a fault of 13 that reads behind, and a fork that moves
pages one by one; the model's own does that in one step, and only to objects at rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

if TYPE_CHECKING:
    from stressvm.vm.pages import Page

SOURCE = "FreeBSD, sys/vm/swap_pager.c, swap_pager_getpages, and vm_object.c, vm_object_split; repaired by r335171, June 2018"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000


class SwapFault(freebsd.VmFault):
    """A fault that reads pages before its own from swap, too."""

    async def get_pages(self, fs: freebsd.FaultState) -> int:
        """vm_fault_getpages with swap_pager_getpages."""
        store = fs.store
        await self.unlock_map(fs)
        behind = await self.prepare(fs, store)
        result = await super().get_pages(fs)
        for page in behind:
            await self.read_in(store, page)
        return result

    async def prepare(self, fs: freebsd.FaultState, store: freebsd.ObjectPages) -> list[Page]:
        """Before the I/O: pages to be read behind, and a buffer. Locks: the object's on entry and exit."""
        behind = await self.make_behind(fs, store)
        await self.get_buffer(store)
        return behind

    async def get_buffer(self, store: freebsd.ObjectPages) -> None:
        """A buffer for the I/O, for which it may have to wait. Locks: the object's, given up meanwhile."""
        await store.lock.unlock()
        await store.lock.lock()

    async def make_behind(self, fs: freebsd.FaultState, store: freebsd.ObjectPages) -> list[Page]:
        """New pages, busy, for those before this one that are in swap and not in memory. Locks: the object's."""
        made = []
        pindex = fs.pindex - 1
        while store.pages.lookup(pindex) is None and store.swapped(pindex):
            page = await fs.phys.vm_page_alloc(store, pindex, pages.VM_ALLOC_NORMAL)
            if page is None:
                break
            made.append(page)
            pindex -= 1
        return made

    async def read_in(self, store: freebsd.ObjectPages, page: Page) -> None:
        """The I/O is done. Locks: takes the swap's."""
        assert store.pager is not None, "it is in swap"
        await store.pager.swap.add_only(-1)
        page.content = store.pager.swap.contents[store.swapped(page.pindex)] or ""
        store.validate(page)
        await store.memory.pages.vm_page_xunbusy(page)


class BufferFirst(SwapFault):
    """A fault that looks for pages to read behind when it has a buffer."""

    async def prepare(self, fs: freebsd.FaultState, store: freebsd.ObjectPages) -> list[Page]:
        """The wrong way round."""
        await self.get_buffer(store)
        return await self.make_behind(fs, store)


class Fork(freebsd.Fork):
    """A fork that splits objects page by page, and waits for busy ones."""

    async def revoke_writing(self) -> None:
        """Then, before entries are copied, their objects are split."""
        await super().revoke_writing()
        for entry in list(self.old.entries):
            obj = entry.object
            if obj is None or entry.inheritance != freebsd.VM_INHERIT_COPY:
                continue
            if obj.one_mapping and obj.ref_count > 1:
                await self.split(entry, obj)

    async def split(self, entry: freebsd.VmMapEntry, obj: freebsd.VmObject) -> None:
        """vm_object_split. Locks: the old map's, for writing; takes the object's. Sleeps: for that, and for busy pages."""
        memory = self.old.memory
        assert memory is not None, "it is about pages"
        size = freebsd.off_to_idx(entry.size)
        new = freebsd.VmObject(size, anon=True)
        here, there = memory.store(obj), memory.store(new)
        first = freebsd.off_to_idx(entry.offset)
        await here.lock.lock()
        while (page := here.pages.find_least(first)) is not None and page.pindex < first + size:
            if await memory.pages.vm_page_sleep_if_busy(page, "spltwt"):
                continue
            if there.pages.lookup(page.pindex - first) is not None:
                raise memory.k.panic(f"vm_radix_insert: key {page.pindex - first:x} is already present")
            there.take(page, page.pindex - first)
        there.take_range(here, first, size)
        await here.lock.unlock()
        self.old.changed()
        entry.object, entry.offset = new, 0
        obj.deallocate()


async def must_hold(vm: freebsd.Vmspace, number: int) -> None:
    """A program reads a page."""
    _, page = await freebsd.vmspace_access(vm.map, LOW + number * PAGE, freebsd.VM_PROT_READ)
    assert page is not None, "SIGSEGV"
    assert page.content == f"page {number}", f"page {number} holds {page.content}"


def fault_and_fork(k: Kernel, fault: freebsd.VmFault) -> None:
    """Of a process's two pages the first is in memory, both are in swap; one thread reads the second, another forks.

    Another mapping, which is not left to the child, has the next page of the same object.
    """
    swap = pages.Swap(k, 4)
    memory = freebsd.Memory(pages.VmPages13(k, 10), swap=swap, fault=fault)
    vm = freebsd.vmspace_alloc(k, LOW, LOW + 4 * PAGE, memory=memory, fork=Fork)
    obj = freebsd.VmObject(3, anon=True)
    obj.reference()
    vm.map.insert(obj, 0, LOW, LOW + 2 * PAGE)
    vm.map.insert(obj, 2 * PAGE, LOW + 3 * PAGE, LOW + 4 * PAGE)
    other = vm.map.entries.last
    assert other is not None, "just inserted"
    other.inheritance = freebsd.VM_INHERIT_NONE
    obj.one_mapping = True
    store = memory.store(obj)
    store.validate(*memory.pages.fill(store, 1, content="page 0"))
    assert store.pager is not None, "there is swap"
    for pindex in range(2):
        swap.contents[pindex + 1] = f"page {pindex}"
        store.pager.assign(pindex, pindex + 1)
    swap.only = 1

    async def reads() -> None:
        await must_hold(vm, 1)

    async def forks() -> None:
        child = await freebsd.fork1(vm)
        assert child is not None
        await must_hold(child, 0)

    k.spawn(reads, name="reads")
    k.spawn(forks, name="forks")


@scenario(expect="panic", source=SOURCE)
def se_04_split_and_read_behind(k: Kernel) -> None:
    """The first page is read in again while the fork sleeps for the second."""
    fault_and_fork(k, BufferFirst())


@scenario(source=SOURCE, executions=200)
def se_04_split_and_read_behind_ok(k: Kernel) -> None:
    """What is read behind is busy before the fork can get past it."""
    fault_and_fork(k, SwapFault())
