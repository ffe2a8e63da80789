"""NetBSD kernel maps under load: suballocation, and the order in which two maps are locked."""

from stressvm import Kernel, Thread, scenario
from stressvm.vm import netbsd

VAONLY = netbsd.UVM_KMF_VAONLY
WAIT = VAONLY | netbsd.UVM_KMF_WAITVA
PAGE = netbsd.PAGE_SIZE


@scenario(source="NetBSD 6.99.16, sys/uvm/uvm_km.c 1.138, uvm_km_suballoc")
def netbsd6_suballoc(k: Kernel, rounds: int = 2) -> None:
    """A submap is carved out of a map that others allocate from and free to; it never overlaps what they hold.

    The one that carves then allocates within its submap, while the others go on in the parent. At the end the parent
    holds the submap and nothing else, and the submap is empty.
    """
    kmap = netbsd.submap(k, pages=8)

    async def load() -> None:
        for _ in range(rounds):
            va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, WAIT)
            await netbsd.uvm_km_free(kmap, va, 2 * PAGE, VAONLY)

    async def carve() -> None:
        sub = await netbsd.uvm_km_suballoc(kmap, kmap.min_offset, 2 * PAGE)
        va = await netbsd.uvm_km_alloc(sub, 2 * PAGE, 0, WAIT)
        assert sub.min_offset <= va < sub.max_offset, "an address outside the submap"
        await netbsd.uvm_km_free(sub, va, 2 * PAGE, VAONLY)
        assert sub.size == 0, "the submap is not empty"

    async def check(others: list[Thread]) -> None:
        for other in others:
            await k.join(other)
        held = list(kmap.entries)
        assert [entry.end - entry.start for entry in held] == [2 * PAGE], "the parent holds more than the submap"
        assert held[0].sub_map is not None, "the submap's entry has no submap"
        assert held[0].sub_map.ref_count == 2, "a submap has its parent's reference and its maker's"

    threads = [k.spawn(load, name="load0"), k.spawn(load, name="load1"), k.spawn(carve, name="carve")]
    k.spawn(check, threads, name="check")


@scenario(expect="deadlock", source="what the trylock in uvm_map_extract is there to avoid (NetBSD, sys/uvm/uvm_map.c)")
def netbsd6_two_maps(k: Kernel) -> None:
    """Two threads move a range between two maps, in opposite directions, each locking its source first."""
    left = netbsd.submap(k, pages=2, name="left")
    right = netbsd.submap(k, pages=2, name="right")
    left.fill(1)
    right.fill(1)

    async def move(source: netbsd.VmMap, target: netbsd.VmMap) -> None:
        await source.lock.lock()
        await target.lock.lock()
        dead = await source.remove(source.min_offset, source.min_offset + PAGE)
        k.record(moved=len(dead))
        await target.lock.unlock()
        await source.lock.unlock()

    k.spawn(move, left, right, name="to_right")
    k.spawn(move, right, left, name="to_left")
