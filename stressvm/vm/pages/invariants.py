"""What must hold of physical memory whenever the free list's lock is released, one named check each.

A check says what is wrong, or None. The pages are asked once, by `census`, what each says of itself; the checks compare
that with the lists, and both with the books, and trust none of them.

Mostly nothing is wrong, and to find that out must be cheap: `nothing_wrong` looks once, and only where it is not sure do
the named checks run, and say what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.vm.pages import flags as F  # noqa: N812 - the constants, as the kernels write them
from stressvm.vm.pages.page import ACTIVE, FREE, INACTIVE, NONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.vm.pages.page import Page
    from stressvm.vm.pages.phys import PhysMem


class Census(NamedTuple):
    """How many pages say what of themselves."""

    free: int
    active: int
    inactive: int
    owned: int
    wired: int
    least_wired: int


def census(mem: PhysMem) -> Census:
    """Ask every page. O(pages)."""
    free = active = inactive = owned = wired = least_wired = 0
    for page in mem.pages:
        queue = page.queue
        if queue is FREE:
            free += 1
        elif queue is ACTIVE:
            active += 1
        elif queue is INACTIVE:
            inactive += 1
        if page.owner is not None:
            owned += 1
        if page.wire_count:
            wired += page.wire_count > 0
            least_wired = min(least_wired, page.wire_count)
    return Census(free, active, inactive, owned, wired, least_wired)


def conservation(mem: PhysMem, _: Census) -> str | None:
    """No page is lost or made: free, owned, loose and held ones add up to all there are."""
    free = mem.free.peek() + mem.claimed
    owned = 0
    for owner in mem.owners:
        owned += owner.pages.resident
    if free + owned + mem.loose + mem.held != len(mem.pages) or free < 0 or mem.loose < 0 or mem.held < 0:
        parts = f"{free} free + {owned} owned + {mem.loose} loose + {mem.held} held"
        return f"{parts} are not the {len(mem.pages)} pages there are"
    return None


def free_list(mem: PhysMem, said: Census) -> str | None:
    """The free list is as long as its count, has every page once, and each of its pages is free of everything."""
    listed = set()
    length = 0
    for color, kinds in enumerate(mem.buckets):
        for zeroed, pages in enumerate(kinds):
            length += len(pages)
            for page in pages:
                listed.add(page.number)
                wrong = _not_free(mem, page)
                if wrong is not None:
                    return wrong
                if page.number & mem.colormask != color or page.zeroed != zeroed:
                    return f"{page!r} is on the list of colour {color}, zeroed {bool(zeroed)}"
    if length != mem.free.peek() + mem.claimed:
        return f"{length} pages are on the free list, and {mem.free.peek()} + {mem.claimed} are counted"
    if not length == said.free == len(listed):
        return f"{said.free} pages say that they are free, and {len(listed)} are on the free list, of {length} places"
    return None


def _not_free(mem: PhysMem, page: Page) -> str | None:
    if page.queue is not FREE:
        return f"{page!r} is on the free list and says {page.queue.value}"
    if page.owner is not None:
        return f"{page!r} is free and has an owner"
    if page.busy or page.wanted or page.pageout or page.released:
        return f"{page!r} is free and busy, wanted or being paged out"
    if page.wire_count:
        return f"{page!r} is free and wired"
    if mem.left_mapped(page):
        return f"{page!r} is free and mapped"
    if page.zeroed and page.content != F.ZEROS:
        return f"{page!r} is said to be zeroed and holds {page.content!r}"
    return None


def queues(mem: PhysMem, said: Census) -> str | None:
    """A page is on one list at most, which is the one that it names; a wired page is on none."""
    for queue, listed in ((ACTIVE, mem.active), (INACTIVE, mem.inactive)):
        for number, page in listed.items():
            if page.number != number or page.queue is not queue:
                return f"{page!r} is on the {queue.value} queue"
            if page.wire_count:
                return f"{page!r} is wired and on the {queue.value} queue"
    if said.active != len(mem.active) or said.inactive != len(mem.inactive):
        says = f"{said.active} pages say that they are active and {said.inactive} that they are inactive"
        return f"{says}; on those queues are {len(mem.active)} and {len(mem.inactive)}"
    return None


def owners(mem: PhysMem, said: Census) -> str | None:
    """An object's table, its count and its pages agree."""
    resident = 0
    for owner in mem.owners:
        resident += owner.pages.resident
        if len(owner.pages) != owner.pages.resident:
            return f"{owner.name} counts {owner.pages.resident} pages and has {len(owner.pages)}"
        stray = owner.pages.stray(owner)
        if stray is not None:
            return f"{stray!r} is in the table of {owner.name}"
    if said.owned != resident:
        return f"{said.owned} pages say that they have an owner, {resident} are in tables"
    return None


def wirings(mem: PhysMem, said: Census) -> str | None:
    """The count of wired pages is right, and no page is wired less than not at all."""
    if said.least_wired < 0 or said.wired != mem.wired:
        return f"{said.wired} pages are wired, {mem.wired} are counted; the least wired is so {said.least_wired} times"
    return None


def waiters(mem: PhysMem, _: Census | None = None) -> str | None:
    """Every thread that sleeps for free pages is known to whoever is to wake it."""
    asleep = len(mem.waiting())
    if asleep and asleep > mem.counted_waiters():
        return f"{asleep} threads sleep for free pages, and {mem.counted_waiters()} are known of"
    return None


def reserves(mem: PhysMem, _: Census) -> str | None:
    """No request has dug deeper into the free list than its kind may."""
    for kind, free in mem.lowest.items():
        if free <= mem.privileged(kind):
            reserved = f"{mem.privileged(kind)} are reserved"
            return f"an allocation ({kind}) succeeded with {free} pages free, of which {reserved}"
    return None


def nothing_wrong(mem: PhysMem) -> bool:
    """Do all of INVARIANTS hold, as far as one look can tell? False: they may not, so ask each one. O(pages)."""
    active, inactive, is_mapped = mem.active, mem.inactive, mem.page_is_mapped
    free = []
    # Are there several lists of free pages?
    several = bool(mem.colormask or mem.buckets[0][1])
    owned = wired = paged = resident = 0
    for page in mem.pages:
        queue = page.queue
        if queue is FREE:
            if (
                page.owner is not None
                or page.busy
                or page.wanted
                or page.pageout
                or page.released
                or page.wire_count
                or page.pv_list
                or (page.zeroed and page.content != F.ZEROS)
                or (is_mapped is not None and is_mapped(page))
            ):
                return False
            several |= page.zeroed
            free.append(page)
            continue
        if page.owner is not None:
            owned += 1
        if page.wire_count:
            if page.wire_count < 0 or queue is not NONE:
                return False
            wired += 1
        elif queue is not NONE:
            if (active if queue is ACTIVE else inactive).get(page.number) is not page:
                return False
            paged += 1
    for owner in mem.owners:
        if not owner.pages.settled(owner):
            return False
        resident += owner.pages.resident
    loose, held, length = mem.loose, mem.held, len(free)
    if (
        owned != resident
        or wired != mem.wired
        or paged != len(active) + len(inactive)
        or length != mem.free.peek() + mem.claimed
        or length + resident + loose + held != len(mem.pages)
        or loose < 0
        or held < 0
        or not _listed(mem, free, several=several)
        or (mem.waiting() and waiters(mem) is not None)
    ):
        return False
    for kind, least in mem.lowest.items():  # noqa: SIM110 - a generator takes three times as long
        if least <= mem.privileged(kind):
            return False
    return True


def _listed(mem: PhysMem, free: list[Page], *, several: bool) -> bool:
    """Is the free list made of these pages, each once, where it belongs?"""
    if not several:
        pages = mem.buckets[0][0]
        return len(pages) == len(free) and set(pages) == set(free)
    listed: set[Page] = set()
    length = 0
    for color, kinds in enumerate(mem.buckets):
        for zeroed, pages in enumerate(kinds):
            if pages:
                length += len(pages)
                listed.update(pages)
                for page in pages:
                    if page.zeroed != zeroed or page.number & mem.colormask != color:
                        return False
    return length == len(free) == len(listed) and listed.issuperset(free)


#: Each by the name that a panic gives it.
INVARIANTS: Final[dict[str, Callable[[PhysMem, Census], str | None]]] = {
    "conservation": conservation,
    "free list": free_list,
    "queues": queues,
    "owners": owners,
    "wirings": wirings,
    "waiters": waiters,
    "reserves": reserves,
}
