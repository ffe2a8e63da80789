"""The programs in which a step of FreeBSD's map protocols matters: clean with the map as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.bench.defects.freebsd_world import HOLESOK, LOW, PAGE, READ, RW, SYSTEM, USER, WRITE, World
from stressvm.vm import freebsd
from stressvm.vm.freebsd import Fault, UserMapLock

if TYPE_CHECKING:
    from typing import Any

    from stressvm.bench.defects.defect import Build
    from stressvm.kernel.kernel import Kernel

COW = freebsd.MAP_COPY_ON_WRITE
NONE, SHARE = freebsd.VM_INHERIT_NONE, freebsd.VM_INHERIT_SHARE


class Present(Fault):
    """A page fault that remembers which pages are in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: set[int] = set()

    async def resolve(self, vm_map: Any, vaddr: int, fault_type: int) -> int:
        self.pages.add(vaddr)
        return await super().resolve(vm_map, vaddr, fault_type)


# ---------------------------------------------------------------- faults


def look(world: World, name: str, fault_type: int, found: list[freebsd.VmObject | None], page: int = 0) -> None:
    """A thread that faults, and keeps what object it was told of."""

    async def fault() -> int:
        result, what = await freebsd.vm_map_lookup(world.map, LOW + page * PAGE, fault_type)
        if what is not None:
            assert what.object is what.entry.object
            found.append(what.object)
            await freebsd.vm_map_lookup_done(what)
        return result

    world.spawn(name, fault)


def faults_and_remove(world: World) -> None:
    """Two threads touch memory for the first time while a third unmaps a part of it."""
    found: list[freebsd.VmObject | None] = []
    world.insert(0, 2)
    look(world, "a", WRITE, found)
    look(world, "b", READ, found, 1)
    world.call(("remove", 0, 1, 0))


def upgrade(world: World) -> UserMapLock:
    """A thread that reads, and then wants to write; whoever else there is never writes."""
    lock = world.map.lock
    assert isinstance(lock, UserMapLock)
    for page in (0, 2, 4):
        world.insert(page, page + 1, freebsd.VmObject(1))

    async def upgrades() -> None:
        await lock.lock_read()
        assert await lock.lock_upgrade(), "nobody has written"
        await lock.unlock()

    world.spawn("upgrades", upgrades)
    return lock


def look_while_another_upgrades(world: World) -> None:
    """A reader looks up entries, so that a tree would be rearranged."""
    lock = upgrade(world)

    async def looks() -> None:
        for page in (0, 4, 2):
            await lock.lock_read()
            await freebsd.vm_map_lookup_entry(world.map, LOW + page * PAGE)
            await lock.unlock_read()

    world.spawn("looks", looks)


def try_while_another_upgrades(world: World) -> None:
    """A reader tries for the write lock, and cannot get it."""
    lock = upgrade(world)

    async def tries() -> None:
        for _ in range(2):
            await lock.lock_read()
            assert not await lock.trylock()
            await lock.unlock_read()

    world.spawn("tries", tries)


def wire_what_becomes_writable(world: World) -> None:
    """A user wires a private file mapping that may only be read, and somebody else makes it writable."""
    world.insert(0, 2, freebsd.VmObject(2), prot=READ, cow=COW)
    world.call(("wire", 0, 2, USER))
    world.call(("protect", 0, 2, RW))


# ---------------------------------------------------------------- unmapping


def wire_and_remove(world: World) -> None:
    """What is unmapped is being wired."""
    world.insert(0, 2)
    world.call(("wire", 0, 2, USER))
    world.call(("remove", 0, 2, 0))


def two_removers(world: World) -> None:
    """Two unmap what is being wired."""
    world.insert(0, 2)
    world.call(("wire", 0, 2, USER))
    world.call(("remove", 0, 2, 0))
    world.call(("remove", 0, 1, 0))


def map_over_what_is_wired(world: World) -> None:
    """One maps four pages in place of what is there, the last part of which is being wired; another maps a hole in them."""
    world.insert(0, 1)
    world.insert(2, 4)

    async def fixed() -> int:
        return await freebsd.vm_map_fixed(world.map, None, 0, LOW, 4 * PAGE)

    async def find() -> int:
        found = freebsd.vm_map_find(world.map, None, 0, LOW + PAGE, PAGE, find_space=freebsd.VMFS_NO_SPACE)
        return (await found)[0]

    world.call(("wire", 2, 4, USER))
    world.spawn("fixed", fixed)
    world.spawn("find", find)


class Watched(freebsd.VmObject):
    """An object whose last reference must not be dropped with the map locked: that may sleep."""

    def __init__(self, size: int, world: World) -> None:
        super().__init__(size)
        self.world = world

    def deallocate(self) -> None:
        assert not self.world.map.lock.locked(), f"{self!r} is let go of with the map locked"
        super().deallocate()


def remove_an_object(world: World) -> None:
    """An object is unmapped, page by page, by two threads."""
    world.insert(0, 2, Watched(2, world))
    world.call(("remove", 0, 1, 0))
    world.call(("remove", 1, 2, 0))


# ---------------------------------------------------------------- wiring


def cut_in_transition(world: World) -> None:
    """What is being wired is cut into three."""
    world.insert(0, 3)
    world.call(("wire", 0, 3, USER))
    world.call(("inherit", 1, 2, NONE))


def wire_both_halves(world: World) -> None:
    """Two wire one half each of a mapping, and a third changes all of it."""
    world.insert(0, 4, freebsd.VmObject(4))
    world.call(("wire", 0, 2, USER))
    world.call(("wire", 2, 4, USER))
    world.call(("inherit", 0, 4, NONE))


def fill_the_hole(world: World) -> None:
    """One wires around a hole; another maps something there, and wires that."""
    world.insert(0, 2)
    world.insert(4, 6)

    async def fill() -> int:
        low, high = LOW + 2 * PAGE, LOW + 4 * PAGE
        rc, _ = await freebsd.vm_map_find(
            world.map, None, 0, low, high - low, find_space=freebsd.VMFS_NO_SPACE, prot=READ
        )
        assert rc == 0
        return await freebsd.vm_map_wire(world.map, low, high, SYSTEM)

    world.call(("wire", 0, 6, USER | HOLESOK))
    world.spawn("fill", fill)


def fork_while_wiring(world: World) -> None:
    """Two threads wire; a third does as a fork does, and looks whether all pages that are wired are there."""
    fault = world.map.fault
    assert isinstance(fault, Present)
    present = fault.pages
    world.insert(0, 2)
    world.insert(2, 4, prot=READ)

    async def fork() -> None:
        await world.map.lock.lock()
        await world.map.lock.wait_busy()
        for entry in world.map.entries:
            wanted = set(range(entry.start, entry.end, PAGE)) if entry.wired_count else set()
            assert wanted <= present, f"{entry!r} is half wired"
        await world.map.lock.unlock()

    world.call(("wire", 0, 2, USER))
    world.call(("wire", 1, 4, USER))
    world.spawn("fork", fork)


def wait_with_one_in_hand(world: World) -> None:
    """One has wired its first entry, which may not be written yet, and waits for its second, which another wires."""
    world.insert(0, 2, freebsd.VmObject(2), prot=READ, cow=COW)
    world.insert(2, 4)
    world.call(("wire", 2, 4, USER), "other")
    world.call(("wire", 0, 4, USER | HOLESOK), "both")


def protect_what_is_in_hand(world: World) -> None:
    """That entry is made writable."""
    wait_with_one_in_hand(world)
    world.call(("protect", 0, 2, RW))


def protect_and_remove_what_is_in_hand(world: World) -> None:
    """That entry is to become inaccessible, and is unmapped."""
    wait_with_one_in_hand(world)
    world.call(("protect", 0, 2, 0))
    world.call(("remove", 0, 2, 0))


def cut_while_one_waits(world: World, word: str = "wire") -> None:
    """One has its first entry and waits for its second, which another wires; that is unmapped, and the first one cut."""
    world.insert(0, 2)
    world.insert(2, 4, prot=READ)
    if word == "unwire":
        first = world.map.entries.first
        assert first is not None
        first.wired_count, first.eflags = 1, freebsd.MAP_ENTRY_USER_WIRED
    world.call(("wire", 2, 4, USER), "other")
    world.call((word, 0, 4, USER), "both")
    world.call(("remove", 2, 4, 0))
    world.call(("inherit", 1, 2, NONE))


# ---------------------------------------------------------------- waiting for addresses


def take(world: World, name: str, size: int) -> None:
    """A thread that allocates pages of a kernel submap."""

    async def alloc() -> int:
        return await freebsd.kmap_alloc_wait(world.map, size * PAGE)

    world.spawn(name, alloc)


def give(world: World, name: str, start: int, end: int) -> None:
    """A thread that frees some."""

    async def free() -> None:
        await freebsd.kmap_free_wakeup(world.map, LOW + start * PAGE, (end - start) * PAGE)

    world.spawn(name, free)


def one_waiter(world: World) -> None:
    """A full map, somebody who wants a page, and somebody who frees one."""
    world.map.fill()
    take(world, "take", 1)
    give(world, "give", 3, 4)


def two_waiters(world: World) -> None:
    """A full map, somebody who wants two pages, somebody who wants one; one page is freed, and then enough for both."""
    world.map.fill()
    take(world, "big", 2)
    take(world, "small", 1)
    give(world, "one", 0, 1)
    give(world, "three", 3, 6)


def two_look(world: World) -> None:
    """Two readers look up entries at the ends of the map, so that a tree would be rearranged by both."""
    for page in (0, 2, 4, 6):
        world.insert(page, page + 1, freebsd.VmObject(1))

    async def looks(*places: int) -> None:
        for page in places:
            await world.map.lock.lock_read()
            found, entry = await freebsd.vm_map_lookup_entry(world.map, LOW + page * PAGE)
            assert found
            assert entry is not None
            assert entry.start == LOW + page * PAGE
            await world.map.lock.unlock_read()

    world.spawn("low", looks, 0, 2)
    world.spawn("high", looks, 6, 4)


def faults_in_a_stack(cls: type[freebsd.VmMap] = freebsd.VmMap13) -> Build:
    """Two threads touch the pages below a stack that grows downwards, by four pages at a time."""

    def build(k: Kernel) -> None:
        freebsd.sysctl(k).sgrowsiz = 4 * PAGE
        vm = freebsd.vmspace_alloc(k, LOW, LOW + 64 * PAGE, cls=cls, fault=freebsd.LookupFault(), name="proc")
        size, end = 16 * PAGE, LOW + 32 * PAGE
        vm.map.stack_locked(end - size, size, 4 * PAGE, RW, RW, freebsd.MAP_STACK_GROWS_DOWN)

        async def push(addr: int) -> None:
            result, found = await vm.map.vm_map_lookup(addr, WRITE, grow=True)
            assert found is not None, f"a fault in the stack's gap ended with {result}, and the thread with a signal"
            await found.vm_map.lookup_done()

        for number in range(2):
            vm.adopt(k.spawn(push, end - (5 + number) * PAGE, name=f"push{number}"))

    return build
