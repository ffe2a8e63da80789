"""Small worlds of FreeBSD processes and kernel memory, with a memory of what each must read.

A `Space` is an address space and what its program knows of its contents: whatever is read must be what was written last;
what a fork leaves to a child is what the parent's page held at some moment of the fork, and stays so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stressvm.vm import freebsd
from stressvm.vm.pages import ZEROS, Swap, VmPages13, VmPages2013

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Thread
    from stressvm.vm.pages import Shortage
    from stressvm.vm.pmap import FreeBSDPmap

PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000
R, W, X, RW = freebsd.VM_PROT_READ, freebsd.VM_PROT_WRITE, freebsd.VM_PROT_EXECUTE, freebsd.VM_PROT_RW
USER, SYSTEM = freebsd.VM_MAP_WIRE_USER, freebsd.VM_MAP_WIRE_SYSTEM
VERSIONS: dict[str, type[VmPages13 | VmPages2013]] = {"13": VmPages13, "2013": VmPages2013}


class MemoryWorld:
    """Physical memory, two processors, processes.

    Args:
        k: the kernel.
        npages: page frames.
        version: "13" or "2013".
        cls, fault, fork, pmap: planted defects.
        swap: slots of swap.
        daemon: does the daemon run? If not said, with swap it does.
        shortage: which allocations fail.
        page_tables: page tables take pages, too.
    """

    def __init__(
        self,
        k: Kernel,
        npages: int = 12,
        version: str = "13",
        *,
        cls: type[freebsd.VmMap] | None = None,
        fault: freebsd.VmFault | None = None,
        fork: type[freebsd.Fork] | None = None,
        pmap: type[FreeBSDPmap] | None = None,
        swap: int = 0,
        daemon: bool | None = None,
        shortage: Shortage | None = None,
        page_tables: bool = False,
    ) -> None:
        self.k = k
        self.version = version
        self.npages = npages
        self.cls = cls
        self.fork = fork
        self.pages = VERSIONS[version](k, npages, shortage=shortage)
        self.swap = Swap(k, swap) if swap else None
        self.memory = freebsd.Memory(self.pages, swap=self.swap, pmap=pmap, fault=fault, page_tables=page_tables)
        if (swap and daemon is None) or daemon:
            self.pages.start_daemon()
        self.threads: list[Thread] = []
        self.spaces: list[Space] = []

    def space(self, mapped: int = 4, *, name: str = "vm", prot: int = RW) -> Space:
        """A process, with so many pages of anonymous memory from its lowest address on."""
        vm = freebsd.vmspace_alloc(
            self.k,
            LOW,
            LOW + 16 * PAGE,
            version=self.version,
            name=name,
            cls=self.cls,
            fork=self.fork,
            memory=self.memory,
        )
        made = Space(self, vm)
        if mapped:
            assert vm.map.insert(None, 0, LOW, LOW + mapped * PAGE, prot) == 0
        return made

    def spawn(self, body: Callable[..., Coroutine[Any, Any, Any]], *args: Any, name: str | None = None) -> Thread:
        """A thread that the world's end waits for."""
        thread = self.k.spawn(body, *args, name=name or body.__name__)
        self.threads.append(thread)
        return thread

    def end(self, then: Callable[[], Coroutine[Any, Any, Any]] | None = None, *, used: int = 0) -> None:
        """A last thread: when all others are done, and after `then`, every process exits, and nothing may be left.

        Args:
            then: looks at how it has ended.
            used: pages that are in use by others.
        """

        async def last() -> None:
            for thread in self.threads:
                await self.k.join(thread)
            if then is not None:
                await then()
            for space in self.spaces:
                await space.exit()
            freebsd.audit(self.k)
            self.memory.audit()
            assert self.pages.statistics().owned == 0, self.pages.statistics()
            free = self.pages.free.peek()
            assert free == self.npages - used, f"{free} pages are free of {self.npages}, {used} are used"

        self.k.spawn(last, name="last")


class Space:
    """An address space, and what its program knows of what is in it. Places are pages from its lowest address.

    Attributes:
        now: what each page holds; absent: zeros.
        maybe: what a page that came from a fork may hold, as long as nobody has looked.
        forks: for each fork under way, what the pages have held since it began.
        dying: pages that are being unmapped.
        readonly: pages that cannot be written since a call to protect has returned.
    """

    def __init__(self, world: MemoryWorld, vm: freebsd.Vmspace) -> None:
        self.world = world
        self.vm = vm
        self.map = vm.map
        self.now: dict[int, str] = {}
        self.maybe: dict[int, set[str]] = {}
        self.forks: list[dict[int, set[str]]] = []
        self.dying: set[int] = set()
        self.readonly: set[int] = set()
        self.gone = False
        world.spaces.append(self)

    def at(self, page: int) -> int:
        return LOW + page * PAGE

    async def read(self, page: int) -> tuple[int, str]:
        """Read a page: the code, and what was there."""
        rc, found = await freebsd.vmspace_access(self.map, self.at(page), R)
        if rc or found is None:
            return rc, ""
        content = found.content
        if page in self.maybe:
            assert content in self.maybe[page], f"{self.vm} reads {content!r} at {page}, not one of {self.maybe[page]}"
            del self.maybe[page]
            self.now[page] = content
        if page not in self.dying:
            expected = self.now.get(page, ZEROS)
            assert content == expected, f"{self.vm} reads {content!r} at {page}, and it should be {expected!r}"
        return 0, content

    async def write(self, page: int, content: str) -> int:
        """Write to a page: the code."""
        rc, _ = await freebsd.vmspace_access(self.map, self.at(page), W, content)
        if not rc:
            assert page not in self.readonly, f"{self.vm} writes at {page}, which is read-only"
            self.now[page] = content
            self.maybe.pop(page, None)
            for seen in self.forks:
                seen.setdefault(page, {ZEROS}).add(content)
        return rc

    async def fork(self) -> Space | None:
        """The system call fork: the child, or None."""
        seen = {page: {content} for page, content in self.now.items()}
        seen.update({page: set(contents) for page, contents in self.maybe.items()})
        self.forks.append(seen)
        vm = await freebsd.fork1(self.vm)
        self.forks = [other for other in self.forks if other is not seen]
        if vm is None:
            return None
        child = Space(self.world, vm)
        child.maybe = seen
        return child

    async def remove(self, first: int, end: int) -> int:
        """munmap(2)."""
        self.dying.update(range(first, end))
        return await freebsd.vm_map_remove(self.map, self.at(first), self.at(end))

    async def remap(self, first: int, end: int, **kw: Any) -> int:
        """Map anonymous memory where something was unmapped."""
        found = await freebsd.vm_map_find(
            self.map, None, 0, self.at(first), (end - first) * PAGE, 0, freebsd.VMFS_NO_SPACE, **kw
        )
        for page in range(first, end):
            self.now.pop(page, None)
            self.maybe.pop(page, None)
            self.dying.discard(page)
        return found[0]

    async def protect(self, first: int, end: int, prot: int) -> int:
        """mprotect(2)."""
        if prot & W:
            self.readonly.difference_update(range(first, end))
        start, stop = self.at(first), self.at(end)
        rc = await freebsd.vm_map_protect(self.map, start, stop, prot, 0, freebsd.VM_MAP_PROTECT_SET_PROT)
        if not rc and not prot & W:
            self.readonly.update(range(first, end))
        return rc

    async def wire(self, first: int, end: int, flags: int = USER) -> int:
        """mlock(2)."""
        return await freebsd.vm_map_wire(self.map, self.at(first), self.at(end), flags)

    async def unwire(self, first: int, end: int, flags: int = USER) -> int:
        """munlock(2)."""
        return await freebsd.vm_map_unwire(self.map, self.at(first), self.at(end), flags)

    async def exit(self) -> None:
        """_exit(2)."""
        if not self.gone:
            self.gone = True
            await freebsd.vmspace_free(self.vm)

    def translations(self) -> list[tuple[int, int, bool]]:
        """What its pmap maps: page, rights, wired."""
        pmap = self.map.pmap
        assert pmap is not None
        found = pmap.translations(*self.map.bounds)
        return [((one.va - LOW) // PAGE, one.prot, one.wired) for one in found]


def swapped(world: MemoryWorld, space: Space, page: int, content: str) -> None:
    """While the world is built: that page of the first object is in swap."""
    assert world.swap is not None
    _, entry = space.map.entries.lookup(space.at(page))
    assert entry is not None
    if entry.object is None:
        space.map.entry_back(entry)
    assert entry.object is not None
    store = world.memory.store(entry.object)
    slot = len(world.swap.contents) + 1
    world.swap.contents[slot] = content
    world.swap.only += 1
    assert store.pager is not None
    store.pager.assign(page, slot)
    space.now[page] = content


def kernel(
    k: Kernel,
    npages: int,
    version: str = "13",
    *,
    map_pages: int = 8,
    cls: type[Any] | None = None,
    map_cls: type[freebsd.KernelMap] | None = None,
    shortage: Shortage | None = None,
    page_tables: bool = False,
    quantum: int = PAGE,
    qcache_max: int = 0,
    kmem_pages: int = 4,
) -> freebsd.Kmem:
    """A kernel's map and its memory. Arenas import single pages, so that they run out soon."""
    phys = VERSIONS[version](k, npages, shortage=shortage)
    memory = freebsd.Memory(phys, page_tables=page_tables)
    kernel_map = freebsd.kernel_map(k, map_pages, version=version, cls=map_cls, memory=memory)
    return freebsd.kmem_init(
        kernel_map, import_quantum=quantum, qcache_max=qcache_max, kmem_size=kmem_pages * PAGE, cls=cls
    )
