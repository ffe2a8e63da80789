"""DragonFly's vm_map_insert, 2014: a mapping that is only made longer gets another reference to its object.

A new mapping beside one that is alike becomes a part of that, and there is one entry, which has its reference to the object
already. The pointer to the object that the caller keeps was not cleared in this case, so a second reference was made, for an
entry that there is not. Nobody lets go of it: when all is unmapped, the object stays.

Source: DragonFly, sys/vm/vm_map.c, commit 15553805ce of December 2014. Here it is FreeBSD 13's vm_map_insert.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

SOURCE = "DragonFly, sys/vm/vm_map.c, vm_map_insert; repaired by 15553805ce, December 2014"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000


class RefersTwice(freebsd.VmMap13):
    """A map that counts a reference for what is no new entry."""

    def extend(self, prev: freebsd.VmMapEntry, end: int) -> None:
        """One reference more."""
        super().extend(prev, end)
        if prev.object is not None:
            prev.object.reference()


def grow_and_unmap(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """A program uses a page of memory, maps the next one, uses that, and ends."""
    phys = pages.VmPages13(k, 6)
    memory = freebsd.Memory(phys)
    vm = freebsd.vmspace_alloc(k, LOW, LOW + 2 * PAGE, cls=cls, memory=memory)

    async def program() -> None:
        for number in range(2):
            addr = LOW + number * PAGE
            assert not await freebsd.vm_map_fixed(vm.map, None, 0, addr, PAGE), "there is room"
            await freebsd.vmspace_access(vm.map, addr, freebsd.VM_PROT_WRITE, "text")
        await freebsd.vmspace_free(vm)
        memory.audit()

    k.spawn(program)


@scenario(expect="invariant", source=SOURCE)
def lk_02_coalesced_and_referenced(k: Kernel) -> None:
    """There is an object that nobody has."""
    grow_and_unmap(k, RefersTwice)


@scenario(source=SOURCE, executions=200)
def lk_02_coalesced_and_referenced_ok(k: Kernel) -> None:
    """With the only entry the object goes."""
    grow_and_unmap(k, freebsd.VmMap13)
