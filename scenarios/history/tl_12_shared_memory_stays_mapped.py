"""OSv's shared memory: a page that is shared is not freed when it is unmapped, and its entry in the page table stays as well.

The hook that puts a page back when it is unmapped found that others have it, and returned early, before it had cleared the
entry. Whatever is mapped at the address next, the old page is seen there.

Source: OSv, core/mmu.cc, commit bc6cd07a. Here it is FreeBSD 13's map. The model does not wait until somebody sees the old
page: a mapping that is left where nothing is mapped any more is enough.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

SOURCE = "OSv, core/mmu.cc, the unmapping of shared memory; repaired by bc6cd07a"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000


class LeavesShared(freebsd.VmMap13):
    """What others refer to, too, is not removed from the page tables."""

    async def pmap_remove(self, start: int, end: int) -> None:
        """Only if it is nobody else's."""
        found, entry = self.lookup(start)
        assert found, "what is being unmapped"
        assert entry is not None, "what was found"
        if entry.object is None or entry.object.ref_count == 1:
            await super().pmap_remove(start, end)


def remap(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """A process reads its shared memory, unmaps it, and maps anonymous memory there, which holds zeros."""
    memory = freebsd.Memory(pages.VmPages13(k, 8))
    vm = freebsd.vmspace_alloc(k, LOW, LOW + 2 * PAGE, cls=cls, memory=memory)
    shm = freebsd.VmObject(1, pager=freebsd.Pager("shm"))
    freebsd.vm_object_hold(k, shm).reference()
    vm.map.insert(shm, 0, LOW, LOW + PAGE, freebsd.VM_PROT_READ)

    async def remaps() -> None:
        await freebsd.vmspace_access(vm.map, LOW, freebsd.VM_PROT_READ)
        await freebsd.vm_map_remove(vm.map, LOW, LOW + PAGE)
        await freebsd.vm_map_fixed(vm.map, None, 0, LOW, PAGE)
        error, page = await freebsd.vmspace_access(vm.map, LOW, freebsd.VM_PROT_READ)
        assert not error, "the memory is gone"
        assert page is not None, "without an error there is one"
        assert page.content == pages.ZEROS, f"fresh memory holds {page.content}"

    k.spawn(remaps)


@scenario(expect="invariant", source=SOURCE)
def tl_12_shared_memory_stays_mapped(k: Kernel) -> None:
    """The address is free, and leads to a page of the shared memory."""
    remap(k, LeavesShared)


@scenario(source=SOURCE, executions=200)
def tl_12_shared_memory_stays_mapped_ok(k: Kernel) -> None:
    """Nothing is left of the other mapping."""
    remap(k, freebsd.VmMap13)
