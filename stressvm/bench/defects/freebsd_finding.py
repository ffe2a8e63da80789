"""Programs in which it matters where FreeBSD's maps find addresses, and who gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.bench.defects.freebsd_world import LOW, PAGE
from stressvm.vm import freebsd
from stressvm.vm.freebsd import Search

if TYPE_CHECKING:
    from stressvm.bench.defects.defect import Build
    from stressvm.bench.defects.freebsd_world import World
    from stressvm.kernel.kernel import Kernel

#: Every second page.
ALIGNED: Final = freebsd.VMFS_ALIGNED_SPACE(13)


def find(world: World, name: str, pages: int, space: int = freebsd.VMFS_ANY_SPACE, bound: int = 0) -> None:
    """A thread that maps so many pages wherever there is room, which there is."""

    async def body() -> int:
        max_addr = LOW + bound * PAGE if bound else 0
        rc, addr = await freebsd.vm_map_find(world.map, None, 0, LOW, pages * PAGE, max_addr=max_addr, find_space=space)
        if not bound:
            assert not rc, f"there is room, and vm_map_find returns {rc}"
        assert rc or not bound or addr + pages * PAGE <= max_addr, "it is mapped above the bound"
        return rc

    world.spawn(name, body)


def two_find(world: World) -> None:
    """Two threads map a page each, wherever there is room."""
    world.insert(0, 2, freebsd.VmObject(2))
    find(world, "one", 1)
    find(world, "other", 1)


def find_aligned(world: World) -> None:
    """Two threads map a page each at an even place; the first free page is odd, and the next is taken."""
    world.insert(0, 1)
    world.insert(2, 3)
    find(world, "one", 1, ALIGNED)
    find(world, "other", 1, ALIGNED)


def bounded_find(world: World) -> None:
    """Two threads want a page at an even place below a bound; there is one page, at an odd place."""
    world.insert(0, 1)
    find(world, "one", 1, ALIGNED, bound=2)
    find(world, "other", 1, ALIGNED, bound=2)


def exact_find(world: World) -> None:
    """Two gaps of two pages each, and two threads that want as much."""
    world.insert(0, 1)
    world.insert(3, 4)
    world.insert(6, 8)
    find(world, "one", 2)
    find(world, "other", 2)


def find_too_much(world: World) -> None:
    """An empty map, and two threads that want nearly all addresses that there are."""

    async def much() -> int:
        rc, _ = await freebsd.vm_map_find(world.map, None, 0, LOW, (1 << 64) - PAGE)
        assert rc == freebsd.KERN_NO_SPACE, f"there is no room for so much, and vm_map_find returns {rc}"
        return rc

    world.spawn("one", much)
    world.spawn("other", much)


def grow_neighbours(world: World) -> None:
    """Two threads map a page each behind what is mapped already, so that entries grow; then another one wants two pages."""
    world.insert(0, 1)
    world.insert(4, 5)

    async def more(page: int, pages: int) -> None:
        low, size = LOW + page * PAGE, pages * PAGE
        rc, _ = await freebsd.vm_map_find(
            world.map, None, 0, low, size, find_space=freebsd.VMFS_ANY_SPACE, prot=freebsd.VM_PROT_RW
        )
        assert not rc, f"there is room, and vm_map_find returns {rc}"

    world.spawn("low", more, 1, 1)
    world.spawn("high", more, 5, 1)
    world.spawn("last", more, 0, 2)


def use_and_free(world: World) -> None:
    """A kernel submap that is full but for two pages; three threads each wait for two, use them and free them."""
    world.map.fill(6, offset=2)
    users: dict[int, str] = {}

    async def use(name: str) -> None:
        addr = await freebsd.kmap_alloc_wait(world.map, 2 * PAGE)
        assert LOW <= addr <= LOW + 6 * PAGE, f"{addr:#x} is outside of the map"
        assert addr not in users, f"{addr:#x} is in use by {users[addr]}"
        assert addr == LOW, f"{addr:#x} is in use by the kernel"
        users[addr] = name
        await world.k.yield_()
        del users[addr]
        await freebsd.kmap_free_wakeup(world.map, addr, 2 * PAGE)

    for name in ("one", "two", "three"):
        world.spawn(name, use, name)


def tail_gap(version: str = "13", search: Search = Search.FIRST_FIT) -> Build:
    """Six pages, all but the first in use; the last three are freed, and somebody wants two."""

    def build(k: Kernel) -> None:
        vm_map = freebsd.exec_map(k, pages=6, version=version, search=search)
        used = vm_map.fill(5, offset=1)

        async def take() -> None:
            k.record(va=await freebsd.kmap_alloc_wait(vm_map, 2 * PAGE))

        async def give() -> None:
            await freebsd.kmap_free_wakeup(vm_map, used + 2 * PAGE, 3 * PAGE)

        k.spawn(take, name="take")
        k.spawn(give, name="give")

    return build


def few_args(ranges: int) -> Build:
    """Two threads on one processor each take a range for the arguments of execve, and give it back."""

    def build(k: Kernel) -> None:
        pool = freebsd.ExecArgs(k, freebsd.exec_map(k, pages=ranges), cpus=1, entries=ranges)

        async def execve() -> None:
            argkva = await freebsd.exec_alloc_args_kva(pool, 0)
            await freebsd.exec_free_args_kva(pool, argkva, 0)

        for number in range(2):
            k.spawn(execve, name=f"exec{number}")

    return build
