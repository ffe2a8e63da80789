"""The count of who refers to an object and of who is charged, over all maps of a kernel: what it finds, and what not."""

from __future__ import annotations

import pytest

from stressvm import Panic
from stressvm.vm import freebsd
from tests.freebsd_lone import PAGE, LoneMap, closing

closed = pytest.fixture(autouse=True)(closing)


def release(one: LoneMap) -> None:
    """Lock and unlock, which checks everything."""
    one.now(one.map.lock.lock())
    one.now(one.map.lock.unlock())


def with_object(pages: int = 4) -> tuple[LoneMap, freebsd.VmObject]:
    """A map, and an anonymous object that its one entry maps."""
    one = LoneMap()
    obj = freebsd.VmObject(pages, anon=True)
    assert one.insert(0, pages, obj) == 0
    return one, obj


def test_all_maps_of_a_kernel_are_counted() -> None:
    one, obj = with_object()
    another = freebsd.setup(one.k, 8, name="another")
    assert freebsd.vm_maps(one.k) == [one.map, another]
    obj.reference()
    one.now(another.lock.lock())
    assert freebsd.vm_map_insert(another, obj, 0, another.min_offset, another.min_offset + 4 * PAGE) == 0
    one.now(another.lock.unlock())
    freebsd.audit(one.k)
    obj.ref_count -= 1
    one.now(another.lock.lock())
    with pytest.raises(Panic, match=r"another: G19 references: .*1 references> is held 2 times"):
        one.now(another.lock.unlock())


def test_an_entry_that_is_not_let_go_of_yet_still_refers() -> None:
    one, obj = with_object()
    one.now(one.map.lock.lock())
    assert one.now(freebsd.vm_map_delete(one.map, one.at(0), one.at(2))) == 0
    # Both halves of the entry: one is mapped, the other is put off.
    assert (obj.ref_count, one.entries()) == (2, [(2, 4)])
    with pytest.raises(Panic, match="has not let go of <VmMapEntry"):
        freebsd.audit(one.k)
    one, obj = with_object()
    assert one.remove(0, 2) == 0
    assert obj.ref_count == 1
    freebsd.audit(one.k)


def test_a_reference_that_nobody_holds_is_a_leak_unless_somebody_says_so() -> None:
    one, obj = with_object()
    obj.reference()
    release(one)
    with pytest.raises(Panic, match="2 references> is held 1 times"):
        freebsd.audit(one.k)
    one, obj = with_object()
    obj.reference()
    freebsd.vm_object_hold(one.k, obj)
    freebsd.audit(one.k)
    freebsd.vm_object_hold(one.k, obj, -1)
    obj.deallocate()
    freebsd.audit(one.k)


def test_what_shadows_refers_and_chains_are_followed() -> None:
    one, obj = with_object()
    obj.reference()
    freebsd.vm_object_hold(one.k, obj)
    entry = one.entry(0)
    entry.object = obj.shadow(0, 4 * PAGE, None)
    freebsd.audit(one.k)
    obj.shadows[0].backing_object = None
    with pytest.raises(Panic, match="is said to be shadowed by"):
        release(one)


def test_swap_that_is_charged_for_must_be_reserved() -> None:
    one = LoneMap()
    assert one.insert(0, 4) == 0
    freebsd.audit(one.k)
    freebsd.ucred(one.k).swap_release(PAGE)
    with pytest.raises(Panic, match="0x4000 bytes of swap are charged for, and 0x3000 are reserved"):
        release(one)


def test_swap_that_is_reserved_for_nobody_is_a_leak() -> None:
    one, _ = with_object()
    assert freebsd.ucred(one.k).swap_reserve(PAGE)
    release(one)
    with pytest.raises(Panic, match="0x1000 bytes of swap are reserved, and 0x0 are charged for"):
        freebsd.audit(one.k)


def test_an_empty_kernel_has_nothing_to_account_for() -> None:
    one = LoneMap()
    freebsd.audit(one.k)
    assert freebsd.vm_maps(one.k) == [one.map]
