"""FreeBSD's vm_map_protect, until 2019: a call that is refused leaves the map cut.

The first mapping was cut where the range begins, and then it was seen whether the call could be done at all. If not, two
mappings were left that ought to be one, and every such call cost the kernel another entry.

Source: FreeBSD, sys/vm/vm_map.c, r349363 of June 2019: clip when nothing can fail any more.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

SOURCE = "FreeBSD, sys/vm/vm_map.c, vm_map_protect; repaired by r349363, June 2019"
PAGE = freebsd.PAGE_SIZE
READ, RW = freebsd.VM_PROT_READ, freebsd.VM_PROT_RW


class ClipsFirst(freebsd.VmMap13):
    """A map that is cut before anything is looked at."""

    def first_to_protect(self, start: int) -> freebsd.VmMapEntry | None:
        """The first entry of the range, clipped to it."""
        first = super().first_to_protect(start)
        if first is not None:
            self.clip_start(first, start)
        return first


def refused(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """Of a file that may only be read, the second page shall be writable."""
    vm_map = freebsd.setup(k, pages=2, cls=cls)
    low, end = vm_map.min_offset, vm_map.max_offset
    vm_map.insert(freebsd.VmObject(2), 0, low, end, READ, READ)

    async def protects() -> None:
        result = await freebsd.vm_map_protect(vm_map, low + PAGE, end, RW, 0, freebsd.VM_MAP_PROTECT_SET_PROT)
        assert result == freebsd.KERN_PROTECTION_FAILURE, "it may only be read"
        await vm_map.lock.lock()
        # A clip excuses neighbours that are alike, as long as its call is not done; this one is.
        vm_map.seams.clear()
        await vm_map.lock.unlock()

    k.spawn(protects)


@scenario(expect="invariant", source=SOURCE)
def it_07_clipped_and_refused(k: Kernel) -> None:
    """Two neighbours should have been merged."""
    refused(k, ClipsFirst)


@scenario(source=SOURCE, executions=200)
def it_07_clipped_and_refused_ok(k: Kernel) -> None:
    """The map is as it was."""
    refused(k, freebsd.VmMap13)
