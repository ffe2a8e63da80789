"""FreeBSD's struct vm_map, all operations together.

Source: sys/vm/vm_map.c of release/10.4 ("2013") and releng/13.0 ("13"). Where the two differ, the step is left to
`VmMap2013` and `VmMap13`; the code is followed where the manual pages say otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.vm_map_delete import Deletion
from stressvm.vm.freebsd.vm_map_insert import Insertion
from stressvm.vm.freebsd.vm_map_protect import Protection

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_object import VmObject


class VmMap(Insertion, Deletion, Protection):
    """A map; make one with `setup` of this package, which chooses the class of a version. See `MapCore` for its state."""

    def findspace(self, start: int, length: int) -> int | None:
        """Where there is room, at `start` or above; None for nowhere."""
        raise NotImplementedError

    async def find(
        self,
        obj: VmObject | None,
        offset: int,
        addr: int,
        length: int,
        max_addr: int,
        find_space: int,
        prot: int,
        max_prot: int,
        cow: int,
    ) -> tuple[int, int]:
        """The whole of vm_map_find."""
        raise NotImplementedError

    # ------------------------------------------------------------ waiting for addresses (see `vm_kern`)

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
