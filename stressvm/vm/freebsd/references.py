"""References to objects, and the swap that is reserved: all that holds either, counted over all maps of a kernel.

An object has a reference for each entry that maps it, also for one that is unmapped and not let go of yet, for each object
that shadows it, and for others who say so (`vm_object_hold`). Swap is reserved for entries and for objects.

While threads are at work a reference may be on its way: made, and not in an entry yet. So at every release it is only
asked that nothing is held more often than it is counted, which would be a use after free to come, or a charge given back
twice. That nothing is counted more often than it is held, a leak, can be asked when all is quiet: `audit`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from stressvm.kernel.field import Field
from stressvm.vm.freebsd.vm_object import ucred

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_map_core import MapCore
    from stressvm.vm.freebsd.vm_map_entry import VmMapEntry
    from stressvm.vm.freebsd.vm_object import Ucred, VmObject

#: Why objects and charges are used without a lock that all who do so hold.
_BENIGN: Final = (
    "references are counted by atomic operations, and swap is charged by them; what shadows what is under the objects' locks, "
    "which the model does not take for what it does within one step"
)


def vm_objects(k: Kernel) -> Field:
    """Who refers to objects, what shadows what, what is charged for, and what is unmapped and not let go of yet."""
    return k.once("vm_objects", lambda: Field(k, "vm_objects", _BENIGN))


def vm_maps(k: Kernel) -> list[MapCore]:
    """All maps of a kernel, in the order in which they were made."""
    return k.once("vm_maps", list)


def deferred(k: Kernel) -> dict[int, list[VmMapEntry]]:
    """td_map_def_user: for each thread, what it has unmapped and not let go of yet."""
    return k.once("td_map_def_user", dict)


def others(k: Kernel) -> Counter[VmObject]:
    """How often objects are held by what is neither an entry nor an object."""
    return k.once("vm_object_others", Counter)


def vm_object_hold(k: Kernel, obj: VmObject, references: int = 1) -> VmObject:
    """Say that somebody else than entries and objects has so many references to an object; negative for fewer again.

    The count is not changed: that is the object's `reference` and `deallocate`.
    """
    if references > 0:
        # One more each is the same in any order; it matters to those who let go, or look at the count.
        vm_objects(k).read()
    else:
        vm_objects(k).write()
    others(k)[obj] += references
    return obj


def tally(k: Kernel) -> tuple[dict[VmObject, int], dict[Ucred, int]]:
    """How often each object is held, and how much swap is reserved for whom, as far as anybody can tell."""
    vm_objects(k).read()
    held: dict[VmObject, int] = {obj: count for obj, count in others(k).items() if count > 0}
    charges: dict[Ucred, int] = {ucred(k): 0}
    for vm_map in vm_maps(k):
        for entry in vm_map.entries:
            if entry.cred is not None:
                charges[entry.cred] = charges.get(entry.cred, 0) + entry.end - entry.start
            if entry.object is not None:
                held[entry.object] = held.get(entry.object, 0) + 1
    for unmapped in deferred(k).values():
        for entry in unmapped:
            if entry.object is not None:
                held[entry.object] = held.get(entry.object, 0) + 1
    front = list(held)
    for obj in front:
        if obj.cred is not None:
            charges[obj.cred] = charges.get(obj.cred, 0) + obj.charge
        backing = obj.backing_object
        if backing is not None:
            if backing not in held:
                front.append(backing)
            held[backing] = held.get(backing, 0) + 1
    return held, charges


def references(vm_map: MapCore) -> str | None:
    """G19: nothing is referred to more often than it counts, and no more swap is in use than is reserved."""
    held, charges = tally(vm_map.k)
    for obj, count in held.items():
        if obj.ref_count < count:
            return f"{obj!r} is held {count} times"
        for shadow in obj.shadows:
            if shadow.backing_object is not obj:
                return f"{obj!r} is said to be shadowed by {shadow!r}, which shadows {shadow.backing_object!r}"
    for cred, charge in charges.items():
        if cred.reserved + cred.promised < charge:
            return f"{charge:#x} bytes of swap are charged for, and {cred.reserved:#x} are reserved"
    return None


def _leaks(k: Kernel) -> Iterator[str]:
    held, charges = tally(k)
    for obj, count in held.items():
        if obj.ref_count > count:
            yield f"{obj!r} is held {count} times"
    for cred, charge in charges.items():
        if cred.reserved != charge:
            yield f"{cred.reserved:#x} bytes of swap are reserved, and {charge:#x} are charged for"
    for t, unmapped in deferred(k).items():
        yield f"{k.threads[t].name} has not let go of {', '.join(map(repr, unmapped))}"


def audit(k: Kernel) -> None:
    """When no other thread is within a call: every reference and every reserved byte is accounted for.

    Call it from the last thread, after it has joined the others. A leak is a panic of kind `invariant`.
    """
    maps = vm_maps(k)
    wrong = references(maps[0]) if maps else None
    for text in (wrong, *_leaks(k)):
        if text is not None:
            raise k.panic(f"G19 references: {text}", "invariant")
