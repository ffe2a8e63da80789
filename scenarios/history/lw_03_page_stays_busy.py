"""DragonFly's page allocator, 2011: a page that turned out to be dirty is left busy.

A clean page that nobody uses may be given up. Whoever does that makes it busy, and looks once more whether it is clean: the
program may have written to it through its mapping, which only the pmap knows. If it has, the page stays; but on this way
out it was not made unbusy. Whoever faults on it next, or unmaps it, sleeps for ever.

Source: DragonFly, sys/vm/vm_page.c, vm_page_try_to_cache, commit 50e32333fe of February 2011. Here a method of FreeBSD 13's
pages, which have no such call any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages, pmap

if TYPE_CHECKING:
    from stressvm.vm.pages import Page

SOURCE = "DragonFly, sys/vm/vm_page.c, vm_page_try_to_cache; repaired by 50e32333fe, February 2011"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000


class VmPages(pages.VmPages13):
    """Pages that can be given up."""

    async def vm_page_try_to_cache(self, page: Page) -> bool:
        """Give a page up if it is clean; was it? Locks: its object's. Sleeps: for the pmap's locks."""
        owner = page.owner
        assert isinstance(owner, freebsd.ObjectPages)
        if not page.clean or page.wire_count or not await self.vm_page_tryxbusy(page):
            return False
        if await pmap.pmap_is_modified(pmap.machine(self.k), page):
            page.clean = False
            await self.became_dirty(page)
            return False
        if self.remove_mappings is not None:
            await self.remove_mappings(page)
        await owner.free(page)
        return True

    async def became_dirty(self, page: Page) -> None:
        """The page has to stay: it is busy no more. Locks: its object's."""
        await self.vm_page_xunbusy(page)


class StaysBusy(VmPages):
    """The way out is taken as if the page had never been made busy."""

    async def became_dirty(self, page: Page) -> None:
        """Nothing."""


def write_while_given_up(k: Kernel, cls: type[VmPages]) -> None:
    """A program has mapped a page of a file and written to it; it is clean again; it writes once more, and then unmaps it."""
    phys = cls(k, 8)
    memory = freebsd.Memory(phys)
    vm = freebsd.vmspace_alloc(k, LOW, LOW + 4 * PAGE, version="13", memory=memory)
    file = freebsd.VmObject(1, pager=freebsd.Pager("file"))
    vm.map.insert(file, 0, LOW, LOW + PAGE)
    store = memory.store(file)

    async def program() -> None:
        _, page = await freebsd.vmspace_access(vm.map, LOW, freebsd.VM_PROT_WRITE, "first")
        assert page is not None
        await store.lock.lock()
        await pmap.pmap_clear_modify(memory.machine, page)
        page.clean = True
        await store.lock.unlock()
        daemon = k.spawn(gives_up, page, name="daemon")
        await freebsd.vmspace_access(vm.map, LOW, freebsd.VM_PROT_WRITE, "second")
        await k.join(daemon)
        await freebsd.vmspace_free(vm)

    async def gives_up(page: Page) -> None:
        await store.lock.lock()
        if store.pages.lookup(0) is page:
            await phys.vm_page_try_to_cache(page)
        await store.lock.unlock()

    k.spawn(program, name="program")


@scenario(expect="exhausted", source=SOURCE)
def lw_03_page_stays_busy(k: Kernel) -> None:
    """The second write comes first, and the program never ends."""
    write_while_given_up(k, StaysBusy)


@scenario(source=SOURCE, executions=200)
def lw_03_page_stays_busy_ok(k: Kernel) -> None:
    """Either the page is given up, and read again, or it stays and is not busy."""
    write_while_given_up(k, VmPages)
