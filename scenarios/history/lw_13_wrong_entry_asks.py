"""XNU's vm_map_copy_overwrite: a thread that has to wait for one entry asks to be woken in another.

Somebody is wiring an entry. A thread that wants to copy into it marks that it waits, and sleeps; but in one place it marks
the wrong entry, one that it had looked at before. Whoever is done with wiring looks at the right one, finds that nobody has
asked, and wakes nobody.

Source: XNU, osfmk/vm/vm_map.c, vm_map_copy_overwrite, from xnu-201 (2003) on. It is read as a defect; no report of it is known.
Here it is FreeBSD 13's map, where such a mark is NEEDS_WAKEUP of an entry, and vm_map_remove that waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = "XNU, osfmk/vm/vm_map.c, vm_map_copy_overwrite, xnu-201 to xnu-11417"
PAGE = freebsd.PAGE_SIZE
USER = freebsd.VM_MAP_WIRE_USER


class MarksAnother(freebsd.VmMap13):
    """The entry before the one that is waited for is asked for the wakeup."""

    async def wait_for_entry(self, entry: freebsd.VmMapEntry, until: Callable[[], bool]) -> bool:
        """The mark in the wrong place; else as it should be."""
        marked = self.entries.prev_of(entry) or entry
        marked.eflags |= freebsd.MAP_ENTRY_NEEDS_WAKEUP
        timestamp = self.lock.timestamp.peek()
        await self.lock.unlock_and_wait(until=until)
        await self.lock.lock()
        return not self.relocked(timestamp)

    def check(self) -> None:
        """The map's invariants see such a mark at once; here they look away, as the kernel has none."""


def wire_and_remove(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """Two mappings; one thread wires the second one, another unmaps it."""
    vm_map = freebsd.setup(k, pages=2, cls=cls)
    low = vm_map.min_offset
    vm_map.insert(None, 0, low, low + PAGE, freebsd.VM_PROT_READ)
    vm_map.insert(None, 0, low + PAGE, low + 2 * PAGE, freebsd.VM_PROT_RW)

    async def wires() -> None:
        await freebsd.vm_map_wire(vm_map, low + PAGE, low + 2 * PAGE, USER)

    async def removes() -> None:
        await freebsd.vm_map_remove(vm_map, low + PAGE, low + 2 * PAGE)

    k.spawn(wires, name="wires")
    k.spawn(removes, name="removes")


@scenario(expect="lost-wakeup", source=SOURCE)
def lw_13_wrong_entry_asks(k: Kernel) -> None:
    """The one that wires does not know that anybody waits."""
    wire_and_remove(k, MarksAnother)


@scenario(source=SOURCE, executions=200)
def lw_13_wrong_entry_asks_ok(k: Kernel) -> None:
    """The mark is in the entry that is waited for."""
    wire_and_remove(k, freebsd.VmMap13)
