"""What a pmap knows of physical pages: five attributes of a page, and its own bookkeeping beside each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stressvm.kernel.errors import UsageError
from stressvm.vm.pmap.flags import PAGE_MASK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    #: Where page-table pages come from: `alloc_ptp(may_sleep)`. None: there is no page now; if it may sleep, look again.
    AllocPtp = Callable[[bool], Awaitable["PhysPage | None"]]
    #: Where they go.
    FreePtp = Callable[["PhysPage"], Awaitable[None]]


class PhysPage(Protocol):
    """A physical page, as far as pmaps care.

    Attributes:
        phys_addr: its physical address, bytes, page aligned.
        pv_list: the managed mappings of it by small pages, in order; the pmaps' own. Keys are (pmap, address).
        md_modified: it was written through a mapping, and the entry that said so is gone: vm_page_dirty.
        md_referenced: the same of any access.
        busy: one thread's alone.
        managed: its mappings are recorded.
    """

    phys_addr: int
    pv_list: dict[Any, Any]
    md_modified: bool
    md_referenced: bool
    busy: bool
    managed: bool

    def used(self, *, write: bool) -> None:
        """The current step reads, or changes, what is on its own."""


class Frame:
    """A page frame and no more, for worlds without `stressvm.vm.pages`, and for page tables.

    Args:
        phys_addr: its physical address, bytes, page aligned.
        managed: are its mappings recorded?
        content: whatever a scenario wants to find there again.
    """

    __slots__ = ("busy", "content", "managed", "md_modified", "md_referenced", "phys_addr", "pv_list")

    def __init__(self, phys_addr: int, *, managed: bool = True, content: Any = None) -> None:
        if phys_addr & PAGE_MASK or phys_addr < 0:
            raise UsageError(f"a page frame at {phys_addr:#x}: physical addresses of pages are page aligned")
        self.phys_addr = phys_addr
        self.pv_list: dict[Any, Any] = {}
        self.md_modified = False
        self.md_referenced = False
        self.busy = False
        self.managed = managed
        self.content = content

    def used(self, *, write: bool) -> None:
        """The current step reads, or changes, what is on its own. Of a frame and no more nobody asks that."""

    def __repr__(self) -> str:
        """The frame's address."""
        return f"<Frame {self.phys_addr:#x}>"


class MdPage:
    """struct md_page of a page, and what FreeBSD keeps of it elsewhere.

    Attributes:
        page: the page.
        pv_gen: counts changes of its pv list, for those who had to let go of the list's lock.
        writeable: PGA_WRITEABLE: it may have writable mappings.
        invl_gen: the delayed invalidation that must end before the page can be used for anything else; 0 for none.
        unlisted: how many mappings there are that no pv list knows: unmanaged, or by hand (the model's own).
        held: how often pmap_extract_and_hold has held it.
    """

    __slots__ = ("held", "invl_gen", "page", "pv_gen", "unlisted", "writeable")

    def __init__(self, page: PhysPage) -> None:
        self.page = page
        self.pv_gen = 0
        self.writeable = False
        self.invl_gen = 0
        self.unlisted = 0
        self.held = 0


class PvHeader:
    """The mappings of 2 MiB of physical memory by superpages: pa_to_pvh."""

    __slots__ = ("pv_gen", "pv_list")

    def __init__(self) -> None:
        self.pv_list: dict[Any, Any] = {}
        self.pv_gen = 0
