"""Every small map there is, and what every request to it should get.

A map's free pages are the bits of a number, so that brute force is arithmetic: the bits that stay when the number is
shifted over itself, once for each further page of a request, are the pages where it fits. The lowest and the highest bit
from each page on are tabulated once, and a map is asked everything while it is there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE: Final = 1 << 12
#: One past the highest page.
PAGES: Final = (1 << 64) // PAGE
#: With STRESSVM_LONG=1 in the environment tests take more of what there is.
LONG: Final = bool(os.environ.get("STRESSVM_LONG"))

#: A map's entries as pairs of pages, from 0 on, half open.
Ranges = list[tuple[int, int]]


def contiguous(first: int, pages: int) -> list[int]:
    """The addresses of so many pages from that page on, and the end."""
    return [(first + page) * PAGE for page in range(pages + 1)]


#: Where maps lie, by name: the addresses of so many pages.
PLACES: Final = {
    "at 0": lambda pages: contiguous(0, pages),
    "above 0": lambda pages: contiguous(1, pages),
    "middle": lambda pages: contiguous(0x7F0000002, pages),
    "below the top": lambda pages: contiguous(PAGES - 1 - pages, pages),
    "at the top": lambda pages: contiguous(PAGES - pages, pages),
}


class Answers:
    """What requests to maps of some pages should get.

    Args:
        at: the addresses of the pages, in order, and the end of the last one. Where one does not end at the next one's
            address, it is not to be free.

    Attributes:
        hints: all those addresses, and that of the page before them.
        up, down: by the pages at which a request fits, a bit each: the answers to all hints.
    """

    def __init__(self, at: Sequence[int]) -> None:
        self.at = at
        self.pages = pages = len(at) - 1
        self.min, self.max = at[0], at[-1]
        self.lengths = range(1, pages + 2)
        self.hints = [at[0] - PAGE, *at]
        self.up = [[self.lowest(fits, hint) for hint in range(-1, pages + 1)] for fits in range(1 << pages)]
        self.down = [[self.highest(fits, hint) for hint in range(-1, pages + 1)] for fits in range(1 << pages)]

    def lowest(self, fits: int, page: int) -> int | None:
        """The lowest of the pages from that one on."""
        above = fits & -1 << max(page, 0)
        return self.at[(above & -above).bit_length() - 1] if above else None

    def highest(self, fits: int, page: int) -> int | None:
        """The highest of the pages up to that one."""
        below = fits & (1 << page + 1) - 1
        return self.at[below.bit_length() - 1] if below else None

    def aligned(self, align: int, offset: int = 0) -> int:
        """The pages whose address is a multiple of so many pages, plus an offset in pages."""
        return sum(1 << page for page in range(self.pages) if (self.at[page] // PAGE - offset) % align == 0)

    def fits(self, free: int, length: int) -> int:
        """The pages at which `length` of them are free."""
        fits = free
        for further in range(1, length):
            fits &= free >> further
        return fits


def free_pages(pages: int, ranges: Ranges) -> int:
    """What the entries leave."""
    return ((1 << pages) - 1) & ~sum((1 << end) - (1 << start) for start, end in ranges)


def runs(pages: int, free: int) -> Ranges:
    """The pages that are not free, each run of them one entry."""
    found: Ranges = []
    for page in range(pages):
        if not free >> page & 1:
            start = found.pop()[0] if found and found[-1][1] == page else page
            found.append((start, page + 1))
    return found


def layouts(pages: int, first: int = 0) -> Iterator[Ranges]:
    """Every way to cut the pages from the first on into free pages and entries, neighbours touching or not."""
    if first >= pages:
        yield []
        return
    yield from layouts(pages, first + 1)
    for end in range(first + 1, pages + 1):
        for rest in layouts(pages, end):
            yield [(first, end), *rest]
