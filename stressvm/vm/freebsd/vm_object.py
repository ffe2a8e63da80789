"""What stands behind an entry, as far as the map looks at it: references, shadows, size, colour, the charge for swap.

A copy on write puts a new object, a shadow, in front of the shared one; the shadow refers to what it stands before, its
backing object. When a shadow is the only one left that refers to its backing object, the two are collapsed into one.

Pages are not needed for any of this; an object that has some keeps them in `store` (see `vm_object_pages`). That those
behind a shrunk mapping "can be dropped" is taken for granted, and a backing object that others refer to, too, is taken to
have pages that its shadow has not, so it is never bypassed.

Source: sys/vm/vm_object.c of releng/13.0 (vm_object_shadow, vm_object_split, vm_object_collapse, vm_object_deallocate,
vm_object_coalesce; the same in 10.4), sys/vm/swap_pager.c (swap_reserve, swap_release).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_object_pages import ObjectPages, Pager


#: Colours go round at the largest block of pages, 2^12 of them.
_COLORS: Final = 1 << 12


class Ucred:
    """Who is charged for swap: so many bytes are reserved, of at most `limit` (None: swap is never short).

    A fork charges entries first, and reserves swap for them when it has let go of the maps; until then it is promised.
    """

    __slots__ = ("limit", "promised", "reserved")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.reserved = 0
        self.promised = 0

    def swap_reserve(self, size: int) -> bool:
        """Charge `size` bytes; False, and nothing changed, if there is not so much."""
        if self.limit is not None and self.reserved + size > self.limit:
            return False
        self.reserved += size
        return True

    def settle(self, size: int, *, force: bool = False) -> bool:
        """Charge `size` bytes that were promised, with `force` (swap_reserve_force) whatever the limit; False: too many."""
        if force:
            self.reserved += size
        elif not self.swap_reserve(size):
            return False
        self.promised -= size
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
        pager: where its pages come from, for what is no anonymous memory.

    Attributes:
        store: its pages and its lock, or None as long as nobody has asked for a page.
        ref_count: entries, shadows, and others, that refer to it.
        one_mapping: OBJ_ONEMAPPING: no page of it is mapped twice.
        backing_object, backing_object_offset: what it shadows, from which byte of that on.
        shadows: which objects shadow it, the latest first; kept for anonymous memory only.
        cred, charge: who is charged for it, and how many bytes.
    """

    __slots__ = (
        "anon",
        "backing_object",
        "backing_object_offset",
        "charge",
        "cred",
        "one_mapping",
        "pager",
        "pg_color",
        "ref_count",
        "shadows",
        "size",
        "store",
    )

    def __init__(
        self, size: int = 0, *, anon: bool = False, pg_color: int | None = None, pager: Pager | None = None
    ) -> None:
        self.pager = pager
        self.store: ObjectPages | None = None
        self.size = size
        self.anon = anon
        self.pg_color = pg_color
        self.ref_count = 1
        self.one_mapping = anon
        self.backing_object: VmObject | None = None
        self.backing_object_offset = 0
        self.shadows: list[VmObject] = []
        self.cred: Ucred | None = None
        self.charge = 0

    @classmethod
    def anonymous(cls, size: int, cred: Ucred | None, charge: int) -> VmObject:
        """vm_object_allocate_anon: an object of `size` pages for which `cred` has been charged `charge` bytes."""
        new = cls(size, anon=True)
        if cred is not None:
            new.cred, new.charge = cred, charge
        return new

    @property
    def shadow_count(self) -> int:
        """How many anonymous objects shadow it. An object of another kind does not count them."""
        return len(self.shadows)

    # ------------------------------------------------------------ references

    def reference(self) -> None:
        """vm_object_reference: one more entry, or somebody else, refers to it."""
        self.ref_count += 1

    def deallocate(self) -> None:
        """vm_object_deallocate: one reference less.

        With the last one the charge goes, and the reference to its backing object. If an anonymous object is left to a
        single shadow, it is collapsed into that.
        """
        obj: VmObject | None = self
        while obj is not None:
            assert obj.ref_count > 0, f"vm_object_deallocate: {obj!r} deallocated too many times"
            obj.ref_count -= 1
            if not obj.ref_count:
                backing = obj.backing_object
                obj.backing_remove()
                obj.terminate()
                obj = backing
                continue
            if obj.ref_count == 1 and obj.anon:
                if obj.shadows:
                    obj.shadows[0].collapse()
                else:
                    obj.one_mapping = True
            return

    def terminate(self) -> None:
        """vm_object_terminate: nobody refers to it any more; the charge goes, and soon its pages."""
        assert self.backing_object is None, f"vm_object_terminate: {self!r} still shadows"
        if self.store is not None:
            self.store.memory.doom(self.store)
        if self.cred is not None:
            self.cred.swap_release(self.charge)
            self.cred, self.charge = None, 0

    # ------------------------------------------------------------ shadows

    def backing_insert(self, backing: VmObject) -> None:
        """vm_object_backing_insert: shadow `backing`; the reference to it is the caller's."""
        if backing.anon:
            backing.shadows.insert(0, self)
        self.backing_object = backing

    def backing_remove(self) -> None:
        """vm_object_backing_remove: shadow nothing any more; the reference is left to the caller."""
        backing, self.backing_object = self.backing_object, None
        if backing is not None and backing.anon:
            backing.shadows.remove(self)

    def shadow(self, offset: int, size: int, cred: Ucred | None, *, shared: bool = False) -> VmObject:
        """vm_object_shadow: what shall stand behind an entry that needs a copy of this object.

        The caller's reference to this object becomes the shadow's, and the shadow comes with one for the caller.

        Args:
            offset: where in this object the entry begins, bytes.
            size: of the entry, bytes.
            cred: who has been charged `size` bytes for the copy, or None; the new object takes the charge over.
            shared: one more reference to the shadow is made, for a second entry.

        Returns:
            A new object, of which the entry is to map offset 0 on; or this one, if it is anonymous and nobody else
            refers to it. Then the offset stays as it is, nothing has changed, and the charge is still the caller's.
        """
        if self.anon and self.ref_count == 1:
            return self
        new = VmObject.anonymous(F.off_to_idx(size), cred, size)
        new.backing_object_offset = offset
        if shared:
            new.reference()
            new.one_mapping = False
        new.backing_insert(self)
        if self.pg_color is not None:
            new.pg_color = (self.pg_color + F.off_to_idx(offset)) & (_COLORS - 1)
        return new

    def split(self, offset: int, size: int) -> VmObject:
        """vm_object_split: give the pages of one entry an object of their own, before it is copied on write.

        Only if other entries use other pages of it: an object with more than one reference, no page mapped twice. The
        new object takes over the entry's reference and its part of the charge, and shadows what this one shadows.

        Args:
            offset: where in this object the entry begins, bytes.
            size: of the entry, bytes.

        Returns:
            The new object, of which the entry is to map offset 0 on; or this one, and nothing has changed.
        """
        assert self.one_mapping, f"vm_object_split: splitting {self!r} with multiple mappings"
        if not self.anon or self.ref_count <= 1 or not self.at_rest():
            return self
        new = VmObject.anonymous(F.off_to_idx(size), self.cred, size)
        if self.backing_object is not None:
            self.backing_object.reference()
            if self.backing_object.anon:
                self.backing_object.one_mapping = False
            new.backing_insert(self.backing_object)
            new.backing_object_offset = self.backing_object_offset + offset
        if self.cred is not None:
            assert self.charge >= size, f"vm_object_split: {self!r} is charged {self.charge:#x}, less than {size:#x}"
            self.charge -= size
        if self.store is not None:
            self.store.memory.store(new).take_range(self.store, F.off_to_idx(offset), new.size)
        self.deallocate()
        return new

    def at_rest(self) -> bool:
        """Is nobody else at work on its pages?"""
        return self.store is None or self.store.at_rest()

    def collapse(self) -> None:
        """vm_object_collapse: while nobody else refers to what this object shadows, take it in."""
        assert self.anon, f"vm_object_collapse: {self!r} is not anonymous"
        while (backing := self.backing_object) is not None and backing.anon and backing.ref_count == 1:
            if not self.at_rest() or not backing.at_rest():
                return
            if backing.store is not None:
                shift = F.off_to_idx(self.backing_object_offset)
                backing.store.memory.store(self).take_over(backing.store, shift, self.size)
            self.backing_remove()
            below = backing.backing_object
            if below is not None:
                backing.backing_remove()
                self.backing_insert(below)
            self.backing_object_offset += backing.backing_object_offset
            backing.ref_count = 0
            backing.terminate()

    # ------------------------------------------------------------ growing and shrinking

    def coalesce(self, prev_offset: int, prev_size: int, next_size: int, *, reserved: bool) -> bool:
        """vm_object_coalesce: can the mapping of `prev_size` bytes at `prev_offset` be extended by `next_size`?

        If so the object grows, and what it still had there is dropped. Only anonymous memory grows, only if it shadows
        nothing (it is collapsed first), and only if nobody else can be using the pages behind the mapping.

        Args:
            prev_offset: where in the object the mapping begins, bytes.
            prev_size: how long it is, bytes.
            next_size: by how much, bytes.
            reserved: the caller has reserved swap for it.
        """
        if not self.anon:
            return False
        self.collapse()
        if self.backing_object is not None:
            return False
        next_pindex = F.off_to_idx(prev_offset) + F.off_to_idx(prev_size)
        pages = F.off_to_idx(next_size)
        if self.ref_count > 1 and self.size != next_pindex and not self.one_mapping:
            return False
        if not self.at_rest():
            return False
        if self.cred is not None:
            if not reserved and not self.cred.swap_reserve(next_size):
                return False
            self.charge += next_size
        if self.store is not None:
            self.store.give_up_range(next_pindex, next_pindex + pages)
        self.size = max(self.size, next_pindex + pages)
        return True

    def unmapped(self, offset: int, size: int) -> bool:
        """vm_map_entry_delete's part: an entry is gone, and its pages with it if no other entry can have mapped them.

        If they were the last ones the object shrinks, and their part of the charge goes. The reference is left.

        Args:
            offset: where in the object the entry began, bytes.
            size: of the entry, bytes.

        Returns:
            Do the pages go?
        """
        if not self.anon or self.ref_count == 1 or not self.one_mapping:
            return False
        self.collapse()
        first, last = F.off_to_idx(offset), F.off_to_idx(offset) + F.off_to_idx(size)
        if first < self.size <= last:
            dropped = (self.size - first) << F.PAGE_SHIFT
            self.size = first
            if self.cred is not None:
                assert self.charge >= dropped, f"vm_map_entry_delete: {self!r} is charged less than {dropped:#x}"
                self.cred.swap_release(dropped)
                self.charge -= dropped
        return True

    def __repr__(self) -> str:
        """Kind, size and references."""
        kind = "anonymous " if self.anon else ""
        return f"<{kind}VmObject of {self.size} pages, {self.ref_count} references>"


def vm_object_shadow(
    obj: VmObject | None, offset: int, size: int, cred: Ucred | None, *, shared: bool = False
) -> VmObject:
    """An object in front of another one, which it takes over the caller's reference to; for None, one in front of nothing.

    What nobody else refers to is not shadowed, but returned as it is, unless it is to be `shared`.

    Locks: the write lock of the map that refers to it. Sleeps: no. Returns: the object to refer to from now on.

    Source: sys/vm/vm_object.c, vm_object_shadow.
    """
    if obj is not None:
        return obj.shadow(offset, size, cred, shared=shared)
    new = VmObject.anonymous(F.off_to_idx(size), cred, size)
    if shared:
        new.reference()
        new.one_mapping = False
    return new
