"""FreeBSD's vm_map_protect, 2019: it meets a mapping that is half wired, and does not copy what it should.

Wiring goes through the mappings of a range one by one, and notes only at the end that the user has wired them. To fault in
pages it unlocks the map, and marks it busy, so that nobody changes protections meanwhile. But it also unlocks the map to wait
for a mapping that another thread is wiring, and then the map is not busy. Who makes wired memory writable has to copy at once
what would be copied on write; of a mapping without the note nobody knows that. At the end it is wired, writable, and still to be
copied, which no page fault will do.

Source: FreeBSD, sys/vm/vm_map.c, r346990 of May 2019, since when vm_map_protect waits until no entry of its range is in transition.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

SOURCE = "FreeBSD, sys/vm/vm_map.c, vm_map_protect; repaired by r346990, May 2019"
PAGE = freebsd.PAGE_SIZE
USER = freebsd.VM_MAP_WIRE_USER
READ, RW = freebsd.VM_PROT_READ, freebsd.VM_PROT_RW


class ProtectsInTransition(freebsd.VmMap13):
    """A map in which only its being busy keeps anybody from changing protections."""

    def moving(self, first: freebsd.VmMapEntry | None, end: int) -> freebsd.VmMapEntry | None:
        """No entry is waited for."""
        del first, end
        return None


def wire_and_protect(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """Of two mappings one thread wires the second, one both, and one makes the first writable: a private file."""
    vm_map = freebsd.setup(k, pages=2, cls=cls, fault=freebsd.LookupFault())
    low, middle, end = vm_map.min_offset, vm_map.min_offset + PAGE, vm_map.max_offset
    vm_map.insert(freebsd.VmObject(1), 0, low, middle, READ, cow=freebsd.MAP_COPY_ON_WRITE)
    vm_map.insert(None, 0, middle, end)

    async def wires(start: int) -> None:
        await freebsd.vm_map_wire(vm_map, start, end, USER)

    async def protects() -> None:
        await freebsd.vm_map_protect(vm_map, low, middle, RW, 0, freebsd.VM_MAP_PROTECT_SET_PROT)

    k.spawn(wires, middle, name="wires one")
    k.spawn(wires, low, name="wires both")
    k.spawn(protects, name="protects")


@scenario(expect="invariant", source=SOURCE)
def it_01_protect_while_wiring(k: Kernel) -> None:
    """The first mapping is made writable while the second is waited for."""
    wire_and_protect(k, ProtectsInTransition)


@scenario(source=SOURCE, executions=200)
def it_01_protect_while_wiring_ok(k: Kernel) -> None:
    """It is made writable when it is wired, and then it is copied, or before it is wired."""
    wire_and_protect(k, freebsd.VmMap13)
