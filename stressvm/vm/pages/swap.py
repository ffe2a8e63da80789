"""Swap: slots that hold the contents of pages, and the pager of an object that remembers which slot is whose.

Source: sys/uvm/uvm_swap.c and uvm_aobj.c of NetBSD 6.99.16. FreeBSD's swap pager is taken to do the like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.kernel.mutex import Mutex

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


@dataclass(frozen=True, slots=True)
class SwapStatistics:
    """A snapshot, in slots: how many there are, are allocated, and hold what is in no page any more."""

    available: int
    in_use: int
    only: int


class Swap:
    """All swap there is. Slots are numbered from 1; 0 stands for none.

    Args:
        k: the kernel.
        slots: how many pages it can hold.

    Attributes:
        lock: uvm_swap_data_lock; protects the rest.
        contents: what each allocated slot holds; None until it is written.
        only: swpgonly, the pages whose contents are in swap only.
    """

    __slots__ = ("contents", "lock", "only", "slots")

    def __init__(self, k: Kernel, slots: int) -> None:
        if slots < 0:
            raise UsageError(f"swap of {slots} slots: there cannot be fewer than none")
        self.slots = slots
        self.lock = Mutex(k, "uvm_swap_data_lock")
        self.contents: dict[int, str | None] = {}
        self.only = 0

    async def alloc(self) -> int:
        """uvm_swap_alloc for one page: a slot, or 0. Locks: takes the swap's. Sleeps: for that."""
        await self.lock.lock()
        slot = next((n for n in range(1, self.slots + 1) if n not in self.contents), 0)
        if slot:
            self.contents[slot] = None
        await self.lock.unlock()
        return slot

    async def free(self, slot: int) -> None:
        """uvm_swap_free for one slot. Locks: takes the swap's. Sleeps: for that."""
        await self.lock.lock()
        assert slot in self.contents, f"uvm_swap_free: slot {slot} is free already"
        del self.contents[slot]
        await self.lock.unlock()

    async def is_full(self) -> bool:
        """uvm_swapisfull: is all of it taken by what is nowhere else? Locks: takes the swap's. Sleeps: for that."""
        await self.lock.lock()
        full = self.only >= self.slots
        await self.lock.unlock()
        return full

    async def add_only(self, pages: int) -> None:
        """So many pages more are now in swap only. Locks: takes the swap's. Sleeps: for that.

        It is counted after the page is gone, so for a moment the count may be too low, even below 0, if somebody has
        read the page back or freed the slot already: the real one is no different.
        """
        await self.lock.lock()
        self.only += pages
        await self.lock.unlock()

    def statistics(self) -> SwapStatistics:
        """How much of it is used."""
        return SwapStatistics(self.slots, len(self.contents), self.only)


class SwapPager:
    """Which slot holds which page of one object. Protected by the object's lock.

    Args:
        swap: where the slots are.
    """

    __slots__ = ("slots", "swap")

    def __init__(self, swap: Swap) -> None:
        self.swap = swap
        self.slots: dict[int, int] = {}

    def find(self, pindex: int) -> int:
        """uao_find_swslot: the slot of a page, or 0."""
        return self.slots.get(pindex, 0)

    def assign(self, pindex: int, slot: int) -> int:
        """uao_set_swslot: from now on that is the page's slot (0: none); the slot that was."""
        old = self.slots.pop(pindex, 0)
        if slot:
            self.slots[pindex] = slot
        return old

    @property
    def count(self) -> int:
        """How many pages of the object have a slot."""
        return len(self.slots)
