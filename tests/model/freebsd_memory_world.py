"""The world of `freebsd_memory_machine`: processes, the kernel's memory, and what they are made of."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from stressvm.vm import freebsd
from stressvm.vm.pages import PageObject, PageQueue, Shortage, Swap, VmPages13, VmPages2013
from stressvm.vm.pmap import FreeBSDPmap
from tests.model.freebsd_memory_end import last
from tests.model.freebsd_memory_turns import ALL, COPIED, LOW, OK, PAGE, PAGES, RW
from tests.model.freebsd_rights_machine import stepped_back

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm import Kernel

#: Page frames if they are not to run low soon.
FRAMES: Final = 28
#: The kernel's map: where it begins, and its pages, which are more than any program can have.
KERNEL_LOW: Final = 0xFFFF_F800_0000_0000
KERNEL_PAGES: Final = 256
#: Files of four pages, of which the last is not in the file, and holds zeros.
FILES: Final = {"text": freebsd.Pager("text", missing={3}, errors={2}), "data": freebsd.Pager("data", missing={3})}
FILE_PAGES: Final = 4

#: Pieces of memory: pages left out before it, pages, protection, is it a file's?
Layout = list[tuple[int, int, int, bool]]


@dataclass(slots=True, eq=False)
class Space:
    """A process's address space; `users` are the operations that are at work in it."""

    vm: freebsd.Vmspace
    users: int = 0
    gone: bool = False

    @property
    def map(self) -> freebsd.VmMap:
        """Its map."""
        return self.vm.map

    @staticmethod
    def span(at: int, pages: int) -> tuple[int, int]:
        """Addresses, cut to the space."""
        return LOW + at * PAGE, LOW + min(at + pages, PAGES) * PAGE


@dataclass(slots=True, eq=False)
class Block:
    """What the kernel has allocated: kernel memory with its contents, or addresses only (`text` is empty)."""

    addr: int
    pages: int
    text: str
    users: int = 0
    gone: bool = False


@dataclass(slots=True, eq=False)
class World:
    """Processes, the kernel's memory, what is under them, and how the last thread found it.

    Attributes:
        without: what the programs leave out: "wire", "protect", "copy" or "".
        entries: for each space that is left, its pages when all threads were done (`freebsd_memory_end.entries`).
        contents: what was read then, by space and page: a code, and the contents.
        user_wired: as many bytes were counted as wired by users.
    """

    k: Kernel
    memory: freebsd.Memory
    kmem: freebsd.Kmem
    spaces: list[Space]
    files: dict[str, freebsd.VmObject]
    old: PageObject
    without: str
    blocks: list[Block] = field(default_factory=list)
    begun: bool = False
    done: bool = False
    entries: dict[int, dict[int, list[int]]] = field(default_factory=dict)
    contents: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict)
    user_wired: int = 0

    @property
    def version(self) -> str:
        """ "13" or "2013"."""
        return self.memory.pages.version

    def begin(self) -> None:
        """At the first operation of all: the page daemon, and the thread that comes last."""
        if not self.begun:
            self.begun = True
            programs = list(self.k.threads)
            self.memory.pages.start_daemon()
            self.k.spawn(last, self, programs, name="last")

    @contextmanager
    def using(self, which: int | None, what: str = "") -> Iterator[Space | None]:
        """Be at work in a space; None if there is none, or `what` is left out."""
        self.begin()
        space = self.spaces[which] if which is not None and which < len(self.spaces) else None
        if space is None or space.gone or (what and what == self.without):
            yield None
            return
        space.users += 1
        try:
            yield space
        finally:
            space.users -= 1

    @contextmanager
    def holding(self, which: int | None) -> Iterator[Block | None]:
        """Be at work with kernel memory that is not freed yet."""
        self.begin()
        block = self.blocks[which] if which is not None else None
        if block is None or block.gone:
            yield None
            return
        block.users += 1
        try:
            yield block
        finally:
            block.users -= 1

    def allocated(self, addr: int, pages: int, text: str = "") -> int:
        """The kernel has got that; nobody else has any of it."""
        assert self.kmem.map.min_offset <= addr <= self.kmem.map.max_offset - pages * PAGE
        for block in self.blocks:
            apart = addr + pages * PAGE <= block.addr or block.addr + block.pages * PAGE <= addr
            assert block.gone or apart, f"{addr:#x} and {pages} pages: some of it is {block}"
        self.blocks.append(Block(addr, pages, text))
        return len(self.blocks) - 1

    def given_back(self, which: int | None) -> Block | None:
        """That is about to be freed, if nobody is at work with it."""
        block = self.blocks[which] if which is not None else None
        if block is None or block.gone or block.users:
            return None
        block.gone = True
        return block

    async def free(self, block: Block) -> None:
        """Free it."""
        call = freebsd.kmem_free if block.text else freebsd.kva_free
        await call(self.kmem, block.addr, block.pages * PAGE)

    def kind_of(self, kind: str, at: int) -> str:
        """What is really mapped there: no file that is copied if nothing is to be; one that can be written only in the upper part."""
        if kind == "text":
            # 10.4 does not tell those that share a copy (see the scenario freebsd2013_copy_unseen).
            return "anon" if self.without == "copy" or (at >= COPIED and self.version == "2013") else kind
        return "anon" if at < COPIED else kind

    def mapping(self, kind: str, at: int) -> tuple[freebsd.VmObject | None, int]:
        """The object of a mapping, with a reference for it, and the flags."""
        cow = freebsd.MAP_INHERIT_SHARE if at >= COPIED else 0
        if kind == "anon":
            return None, cow
        self.files[kind].reference()
        return self.files[kind], cow | (freebsd.MAP_COPY_ON_WRITE if kind == "text" else 0)


@dataclass(frozen=True, slots=True)
class Version:
    """What a version is made of; a planted defect is another one of these.

    `leaves_out`: its programs leave out one of these, as they meet what was wrong with it.
    """

    name: str
    map: type[freebsd.VmMap]
    phys: type[VmPages13 | VmPages2013]
    fault: type[freebsd.VmFault]
    fork: type[freebsd.Fork]
    kmem: type[freebsd.Kmem13 | freebsd.Kmem2013]
    pmap: type[FreeBSDPmap] = FreeBSDPmap
    leaves_out: tuple[str, ...] = ("",)


VERSION_13 = Version("13", freebsd.VmMap13, VmPages13, freebsd.VmFault, freebsd.Fork, freebsd.Kmem13)
VERSION_2013 = Version(
    "2013",
    freebsd.VmMap2013,
    VmPages2013,
    freebsd.VmFault2013,
    freebsd.Fork2013,
    freebsd.Kmem2013,
    leaves_out=("wire", "protect", "copy"),
)


def make_world(
    k: Kernel,
    version: Version,
    *,
    layouts: list[Layout],
    shared: str,
    frames: int | None,
    old: int,
    short: list[int],
    page_tables: bool,
    without: str,
) -> World:
    """A process for each layout. `frames`: so many page frames, besides `old` ones that the daemon can take."""
    # Whoever waits for pages gets as many as a fault may need at once, with its page tables: it would spin for ever.
    phys = version.phys(
        k,
        (FRAMES if frames is None else frames) + old,
        v_interrupt_free_min=0,
        v_free_reserved=1,
        v_free_min=6,
        v_free_target=7,
        shortage=Shortage(short, certain=True),
    )
    memory = freebsd.Memory(phys, swap=Swap(k, 48), pmap=version.pmap, fault=version.fault(), page_tables=page_tables)
    unused = PageObject(k, "old", Swap(k, 8))
    if old:
        phys.fill(unused, old, queue=PageQueue.INACTIVE)
    files = {name: freebsd.VmObject(FILE_PAGES, pager=pager) for name, pager in FILES.items()}
    for file in files.values():
        freebsd.vm_object_hold(k, file)
    kmem = kernel_memory(k, version, memory)
    world = World(k, memory, kmem, [], files, unused, without)
    cls = stepped_back(version.map)
    for number, layout in enumerate(layouts):
        vm = freebsd.vmspace_alloc(
            k,
            LOW,
            LOW + PAGES * PAGE,
            version=version.name,
            name=f"p{number}",
            cls=cls,
            fork=version.fork,
            memory=memory,
        )
        world.spaces.append(Space(vm))
        lay_out(world, world.spaces[-1], layout, shared)
    return world


def kernel_memory(k: Kernel, version: Version, memory: freebsd.Memory) -> freebsd.Kmem:
    """The kernel's map, whose page tables are there (without a page for one, it panics), and its arenas."""
    end = KERNEL_LOW + KERNEL_PAGES * PAGE
    kernel_map = freebsd.kernel_map(
        k, KERNEL_PAGES, version=version.name, min_offset=KERNEL_LOW, kernel_vm_end=end, memory=memory
    )
    return freebsd.kmem_init(kernel_map, import_quantum=PAGE, qcache_max=0, kmem_size=64 * PAGE, cls=version.kmem)


def lay_out(world: World, space: Space, layout: Layout, shared: str) -> None:
    """Map the pieces, and the upper part; a file is mapped from its start on."""
    pieces = []
    at = 0
    for gap, pages, prot, from_file in layout:
        pieces.append((at + gap, min(at + gap + pages, COPIED), "text" if from_file else "anon", prot))
        at += gap + pages
    if shared:
        pieces.append((COPIED, PAGES, shared, RW))
    for first, end, kind, prot in pieces:
        if first < end:
            start, stop = space.span(first, end - first)
            obj, cow = world.mapping(world.kind_of(kind, first), first)
            assert space.map.insert(obj, 0, start, stop, prot, ALL, cow) == OK
