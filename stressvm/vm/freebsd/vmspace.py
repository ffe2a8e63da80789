"""Address spaces of processes: a map each, which a fork copies by what its entries are to leave to a child.

A fork waits until nobody wires in the old map (busy), and holds both maps locked while it copies. The new map is
*try*-locked: nobody can know it yet, and the order of two locks of one kind is nobody's business then. An entry that is
copied comes to be copied on write on both sides; writable memory that is wired is copied at once, as it must not be
copied later. That an entry is wired, or in transition, is not left to the child. What was put off is done only when both
locks are released.

In maps with memory (see `vm_memory`) mappings lose the right to write before anything is copied, and what is copied at
once gets copies of all pages; without, it gets the object that the copies would go to. What is left out: pmap_copy, which
spares the child some faults.

Source: sys/vm/vm_map.c, vmspace_alloc, vmspace_fork, vm_map_copy_entry, vm_map_copy_swap_object, vmspace_free;
sys/vm/vm_fault.c, vm_fault_copy_entry; sys/kern/kern_fork.c, fork1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.freebsd.map_lock import UserMapLock
from stressvm.vm.freebsd.versions import VERSIONS
from stressvm.vm.freebsd.vm_fault_copy import vm_fault_copy_entry
from stressvm.vm.freebsd.vm_map_core import MapKind
from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
from stressvm.vm.freebsd.vm_map_stack import Limits, curproc
from stressvm.vm.freebsd.vm_object import VmObject, ucred

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Thread
    from stressvm.vm.freebsd.vm_fault_stub import Fault
    from stressvm.vm.freebsd.vm_map import VmMap
    from stressvm.vm.freebsd.vm_memory import Memory

_LEFT_FLAGS: Final = F.MAP_ASLR | F.MAP_ASLR_IGNSTART | F.MAP_WXORX
_GROWS: Final = F.MAP_ENTRY_GROWS_DOWN | F.MAP_ENTRY_GROWS_UP
_COPIED: Final = F.MAP_ENTRY_COW | F.MAP_ENTRY_NEEDS_COPY


class Vmspace:
    """struct vmspace.

    Args:
        vm_map: its map, a user map.
        limits: what its process may have.
        fork: the class whose steps a fork of it takes; a subclass plants a defect.

    Attributes:
        refcnt: how many processes share it.
        forks: how often it was forked, for the names of its children.
    """

    def __init__(self, vm_map: VmMap, limits: Limits, fork: type[Fork]) -> None:
        self.map = vm_map
        self.limits = limits
        self.fork = fork
        self.refcnt = 1
        self.forks = 0
        vm_map.limits = limits

    def adopt(self, thread: Thread) -> Thread:
        """While the world is built, or from a thread: it is a thread of this process. Only such grow its stacks."""
        curproc(self.map.k)[thread.number] = self.limits
        return thread

    def __repr__(self) -> str:
        """The name of its map."""
        return f"<Vmspace {self.map.name}>"


class Fork:
    """The steps of vmspace_fork. Both maps are locked for writing during them.

    Args:
        vm1: what is copied.
        vm2: empty, and what it is copied to.

    Attributes:
        charge: fork_charge: so many bytes of swap have to be reserved for it.
        copied_now: entries whose pages are copied at once, and the child's.
    """

    #: What is not left to a child. Somebody may wait for an entry of the parent; the code leaves that, too.
    LOST: int = F.MAP_ENTRY_USER_WIRED | F.MAP_ENTRY_IN_TRANSITION

    def __init__(self, vm1: Vmspace, vm2: Vmspace) -> None:
        self.old = vm1.map
        self.new = vm2.map
        self.vm2 = vm2
        self.charge = 0
        self.copied_now: list[tuple[VmMapEntry, VmMapEntry]] = []

    async def keep_out(self) -> None:
        """If somebody wires in the old map, wait. Locks: the write lock of the old map, released meanwhile."""
        if self.old.lock.busy_count:
            await self.old.lock.wait_busy()

    async def revoke_writing(self) -> None:
        """Before anything is copied: mappings of what will be copied on write are read-only from now on."""
        for entry in list(self.old.entries) if self.old.memory is not None else ():
            if self.writable_copy(entry):
                await self.old.pmap_protect(entry.start, entry.end, entry.protection & ~F.VM_PROT_WRITE)

    def writable_copy(self, entry: VmMapEntry) -> bool:
        """Is it memory that can be written now, and will be copied when it is?"""
        return (
            entry.inheritance == F.VM_INHERIT_COPY
            and not entry.guard
            and not entry.wired_count
            and bool(entry.protection & F.VM_PROT_WRITE)
            and not entry.eflags & F.MAP_ENTRY_NEEDS_COPY
        )

    async def fill_copies(self) -> None:
        """After the maps are alike: copy the pages of what is copied at once. Sleeps: for pages, with both maps locked."""
        for entry, new in self.copied_now:
            if self.new.memory is not None and self.new.pmap is not None:
                await vm_fault_copy_entry(self.new.memory, self.new.pmap, new, entry, new.protection)

    def copy_map(self) -> None:
        """Leave to the new map what it is to have."""
        self.old.changed()
        self.new.changed()
        self.new.anon_loc = self.old.anon_loc
        self.new.flags |= self.old.flags & _LEFT_FLAGS
        for entry in list(self.old.entries):
            if entry.eflags & F.MAP_ENTRY_IS_SUB_MAP:
                raise self.old.k.panic("vm_map_fork: encountered a submap")
            inheritance = entry.inheritance
            if entry.guard and inheritance != F.VM_INHERIT_NONE:
                inheritance = F.VM_INHERIT_COPY
            if inheritance == F.VM_INHERIT_SHARE:
                self.share(entry)
            elif inheritance == F.VM_INHERIT_COPY:
                self.copy(entry)
            elif inheritance == F.VM_INHERIT_ZERO:
                self.zero(entry)

    # ------------------------------------------------------------ one entry

    def share(self, entry: VmMapEntry) -> None:
        """Both map one object, which is made now if there is none. What was to be copied on write is now."""
        obj = entry.object
        if obj is None:
            self.old.entry_back(entry)
            obj = entry.object
        assert obj is not None, "what was made"
        obj.reference()
        if entry.eflags & F.MAP_ENTRY_NEEDS_COPY:
            # The reference just made is what makes a shadow of it.
            entry.object = obj.shadow(entry.offset, entry.size, entry.cred, shared=True)
            entry.offset = 0
            entry.eflags &= ~F.MAP_ENTRY_NEEDS_COPY
            entry.cred = None
            obj.deallocate()
        else:
            obj.one_mapping = False
            self.charge_object(entry, obj)
        self.link(entry, self.twin(entry))

    def copy(self, entry: VmMapEntry) -> None:
        """Both are copied on write from now on."""
        new = self.twin(entry)
        new.eflags &= ~F.MAP_ENTRY_WRITECNT
        new.object, new.cred = None, None
        self.link(entry, new)
        if entry.wired_count and entry.protection & F.VM_PROT_WRITE:
            self.copy_now(entry, new)
        elif entry.object is not None:
            self.copy_object(entry, new, entry.object)
            self.mark_copied(entry, new)
            new.offset = entry.offset
            if entry.eflags & F.MAP_ENTRY_WRITECNT:
                self.stop_writing(entry)
        else:
            new.offset = 0
            if entry.cred is not None:
                new.cred = ucred(self.new.k)
                self.charge += entry.size

    def zero(self, entry: VmMapEntry) -> None:
        """The child gets fresh memory there."""
        new = VmMapEntry(entry.start, entry.end)
        lost = F.MAP_ENTRY_WRITECNT | F.MAP_ENTRY_VN_EXEC | F.MAP_ENTRY_SPLIT_BOUNDARY_MASK
        new.eflags = entry.eflags & ~(self.LOST | lost)
        new.protection, new.max_protection = entry.protection, entry.max_protection
        new.inheritance = F.VM_INHERIT_ZERO
        self.link(entry, new)
        new.cred = ucred(self.new.k)
        self.charge += new.size

    # ------------------------------------------------------------ the parts

    def twin(self, entry: VmMapEntry) -> VmMapEntry:
        """The child's entry, as the parent's, but neither wired nor in transition."""
        new = entry.copy()
        new.eflags &= ~self.LOST
        new.wiring_thread = -1
        new.wired_count = 0
        return new

    def link(self, entry: VmMapEntry, new: VmMapEntry) -> None:
        """Put it in; nobody tries to merge it, nor what the fork makes alike in the old map."""
        self.new.entry_create()
        self.new.link(new)
        self.new.seams.add(new.start)
        self.old.seams.update((entry.start, entry.end))
        if new.eflags & _GROWS and not new.guard:
            self.vm2.limits.ssize += new.size

    def mark_copied(self, entry: VmMapEntry, new: VmMapEntry) -> None:
        """Whoever writes first, on either side, gets a copy."""
        entry.eflags |= _COPIED
        new.eflags |= _COPIED

    def charge_object(self, entry: VmMapEntry, obj: VmObject) -> None:
        """The entry's charge becomes the object's."""
        if entry.cred is not None:
            if obj.cred is not None:
                raise self.old.k.panic(f"vmspace_fork: KASSERT: both {entry!r} and its object are charged")
            obj.cred, obj.charge, entry.cred = entry.cred, entry.size, None

    def copy_object(self, entry: VmMapEntry, new: VmMapEntry, obj: VmObject) -> None:
        """The child's entry maps the object, too. In 13, only what swap is behind is charged for."""
        if obj.anon:
            self.copy_swap_object(entry, new, obj)
        else:
            obj.reference()
            new.object = obj

    def copy_swap_object(self, entry: VmMapEntry, new: VmMapEntry, obj: VmObject) -> None:
        """vm_map_copy_swap_object: as much of the object as the entry maps is split off first, if the rest is used.

        Whoever writes first will need swap for the copy: it is charged for on both sides.
        """
        charged = entry.charged
        if obj.anon:
            obj.collapse()
            if obj.one_mapping:
                split = obj.split(entry.offset, entry.size)
                if split is not obj:
                    entry.object, entry.offset = split, 0
                    obj = split
            obj.one_mapping = False
        obj.reference()
        if not entry.eflags & F.MAP_ENTRY_NEEDS_COPY:
            self.charge_object(entry, obj)
        new.object = obj
        if charged:
            new.cred = ucred(self.new.k)
            self.charge += entry.size
            if not entry.eflags & F.MAP_ENTRY_NEEDS_COPY:
                entry.cred = new.cred
                self.charge += entry.size

    def copy_now(self, entry: VmMapEntry, new: VmMapEntry) -> None:
        """vm_fault_copy_entry: the child's entry has copies of all pages, in an object of its own.

        What is wired has its pages, unless they are being faulted in.
        """
        if entry.eflags & F.MAP_ENTRY_IN_TRANSITION and self.old.lock.busy_count:
            text = f"vm_fault_copy_entry: {entry!r} is being wired: pages of it may be missing"
            raise self.old.k.panic(f"{self.old.name}: G12 busy: {text}", "invariant")
        new.object = VmObject.anonymous(F.off_to_idx(new.size), ucred(self.new.k), new.size)
        new.offset = 0
        new.eflags &= ~F.MAP_ENTRY_VN_EXEC
        self.charge += new.size
        self.copied_now.append((entry, new))

    def stop_writing(self, entry: VmMapEntry) -> None:
        """The parent does not write to the file any more; that it did is put off, with a reference to the object."""
        entry.eflags &= ~F.MAP_ENTRY_WRITECNT
        fake = VmMapEntry(entry.start, entry.end, entry.object)
        fake.eflags = F.MAP_ENTRY_WRITECNT
        if entry.object is not None:
            entry.object.reference()
        self.new.entry_create()
        self.new.dispose_of(fake)


class Fork2013(Fork):
    """A fork of 10.4."""

    def copy_object(self, entry: VmMapEntry, new: VmMapEntry, obj: VmObject) -> None:
        """Whatever the object, it is charged for if it was."""
        self.copy_swap_object(entry, new, obj)


_FORKS: Final[dict[str, type[Fork]]] = {"2013": Fork2013, "13": Fork}


def vmspace_alloc(
    k: Kernel,
    min_offset: int,
    max_offset: int,
    *,
    version: str = "13",
    name: str = "vmspace",
    flags: int = 0,
    cls: type[VmMap] | None = None,
    fault: Fault | None = None,
    limits: Limits | None = None,
    fork: type[Fork] | None = None,
    memory: Memory | None = None,
) -> Vmspace:
    """A new address space, empty, with one reference; while the world is built, or from a thread.

    Args:
        k: the kernel.
        min_offset: its lowest address.
        max_offset: one past its highest.
        version: "13" or "2013".
        name: of its map, as reports show it.
        flags: MAP_ASLR and the like.
        cls: the map's class, in place of a version; a subclass plants a defect.
        fault: what page faults do. If not given: nothing, or with memory all that they do.
        limits: what its process may have; anything, if not given.
        fork: the class whose steps a fork of it takes, in place of the version's.
        memory: pages and a pmap for it; without, addresses are all there is.

    Locks: none. Sleeps: no. Returns: it; its map is `map`.

    Source: sys/vm/vm_map.c, vmspace_alloc.
    """
    if cls is None:
        if version not in VERSIONS:
            raise UsageError(f"version={version!r}: FreeBSD {' and '.join(VERSIONS)} are modelled")
        cls = VERSIONS[version]
    vm_map = cls(k, min_offset, max_offset, kind=MapKind.USER, name=name, flags=flags, fault=fault, memory=memory)
    return Vmspace(vm_map, limits or Limits(), fork or _FORKS[cls.version])


async def vmspace_fork(vm1: Vmspace) -> tuple[Vmspace, int]:
    """A copy of an address space, by what its entries are to leave to a child.

    Locks: none on entry and exit; both maps' write locks. Sleeps: for the old map's lock, and while it is busy.

    Returns:
        The new address space, and fork_charge: the bytes of swap that its entries and the old one's are charged with,
        and which the caller has to reserve yet (`Ucred.settle`).

    Source: sys/vm/vm_map.c, vmspace_fork.
    """
    old = vm1.map
    k = old.k
    vm1.forks += 1
    limits = replace(vm1.limits, ssize=0)
    name = f"{old.name}.{vm1.forks}"
    new = type(old)(k, *old.bounds, kind=MapKind.USER, name=name, fault=old.fault, memory=old.memory)
    new.forked = True
    vm2 = Vmspace(new, limits, vm1.fork)
    fork = vm1.fork(vm1, vm2)
    await old.lock.lock()
    await fork.keep_out()
    if not await new.lock.trylock():
        raise k.panic("vmspace_fork: KASSERT: lock failed")
    await fork.revoke_writing()
    fork.copy_map()
    # From the moment at which the entries are charged: copying pages may take a while, and others look.
    old.objects_field.write()
    ucred(k).promised += fork.charge
    await fork.fill_copies()
    for vm_map in (old, new):
        assert isinstance(vm_map.lock, UserMapLock), "the lock of a user map"
        vm_map.lock.leaving()
        await vm_map.lock.sx.unlock()
    new.process_deferred()
    if old.memory is not None:
        await old.memory.drain()
    return vm2, fork.charge


async def fork1(vm1: Vmspace) -> Vmspace | None:
    """What fork(2) does about memory: copy the address space, and reserve swap for it.

    Locks: none on entry and exit. Sleeps: as vmspace_fork and vmspace_free.

    Returns:
        The child's address space; None (ENOMEM) if there is not so much swap. The child's is given up then, with its
        part of the charge; what the parent's entries now take stays charged, whatever the limit.

    Source: sys/kern/kern_fork.c, fork1.
    """
    vm2, charge = await vmspace_fork(vm1)
    cred = ucred(vm1.map.k)
    vm1.map.objects_field.write()
    if cred.settle(charge):
        vm1.map.k.progress()
        return vm2
    vm1.map.objects_field.write()
    cred.settle(charge, force=True)
    await vmspace_free(vm2)
    return None


async def vmspace_free(vm: Vmspace) -> None:
    """One reference less; with the last one everything is unmapped.

    Locks: none on entry and exit. Sleeps: as vm_map_remove. Panics if something is left.

    Source: sys/vm/vm_map.c, vmspace_free, vmspace_dofree, vmspace_zdtor.
    """
    if vm.refcnt < 1:
        raise vm.map.k.panic(f"vmspace_free: KASSERT: {vm.map.name} has been freed already")
    vm.refcnt -= 1
    if vm.refcnt:
        return
    vm_map = vm.map
    await vm_map.lock.lock()
    await vm_map.delete(vm_map.min_offset, vm_map.max_offset)
    await vm_map.lock.unlock()
    if len(vm_map.entries) or vm_map.size:
        text = f"{len(vm_map.entries)} entries and a size of {vm_map.size:#x} on free"
        raise vm_map.k.panic(f"vmspace_zdtor: KASSERT: {vm_map.name} has {text}")
    if vm_map.pmap is not None and vm_map.pmap.resident_count:
        raise vm_map.k.panic(f"pmap_release: KASSERT: {vm_map.pmap.name} has {vm_map.pmap.resident_count} pages")
    vm_map.k.progress()
