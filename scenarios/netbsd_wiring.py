"""NetBSD: wiring with the map marked busy, and mappings moved between maps."""

from stressvm import Kernel, scenario
from stressvm.vm import netbsd

SOURCE = "NetBSD 6.99.16, sys/uvm/uvm_map.c 1.324"
PAGE = netbsd.PAGE_SIZE
LOW = 0xC000_0000
WAIT = netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_WAITVA


@scenario(source=f"{SOURCE}, uvm_map_pageable")
def netbsd6_wiring(k: Kernel, pages: int = 2) -> None:
    """A range is wired, and the fault of its last page fails; meanwhile one reads the map, one changes it.

    Between the two passes of the wiring the map is not locked, only busy: the reader gets in, the writer waits, and when
    the wirer comes back to undo what it has done nobody else has locked the map since.
    """
    fault = netbsd.FailingFault([LOW + (pages - 1) * PAGE])
    options = netbsd.Options.DIAGNOSTIC
    kmap = netbsd.setup(k, 2 * pages, flags=netbsd.VM_MAP_PAGEABLE, fault=fault, options=options, min_offset=LOW)
    kmap.fill(pages)

    async def wires() -> None:
        error = await netbsd.uvm_map_pageable(kmap, LOW, LOW + pages * PAGE, new_pageable=False)
        assert error == netbsd.ENOMEM, "the fault failed"
        assert not kmap.fault.wired, "something stayed wired"

    async def reads() -> None:
        await kmap.lock.lock_read()
        assert netbsd.uvm_map_checkprot(kmap, LOW, LOW + pages * PAGE, netbsd.VM_PROT_READ)
        await kmap.lock.unlock_read()

    async def writes() -> None:
        error = await netbsd.uvm_map_protect(kmap, LOW, LOW + PAGE, netbsd.VM_PROT_READ)
        assert not error, "the protection could not be changed"

    for thread in (wires, reads, writes):
        k.spawn(thread, name=thread.__name__)


@scenario(source=f"{SOURCE}, uvm_map_extract with UVM_EXTRACT_REMOVE", expect="rescued-sleep")
def netbsd6_extract_tells_nobody(k: Kernel) -> None:
    """A page is moved out of a full map, for which somebody waits: nobody looks at WANTVA.

    What saves the sleeper is that it looks again every second, and that the move has moved the timestamp.
    """
    kmap = netbsd.submap(k, pages=1)
    other = netbsd.setup(k, 1, name="other", min_offset=0xD000_0000)
    kmap.fill()

    async def take() -> None:
        k.record(va=await netbsd.uvm_km_alloc(kmap, PAGE, 0, WAIT))

    async def move() -> None:
        error, _ = await netbsd.uvm_map_extract(kmap, kmap.min_offset, PAGE, other, flags=netbsd.UVM_EXTRACT_REMOVE)
        assert not error, "the page could not be moved"

    k.spawn(take, name="take")
    k.spawn(move, name="move")


class Waits(netbsd.VmMap):
    """An extraction that waits for its destination with the source locked."""

    async def try_destination(self, dst: netbsd.VmMap) -> bool:
        """vm_map_lock in place of vm_map_lock_try."""
        await dst.lock.lock()
        return True


def opposite(k: Kernel, cls: type[netbsd.VmMap]) -> None:
    """Two maps with a page each, and two threads that copy one into the other."""
    left = netbsd.setup(k, 2, name="left", cls=cls)
    right = netbsd.setup(k, 2, name="right", min_offset=0xD000_0000, cls=cls)
    left.fill(1)
    right.fill(1)

    async def copy(src: netbsd.VmMap, dst: netbsd.VmMap) -> None:
        error, _ = await netbsd.uvm_map_extract(src, src.min_offset, PAGE, dst)
        assert not error, "the page could not be copied"

    k.spawn(copy, left, right, name="to_right")
    k.spawn(copy, right, left, name="to_left")


@scenario(source=f"{SOURCE}, uvm_map_extract")
def netbsd6_extract_both_ways(k: Kernel) -> None:
    """Each has its source locked when it wants its destination, and tries only; who is refused puts it in later."""
    opposite(k, netbsd.VmMap)


@scenario(source=f"what the try in uvm_map_extract is there to avoid ({SOURCE})", expect="deadlock")
def netbsd6_extract_both_ways_waiting(k: Kernel) -> None:
    """The same, if each waited for its destination."""
    opposite(k, Waits)


@scenario(source=f"{SOURCE}, uvm_map_replace", expect="invariant")
def netbsd6_extract_with_a_hole(k: Kernel) -> None:
    """A range with a hole is copied to where the map was full up to: first_free is set behind the hole.

    A search from the map's minimum begins at first_free. So the addresses of the hole are found no more, until something
    before them is unmapped.
    """
    kmap = netbsd.submap(k, pages=8)

    async def copy() -> None:
        for page in (4, 6):
            await netbsd.uvm_map(kmap, kmap.min_offset + page * PAGE, PAGE, flags=netbsd.UVM_FLAG_FIXED)
        await netbsd.uvm_map_extract(kmap, kmap.min_offset + 4 * PAGE, 3 * PAGE, kmap)

    k.spawn(copy, name="copy")
