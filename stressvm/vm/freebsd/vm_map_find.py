"""vm_map_find: what FreeBSD 10.4 ("2013") and 13.0 ("13") do to find a place and map it.

13 finds the address, aligned, with bound, and inserts: one hold of the lock, one insertion. 2013 finds an address,
aligns it, and inserts on the chance that it is free; if not, it searches on from there. Three things follow in 2013 that
vm_map_find(9) does not say: an aligned address beyond the map's end is KERN_INVALID_ADDRESS and not KERN_NO_SPACE, and
then OPTIMAL does not fall back to ANY; the bound is compared before the address is aligned, so a mapping may end above
it; and when OPTIMAL falls back, the lock is dropped in between.

13 may not begin where it is told. Anonymous mappings can be put where the last one ended (vm.cluster_anon), and in a map
with ASLR an address is drawn at random from a range that is free for it. Either is one attempt; the next is plain.

Both promise the lowest fit from where they begin. 13 may miss the gap after the last entry (see `splay`), if the map is
to.

Source: sys/vm/vm_map.c of release/10.4 and of releng/13.0, vm_map_find, vm_map_find_min, vm_map_find_aligned,
vm_map_alignspace, vm_map_findspace.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.pmap import pmap_align_superpage
from stressvm.vm.freebsd.tunables import sysctl
from stressvm.vm.freebsd.vm_map_stack import Stacks

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_object import VmObject

_STACK: Final = F.MAP_STACK_GROWS_DOWN | F.MAP_STACK_GROWS_UP
_SUPER: Final = frozenset({F.VMFS_SUPER_SPACE, F.VMFS_OPTIMAL_SPACE})
#: Where addresses of 32 bits end.
_MAX_32: Final = 1 << 32
#: From how many pages an address is drawn, small pages and superpages, in 64 and in 32 bits.
_RANDOM_64: Final = (0x1000, 0x10)
_RANDOM_32: Final = (0x100, 0x4)


@dataclass(frozen=True, slots=True)
class Request:
    """What vm_map_find is asked for; see the call `vm_map_find`."""

    obj: VmObject | None
    offset: int
    addr: int
    length: int
    max_addr: int
    find_space: int
    prot: int
    max_prot: int
    cow: int

    @property
    def stack(self) -> bool:
        """Is it a stack?"""
        return bool(self.cow & _STACK)

    def plain(self) -> Request:
        """The same without a colour to look for: OPTIMAL needs an object that has one."""
        if self.find_space == F.VMFS_OPTIMAL_SPACE and (self.obj is None or self.obj.pg_color is None):
            return self.anywhere()
        return self

    def anywhere(self) -> Request:
        """The same, aligned or not."""
        return replace(self, find_space=F.VMFS_ANY_SPACE)

    def check(self) -> None:
        """Refuse a strategy that there is not."""
        if not self.find_space >> 8:
            if self.find_space > F.VMFS_SUPER_SPACE:
                raise UsageError(f"find_space={self.find_space}: a VMFS_ constant, or VMFS_ALIGNED_SPACE(n)")
        elif self.find_space & 0xFF:
            raise UsageError(
                f"find_space={self.find_space:#x}: bad VMFS flags; VMFS_ALIGNED_SPACE(n) has a low byte of 0"
            )

    def aligned(self, addr: int) -> int:
        """The next address that the strategy wants; sums wrap."""
        if self.find_space in _SUPER:
            return pmap_align_superpage(self.obj, self.offset, addr, self.length)
        if self.find_space < F.VMFS_ALIGNED_SPACE(1):
            return addr
        return align_up(addr, 1 << (self.find_space >> 8))

    def within(self, addr: int) -> bool:
        """Would the mapping end at the bound or below, if there is one?"""
        return not self.max_addr or addr + self.length <= self.max_addr


def align_up(addr: int, alignment: int) -> int:
    """The next multiple of a power of two; sums wrap."""
    return (addr + alignment - 1) & -alignment & F.VM_OFFSET_MASK


class Finding(Stacks):
    """A map that is searched for a place."""

    def findspace(self, start: int, length: int) -> int | None:
        """Where there is room, at `start` or above; None for nowhere."""
        raise NotImplementedError

    async def find(self, request: Request) -> tuple[int, int]:
        """vm_map_find: the result, and the address.

        Locks: none on entry and exit. Sleeps: for the lock, and as `delete`.
        """
        raise NotImplementedError

    async def find_min(self, request: Request, min_addr: int) -> tuple[int, int]:
        """vm_map_find_min: above the address given; if there is nothing, from `min_addr` on. Two holds of the lock."""
        while True:
            result, addr = await self.find(request)
            if not result or min_addr >= request.addr:
                return result, addr
            request = replace(request, addr=min_addr)

    def insert_found(self, request: Request, start: int) -> int:
        """Insert what was asked for at the place found, a stack with its gap. Locks: the write lock. Returns: KERN_*."""
        if request.stack:
            if request.obj is not None:
                raise self.k.panic("vm_map_find: KASSERT: non-NULL backing object for stack")
            return self.stack_locked(
                start, request.length, sysctl(self.k).sgrowsiz, request.prot, request.max_prot, request.cow
            )
        end = (start + request.length) & F.VM_OFFSET_MASK
        return self.insert(request.obj, request.offset, start, end, request.prot, request.max_prot, request.cow)


class Find2013(Finding):
    """Searching as 10.4 does."""

    def findspace(self, start: int, length: int) -> int | None:
        """vm_map_findspace: the lowest address at or above `start` with `length` bytes free.

        For no bytes at all, an address in the middle of an entry is moved to its end, but not that of its start.
        Locks: the write lock (the code does not ask for it). Sleeps: no.
        """
        start = max(start, self.min_offset)
        if start + length > self.max_offset:
            return None
        if not length:
            found, entry = self.entries.lookup(start)
            return entry.end if found and entry is not None and entry.start < start else start
        self.entries_field.read()
        return self.tree.findspace(start, length)

    async def find(self, request: Request) -> tuple[int, int]:
        """vm_map_find. Locks: none on entry and exit; for OPTIMAL it may be taken twice. Sleeps: for the lock."""
        request = request.plain()
        request.check()
        while True:
            await self.lock.lock()
            result, start = self.find_locked(request)
            await self.lock.unlock()
            if start is not None or request.find_space != F.VMFS_OPTIMAL_SPACE:
                return result, 0 if result or start is None else start
            request = request.anywhere()

    def find_locked(self, request: Request) -> tuple[int, int | None]:
        """Find, align, insert, until it is in or there is nothing: what came of it, and the last address found.

        An aligned address may wrap, and then the search goes on from the bottom. If it wraps a second time it will do so
        for ever, with the map locked. So it does if an address is refused that is free: a stack no longer than its guard.
        """
        start = request.addr
        wrapped = False
        refused = None
        while True:
            if request.find_space != F.VMFS_NO_SPACE:
                found = self.findspace(start, request.length)
                if found is None or self.above(found, request):
                    return F.KERN_NO_SPACE, None
                start = request.aligned(found)
                if start < found:
                    if wrapped:
                        raise self.k.panic(
                            f"vm_map_find: {found:#x} wraps when it is aligned, again: it searches for ever"
                        )
                    wrapped = True
                if start == refused:
                    raise self.k.panic(f"vm_map_find: {start:#x} is free, and refused again: it searches for ever")
                refused = start
            result = self.insert_found(request, start)
            if result != F.KERN_NO_SPACE or request.find_space in {F.VMFS_NO_SPACE, F.VMFS_ANY_SPACE}:
                return result, start

    def above(self, addr: int, request: Request) -> bool:
        """Would the mapping end above the bound? Asked before the address is aligned."""
        return not request.within(addr)


class Find13(Finding):
    """Searching as 13.0 does."""

    def findspace(self, start: int, length: int) -> int | None:
        """vm_map_findspace: the lowest address at or above `start` with `length` bytes free, or so it is documented.

        The kernel returns an address that is too high where this returns None. Locks: the write lock. Sleeps: no.
        """
        start = max(start, self.min_offset)
        if start >= self.max_offset or length > self.max_offset - start:
            return None
        self.entries_field.read()
        return self.tree.findspace(start, length)

    async def find(self, request: Request) -> tuple[int, int]:
        """vm_map_find. Locks: none on entry and exit; taken once for search and insertion. Sleeps: for the lock."""
        request = request.plain()
        request.check()
        await self.lock.lock()
        result, start = await self.place(request)
        if not result:
            result = self.insert_found(request, start)
        if not result and self.clusters(request):
            self.anon_loc = start + request.length
        await self.lock.unlock()
        return result, 0 if result else start

    async def place(self, request: Request) -> tuple[int, int]:
        """Where to insert. For OPTIMAL without an aligned place, any. With MAP_REMAP what is there is unmapped."""
        if request.find_space == F.VMFS_NO_SPACE:
            return await self.remap(request), request.addr
        found = self.first_free(request)
        if found is not None and request.find_space != F.VMFS_ANY_SPACE:
            found = self.alignspace(request, found)
            if found is None and request.find_space == F.VMFS_OPTIMAL_SPACE:
                found = self.first_free(request.anywhere())
        return (F.KERN_NO_SPACE, 0) if found is None else (F.KERN_SUCCESS, found)

    def first_free(self, request: Request) -> int | None:
        """A free address: near the last anonymous mapping, or drawn at random, if that is wanted; else the lowest.

        The first two may fail where the last does not, so that is tried then, too.
        """
        if self.anon_loc and self.clusters(request):
            found = self.bounded(self.anon_loc, request)
        elif self.flags & F.MAP_ASLR:
            found = self.drawn(request)
        else:
            return self.bounded(request.addr, request)
        if found is not None:
            return found
        return self.bounded(self.min_offset if self.flags & F.MAP_ASLR_IGNSTART else request.addr, request)

    def clusters(self, request: Request) -> bool:
        """clustering_anon_allowed, and more: is it a mapping that is put near the last of its kind?"""
        mode = sysctl(self.k).cluster_anon
        return (
            mode != 0
            and (mode != 1 or request.addr == 0)
            and request.obj is None
            and not self.flags & F.MAP_IS_SUB_MAP
            and not request.max_addr
            and request.find_space != F.VMFS_NO_SPACE
            and not request.cow & (F.MAP_INHERIT_SHARE | _STACK)
            and request.prot != F.VM_PROT_NONE
        )

    def drawn(self, request: Request) -> int | None:
        """An address drawn at random from the lowest range with so much room to spare; it is a data choice.

        The kernel draws any page of the range; here some of them, evenly spaced, stand for all.
        """
        index = 1 if request.find_space in _SUPER else 0
        wide = self.max_offset > _MAX_32 and (not request.max_addr or request.max_addr > _MAX_32)
        pages = (_RANDOM_64 if wide else _RANDOM_32)[index]
        found = self.findspace(request.addr, request.length + pages * F.PAGESIZES[index])
        if found is None:
            return None
        choices = min(pages, sysctl(self.k).aslr_choices)
        found += self.k.choose(choices) * (pages // choices) * F.PAGESIZES[index]
        return found if request.within(found) else None

    async def remap(self, request: Request) -> int:
        """With MAP_REMAP: unmap what is there. Sleeps: as `delete`."""
        if not request.cow & F.MAP_REMAP:
            return F.KERN_SUCCESS
        if request.stack:
            raise self.k.panic("vm_map_find: MPASS: a stack in place of what is there")
        addr = request.addr
        end = (addr + request.length) & F.VM_OFFSET_MASK
        if end < addr or addr < self.min_offset or end > self.max_offset:
            return F.KERN_INVALID_ADDRESS
        return await self.delete(addr, end)

    def bounded(self, start: int, request: Request) -> int | None:
        """`findspace`, below the bound."""
        found = self.findspace(start, request.length)
        return found if found is not None and request.within(found) else None

    def alignspace(self, request: Request, addr: int) -> int | None:
        """vm_map_alignspace: from a free address on, the next one that is aligned and free; None for none.

        It goes upwards only: align, and if that is not where the free address is, look for room from there on. What is
        free is asserted, which for no bytes at all may not hold.
        """
        if not request.length and self.findspace(addr, 0) != addr:
            self.kassert_failed(f"vm_map_alignspace: KASSERT: {addr:#x} provided insufficient free space")
        while True:
            aligned = request.aligned(addr)
            if aligned == addr:
                return addr
            if aligned < addr:
                return None
            found = self.bounded(aligned, request)
            if found is None or found == aligned:
                return found
            addr = found

    def find_aligned(self, request: Request) -> int | None:
        """vm_map_find_aligned: where `find` would map it, and it is not mapped. Locks: the write lock. Sleeps: no."""
        found = self.bounded(request.addr, request)
        return None if found is None else self.alignspace(request, found)
