"""What stands behind an entry, as far as the map looks at it: references, size, colour, and the charge for swap.

Source: sys/vm/vm_object.c (vm_object_coalesce), sys/vm/swap_pager.c (swap_reserve, swap_release). Pages are not
modelled here: that those behind a shrunk mapping "can be dropped" is taken for granted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


class Ucred:
    """Who is charged for swap: so many bytes are reserved, of at most `limit` (None: swap is never short)."""

    __slots__ = ("limit", "reserved")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.reserved = 0

    def swap_reserve(self, size: int) -> bool:
        """Charge `size` bytes; False, and nothing changed, if there is not so much."""
        if self.limit is not None and self.reserved + size > self.limit:
            return False
        self.reserved += size
        return True

    def swap_release(self, size: int) -> None:
        """Give back what was charged."""
        self.reserved -= size


def ucred(k: Kernel) -> Ucred:
    """The credentials that every thread of a kernel runs with."""
    return k.once("ucred", Ucred)


class VmObject:
    """struct vm_object.

    Args:
        size: pages.
        anon: anonymous memory (OBJ_ANON; before that the default and swap types), the only kind that may grow.
        pg_color: the colour of its first page, or None for an object without OBJ_COLORED.

    Attributes:
        ref_count: entries, and others, that refer to it.
        one_mapping: OBJ_ONEMAPPING: no page of it is mapped twice.
        shadowed: it shadows another object, or is shadowed by one.
        cred, charge: who is charged for it, and how many bytes.
    """

    __slots__ = ("anon", "charge", "cred", "one_mapping", "pg_color", "ref_count", "shadowed", "size")

    def __init__(self, size: int = 0, *, anon: bool = False, pg_color: int | None = None) -> None:
        self.size = size
        self.anon = anon
        self.pg_color = pg_color
        self.ref_count = 1
        self.one_mapping = anon
        self.shadowed = False
        self.cred: Ucred | None = None
        self.charge = 0

    def coalesce(self, prev_offset: int, prev_size: int, next_size: int, *, reserved: bool) -> bool:
        """vm_object_coalesce: can the mapping of `prev_size` bytes at `prev_offset` be extended by `next_size`?

        If so the object grows, and what it still had there is dropped. Only anonymous memory grows, only without
        shadows, and only if nobody else can be using the pages behind the mapping.

        Args:
            prev_offset: where in the object the mapping begins, bytes.
            prev_size: how long it is, bytes.
            next_size: by how much, bytes.
            reserved: the caller has reserved swap for it.
        """
        if not self.anon or self.shadowed:
            return False
        next_pindex = F.off_to_idx(prev_offset) + F.off_to_idx(prev_size)
        pages = F.off_to_idx(next_size)
        if self.ref_count > 1 and self.size != next_pindex and not self.one_mapping:
            return False
        if self.cred is not None:
            if not reserved and not self.cred.swap_reserve(next_size):
                return False
            self.charge += next_size
        self.size = max(self.size, next_pindex + pages)
        return True

    def deallocate(self) -> None:
        """vm_object_deallocate: one reference less; with the last one the charge goes, too."""
        self.ref_count -= 1
        if not self.ref_count and self.cred is not None:
            self.cred.swap_release(self.charge)
            self.cred, self.charge = None, 0

    def __repr__(self) -> str:
        kind = "anonymous " if self.anon else ""
        return f"<{kind}VmObject of {self.size} pages, {self.ref_count} references>"
