"""Who is woken when addresses have been freed: policies of a map's wait point.

A policy is a value: it is given to `waiting` (wait_maps.py), and no protocol code knows of it. One's own is a class like
these:

    class Largest:
        name = "largest"
        hands_over = False

        def chosen(self, waiters, space):
            fitting = [one for one in waiters if space.fits(one.size)]
            return [max(fitting, key=lambda one: one.size)] if fitting else []

It must depend on its arguments alone, and on what it has noted itself: make one for each simulation if it notes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from _collections_abc import dict_values
    from collections.abc import Callable, Iterable


@dataclass(slots=True)
class Waiter:
    """A thread that waits for addresses.

    Attributes:
        thread: its number.
        size: bytes that it wants.
        since: the tick of its first failure for this request.
        priority: larger is more urgent.
        sleeps: how often it has slept for this request, the sleep under way included.
    """

    thread: int
    size: int
    since: int
    priority: int = 0
    sleeps: int = 0


@dataclass(frozen=True, slots=True)
class Space:
    """The map as the waker sees it, in its step.

    Attributes:
        now: the tick.
        total: bytes of the map.
        free: bytes that are not mapped.
        largest: of the largest gap.
        freed: the range that has just been freed, half open.
    """

    now: int
    total: int
    free: int
    largest: int
    freed: tuple[int, int]

    def fits(self, size: int) -> bool:
        """Is there a gap for so many bytes?"""
        return size <= self.largest


#: The waiters that sleep, in the order in which they went to sleep; it can be gone through both ways, and has a length.
WaiterView: TypeAlias = "dict_values[int, Waiter]"


class WakePolicy(Protocol):
    """Decides who is woken.

    Attributes:
        name: as tables show it.
        hands_over: who is chosen gets a place at once, which nobody else can find, if there is one; else it is not woken.
    """

    name: str
    hands_over: bool

    def chosen(self, waiters: WaiterView, space: Space, /) -> Iterable[Waiter]:
        """Whom to wake; nobody is an answer, too. Asked whenever addresses were freed and somebody sleeps."""


class WakeAll:
    """All: what the kernels do."""

    name = "all"
    hands_over = False

    def chosen(self, waiters: WaiterView, _space: Space, /) -> Iterable[Waiter]:
        """All."""
        return list(waiters)


class WakeFirst:
    """One: who has slept longest."""

    name = "first"
    hands_over = False

    def chosen(self, waiters: WaiterView, _space: Space, /) -> Iterable[Waiter]:
        """The first."""
        return [next(iter(waiters))]


class WakeLast:
    """One: who has slept shortest, whose cache is warm."""

    name = "last"
    hands_over = False

    def chosen(self, waiters: WaiterView, _space: Space, /) -> Iterable[Waiter]:
        """The last."""
        return [next(iter(reversed(waiters)))]


class WakeUrgent:
    """One: the most urgent, the longest asleep among equals."""

    name = "urgent"
    hands_over = False

    def chosen(self, waiters: WaiterView, _space: Space, /) -> Iterable[Waiter]:
        """The first of the highest priority."""
        return [max(waiters, key=lambda one: one.priority)]


class WakeFitting:
    """As many as there is room for, by their sizes, in order: who would not fit sleeps on.

    `space.free` bounds them together, and the largest gap each of them.
    """

    name = "fitting"
    hands_over = False

    def chosen(self, waiters: WaiterView, space: Space, /) -> Iterable[Waiter]:
        """Those who fit, one after the other."""
        room = space.free
        found = []
        for one in waiters:
            if one.size <= room and space.fits(one.size):
                found.append(one)
                room -= one.size
            if room <= 0:
                break
        return found


class HandOver(WakeFitting):
    """As `WakeFitting`, and each is given its place: nobody comes in between, and nobody is woken for nothing."""

    name = "hand-off"
    hands_over = True


class HandOverInOrder:
    """Each is given its place, strictly in order: as long as the first does not fit, nobody behind it is woken.

    The big waiter wins, at the price of room that stays free meanwhile.
    """

    name = "hand-off-in-order"
    hands_over = True

    def chosen(self, waiters: WaiterView, space: Space, /) -> Iterable[Waiter]:
        """The first ones, up to one that does not fit."""
        room = space.free
        found = []
        for one in waiters:
            if one.size > room or not space.fits(one.size):
                break
            found.append(one)
            room -= one.size
        return found


class WakeWithHysteresis:
    """All, but not before a share of the map is free; then at every release, until less than another share is.

    Args:
        low: share of the map, 0 to 1: with less free, waking stops.
        high: share that has to be free for it to begin again; at least `low`.
    """

    hands_over = False

    def __init__(self, low: float = 0.125, high: float = 0.25) -> None:
        if not 0 <= low <= high <= 1:
            raise UsageError(f"WakeWithHysteresis(low={low}, high={high}): 0 <= low <= high <= 1")
        self.name = f"hysteresis-{low:g}-{high:g}"
        self.low = low
        self.high = high
        self.waking = False

    def chosen(self, waiters: WaiterView, space: Space, /) -> Iterable[Waiter]:
        """All, or nobody."""
        self.waking = space.free >= (self.low if self.waking else self.high) * space.total
        return list(waiters) if self.waking else []


#: Makers by name: a policy that notes something is made for each simulation.
WAKE_POLICIES: Final[dict[str, Callable[[], WakePolicy]]] = {
    "all": WakeAll,
    "first": WakeFirst,
    "last": WakeLast,
    "urgent": WakeUrgent,
    "fitting": WakeFitting,
    "hand-off": HandOver,
    "hand-off-in-order": HandOverInOrder,
    "hysteresis": WakeWithHysteresis,
}


@dataclass(frozen=True, slots=True)
class Backoff:
    """What to do when a trylock fails: wait and try again, a little longer each time, and only then queue for the lock.

    Attributes:
        first: ticks of the first wait.
        factor: each wait is so many times the last one.
        most: ticks of the longest wait.
        tries: after so many tries the lock is queued for.
    """

    first: int
    factor: int = 2
    most: int = 1_000_000
    tries: int = 10

    def __post_init__(self) -> None:
        """Raises UsageError for what is no back-off."""
        if self.first < 0 or self.factor < 1 or self.most < self.first or self.tries < 1:
            raise UsageError(f"{self}: ticks count from 0, first <= most, factor and tries are at least 1")

    def waits(self) -> Iterable[int]:
        """Ticks to wait after each try but the last."""
        ticks = self.first
        for _ in range(self.tries - 1):
            yield ticks
            ticks = min(ticks * self.factor, self.most)
