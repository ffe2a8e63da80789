"""FreeBSD's struct vm_map, all operations together.

Source: sys/vm/vm_map.c of release/10.4 ("2013") and releng/13.0 ("13"). Where the two differ, the step is left to
`VmMap2013` and `VmMap13`; the code is followed where the manual pages say otherwise.
"""

from __future__ import annotations

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.vm_map_find import Finding
from stressvm.vm.freebsd.vm_map_protect import Protection
from stressvm.vm.freebsd.vm_map_submap import Submaps


class VmMap(Finding, Submaps, Protection):
    """A map; make one with `setup` of this package, which chooses the class of a version. See `MapCore` for its state."""

    # ------------------------------------------------------------ waiting for addresses (see `vm_kern`)

    async def try_alloc(self, size: int) -> int | None:
        """One round of kmap_alloc_wait: look for room, and sleep if there is none.

        Locks: none on entry; on exit the write lock with an address, nothing without one. Sleeps: for the lock, and for
        addresses.

        Returns:
            The address; 0 if the map is too small for ever; None if it has slept, so that all is to do again.
        """
        await self.lock.lock()
        addr = self.findspace(self.min_offset, size)
        if addr is not None:
            return addr
        if self.max_offset - self.min_offset < size:
            await self.lock.unlock()
            return 0
        await self.wait_for_space(size)
        return None

    async def wait_for_space(self, size: int) -> None:
        """Say that somebody waits, and sleep until some addresses are free. Locks: the write lock on entry, none on exit.

        What is waited for is there when `size` bytes fit anywhere, whether or not the map's search would see it.
        """
        self.needs_wakeup = True
        await self.lock.unlock_and_wait(until=lambda: self.fits(size))

    def fits(self, size: int) -> bool:
        """Is there room for `size` bytes? Pure; it looks at the entries, not at the tree."""
        return self.entries.largest_gap >= size

    async def wake_for_space(self) -> None:
        """If somebody waits for addresses: clear the flag, then wake all. Locks: the write lock throughout."""
        if self.needs_wakeup:
            self.needs_wakeup = False
            await self.wake_sleepers()

    # ------------------------------------------------------------ while the world is built

    def fill(self, pages: int | None = None, *, offset: int = 0) -> int:
        """While the world is built: map pages at a page offset (the whole map by default); the address."""
        start = self.min_offset + offset * F.PAGE_SIZE
        end = self.max_offset if pages is None else start + pages * F.PAGE_SIZE
        if self.k.cur >= 0:
            raise UsageError("VmMap.fill() is for building the world; a running thread calls vm_map_find")
        if error := self.insert(None, 0, start, end, self.KMAP_PROT, self.KMAP_PROT):
            raise UsageError(f"VmMap.fill({pages}, offset={offset}): {start:#x}-{end:#x} is not free (error {error})")
        return start
