"""A FreeBSD map and a thread that nobody disturbs; places are pages from the map's lowest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stressvm.conform.lone import LoneThread
from stressvm.vm import freebsd
from stressvm.vm.freebsd import Fault, LookupFault, MapKind

if TYPE_CHECKING:
    from collections.abc import Collection

PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000
USER = freebsd.VM_MAP_WIRE_USER
SYSTEM = freebsd.VM_MAP_WIRE_SYSTEM
HOLESOK = freebsd.VM_MAP_WIRE_HOLESOK
#: What nobody may find in an entry when nobody is at work on the map.
TRANSIENT = freebsd.MAP_ENTRY_IN_TRANSITION | freebsd.MAP_ENTRY_NEEDS_WAKEUP | freebsd.MAP_ENTRY_WIRE_SKIPPED


class Wired(NamedTuple):
    """An entry as far as wiring can be seen."""

    start: int
    end: int
    times: int = 0
    user: bool = False


def pages(*numbers: int) -> list[int]:
    """The addresses of pages."""
    return [LOW + number * PAGE for number in numbers]


class LoneMap(LoneThread):
    """A map of 16 pages.

    Args:
        version: "13" or "2013".
        kind: its lock and pmap.
        bad: the pages at which faults fail.
        lookup: do faults look into the map?
    """

    def __init__(
        self,
        version: str = "13",
        kind: MapKind = MapKind.USER,
        *,
        bad: Collection[int] = (),
        lookup: bool = False,
    ) -> None:
        super().__init__()
        fault = (LookupFault if lookup else Fault)(pages(*bad))
        self.map = freebsd.setup(self.k, 16, version=version, kind=kind, min_offset=LOW, fault=fault)
        self.start()
        # The thread's own coroutine is never run.
        self.close()

    def at(self, page: int) -> int:
        return LOW + page * PAGE

    # ------------------------------------------------------------ calls

    def insert(self, start: int, end: int, obj: freebsd.VmObject | None = None, offset: int = 0, **kw: Any) -> None:
        """Lock, vm_map_insert, which must succeed, unlock."""
        self.now(self.map.lock.lock())
        assert freebsd.vm_map_insert(self.map, obj, offset * PAGE, self.at(start), self.at(end), **kw) == 0
        self.now(self.map.lock.unlock())

    def remove(self, start: int, end: int) -> int:
        return self.now(freebsd.vm_map_remove(self.map, self.at(start), self.at(end)))

    def wire(self, start: int, end: int, flags: int = USER) -> int:
        return self.now(freebsd.vm_map_wire(self.map, self.at(start), self.at(end), flags))

    def unwire(self, start: int, end: int, flags: int = USER) -> int:
        return self.now(freebsd.vm_map_unwire(self.map, self.at(start), self.at(end), flags))

    def protect(self, start: int, end: int, prot: int | None = None, max_prot: int | None = None) -> int:
        """vm_map_protect, setting what is given."""
        flags = freebsd.VM_MAP_PROTECT_SET_PROT if prot is not None else 0
        flags |= freebsd.VM_MAP_PROTECT_SET_MAXPROT if max_prot is not None else 0
        call = freebsd.vm_map_protect(self.map, self.at(start), self.at(end), prot or 0, max_prot or 0, flags)
        return self.now(call)

    def inherit(self, start: int, end: int, inheritance: int) -> int:
        return self.now(freebsd.vm_map_inherit(self.map, self.at(start), self.at(end), inheritance))

    def look(self, page: int, fault_type: int, *, copy: bool = False) -> tuple[int, freebsd.Found | None]:
        """vm_map_lookup, and vm_map_lookup_done if it succeeded."""
        result, found = self.now(freebsd.vm_map_lookup(self.map, self.at(page), fault_type, copy=copy))
        assert (found is None) == bool(result)
        if found is not None:
            self.now(freebsd.vm_map_lookup_done(found))
        return result, found

    # ------------------------------------------------------------ what can be seen

    @property
    def timestamp(self) -> int:
        return self.map.lock.timestamp.peek()

    def entry(self, page: int) -> freebsd.VmMapEntry:
        """The entry at a page."""
        found, entry = self.map.entries.lookup(self.at(page))
        assert found
        assert entry is not None
        return entry

    def shape(self) -> list[tuple[int, int]]:
        """Where the entries are."""
        return [((entry.start - LOW) // PAGE, (entry.end - LOW) // PAGE) for entry in self.map.entries]

    def prots(self) -> list[tuple[int, int, int]]:
        """The entries with their protections."""
        return [(*where, entry.protection) for where, entry in zip(self.shape(), self.map.entries, strict=True)]

    def wired(self) -> list[Wired]:
        """The entries as far as wiring can be seen; nothing may be left of the work on them."""
        for entry in self.map.entries:
            assert not entry.eflags & TRANSIENT
            assert entry.wiring_thread == -1
        assert not self.map.lock.busy_count
        return [
            Wired(*where, entry.wired_count, bool(entry.eflags & freebsd.MAP_ENTRY_USER_WIRED))
            for where, entry in zip(self.shape(), self.map.entries, strict=True)
        ]

    def free(self) -> bool:
        """Does nobody hold the map's lock, in whatever way?"""
        lock = self.map.lock
        if isinstance(lock, freebsd.SystemMapLock):
            return not lock.system_mtx.owned()
        return not lock.sx.xlocked() and not lock.sx.read_held()
