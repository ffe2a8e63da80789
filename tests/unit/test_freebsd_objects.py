"""FreeBSD's VM objects: shadows, splits, collapses, who refers to whom, and what is charged."""

from __future__ import annotations

import pytest

from stressvm.vm.freebsd import PAGE_SIZE as PAGE
from stressvm.vm.freebsd import Ucred, VmObject, vm_object_shadow


def anonymous(pages: int, cred: Ucred | None = None) -> VmObject:
    """An object whose pages are charged for."""
    if cred is not None:
        assert cred.swap_reserve(pages * PAGE)
    return VmObject.anonymous(pages, cred, pages * PAGE)


def test_what_is_not_shared_is_not_shadowed() -> None:
    cred = Ucred()
    obj = anonymous(4)
    assert obj.shadow(PAGE, 2 * PAGE, cred) is obj
    assert (obj.ref_count, obj.backing_object, obj.cred) == (1, None, None)


def test_a_shadow_takes_over_the_reference_and_the_charge() -> None:
    cred = Ucred()
    obj = anonymous(4)
    obj.reference()
    assert cred.swap_reserve(2 * PAGE)
    new = obj.shadow(PAGE, 2 * PAGE, cred)
    assert new is not obj
    assert (new.size, new.anon, new.ref_count, new.cred, new.charge) == (2, True, 1, cred, 2 * PAGE)
    assert (new.backing_object, new.backing_object_offset, obj.shadows) == (obj, PAGE, [new])
    assert (obj.ref_count, obj.shadow_count, new.one_mapping) == (2, 1, True)


def test_a_shared_shadow_has_two_references() -> None:
    obj = anonymous(4)
    obj.reference()
    new = obj.shadow(0, 4 * PAGE, None, shared=True)
    assert (new.ref_count, new.one_mapping, new.cred) == (2, False, None)


def test_a_file_is_always_shadowed_and_does_not_count_its_shadows() -> None:
    obj = VmObject(8, pg_color=0xFFF)
    new = obj.shadow(2 * PAGE, PAGE, None)
    assert new.backing_object is obj
    assert (obj.shadow_count, obj.ref_count, new.pg_color) == (0, 1, 1)
    new.deallocate()
    assert obj.ref_count == 0


def test_without_an_object_the_new_one_shadows_nothing() -> None:
    new = vm_object_shadow(None, 0, 2 * PAGE, None)
    assert (new.size, new.backing_object, new.ref_count, new.one_mapping) == (2, None, 1, True)
    assert vm_object_shadow(None, 0, PAGE, None, shared=True).ref_count == 2
    obj = anonymous(1)
    assert vm_object_shadow(obj, 0, PAGE, None) is obj


def test_the_last_shadow_takes_its_backing_object_in() -> None:
    cred = Ucred()
    obj = anonymous(4, cred)
    obj.reference()
    new = obj.shadow(PAGE, 2 * PAGE, None)
    obj.deallocate()
    assert (new.backing_object, new.backing_object_offset, new.ref_count) == (None, PAGE, 1)
    assert (obj.ref_count, cred.reserved) == (0, 0)


def test_two_shadows_keep_their_backing_object_until_one_goes() -> None:
    bottom = anonymous(4)
    bottom.reference()
    one, two = bottom.shadow(0, 4 * PAGE, None), bottom.shadow(0, 4 * PAGE, None)
    assert (bottom.ref_count, bottom.shadows) == (2, [two, one])
    one.deallocate()
    assert (two.backing_object, bottom.ref_count, bottom.shadows) == (None, 0, [])


def test_a_collapse_goes_down_as_far_as_nobody_else_refers() -> None:
    file = VmObject(8)
    bottom = file.shadow(PAGE, 4 * PAGE, None)
    bottom.reference()
    middle = bottom.shadow(PAGE, 3 * PAGE, None)
    middle.reference()
    top = middle.shadow(PAGE, 2 * PAGE, None)
    top.collapse()
    assert top.backing_object is middle
    bottom.deallocate()
    assert (middle.backing_object, middle.backing_object_offset) == (file, 2 * PAGE)
    middle.deallocate()
    assert (top.backing_object, top.backing_object_offset, file.ref_count) == (file, 3 * PAGE, 1)


def test_a_split_takes_the_pages_the_charge_and_a_reference_to_what_is_behind() -> None:
    cred = Ucred()
    bottom = anonymous(4)
    bottom.reference()
    assert cred.swap_reserve(4 * PAGE)
    obj = bottom.shadow(PAGE, 4 * PAGE, cred)
    obj.reference()
    new = obj.split(2 * PAGE, 2 * PAGE)
    assert (new.size, new.ref_count, new.charge, obj.charge, obj.ref_count) == (2, 1, 2 * PAGE, 2 * PAGE, 1)
    assert (new.backing_object, new.backing_object_offset) == (bottom, 3 * PAGE)
    assert (bottom.ref_count, bottom.shadows, bottom.one_mapping) == (3, [new, obj], False)
    assert cred.reserved == 4 * PAGE


def test_what_is_alone_or_no_anonymous_memory_is_not_split() -> None:
    obj = anonymous(4)
    assert obj.split(0, PAGE) is obj
    file = VmObject(4)
    file.one_mapping = True
    file.reference()
    assert file.split(0, PAGE) is file
    obj.one_mapping = False
    with pytest.raises(AssertionError, match="multiple mappings"):
        obj.split(0, PAGE)


def test_the_last_but_one_reference_leaves_one_mapping() -> None:
    obj = anonymous(2)
    obj.reference()
    obj.one_mapping = False
    obj.deallocate()
    assert obj.one_mapping
    obj.deallocate()
    with pytest.raises(AssertionError, match="too many times"):
        obj.deallocate()


def test_what_shadows_another_does_not_grow_until_it_has_taken_that_in() -> None:
    bottom = anonymous(2)
    bottom.reference()
    obj = bottom.shadow(0, 2 * PAGE, None)
    assert not obj.coalesce(0, 2 * PAGE, PAGE, reserved=False)
    bottom.ref_count -= 1
    assert obj.coalesce(0, 2 * PAGE, PAGE, reserved=False)
    assert (obj.size, obj.backing_object) == (3, None)


@pytest.mark.parametrize(
    ("first", "pages", "mappings", "references", "left"),
    [(2, 2, 1, 2, 2), (0, 4, 1, 2, 0), (1, 1, 1, 2, 4), (2, 2, 2, 2, 4), (2, 2, 1, 1, 4)],
)
def test_an_object_shrinks_when_its_last_pages_are_unmapped(
    first: int, pages: int, mappings: int, references: int, left: int
) -> None:
    cred = Ucred()
    obj = anonymous(4, cred)
    obj.ref_count, obj.one_mapping = references, mappings == 1
    obj.unmapped(first * PAGE, pages * PAGE)
    assert (obj.size, obj.charge, cred.reserved) == (left, left * PAGE, left * PAGE)


def test_a_file_does_not_shrink() -> None:
    file = VmObject(4)
    file.reference()
    file.unmapped(0, 4 * PAGE)
    assert (file.size, repr(file)) == (4, "<VmObject of 4 pages, 2 references>")
