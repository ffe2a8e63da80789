"""A zone of structures, as uma(9) and objcache(9) have them, which notices when one is freed that is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from stressvm import Mutex

if TYPE_CHECKING:
    from stressvm import Kernel

T = TypeVar("T")


class Zone(Generic[T]):
    """The structures of one kind that are free.

    Args:
        k: the kernel.
        name: as reports show it.

    Attributes:
        items: them, the last freed last.
    """

    def __init__(self, k: Kernel, name: str) -> None:
        self.k = k
        self.name = name
        self.lock = Mutex(k, f"{name} zone")
        self.items: list[T] = []

    async def free(self, item: T) -> None:
        """What zfree does. Locks: takes the zone's. Sleeps: for that. Panics if it is free already."""
        await self.lock.lock()
        if item in self.items:
            raise self.k.panic(f"zfree: {self.name}: freed twice")
        self.items.append(item)
        await self.lock.unlock()
