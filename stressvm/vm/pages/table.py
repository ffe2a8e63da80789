"""The pages of an object, by index: a collection that the object of either kernel can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm.kernel.field import Field
    from stressvm.vm.pages.page import Page, PageOwner


class PagesOf:
    """The resident pages of one object. All of it is protected by the object's lock; nothing here is a visible step.

    Args:
        managed: mappings of its pages are to be recorded; False for FreeBSD's OBJ_UNMANAGED, the kernel object.
        field: declares its uses; None: nobody asks.

    Attributes:
        managed, field: as given.
        listed: physical memory knows of it.
        resident: how many there are, counted apart from the table, so that each can be checked by the other.
    """

    __slots__ = ("_pages", "field", "listed", "managed", "resident")

    def __init__(self, *, managed: bool = True, field: Field | None = None) -> None:
        self._pages: dict[int, Page] = {}
        self.managed = managed
        self.field = field
        self.listed = False
        self.resident = 0

    def looked_at(self) -> None:
        """The current step reads the table, or marks of its pages that the owner's lock protects."""
        if self.field is not None:
            self.field.read()

    def changed(self) -> None:
        """The current step changes the table, or such marks."""
        if self.field is not None:
            self.field.write()

    def lookup(self, pindex: int) -> Page | None:
        """The page at an index, or None."""
        self.looked_at()
        return self._pages.get(pindex)

    def find_least(self, pindex: int) -> Page | None:
        """The page with the least index that is at least `pindex`, or None. O(n)."""
        self.looked_at()
        least = min((at for at in self._pages if at >= pindex), default=None)
        return None if least is None else self._pages[least]

    def insert(self, page: Page, pindex: int, owner: PageOwner) -> None:
        """Give a page that belongs to nobody to `owner`, whose table this is. Locks: the owner's."""
        self.changed()
        assert page.owner is None, f"{page!r} has an owner already"
        assert pindex not in self._pages, f"{owner.name} has a page at {pindex} already"
        page.owner = owner
        page.pindex = pindex
        self._pages[pindex] = page
        self.resident += 1

    def remove(self, page: Page) -> None:
        """Take a page away from its owner. Locks: the owner's."""
        self.changed()
        assert self._pages.get(page.pindex) is page, f"{page!r} is not in this table"
        del self._pages[page.pindex]
        page.owner = None
        self.resident -= 1

    def settled(self, owner: PageOwner) -> bool:
        """Does every page in `owner`'s table say so of itself, and is there one for each that is counted? For proofs."""
        for pindex, page in self._pages.items():
            if page.owner is not owner or page.pindex != pindex:
                return False
        return len(self._pages) == self.resident

    def stray(self, owner: PageOwner) -> Page | None:
        """A page in `owner`'s table that says something else of itself, for proofs; None: there is none."""
        for pindex, page in self._pages.items():
            if page.owner is not owner or page.pindex != pindex:
                return page
        return None

    def __iter__(self) -> Iterator[Page]:
        """In order of index; a snapshot, so that the table may change meanwhile."""
        self.looked_at()
        return iter([self._pages[at] for at in sorted(self._pages)])

    def __len__(self) -> int:
        """How many there are in the table."""
        return len(self._pages)
