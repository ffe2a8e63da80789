"""Linux's maple tree, 2023 (CVE-2023-3269, "StackRot"): a stack grows, and others look at a node of the tree that is no more.

The mappings of an address space are in a tree. Who looks something up holds mmap_lock for reading. Who changes the tree holds it
for writing, with one exception, which was harmless while the tree could be changed in place: a stack grew with the lock held for
reading. The maple tree of 6.1 changes a node by putting a copy in its place, and frees the old one when no RCU reader can see
it; those who hold only mmap_lock are none.

Source: Linux, mm/memory.c and mm/mmap.c, expand_stack of 6.1 to 6.4; repaired by locking for writing first. From memory. Here
a tree of two levels, whose nodes are freed at once.
"""

from __future__ import annotations

from typing import NamedTuple

from stressvm import Cell, Kernel, Sx, scenario

SOURCE = "Linux, mm/mmap.c, expand_stack, 6.1 to 6.4; CVE-2023-3269"


class Vma(NamedTuple):
    """struct vm_area_struct: the pages from `start` on, below `end`; does it grow downwards?"""

    start: int
    end: int
    grows: bool = False


class Node:
    """struct maple_node: a leaf, with some mappings in order; None when its memory is somebody else's."""

    def __init__(self, k: Kernel, number: int, vmas: tuple[Vma, ...]) -> None:
        self.k = k
        self.name = f"node{number}"
        self.slots: Cell[tuple[Vma, ...] | None] = Cell(k, vmas, f"{self.name}.slots")

    async def read(self) -> tuple[Vma, ...]:
        """The mappings. Panics if it has been freed: KASAN's word."""
        slots = await self.slots.load()
        if slots is None:
            raise self.k.panic(f"KASAN: slab-use-after-free in mas_walk: {self.name}")
        return slots


class Mm:
    """struct mm_struct. Addresses are numbers of pages.

    Args:
        k: the kernel.
        leaves: what is mapped, by leaf of the tree, in order.
    """

    def __init__(self, k: Kernel, *leaves: tuple[Vma, ...]) -> None:
        self.k = k
        self.mmap_lock = Sx(k, "mmap_lock")
        self.made = 0
        #: The root: its leaves, each with the address at which its last mapping ends.
        self.root = Cell(k, tuple((leaf[-1].end, self.node(leaf)) for leaf in leaves), "root")

    def node(self, vmas: tuple[Vma, ...]) -> Node:
        """A new leaf."""
        self.made += 1
        return Node(self.k, self.made, vmas)

    async def walk(self, addr: int) -> tuple[Node | None, Vma | None]:
        """mas_walk: the first mapping that ends above an address, and its leaf. Locks: mmap_lock."""
        for end, leaf in await self.root.load():
            if addr < end:
                return leaf, next(vma for vma in await leaf.read() if addr < vma.end)
        return None, None

    async def fault(self, addr: int) -> bool:
        """A page fault; False: nothing may be there. Locks: takes mmap_lock."""
        await self.mmap_lock.slock()
        _, vma = await self.walk(addr)
        good = vma is not None and (vma.start <= addr or (vma.grows and await self.expand_stack(addr)))
        await self.mmap_lock.unlock()
        return good

    async def expand_stack(self, addr: int) -> bool:
        """Let the stack above begin at an address. Locks: mmap_lock for reading; for writing meanwhile, and given up for that."""
        await self.mmap_lock.unlock()
        await self.mmap_lock.xlock()
        good = await self.expand_locked(addr)
        await self.mmap_lock.downgrade()
        return good

    async def expand_locked(self, addr: int) -> bool:
        """expand_stack_locked: the leaf is replaced by a copy, and freed. Locks: mmap_lock, for writing."""
        leaf, vma = await self.walk(addr)
        if leaf is None or vma is None or not vma.grows:
            return False
        slots = tuple(each._replace(start=min(addr, each.start)) if each is vma else each for each in await leaf.read())
        copy = self.node(slots)
        await self.root.store(tuple((end, copy if each is leaf else each) for end, each in self.root.peek()))
        leaf.slots.poke(None)
        return True


class GrowsWithReaders(Mm):
    """An address space whose stacks grow with the lock held for reading."""

    async def expand_stack(self, addr: int) -> bool:
        """At once."""
        return await self.expand_locked(addr)


def two_faults(k: Kernel, cls: type[Mm]) -> None:
    """One thread needs more stack, another has a page fault in a mapping of the same leaf."""
    mm = cls(k, (Vma(0, 2), Vma(4, 6)), (Vma(8, 10), Vma(16, 20, grows=True)))

    async def faults(addr: int) -> None:
        assert await mm.fault(addr), f"SIGSEGV at {addr}"

    k.spawn(faults, 15, name="needs stack")
    k.spawn(faults, 9, name="faults")


@scenario(expect="panic", source=SOURCE)
def se_08_stack_grows_under_the_read_lock(k: Kernel) -> None:
    """The leaf that one has found is freed by the other."""
    two_faults(k, GrowsWithReaders)


@scenario(source=SOURCE, executions=200)
def se_08_stack_grows_under_the_read_lock_ok(k: Kernel) -> None:
    """Nobody looks at the tree while it is changed."""
    two_faults(k, Mm)
