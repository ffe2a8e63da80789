"""Programs in which faults, unmapping, protecting, forking and wiring meet; each is clean unless something is planted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.bench.defects.freebsd_memory_world import LOW, PAGE, RW, MemoryWorld, R, kernel, swapped
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from typing import Any

    from stressvm.kernel.kernel import Kernel


def two_faults(k: Kernel, **kw: Any) -> None:
    """Two threads on two processors touch the same page for the first time; one writes, both read."""
    world = MemoryWorld(k, 10, **kw)
    space = world.space(2)

    async def writer() -> None:
        assert await space.write(0, "written") == 0
        assert (await space.read(0))[0] == 0

    async def reader() -> None:
        assert (await space.read(0))[0] == 0
        assert (await space.read(0))[0] == 0

    async def then() -> None:
        assert await space.read(0) == (0, "written")

    world.spawn(writer)
    world.spawn(reader)
    world.end(then)


def fault_and_remove(k: Kernel, **kw: Any) -> None:
    """A page is used while its entry is unmapped and other memory is mapped there."""
    world = MemoryWorld(k, 10, **kw)
    space = world.space(2)

    async def user() -> None:
        assert await space.write(0, "old") in {0, freebsd.KERN_INVALID_ADDRESS}
        assert (await space.read(0))[0] in {0, freebsd.KERN_INVALID_ADDRESS}

    async def remover() -> None:
        assert await space.remove(0, 1) == 0
        assert await space.remap(0, 1) == 0
        assert (await space.read(0))[0] == 0

    world.spawn(user)
    world.spawn(remover)
    world.end()


def fault_and_protect(k: Kernel, **kw: Any) -> None:
    """A page is written while it becomes read-only."""
    world = MemoryWorld(k, 10, **kw)
    space = world.space(1)

    async def user() -> None:
        for text in ("first", "second"):
            assert await space.write(0, text) in {0, freebsd.KERN_PROTECTION_FAILURE}

    async def protector() -> None:
        assert await space.protect(0, 1, R) == 0
        assert await space.write(0, "third") == freebsd.KERN_PROTECTION_FAILURE
        await space.read(0)

    world.spawn(user)
    world.spawn(protector)
    world.end()


def fault_and_fork(k: Kernel, **kw: Any) -> None:
    """A process is forked while another of its threads, on another processor, writes; then both write."""
    world = MemoryWorld(k, 14, **kw)
    space = world.space(2)

    async def forker() -> None:
        assert await space.write(0, "before") == 0
        child = await space.fork()
        assert child is not None
        assert (await child.read(0))[0] == 0
        assert await child.write(0, "child") == 0
        assert (await space.read(0))[0] == 0
        assert await child.read(0) == (0, "child")
        await child.exit()

    async def writer() -> None:
        assert await space.write(0, "one") == 0
        await world.memory.machine.migrate(0)
        assert await space.write(0, "two") == 0
        assert (await space.read(0))[0] == 0

    world.spawn(forker)
    world.spawn(writer)
    world.end()


def cow_on_two_processors(k: Kernel, **kw: Any) -> None:
    """Parent and child write the same page at once, each on its processor."""
    world = MemoryWorld(k, 12, **kw)
    space = world.space(1)

    async def child_writes(child: Any) -> None:
        assert await child.write(0, "child") == 0
        assert await child.read(0) == (0, "child")

    async def parent() -> None:
        assert await space.write(0, "parent") == 0
        child = await space.fork()
        assert child is not None
        thread = k.spawn(child_writes, child, name="child")
        assert await space.write(0, "mine") == 0
        assert await space.read(0) == (0, "mine")
        await k.join(thread)
        assert await space.read(0) == (0, "mine")

    world.spawn(parent)
    world.end()


def cow_in_two_threads(k: Kernel, **kw: Any) -> None:
    """After a fork one thread of the parent reads a page on one processor while another writes it on another."""
    world = MemoryWorld(k, 12, **kw)
    space = world.space(1)

    async def reader() -> None:
        for _ in range(8):
            assert (await space.read(0))[0] == 0

    async def parent() -> None:
        assert await space.write(0, "parent") == 0
        child = await space.fork()
        assert child is not None
        thread = k.spawn(reader, name="reader")
        assert await space.write(0, "mine") == 0
        await k.join(thread)
        assert (await child.read(0)) == (0, "parent")

    world.spawn(parent)
    world.end()


def fault_and_wire(k: Kernel, **kw: Any) -> None:
    """Two pages are wired while one of them is used; what is wired stays mapped."""
    world = MemoryWorld(k, 10, **kw)
    space = world.space(2)

    async def wirer() -> None:
        assert await space.wire(0, 2) == 0
        assert [(page, wired) for page, _, wired in space.translations()] == [(0, True), (1, True)]
        assert await space.unwire(0, 1) == 0

    async def user() -> None:
        assert await space.write(1, "used") == 0
        assert (await space.read(1))[0] == 0

    world.spawn(wirer)
    world.spawn(user)
    world.end()


def wire_cow_and_protect(k: Kernel, **kw: Any) -> None:
    """A file's pages are wired read-only, and become writable while somebody reads them: they are copied at once."""
    world = MemoryWorld(k, 14, **kw)
    space = world.space(0)
    file = freebsd.VmObject(2, pager=freebsd.Pager("file"))
    assert space.map.insert(file, 0, LOW, LOW + 2 * PAGE, R, RW, freebsd.MAP_COPY_ON_WRITE) == 0
    space.now.update({0: "file:0", 1: "file:1"})

    async def wirer() -> None:
        assert await space.wire(0, 2) == 0
        assert await space.protect(0, 2, RW) == 0
        assert await space.write(0, "mine") == 0

    async def reader() -> None:
        assert (await space.read(0))[0] == 0
        assert (await space.read(1))[0] == 0

    world.spawn(wirer)
    world.spawn(reader)
    world.end()


def remap_during_io(k: Kernel, **kw: Any) -> None:
    """While a page of a file is read, another page of it is mapped in its place."""
    world = MemoryWorld(k, 10, **kw)
    space = world.space(0)
    file = freebsd.VmObject(2, pager=freebsd.Pager("file"))
    file.reference()
    assert space.map.insert(file, 0, LOW, LOW + PAGE, R, RW) == 0
    mapped = ["file:0"]

    async def reader() -> None:
        for _ in range(2):
            rc, page = await freebsd.vmspace_access(space.map, LOW, R)
            assert rc in {0, freebsd.KERN_INVALID_ADDRESS}
            assert page is None or page.content in mapped, f"{page.content} is not what is mapped"

    async def remapper() -> None:
        mapped.append("file:1")
        assert await freebsd.vm_map_fixed(space.map, file, PAGE, LOW, PAGE, R, RW) == 0
        del mapped[0]
        rc, page = await freebsd.vmspace_access(space.map, LOW, R)
        assert rc == 0
        assert page is not None
        assert page.content == "file:1", f"{page.content} is not what is mapped"

    world.spawn(reader)
    world.spawn(remapper)
    world.end()


def remove_during_io(k: Kernel, **kw: Any) -> None:
    """While a page of anonymous memory is read from swap, it is unmapped: that waits for the page, with the map locked."""
    world = MemoryWorld(k, 10, swap=4, **kw)
    space = world.space(2)
    swapped(world, space, 0, "swapped")

    async def reader() -> None:
        assert (await space.read(0))[0] in {0, freebsd.KERN_INVALID_ADDRESS}

    async def remover() -> None:
        assert await space.remove(0, 1) == 0

    world.spawn(reader)
    world.spawn(remover)
    world.end()


def short_of_pages(k: Kernel, **kw: Any) -> None:
    """A fault has to wait for a page, and the one who can free some must lock the same map for it."""
    world = MemoryWorld(k, 6, **kw)
    space = world.space(5)

    async def filler() -> None:
        for page in range(4):
            assert await space.write(page, f"page {page}") == 0
        thread = k.spawn(faulter, name="faulter")
        await k.yield_()
        assert await space.remove(0, 4) == 0
        await k.join(thread)

    async def faulter() -> None:
        assert await space.write(4, "late") == 0

    world.spawn(filler)
    world.end()


def remove_what_is_wired(k: Kernel, **kw: Any) -> None:
    """What the user has wired is unmapped, and its pages are used again."""
    world = MemoryWorld(k, 8, **kw)
    space = world.space(2)

    async def wirer() -> None:
        assert await space.wire(0, 2) == 0
        assert await space.remove(0, 2) == 0
        assert await space.remap(0, 2) == 0
        assert await space.read(0) == (0, "zeros")

    async def other() -> None:
        await space.write(1, "other")

    world.spawn(wirer)
    world.spawn(other)
    world.end()


def kernel_memory(k: Kernel, version: str = "13", **kw: Any) -> None:
    """Two threads allocate kernel memory, use it and free it."""
    kmem = kernel(k, 10, version, **kw)

    async def user(name: str) -> None:
        addr = await freebsd.kmem_malloc(kmem, 2 * PAGE, freebsd.M_WAITOK | freebsd.M_ZERO)
        assert addr
        for va in (addr, addr + PAGE):
            rc, page = await freebsd.vmspace_access(kmem.map, va, RW, name)
            assert rc == 0
            assert page is not None
        for va in (addr, addr + PAGE):
            rc, page = await freebsd.vmspace_access(kmem.map, va, R)
            assert page is not None
            assert page.content == name, f"{name} finds {page.content}"
        await freebsd.kmem_free(kmem, addr, 2 * PAGE)

    for name in ("one", "two"):
        k.spawn(user, name, name=name)


def shared_copy(k: Kernel, **kw: Any) -> None:
    """Parent and child share memory that is private to them both; one has read a page, the other one copies it to write."""
    world = MemoryWorld(k, 12, **kw)
    space = world.space(0)
    file = freebsd.VmObject(1, pager=freebsd.Pager("file"))
    cow = freebsd.MAP_COPY_ON_WRITE | freebsd.MAP_INHERIT_SHARE
    assert space.map.insert(file, 0, LOW, LOW + PAGE, RW, RW, cow) == 0
    space.now[0] = "file:0"

    async def parent() -> None:
        child = await space.fork()
        assert child is not None
        thread = k.spawn(reads, child, name="child")
        assert await space.write(0, "shared") == 0
        await k.join(thread)
        content = await reads(child)
        assert content == "shared", f"the child reads {content!r} after the parent wrote"

    async def reads(child: Any) -> str:
        rc, page = await freebsd.vmspace_access(child.map, LOW, R)
        assert rc == 0
        assert page is not None
        return str(page.content)

    world.spawn(parent)
    world.end()


def out_of_pages(k: Kernel, version: str = "13", **kw: Any) -> None:
    """Kernel memory is wanted by who may not wait, and there are not enough pages; then it is wanted again."""
    kmem = kernel(k, 4, version, **kw)

    async def user() -> None:
        assert not await freebsd.kmem_malloc(kmem, 4 * PAGE, freebsd.M_NOWAIT)
        assert kmem.phys.free.peek() == 4, "pages were kept"
        assert not kmem.arena.inuse, "addresses were kept"

    k.spawn(user)


def kernel_memory_waits(k: Kernel, version: str = "13", **kw: Any) -> None:
    """One thread has all pages, and frees them; another waits for some."""
    kmem = kernel(k, 6, version, kmem_pages=8, map_pages=16, **kw)

    async def has() -> None:
        addr = await freebsd.kmem_malloc(kmem, 4 * PAGE, freebsd.M_WAITOK)
        thread = k.spawn(wants, name="wants")
        await k.yield_()
        await freebsd.kmem_free(kmem, addr, 4 * PAGE)
        await k.join(thread)

    async def wants() -> None:
        assert await freebsd.kmem_malloc(kmem, 2 * PAGE, freebsd.M_WAITOK)

    k.spawn(has)


def addresses_wait(k: Kernel, version: str = "2013", **kw: Any) -> None:
    """One thread has all addresses of kmem_arena, and frees them; another waits for some."""
    kmem = kernel(k, 16, version, **kw)

    async def has() -> None:
        addr = await freebsd.kmem_malloc(kmem, 4 * PAGE, freebsd.M_WAITOK)
        thread = k.spawn(wants, name="wants")
        await k.yield_()
        await freebsd.kmem_free(kmem, addr, 4 * PAGE)
        await k.join(thread)

    async def wants() -> None:
        assert await freebsd.kmem_malloc(kmem, 2 * PAGE, freebsd.M_WAITOK)

    k.spawn(has)


def fixed_in_the_kernel(k: Kernel, **kw: Any) -> None:
    """Two threads map kernel memory, one of them at a fixed place."""
    kmem = kernel(k, 10, **kw)
    low = kmem.map.min_offset

    async def fixed() -> None:
        assert await freebsd.vm_map_fixed(kmem.map, None, 0, low + 6 * PAGE, PAGE) == 0

    async def anywhere() -> None:
        assert (await freebsd.vm_map_find(kmem.map, None, 0, low, PAGE))[0] == 0

    for body in (fixed, anywhere):
        k.spawn(body, name=body.__name__)
