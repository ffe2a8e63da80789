"""A NetBSD map with a single thread that nobody disturbs; places are pages from the map's lowest."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from stressvm.conform.lone import LoneThread
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stressvm.vm.netbsd import MapEntry, VmMap

PAGE = netbsd.PAGE_SIZE
FIXED = netbsd.UVM_FLAG_FIXED


class One(LoneThread):
    """The thread and its map, of 16 pages unless said otherwise.

    Args:
        pages: of the map.
        build: called with the map while the world is still being built.
        settings: as for netbsd.setup.
    """

    def __init__(self, pages: int = 16, build: Callable[[VmMap], Any] | None = None, **settings: Any) -> None:
        super().__init__()
        self.kmap = netbsd.setup(self.k, pages, **settings)
        if build is not None:
            build(self.kmap)
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def at(self, page: int) -> int:
        """The address of a page."""
        return self.kmap.min_offset + page * PAGE

    def page(self, va: int) -> int:
        """The other way round."""
        return (va - self.kmap.min_offset) // PAGE

    def map(self, page: int, pages: int = 1, flags: int = 0, **how: Any) -> int:
        """uvm_map at that very place; the error."""
        error, va = self.now(netbsd.uvm_map(self.kmap, self.at(page), pages * PAGE, flags=FIXED | flags, **how))
        assert error or va == self.at(page)
        return error

    def unmap(self, page: int, pages: int = 1, flags: int = 0) -> None:
        """uvm_unmap."""
        self.now(netbsd.uvm_unmap(self.kmap, self.at(page), self.at(page + pages), flags))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """With the map read-locked."""
        self.now(self.kmap.lock.lock_read())
        yield
        self.now(self.kmap.lock.unlock_read())

    def entry(self, page: int) -> MapEntry:
        """The entry that covers a page."""
        found, entry = self.kmap.entries.lookup(self.at(page))
        assert found
        assert entry is not None
        return entry

    def ranges(self, of: VmMap | None = None) -> list[tuple[int, int]]:
        """All entries, as pages."""
        kmap = of if of is not None else self.kmap
        low = kmap.min_offset
        return [((entry.start - low) // PAGE, (entry.end - low) // PAGE) for entry in kmap.entries]

    def each(self, name: str) -> list[Any]:
        """An attribute of every entry."""
        return [getattr(entry, name) for entry in self.kmap.entries]
