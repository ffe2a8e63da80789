"""What of a program on NetBSD's map makes its state, beside the kernel's objects and the threads' places.

The timestamp goes up with every acquisition of the write lock, for ever in an endless schedule. All that anybody asks of
it is whether it is still what it was at a certain moment; so that is what a state has of it. What the map's ghost keeps
is for the invariants alone, and the hint is only to be quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stressvm.vm import netbsd

if TYPE_CHECKING:
    from stressvm.conform.netbsd_programs import World
    from stressvm.kernel.object import KernelObject


class States:
    """See `stressvm.explore.state_key.World`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kmap = kmap = world.kmap
        self.names = {
            id(world): "world",
            id(kmap): "map",
            id(kmap.lock): "map lock",
            id(kmap.ghost): "ghost",
            id(kmap.entries): "entries",
            id(kmap.fault): "fault",
            id(world.program): "program",
        }

    def state(self) -> Any:
        """The map, and what each thread has got so far."""
        kmap = self.kmap
        first_free = None if kmap.first_free is None else kmap.first_free.start
        entries = [self.entry(entry) for entry in kmap.entries]
        return (self.world.results, entries, first_free, kmap.size, kmap.ref_count, kmap.lock.busy_thread)

    def entry(self, entry: netbsd.MapEntry) -> Any:
        """All of an entry of a map that is about addresses alone: nothing is behind it."""
        return (
            entry.start,
            entry.end,
            (entry.protection, entry.max_protection, entry.inheritance, entry.advice),
            (entry.etype, entry.offset, entry.wired_count, entry.flags),
            (entry.object, entry.sub_map, entry.amap, entry.home),
        )

    def name(self, value: object) -> Any:
        """An entry of the map by its start; one that is not in it by all that it is."""
        if isinstance(value, netbsd.MapEntry):
            return value.start if value.owner is not None else ("gone", self.entry(value))
        return self.names.get(id(value))

    def local(self, name: str, value: Any) -> Any:
        """Of a timestamp, whether the map's is still that."""
        return value == self.kmap.lock.timestamp.peek() if name == "timestamp" else value

    def matters(self, obj: KernelObject) -> bool:
        """All do but the timestamp."""
        return obj is not self.kmap.lock.timestamp
