"""Worlds of one FreeBSD map: small programs that wire, unmap, protect and fault at once, and what can be seen of how they end."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from stressvm.vm import freebsd
from stressvm.vm.freebsd import Fault, MapKind, Search

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from stressvm.bench.defects.defect import Build
    from stressvm.bench.defects.defect import World as Making
    from stressvm.kernel.kernel import Kernel

    Body: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]

PAGE: Final = freebsd.PAGE_SIZE
LOW: Final = 0x1_0000_0000
READ, WRITE, RW = freebsd.VM_PROT_READ, freebsd.VM_PROT_WRITE, freebsd.VM_PROT_RW
USER, SYSTEM = freebsd.VM_MAP_WIRE_USER, freebsd.VM_MAP_WIRE_SYSTEM
HOLESOK = freebsd.VM_MAP_WIRE_HOLESOK


def pages(*numbers: int) -> list[int]:
    """The addresses of pages of such a map."""
    return [LOW + number * PAGE for number in numbers]


#: A call of vm_map(9) on a range: its name, first page, page behind the last, and flags, protection or inheritance.
Call = tuple[str, int, int, int]


class World:
    """A map of 8 pages, and threads.

    When the last thread is done, nothing of the work may be left, and what has come of it is recorded: what the calls
    returned, and the entries.
    """

    def __init__(
        self,
        k: Kernel,
        cls: type[freebsd.VmMap],
        *,
        kind: MapKind = MapKind.USER,
        search: Search = Search.FIRST_FIT,
        fault: Fault | None = None,
    ) -> None:
        self.k = k
        self.map = freebsd.setup(k, 8, cls=cls, kind=kind, search=search, min_offset=LOW, fault=fault)
        self.results: dict[str, Any] = {}
        self.running = 0
        #: Called when the last thread is done.
        self.at_end: list[Callable[[], object]] = []

    def insert(self, start: int, end: int, obj: freebsd.VmObject | None = None, offset: int = 0, **kw: Any) -> None:
        assert self.map.insert(obj, offset * PAGE, *pages(start, end), **kw) == 0

    def spawn(self, name: str, body: Body, *args: Any) -> None:
        """A thread; its result is kept by its name."""
        self.running += 1

        async def thread() -> None:
            self.results[name] = await body(*args)
            self.running -= 1
            if not self.running:
                self.settled()
                self.k.record(did=self.outcome())

        self.k.spawn(thread, name=name)

    def call(self, call: Call, name: str = "") -> None:
        """A thread that does one call."""
        self.spawn(name or f"{call[0]}{self.running}", self.do, call)

    async def do(self, call: Call) -> int:
        word, start, end, argument = call
        low, high = pages(start, end)
        if word == "wire":
            return await freebsd.vm_map_wire(self.map, low, high, argument)
        if word == "unwire":
            return await freebsd.vm_map_unwire(self.map, low, high, argument)
        if word == "remove":
            return await freebsd.vm_map_remove(self.map, low, high)
        if word == "inherit":
            return await freebsd.vm_map_inherit(self.map, low, high, argument)
        assert word == "protect"
        flags = freebsd.VM_MAP_PROTECT_SET_PROT
        return await freebsd.vm_map_protect(self.map, low, high, argument, 0, flags)

    def settled(self) -> None:
        """Nobody is at work any more, and nothing says otherwise."""
        for entry in self.map.entries:
            assert not entry.eflags & freebsd.MAP_ENTRY_IN_TRANSITION, f"{entry!r} is in transition for ever"
            assert entry.wired_count >= 0
        assert not self.map.lock.busy_count
        self.map.check()
        for look in self.at_end:
            look()

    def outcome(self) -> str:
        """What the calls returned and the entries, those joined that look alike."""
        return f"{sorted(self.results.items())} {seen(self.map)}"


def seen(vm_map: freebsd.VmMap) -> list[list[int]]:
    """The entries: start, end, protection, inheritance, wirings, wired by the user; those joined that look alike."""
    joined: list[list[int]] = []
    for entry in vm_map.entries:
        start, end = (entry.start - LOW) // PAGE, (entry.end - LOW) // PAGE
        user = int(bool(entry.eflags & freebsd.MAP_ENTRY_USER_WIRED))
        like = [entry.protection, entry.inheritance, entry.wired_count, user]
        if joined and joined[-1][1] == start and joined[-1][2:] == like:
            joined[-1][1] = end
        else:
            joined.append([start, end, *like])
    return joined


def build(program: Callable[[World], None], cls: type[freebsd.VmMap], **kw: Any) -> Build:
    """A world with that program; a `fault` is made anew for each."""
    make = kw.pop("fault", Fault)

    def built(k: Kernel) -> None:
        program(World(k, cls, fault=make(), **kw))

    return built


@cache
def on_one_map(program: Callable[[World], None]) -> Making:
    """Worlds with that program, by the map's class and the settings of `World`."""

    def world(cls: type[freebsd.VmMap] = freebsd.VmMap13, **kw: Any) -> Build:
        return build(program, cls, **kw)

    return world
