"""FreeBSD's vm_map_wire: an entry can stay in transition for ever, and users can wire more than they may."""

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

PAGE = freebsd.PAGE_SIZE
USER = freebsd.VM_MAP_WIRE_USER
TRANSITION = (
    "FreeBSD 13.0 and 10.4, sys/vm/vm_map.c, vm_map_wire and vm_map_entry_in_transition: "
    "after a failed lookup the pointer to the first entry is used as it was"
)


def mlock_cut(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """Two mappings of two pages; one thread wires both, another the second, a third cuts the first and unmaps the second."""
    vm_map = freebsd.setup(k, pages=4, cls=cls)
    low = vm_map.min_offset
    vm_map.insert(None, 0, low, low + 2 * PAGE, freebsd.VM_PROT_RW)
    vm_map.insert(None, 0, low + 2 * PAGE, low + 4 * PAGE, freebsd.VM_PROT_READ)

    async def second() -> None:
        await freebsd.vm_map_wire(vm_map, low + 2 * PAGE, low + 4 * PAGE, USER)

    async def both() -> None:
        k.record(wired=await freebsd.vm_map_wire(vm_map, low, low + 4 * PAGE, USER))
        await freebsd.vm_map_remove(vm_map, low, low + 2 * PAGE)

    async def cut() -> None:
        await freebsd.vm_map_inherit(vm_map, low + PAGE, low + 2 * PAGE, freebsd.VM_INHERIT_NONE)
        await freebsd.vm_map_remove(vm_map, low + 2 * PAGE, low + 4 * PAGE)

    k.spawn(second, name="second")
    k.spawn(both, name="both")
    k.spawn(cut, name="cut")


@scenario(expect="invariant", source=TRANSITION)
def freebsd13_wire_in_transition_for_ever(k: Kernel) -> None:
    """A thread that gives up wiring forgets a piece of its own entry, which stays in transition for ever.

    It has the first mapping in transition and waits for the second, which somebody else is wiring. Meanwhile
    minherit(2) cuts the first in two, and the second is unmapped. The waiter wakes, does not find the second mapping,
    and goes back to the first entry it knew to clear the marks: that is the back part now. The front part stays in
    transition, owned by a thread that will never come back to it; whoever unmaps it, sleeps for ever.
    """
    mlock_cut(k, freebsd.VmMap13)


@scenario(expect="invariant", source=TRANSITION)
def freebsd2013_wire_in_transition_for_ever(k: Kernel) -> None:
    """The same in 10.4, which has the same pointer."""
    mlock_cut(k, freebsd.VmMap2013)


class SteppedBack(freebsd.VmMap13):
    """A map in which the first entry is looked up again whenever the map was not locked."""

    async def wait_in_transition(self, progress: freebsd.Pass, entry: freebsd.VmMapEntry) -> freebsd.VmMapEntry | None:
        """Forget the first entry also when the one waited for is gone."""
        known = entry is progress.first
        found = await super().wait_in_transition(progress, entry)
        if not known:
            progress.first = None
        return found


@scenario(source=TRANSITION)
def freebsd13_wire_looked_up_again(k: Kernel) -> None:
    """The same with the first entry looked up again after every wait: every mark is cleared, and nobody sleeps on."""
    mlock_cut(k, SteppedBack)


def protect_while_wiring(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """A private read-only mapping of a file is wired while another thread makes it writable."""
    vm_map = freebsd.setup(k, pages=1, cls=cls, fault=freebsd.LookupFault())
    low, end = vm_map.min_offset, vm_map.max_offset
    file = freebsd.VmObject(1)
    vm_map.insert(file, 0, low, end, freebsd.VM_PROT_READ, freebsd.VM_PROT_ALL, freebsd.MAP_COPY_ON_WRITE)

    async def wire() -> None:
        k.record(wired=await freebsd.vm_map_wire(vm_map, low, end, USER))

    async def protect() -> None:
        flags = freebsd.VM_MAP_PROTECT_SET_PROT
        k.record(protected=await freebsd.vm_map_protect(vm_map, low, end, freebsd.VM_PROT_RW, 0, flags))

    k.spawn(wire, name="wire")
    k.spawn(protect, name="protect")


@scenario(expect="invariant", source="FreeBSD 10.4, sys/vm/vm_map.c, vm_map_protect: it does not wait for who wires")
def freebsd2013_protect_while_wiring(k: Kernel) -> None:
    """mlock(2) and mprotect(2) at once leave memory that is wired, writable, and still to be copied when written.

    Who makes user-wired memory writable has to copy it then and there, since no fault will. But while the wiring is
    going on, the entry is not yet marked as wired by the user, so protect does not copy; and wiring does not look again
    at what the entry may do when it sets the mark.
    """
    protect_while_wiring(k, freebsd.VmMap2013)


@scenario(source="FreeBSD 13.0, sys/vm/vm_map.c, vm_map_protect: vm_map_wait_busy, and entries in transition")
def freebsd13_protect_while_wiring(k: Kernel) -> None:
    """13 waits until nobody wires in the map before it changes any protection."""
    protect_while_wiring(k, freebsd.VmMap13)


@scenario(
    expect="assertion", source="FreeBSD 13.0, sys/vm/vm_map.c, vm_map_wire_locked: the failure of a fault, and `done`"
)
def freebsd13_user_wired_given_back_twice(k: Kernel) -> None:
    """An mlock(2) that fails gives back more than it has taken, and then users may wire more than vm.max_user_wired.

    The first thread wires two pages, which are counted at once; the second cannot be read. While it faults, minherit(2)
    cuts the mapping between the two. For the failure all that was counted is given back; then the pieces are undone, and
    the first one, which was wired whole, is given back once more. One page is missing in the count from then on: of two
    pages that users may have wired, it lets them have three. Nobody ever notices that the count is below nothing.
    """
    vm_map = freebsd.setup(k, pages=5, fault=freebsd.Fault([0x1_0000_1000]))
    low = vm_map.min_offset
    vm_map.insert(None, 0, low, low + 2 * PAGE)
    vm_map.insert(None, 0, low + 2 * PAGE, low + 5 * PAGE, freebsd.VM_PROT_READ)
    freebsd.user_wire_count(k).limit = 2 * PAGE

    async def wire() -> None:
        assert await freebsd.vm_map_wire(vm_map, low, low + 2 * PAGE, USER) == freebsd.KERN_OUT_OF_BOUNDS
        await k.join(cutter)
        result = await freebsd.vm_map_wire(vm_map, low + 2 * PAGE, low + 5 * PAGE, USER)
        assert result == freebsd.KERN_RESOURCE_SHORTAGE, "users may wire two pages, and have wired three"

    async def cut() -> None:
        await freebsd.vm_map_inherit(vm_map, low + PAGE, low + 2 * PAGE, freebsd.VM_INHERIT_NONE)

    cutter = k.spawn(cut, name="cut")
    k.spawn(wire, name="wire")
