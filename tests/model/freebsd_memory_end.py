"""When all threads of a program are done: what they left is as it should be, and can all be given back.

The last thread waits until the page daemon sleeps, too. Then it looks at wirings, notes what is mapped, reads all that may be read,
ends all processes and frees all kernel memory; nothing may be left of anything.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from stressvm.vm import freebsd
from stressvm.vm.pages import PageQueue
from tests.model.freebsd_memory_turns import LOW, PAGE, R

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm import Thread
    from stressvm.vm.pages import Page
    from tests.model.freebsd_memory_world import Space, World


async def last(world: World, programs: list[Thread]) -> None:
    """The last thread."""
    for thread in programs:
        await world.k.join(thread)
    await rest(world)
    wirings(world)
    world.user_wired = freebsd.user_wire_count(world.k).wired
    for number, space in enumerate(world.spaces):
        if not space.gone:
            world.entries[number] = entries(space)
    for number, mapped in world.entries.items():
        for page, (prot, *_) in mapped.items():
            if prot:
                world.contents[number, page] = await content(world.spaces[number], page)
    for number in world.entries:
        await freebsd.vmspace_free(world.spaces[number].vm)
    for block in world.blocks:
        if not block.gone:
            await world.free(block)
    for file in world.files.values():
        freebsd.vm_object_hold(world.k, file, -1)
        file.deallocate()
    await world.memory.drain()
    await rest(world)
    nothing_left(world)
    world.done = True


async def rest(world: World) -> None:
    """Until nobody else can do anything: virtual time goes on only then."""
    await world.k.delay(1)


def entries(space: Space) -> dict[int, list[int]]:
    """By page: protection, the most it may become, inheritance, wired by the user, how often by the system."""
    return {
        (addr - LOW) // PAGE: [
            entry.protection,
            entry.max_protection,
            entry.inheritance,
            bool(entry.eflags & freebsd.MAP_ENTRY_USER_WIRED),
            entry.system_wired_count,
        ]
        for entry in space.map.entries
        for addr in range(entry.start, entry.end, PAGE)
    }


async def content(space: Space, page: int) -> tuple[int, str]:
    """The code, and what a page of a space holds."""
    rc, read = await freebsd.vmspace_access(space.map, LOW + page * PAGE, R)
    return rc, read.content if read is not None else ""


def wirings(world: World) -> None:
    """A page is wired once for each wired entry that maps it, for the kernel's memory, and for page tables; no mapping more."""
    wired: Counter[int] = Counter()
    for space in world.spaces:
        if space.gone:
            continue
        assert space.map.pmap is not None
        mapped = {found.va: found.wired for found in space.map.pmap.translations(*space.map.bounds)}
        assert not space.map.lock.busy_count, f"{space.map.name} stays busy"
        for entry in space.map.entries:
            assert not entry.eflags & freebsd.MAP_ENTRY_IN_TRANSITION, f"{entry!r} stays in transition"
            for va in range(entry.start, entry.end, PAGE):
                assert mapped.get(va, bool(entry.wired_count)) == bool(entry.wired_count), f"{va:#x} of {entry!r}"
                if entry.wired_count:
                    page = page_of(entry, va)
                    assert page is not None, f"{va:#x} of {entry!r} is wired, and has no page"
                    wired[page.number] += 1
    for page in world.memory.pages.pages:
        kernel = page.owner is world.kmem.kernel_object or (page.owner is None and page.queue is not PageQueue.FREE)
        assert page.wire_count == wired[page.number] + kernel, (
            f"{page!r} should be wired {wired[page.number] + kernel} times"
        )


def page_of(entry: freebsd.VmMapEntry, va: int) -> Page | None:
    """The page that an entry maps: of its object, or the first that this shadows and that has one."""
    offset, obj = entry.offset + va - entry.start, entry.object
    while obj is not None:
        page = obj.store.pages.lookup(freebsd.off_to_idx(offset)) if obj.store is not None else None
        if page is not None:
            return page
        offset, obj = offset + obj.backing_object_offset, obj.backing_object
    return None


def nothing_left(world: World) -> None:
    """No pages, mappings, wirings, references, addresses, slots of swap; and every invariant holds."""
    freebsd.audit(world.k)
    world.memory.audit()
    for text in left(world):
        raise AssertionError(f"left: {text}")
    for vm_map in (world.kmem.map, *(space.map for space in world.spaces)):
        vm_map.check()
    for pmap in world.memory.machine.pmaps:
        pmap.check()
    for page in world.memory.pages.pages:
        if page.owner is None:
            world.memory.machine.assert_page_unused(page)


def left(world: World) -> Iterator[str]:
    """What is left, in words."""
    memory, kmem = world.memory, world.kmem
    stats = memory.pages.statistics()
    if stats.owned != world.old.pages.resident or stats.held:
        yield f"pages of objects: {stats}"
    if stats.wired or stats.loose or stats.free + stats.owned != stats.total:
        yield f"loose or wired pages: {stats}"
    for pmap in memory.machine.pmaps:
        if pmap.resident_count or pmap.wired_count or (pmap is not kmem.pmap and pmap.tables.count()):
            yield f"{pmap!r}: {pmap.statistics()}"
    if memory.machine.pv_entries:
        yield f"{memory.machine.pv_entries} entries of pv lists"
    arenas = {kmem.arena, kmem.kernel_arena}
    imported = kmem.arena.size if world.version == "13" else 0
    if sum(arena.inuse for arena in arenas) != imported:
        yield f"addresses: {arenas}"
    assert memory.swap is not None
    if memory.swap.contents or memory.swap.only:
        yield f"swap: {memory.swap.statistics()}"
    for space in world.spaces:
        if len(space.map.entries):
            yield f"{space.map!r}: {list(space.map.entries)}"
