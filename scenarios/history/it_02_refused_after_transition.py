"""FreeBSD's vm_map_lookup, 2013: a write to memory that is just being wired is refused, though it is allowed.

Memory that is wired for the user has been copied already, if it can be written; so a fault on a wired mapping that is still
copied on write was taken for a write without permission. But a page fault that meets a mapping in transition waits for the
wiring to end, and then looks again. By then the mapping is wired, and is copied on write as ever. The program got a signal.

Source: FreeBSD, sys/vm/vm_map.c, vm_map_lookup after r251901, about 2013; the test was replaced by an assertion.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

SOURCE = "FreeBSD, sys/vm/vm_map.c, vm_map_lookup, about 2013, after r251901"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000
WRITE = freebsd.VM_PROT_WRITE


class RefusesWired(freebsd.VmMap13):
    """A map in which nobody writes, by a page fault, to what is wired and copied on write."""

    def refused(self, entry: freebsd.VmMapEntry, fault_type: int, *, copy: bool) -> int:
        """One reason more."""
        wired = freebsd.MAP_ENTRY_USER_WIRED | freebsd.MAP_ENTRY_COW
        if entry.eflags & wired == wired and fault_type & WRITE:
            return freebsd.KERN_PROTECTION_FAILURE
        return super().refused(entry, fault_type, copy=copy)


def wire_and_write(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """One thread wires a private mapping of a file, another writes to it."""
    memory = freebsd.Memory(pages.VmPages13(k, 8))
    vm = freebsd.vmspace_alloc(k, LOW, LOW + PAGE, cls=cls, memory=memory)
    file = freebsd.VmObject(1, pager=freebsd.Pager("file"))
    vm.map.insert(file, 0, LOW, LOW + PAGE, cow=freebsd.MAP_COPY_ON_WRITE)

    async def wires() -> None:
        assert not await freebsd.vm_map_wire(vm.map, LOW, LOW + PAGE, freebsd.VM_MAP_WIRE_USER), "mlock has failed"

    async def writes() -> None:
        result, _ = await freebsd.vmspace_access(vm.map, LOW, WRITE, "text")
        assert not result, "SIGSEGV: it may be written, and is refused"

    k.spawn(wires, name="wires")
    k.spawn(writes, name="writes")


@scenario(expect="assertion", source=SOURCE)
def it_02_refused_after_transition(k: Kernel) -> None:
    """Who has waited for the wiring is refused."""
    wire_and_write(k, RefusesWired)


@scenario(source=SOURCE, executions=200)
def it_02_refused_after_transition_ok(k: Kernel) -> None:
    """Wired or not, what may be written can be."""
    wire_and_write(k, freebsd.VmMap13)
