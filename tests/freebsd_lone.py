"""A thread that nobody disturbs, and FreeBSD's maps around it, for tests that go call by call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stressvm.conform.lone import LoneThread
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = freebsd.PAGE_SIZE

#: The threads of the test that runs.
LONE: list[LoneThread] = []


def closing() -> Iterator[None]:
    """For a fixture: whatever a test began is closed after it."""
    yield
    while LONE:
        LONE.pop().close()


class Lone(LoneThread):
    """A kernel with one thread; `begin` ends the building of the world."""

    def begin(self) -> None:
        """From here on the thread runs; the test's fixture ends it."""
        self.start()
        LONE.append(self)


class LoneMap(Lone):
    """A map, and a thread; places are pages from the map's lowest."""

    def __init__(
        self, version: str = "13", *, pages: int = 64, limits: freebsd.Limits | None = None, **kw: Any
    ) -> None:
        super().__init__()
        self.map = freebsd.setup(self.k, pages, version=version, **kw)
        self.map.limits = limits
        freebsd.sysctl(self.k).sgrowsiz = 4 * PAGE
        self.begin()

    def at(self, page: int) -> int:
        """The address of a page."""
        return self.map.min_offset + page * PAGE

    def page(self, addr: int) -> int:
        """The page of an address."""
        return (addr - self.map.min_offset) // PAGE

    def insert(self, start: int, end: int, obj: freebsd.VmObject | None = None, offset: int = 0, **kw: Any) -> int:
        """vm_map_insert under the lock."""
        self.now(self.map.lock.lock())
        result = freebsd.vm_map_insert(self.map, obj, offset * PAGE, self.at(start), self.at(end), **kw)
        self.now(self.map.lock.unlock())
        return result

    def remove(self, start: int, end: int) -> int:
        """vm_map_remove."""
        return self.now(freebsd.vm_map_remove(self.map, self.at(start), self.at(end)))

    def entry(self, page: int) -> freebsd.VmMapEntry:
        """The entry with that page."""
        found, entry = self.map.entries.lookup(self.at(page))
        assert found
        assert entry is not None
        return entry

    def entries(self) -> list[tuple[int, int]]:
        """All entries, in pages."""
        return [(self.page(entry.start), self.page(entry.end)) for entry in self.map.entries]

    @property
    def reserved(self) -> int:
        """How many pages of swap are reserved."""
        return freebsd.ucred(self.k).reserved // PAGE
