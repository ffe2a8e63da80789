"""OSv's mprotect and its like, 2013: the range is looked at under the lock, and changed under the lock, but not the same time.

The calls of the mmap family first saw whether they could do what they were asked, and then did it; each half locked the map
for itself. What another thread mapped there in between was changed without having been looked at.

Source: OSv, core/mmu.cc and libc/mman.cc, commit 015d96ce of December 2013. Here it is FreeBSD 13's vm_map_protect, whose look
is that no mapping gets more rights than it may ever have.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

SOURCE = "OSv, core/mmu.cc; repaired by 015d96ce, December 2013"
PAGE = freebsd.PAGE_SIZE
READ, RW = freebsd.VM_PROT_READ, freebsd.VM_PROT_RW


class LooksAndLetsGo(freebsd.VmMap13):
    """A map that is unlocked between the look and the change."""

    async def set_rights(self, first: freebsd.VmMapEntry, end: int, rights: freebsd.Rights) -> int:
        """What is there now is found anew, and not looked at."""
        start = first.start
        await self.lock.unlock()
        await self.lock.lock()
        again = self.first_to_protect(start)
        return freebsd.KERN_SUCCESS if again is None else await super().set_rights(again, end, rights)


def protect_and_replace(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """One thread makes memory writable; another maps a file there in its place, which may only be read, for ever."""
    vm_map = freebsd.setup(k, pages=2, cls=cls)
    low, end = vm_map.min_offset, vm_map.min_offset + PAGE
    vm_map.insert(None, 0, low, end, READ)
    file = freebsd.VmObject(1)

    async def protects() -> None:
        flags = freebsd.VM_MAP_PROTECT_SET_PROT
        k.record(protected=await freebsd.vm_map_protect(vm_map, low, end, RW, 0, flags))

    async def replaces() -> None:
        await freebsd.vm_map_fixed(vm_map, file, 0, low, PAGE, prot=READ, max_prot=READ)

    k.spawn(protects, name="protects")
    k.spawn(replaces, name="replaces")


@scenario(expect="invariant", source=SOURCE)
def se_03_validated_under_another_lock(k: Kernel) -> None:
    """A file that may only be read is mapped for writing."""
    protect_and_replace(k, LooksAndLetsGo)


@scenario(source=SOURCE, executions=200)
def se_03_validated_under_another_lock_ok(k: Kernel) -> None:
    """Who looks at the file refuses to make it writable."""
    protect_and_replace(k, freebsd.VmMap13)
