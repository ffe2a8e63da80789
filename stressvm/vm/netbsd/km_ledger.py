"""What the model knows of kernel memory and the kernel does not: which address was given for what, and with which page.

The checks G15 and G17 are made of it. None of it has a switch point, and no modelled step looks at it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.kernel.field import Field
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.pages import Page

#: The ledger is the model's own.
_BENIGN: Final = "nothing of it is in the kernel"


class Grant(NamedTuple):
    """One page of address space that uvm_km_alloc has given: by which call, and as which type of memory."""

    call: int
    kind: int


class Ledger:
    """The bookkeeping of one memory.

    Attributes:
        calls: how many calls of uvm_km_alloc have got addresses so far.
        granted: every page of address space that is given and not given back.
        wired: the pages that uvm_km_alloc has entered by hand and nobody has freed, by address.
    """

    __slots__ = ("calls", "field", "granted", "wired")

    def __init__(self, k: Kernel) -> None:
        self.field = Field(k, "uvm_km ledger", _BENIGN)
        self.calls = 0
        self.granted: dict[int, Grant] = {}
        self.wired: dict[int, tuple[Page, int]] = {}

    def grant(self, start: int, end: int, kind: int) -> int:
        """uvm_km_alloc has got these addresses; the number of the call."""
        self.field.write()
        self.calls += 1
        new = Grant(self.calls, kind)
        for va in range(start, end, F.PAGE_SIZE):
            self.granted[va] = new
        return self.calls

    def entered(self, va: int, page: Page) -> None:
        """A page of its own was entered by hand at that address."""
        self.field.write()
        grant = self.granted.get(va)
        self.wired[va] = (page, grant.call if grant is not None else 0)

    def freed(self, page: Page, va: int) -> None:
        """The page that was at that address is freed."""
        self.field.write()
        if va in self.wired and self.wired[va][0] is page:
            del self.wired[va]

    def given_back(self, start: int, end: int) -> str | None:
        """These addresses leave the map. G17: what was entered there by hand must have been freed before."""
        self.field.write()
        left = None
        for va in range(start, end, F.PAGE_SIZE):
            self.granted.pop(va, None)
            if va in self.wired and left is None:
                left = f"{va:#x} is given back, and {self.wired[va][0]!r} that was entered there has not been freed"
        return left

    def backed(self, start: int, end: int) -> str | None:
        """G15: there is a page of its own at every address of a WIRED range that is returned."""
        self.field.read()
        seen = set()
        for va in range(start, end, F.PAGE_SIZE):
            page, _ = self.wired.get(va, (None, 0))
            if page is None:
                return f"{va:#x} is returned as wired memory, and there is no page"
            if page.busy or page.owner is not None or page.number in seen:
                return f"{va:#x} is returned as wired memory, and has {page!r}"
            seen.add(page.number)
        return None

    def undone(self, call: int) -> str | None:
        """G17: a call that failed has nothing any more, neither addresses nor pages."""
        self.field.read()
        for va, grant in self.granted.items():
            if grant.call == call:
                return f"uvm_km_alloc has failed, and {va:#x} is still its own"
        for va, (page, owner) in self.wired.items():
            if owner == call:
                return f"uvm_km_alloc has failed, and {page!r} is still its own, at {va:#x}"
        return None
