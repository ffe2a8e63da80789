"""FreeBSD's kmem_malloc, 2001: an allocation that may not wait fails half way, and then waits for itself.

It had mapped some pages, busy still, and there was no further one. So it removed the range from the map, and removing a range
waits for busy pages: for those that it had just allocated itself.

Source: FreeBSD, sys/vm/vm_kern.c, kmem_malloc, about 2001; repaired by freeing the pages first. Here it is kmem_malloc of 13.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

SOURCE = "FreeBSD, sys/vm/vm_kern.c, kmem_malloc with M_NOWAIT, about 2001"
PAGE = freebsd.PAGE_SIZE


class RemovesTheRange(freebsd.Kmem13):
    """What was allocated is removed as whatever is mapped there would be."""

    async def back_failed(self, addr: int, size: int) -> None:
        """pmap_remove, and vm_object_page_remove."""
        await self.pmap.remove(addr, addr + size)
        first = self.pindex(addr)
        await self.kernel_object.page_remove(first, first + freebsd.off_to_idx(size))


def two_pages(k: Kernel, cls: type[freebsd.Kmem13]) -> None:
    """A thread that may not wait wants two pages, when there is one."""
    phys = pages.VmPages13(k, 4, v_interrupt_free_min=1)
    kernel_map = freebsd.kernel_map(k, 8, memory=freebsd.Memory(phys))
    kmem = freebsd.kmem_init(kernel_map, import_quantum=PAGE, cls=cls)
    phys.fill(None, 2)

    async def allocates() -> None:
        assert not await freebsd.kmem_malloc(kmem, 2 * PAGE, freebsd.M_NOWAIT), "there are not so many pages"
        assert phys.free.peek() == 2, "a page is gone"

    k.spawn(allocates)


@scenario(expect="deadlock", source=SOURCE)
def dl_15_nowait_unmaps_busy_pages(k: Kernel) -> None:
    """It sleeps for a page that is its own."""
    two_pages(k, RemovesTheRange)


@scenario(source=SOURCE, executions=200)
def dl_15_nowait_unmaps_busy_pages_ok(k: Kernel) -> None:
    """The pages are its own, and it frees them as such."""
    two_pages(k, freebsd.Kmem13)
