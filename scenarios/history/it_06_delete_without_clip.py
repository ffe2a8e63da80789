"""XNU's vm_map_delete, what it guards against: after a sleep the mapping may begin before the range that is to go.

Who unmaps a range cuts the first mapping where the range begins. If that is being wired, it waits, with the map unlocked, and
looks it up again. By then it may have been merged with what lies before it, as the two are alike now. So it has to be cut
again; else all of it is unmapped.

Source: XNU, osfmk/vm/vm_map.c, vm_map_delete of xnu-11417: its comments tell of the danger, and the code is right. Here it is
FreeBSD 13's, which clips anew, too.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

SOURCE = "XNU, osfmk/vm/vm_map.c, vm_map_delete, xnu-11417"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000
USER = freebsd.VM_MAP_WIRE_USER


class LooksUpOnly(freebsd.VmMap13):
    """A map that is not cut again after a sleep."""

    async def wait_to_delete(self, entry: freebsd.VmMapEntry) -> tuple[int, freebsd.VmMapEntry | None]:
        """Another lookup, and nothing else."""
        start = entry.start
        if not await self.wait_for_entry(entry, lambda: not self.must_wait(entry)):
            found, again = self.lookup(start)
            return freebsd.KERN_SUCCESS, again if found else self.after(again)
        return freebsd.KERN_SUCCESS, entry


def wire_and_unmap(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """Of two pages the first is wired. One thread wires the second, another unmaps it, and the first is used again."""
    memory = freebsd.Memory(pages.VmPages13(k, 8))
    vm = freebsd.vmspace_alloc(k, LOW, LOW + 2 * PAGE, cls=cls, memory=memory)
    vm.map.insert(None, 0, LOW, LOW + 2 * PAGE)

    async def wires() -> None:
        await freebsd.vm_map_wire(vm.map, LOW, LOW + PAGE, USER)
        unmaps = k.spawn(removes, name="unmaps")
        await freebsd.vm_map_wire(vm.map, LOW + PAGE, LOW + 2 * PAGE, USER)
        await k.join(unmaps)
        result, _ = await freebsd.vmspace_access(vm.map, LOW, freebsd.VM_PROT_READ)
        assert not result, "SIGSEGV: nobody has unmapped the first page"

    async def removes() -> None:
        await freebsd.vm_map_remove(vm.map, LOW + PAGE, LOW + 2 * PAGE)

    k.spawn(wires, name="wires")


@scenario(expect="assertion", source=SOURCE)
def it_06_delete_without_clip(k: Kernel) -> None:
    """Both pages are wired alike, and merged, when the one that unmaps the second wakes up."""
    wire_and_unmap(k, LooksUpOnly)


@scenario(source=SOURCE, executions=200)
def it_06_delete_without_clip_ok(k: Kernel) -> None:
    """The mapping is cut in two again."""
    wire_and_unmap(k, freebsd.VmMap13)
