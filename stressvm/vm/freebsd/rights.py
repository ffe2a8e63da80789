"""The calls of vm_map(9) about what a range may be used for: protection, inheritance, wiring, and a fault's lookup.

Ranges are cut to the map. Entries at their ends are clipped, and stay so if the call fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.freebsd.addresses import must_fit

if TYPE_CHECKING:
    from stressvm.vm.freebsd.vm_map import VmMap
    from stressvm.vm.freebsd.vm_map_lookup import Found


async def vm_map_protect(vm_map: VmMap, start: int, end: int, new_prot: int, new_maxprot: int, flags: int) -> int:
    """Set the protection of a range, or the most it may become, or both. Holes and guards are passed over.

    Locks: none on entry and exit. Sleeps: for the lock; in version 13 until nobody wires in this map and no entry of
    the range is in transition. Version 2013 does not wait: it changes entries that somebody else is wiring.

    Args:
        vm_map: where.
        start: where the range begins, in bytes.
        end: where it ends.
        new_prot: VM_PROT_*, set if `flags` has VM_MAP_PROTECT_SET_PROT.
        new_maxprot: VM_PROT_*, set if `flags` has VM_MAP_PROTECT_SET_MAXPROT; the protection is cut down to it.
        flags: which of the two are set.

    Returns:
        KERN_SUCCESS; KERN_OUT_OF_BOUNDS for a protection beyond the new most; KERN_PROTECTION_FAILURE for one beyond
        what an entry may become, or writable and executable in a map that forbids it; KERN_INVALID_ARGUMENT for a
        submap in the range; KERN_RESOURCE_SHORTAGE for no swap. Nothing is set if it fails.

    Source: sys/vm/vm_map.c, vm_map_protect.
    """
    must_fit("vm_map_protect", start=start, end=end)
    result = await vm_map.protect(start, end, new_prot, new_maxprot, flags)
    vm_map.k.progress()
    return result


async def vm_map_inherit(vm_map: VmMap, start: int, end: int, new_inheritance: int) -> int:
    """Say what a fork does with a range: VM_INHERIT_SHARE, COPY, NONE or ZERO.

    It waits for nothing but the lock, and so may clip an entry that somebody is wiring. Guards ignore ZERO.

    Locks: none on entry and exit. Sleeps: for the lock.

    Returns:
        KERN_SUCCESS; KERN_INVALID_ARGUMENT for any other inheritance, or if a large page would have to be cut.

    Source: sys/vm/vm_map.c, vm_map_inherit.
    """
    must_fit("vm_map_inherit", start=start, end=end)
    result = await vm_map.inherit(start, end, new_inheritance)
    vm_map.k.progress()
    return result


async def vm_map_wire(vm_map: VmMap, start: int, end: int, flags: int) -> int:
    """Fault in a range and keep it in memory.

    The range is cut to the map, and not rounded to pages: that is the caller's business, as mlock(2) does it. As it
    shipped it may forget an entry, which stays in transition for ever, if it has to give up while others cut and unmap
    its entries: the scenario freebsd13_wire_in_transition_for_ever shows it, and here it is a violation of G7.

    Locks: none on entry and exit; during the faults the map is busy and not locked. Sleeps: for the lock, for entries
    in transition, and as the faults do.

    Args:
        vm_map: where.
        start: where the range begins, in bytes.
        end: where it ends.
        flags: VM_MAP_WIRE_USER (counts once for each entry, however often) or VM_MAP_WIRE_SYSTEM;
            VM_MAP_WIRE_HOLESOK: holes, and entries without the rights, are passed over; VM_MAP_WIRE_WRITE: entries
            must be writable.

    Returns:
        KERN_SUCCESS; KERN_INVALID_ADDRESS for a hole, or an entry that is not readable (or not writable, if that was
        asked for); KERN_RESOURCE_SHORTAGE beyond the limit for users; or what a fault has failed with. After an error
        nothing of it is wired.

    Source: sys/vm/vm_map.c, vm_map_wire.
    """
    must_fit("vm_map_wire", start=start, end=end)
    result = await vm_map.wire(start, end, flags)
    vm_map.k.progress()
    return result


async def vm_map_unwire(vm_map: VmMap, start: int, end: int, flags: int) -> int:
    """Undo vm_map_wire, with the same flags.

    Locks: none on entry and exit. Sleeps: for the lock, and for entries in transition.

    Returns:
        KERN_SUCCESS; KERN_INVALID_ADDRESS for a hole; KERN_INVALID_ARGUMENT if the system unwires what it has not
        wired. After an error everything is as wired as before.

    Source: sys/vm/vm_map.c, vm_map_unwire.
    """
    must_fit("vm_map_unwire", start=start, end=end)
    result = await vm_map.unwire(start, end, flags)
    vm_map.k.progress()
    return result


async def vm_map_lookup(
    vm_map: VmMap, vaddr: int, fault_type: int, *, copy: bool = False, grow: bool = False
) -> tuple[int, Found | None]:
    """What a page fault has to know about an address; it may make the entry's object, or a shadow of it.

    Locks: none on entry. On success the read lock of `Found.vm_map`, which vm_map_lookup_done gives back; on an error
    none. Sleeps: for the lock.

    Args:
        vm_map: where the fault is.
        vaddr: the address.
        fault_type: the access, VM_PROT_*.
        copy: VM_PROT_COPY, a debugger's write: what is mapped is copied whatever its protection.
        grow: VM_PROT_FAULT_LOOKUP: a stack is grown if the address is in its gap.

    Returns:
        (KERN_SUCCESS, what was found), or an error and None: KERN_INVALID_ADDRESS where nothing is mapped,
        KERN_PROTECTION_FAILURE where such an access is not allowed, KERN_RESOURCE_SHORTAGE for no swap.

    Source: sys/vm/vm_map.c, vm_map_lookup.
    """
    must_fit("vm_map_lookup", vaddr=vaddr)
    return await vm_map.vm_map_lookup(vaddr, fault_type, copy=copy, grow=grow)


async def vm_map_lookup_locked(vm_map: VmMap, vaddr: int, fault_type: int) -> tuple[int, Found | None]:
    """As vm_map_lookup, for a caller that has the lock and must not sleep: nothing is changed, nothing unlocked.

    Locks: the read lock throughout. Sleeps: no.

    Returns:
        As vm_map_lookup; KERN_FAILURE where the map would have to be changed, and for a submap.

    Source: sys/vm/vm_map.c, vm_map_lookup_locked.
    """
    must_fit("vm_map_lookup_locked", vaddr=vaddr)
    return await vm_map.lookup_locked(vaddr, fault_type)


async def vm_map_lookup_done(found: Found) -> None:
    """Give back the lock that vm_map_lookup has left held.

    Locks: the read lock of `found.vm_map` on entry, none on exit. Sleeps: no.

    Source: sys/vm/vm_map.c, vm_map_lookup_done.
    """
    await found.vm_map.lookup_done()
