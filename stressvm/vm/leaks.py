"""What maps, physical memory and objects must have given back when a world has come to rest; see `stressvm.check.leaks`.

Who has taken what is noted as it happens: of addresses when a map is released that was locked for writing, of pages when
they leave the free list. That costs as much as to look at all entries each time, and is done only where it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stressvm.kernel.balance import Left, nothing_left
from stressvm.kernel.errors import UsageError
from stressvm.vm.pages import PAGE_SIZE, Page, PageQueue, PhysMem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stressvm.kernel.kernel import Kernel

#: Who has taken something, and in which step.
Taken = tuple[int, int]


class AnyEntry(Protocol):
    """What the entries of both faces have."""

    start: int
    end: int
    wired_count: int


class _Addresses:
    """The addresses of one map, and how often its entries are wired."""

    def __init__(self, vm_map: Any) -> None:
        self.map = vm_map
        self.k: Kernel = vm_map.k
        self.name: str = vm_map.name
        self.pages = set(self.covered())
        self.home = self.wirings()
        self.taken: dict[int, Taken] = {}
        lock = vm_map.lock
        inner: Callable[[], None] = lock.on_release

        def on_release() -> None:
            inner()
            self.look()

        lock.on_release = on_release

    def entries(self) -> Iterator[AnyEntry]:
        yield from self.map.entries

    def covered(self) -> Iterator[int]:
        for entry in self.entries():
            yield from range(entry.start, entry.end, PAGE_SIZE)

    def wirings(self) -> dict[int, int]:
        return {
            page: entry.wired_count
            for entry in self.entries()
            if entry.wired_count
            for page in range(entry.start, entry.end, PAGE_SIZE)
        }

    def look(self) -> None:
        """Somebody lets go of the map: what is new in it is his."""
        now = set(self.covered())
        for page in now - self.pages:
            self.taken[page] = (self.k.cur, len(self.k.trace))
        for page in self.pages - now:
            self.taken.pop(page, None)
        self.pages = now

    def left(self) -> Iterator[Left]:
        now = set(self.covered())
        for start, end, taken in _runs({page: by for page, by in self.taken.items() if page in now}):
            yield Left(f"{start:#x}-{end:#x} of {self.name}", f"addresses of {self.name}", *taken)
        wired = {page: count for page, count in self.wirings().items() if page not in self.taken}
        for page, count in wired.items():
            if count > self.home.get(page, 0):
                text = f"{page:#x} of {self.name} is wired {count} times, and was {self.home.get(page, 0)} times"
                yield Left(text, f"wirings of {self.name}")


def _runs(pages: dict[int, Taken]) -> Iterator[tuple[int, int, Taken]]:
    """Neighbouring pages that were taken together, as ranges."""
    start = end = -1
    by = (-1, -1)
    for page in sorted(pages):
        if page != end or pages[page] != by:
            if start >= 0:
                yield start, end, by
            start, by = page, pages[page]
        end = page + PAGE_SIZE
    if start >= 0:
        yield start, end, by


class _FreeList(list[Page]):
    """A list of free pages that notes who takes them."""

    def __init__(self, pages: Iterable[Page], k: Kernel, taken: dict[int, Taken]) -> None:
        super().__init__(pages)
        self.k = k
        self.taken = taken

    def pop(self, *at: Any) -> Page:
        page = super().pop(*at)
        self.taken[page.number] = (self.k.cur, len(self.k.trace))
        return page


class _Pages:
    """Physical memory: pages that are not free, how often they are wired, how often they are mapped."""

    def __init__(self, mem: PhysMem) -> None:
        self.mem = mem
        self.taken: dict[int, Taken] = {}
        self.home = {page.number: (page.wire_count, len(page.pv_list)) for page in self.used()}
        mem.buckets = [
            (_FreeList(unknown, mem.k, self.taken), _FreeList(zeroed, mem.k, self.taken))
            for unknown, zeroed in mem.buckets
        ]

    def used(self) -> Iterator[Page]:
        for page in self.mem.pages:
            if page.queue is not PageQueue.FREE:
                yield page

    def left(self) -> Iterator[Left]:
        for page in self.used():
            wired, mapped = self.home.get(page.number, (0, 0))
            if page.number in self.taken:
                yield Left(f"{page!r}", "pages", *self.taken[page.number])
            elif page.wire_count > wired:
                yield Left(f"{page!r} is wired {page.wire_count} times, and was {wired} times", "wired pages")
            elif len(page.pv_list) > mapped:
                yield Left(f"{page!r} has {len(page.pv_list)} mappings, and had {mapped}", "pv entries")


class _Object:
    """References to an object."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj
        self.home = self.count()

    def count(self) -> int:
        return int(self.obj.ref_count if hasattr(self.obj, "ref_count") else self.obj.refs)

    def left(self) -> Iterator[Left]:
        more = self.count() - self.home
        if more > 0:
            # Objects are told by their own words, which have the count in them.
            yield Left(f"{self.obj!r}, {more} more than at the beginning", f"references to {type(self.obj).__name__}")


class _Told:
    """What says itself what it has left."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def left(self) -> Iterator[Left]:
        for text in self.thing.leaks():
            yield Left(text, f"left by {type(self.thing).__name__}")


def _balance(thing: Any) -> _Addresses | _Pages | _Object | _Told:
    if hasattr(thing, "entries") and hasattr(thing, "lock"):
        return _Addresses(thing)
    if isinstance(thing, PhysMem):
        return _Pages(thing)
    if hasattr(thing, "leaks"):
        return _Told(thing)
    if hasattr(thing, "ref_count") or hasattr(thing, "refs"):
        return _Object(thing)
    raise UsageError(f"expect_back({thing!r}): neither a map, nor physical memory, nor anything with references")


def expect_back(k: Kernel, *things: Any) -> None:
    """The world promises to give back all that it takes of these; what it has at the time of the call is its own.

    While the world is built. If something is left when all threads have ended, that is a `leak`. Locks: none. Sleeps: no.

    Args:
        k: the kernel.
        *things: maps of either face (addresses, wirings), physical memory (pages, their wirings and mappings), objects
            (references), FreeBSD's memory of a map or of maps (all that its own `leaks` says).

    Raises:
        UsageError: it is none of these.
    """
    for number, thing in enumerate(things):
        name = getattr(thing, "name", None) or type(thing).__name__
        nothing_left(k, f"{name} {id(thing)} {number}", _balance(thing).left)
