"""What of a program on FreeBSD's map makes its state, beside the kernel's objects and the threads' places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm.vm import freebsd

if TYPE_CHECKING:
    from stressvm.conform.freebsd_world import World
    from stressvm.kernel.object import KernelObject

#: What has all that it is in its own slots.
TOLD: Final = (freebsd.VmObject, freebsd.Ucred, freebsd.Pass, freebsd.UserWireCount)


def _fields(value: object, *left_out: str) -> list[Any]:
    """The values of an object's own slots."""
    return [getattr(value, name) for name in type(value).__slots__ if name not in left_out]  # type: ignore[attr-defined]


class States:
    """See `stressvm.explore.state_key.World`."""

    def __init__(self, world: World) -> None:
        self.world = world
        one = world.map
        self.names = {
            id(world): "world",
            id(one): "map",
            id(one.lock): "map lock",
            id(one.entries): "entries",
            id(one.tree): "tree",
            id(one.fault): "fault",
            id(world.program): "program",
        }
        self.names |= {id(task): f"task {number}" for number, task in enumerate(world.tasks)}
        #: Objects are told by their order: of the map's entries, then of the threads' variables.
        self.numbers: dict[int, int] = {}

    def state(self) -> Any:
        """The map, and what each thread has got so far."""
        self.numbers.clear()
        one = self.world.map
        lock = one.lock
        return (
            [(task.results, task.held) for task in self.world.tasks],
            [self.entry(entry) for entry in one.entries],
            (one.size, one.anon_loc, one.needs_wakeup, sorted(one.seams), one.dropped),
            (lock.last_timestamp, lock.busy_count, lock.busy_wakeup, getattr(lock, "writing", None)),
        )

    def entry(self, entry: freebsd.VmMapEntry) -> Any:
        """All of an entry but its links in the list."""
        links = [None if child is None else child.start for child in (entry.left, entry.right)]
        return (entry.start, entry.end, _fields(entry, "left", "right"), links)

    def name(self, value: object) -> Any:
        """An entry of the map by its start; one that has left it, and an object, by all that they are."""
        known = self.names.get(id(value))
        if known is not None:
            return known
        if isinstance(value, freebsd.VmMapEntry):
            return value.start if value.owner is not None else ("gone", self.entry(value))
        if isinstance(value, TOLD):
            number = self.numbers.get(id(value))
            if number is not None:
                return number
            self.numbers[id(value)] = len(self.numbers)
            return _fields(value)
        return None

    def local(self, _name: str, value: Any) -> Any:
        """Everything as it is: schedules end, so timestamps do not go on for ever."""
        return value

    def matters(self, _obj: KernelObject) -> bool:
        """All do."""
        return True
