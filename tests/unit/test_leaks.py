"""What is left at the end: named, with who took it and when; and nothing where all was given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Kernel, UsageError
from stressvm.check.leaks import Leaks
from stressvm.kernel.balance import Left, nothing_left
from stressvm.vm import freebsd, netbsd
from stressvm.vm.leaks import expect_back
from stressvm.vm.pages import PAGE_SIZE, PageObject, Swap, UvmPages
from tests.support import run
from tests.verdicts import looked

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.check.verdict import Verdict

WAIT = netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_WAITVA


def _one(build: Callable[[Kernel], None]) -> list[Verdict]:
    """What the detector says of the default schedule."""
    return looked(build, Leaks(), limit=1)


def _netbsd(freed: int) -> Callable[[Kernel], None]:
    """Three pages are taken, and so many given back."""

    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=8)
        kmap.fill(2, offset=0)
        expect_back(k, kmap)

        async def user() -> None:
            va = await netbsd.uvm_km_alloc(kmap, 3 * PAGE_SIZE, 0, WAIT)
            assert va
            if freed:
                await netbsd.uvm_km_free(kmap, va, freed * PAGE_SIZE, netbsd.UVM_KMF_VAONLY)

        k.spawn(user, name="user")

    return build


@pytest.mark.parametrize(("freed", "left"), [(0, 3), (1, 2), (3, 0)])
def test_addresses_that_are_left_are_named_with_who_took_them(freed: int, left: int) -> None:
    verdicts = _one(_netbsd(freed))
    assert len(verdicts) == (left > 0)
    for verdict in verdicts:
        assert verdict.kind == "leak"
        start, end = (int(word, 16) for word in verdict.text.split()[4].split("-"))
        assert (end - start) // PAGE_SIZE == left
        assert "taken by user in step" in verdict.text
        assert verdict.sites[0].startswith("addresses of")
        assert verdict.threads == (0,)


def test_what_was_there_before_is_no_leak_and_may_go() -> None:
    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=8)
        kmap.fill(2, offset=0)
        expect_back(k, kmap)

        async def frees() -> None:
            await netbsd.uvm_km_free(kmap, kmap.min_offset, 2 * PAGE_SIZE, netbsd.UVM_KMF_VAONLY)

        k.spawn(frees)

    assert not _one(build)


def test_the_same_leak_is_the_same_bug_however_it_comes_about() -> None:
    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=8)
        expect_back(k, kmap)

        async def user(pages: int) -> None:
            await netbsd.uvm_km_alloc(kmap, pages * PAGE_SIZE, 0, WAIT)

        k.spawn(user, 1, name="a")
        k.spawn(user, 2, name="b")

    verdicts = looked(build, Leaks(), seeds=50)
    assert len(verdicts) == 50
    assert len({verdict.fingerprint for verdict in verdicts}) == 1
    assert len({verdict.text for verdict in verdicts}) > 1


def test_freebsd_maps_are_balanced_too() -> None:
    def world(unmaps: bool) -> Callable[[Kernel], None]:  # noqa: FBT001 - the two cases
        def build(k: Kernel) -> None:
            vm_map = freebsd.VmMap13(k, 0x10_0000, 0x20_0000)
            expect_back(k, vm_map)

            async def user() -> None:
                rc = await freebsd.vm_map_fixed(vm_map, None, 0, 0x10_0000, 2 * PAGE_SIZE)
                assert rc == freebsd.KERN_SUCCESS
                if unmaps:
                    await freebsd.vm_map_remove(vm_map, 0x10_0000, 0x10_0000 + 2 * PAGE_SIZE)

            k.spawn(user, name="user")

        return build

    (verdict,) = _one(world(unmaps=False))
    assert "0x100000-0x102000 of map, taken by user in step" in verdict.text
    assert not _one(world(unmaps=True))


def _pages(frees: bool) -> Callable[[Kernel], None]:  # noqa: FBT001 - the two cases
    def build(k: Kernel) -> None:
        uvm = UvmPages(k, 8)
        obj = PageObject(k, "obj", Swap(k, 2))
        uvm.fill(obj, 2)
        expect_back(k, uvm)

        async def user() -> None:
            page = await uvm.uvm_pagealloc(None, 0, 0)
            assert page is not None
            if frees:
                await uvm.uvm_pagefree(page)

        k.spawn(user, name="user")

    return build


def test_pages_that_are_left_are_named_with_who_took_them() -> None:
    (verdict,) = _one(_pages(frees=False))
    assert "taken by user in step" in verdict.text
    assert verdict.sites[0].startswith("pages taken in ")
    assert not _one(_pages(frees=True))


def test_references_that_are_left() -> None:
    def world(drops: bool) -> Callable[[Kernel], None]:  # noqa: FBT001 - the two cases
        def build(k: Kernel) -> None:
            obj = netbsd.UvmObject("file")
            expect_back(k, obj)

            async def user() -> None:
                await k.yield_()
                obj.reference()
                if drops:
                    obj.drop()

            k.spawn(user)

        return build

    (verdict,) = _one(world(drops=False))
    assert "1 more than at the beginning" in verdict.text
    assert not _one(world(drops=True))


def test_a_world_may_balance_what_it_likes() -> None:
    def build(k: Kernel) -> None:
        taken = {1: (0, 0), 2: (0, 0)}
        nothing_left(k, "tickets", lambda: [Left(f"ticket {n}", "tickets", *by) for n, by in taken.items()])

        async def user() -> None:
            await k.yield_()
            del taken[1]

        k.spawn(user, name="user")

    (verdict,) = _one(build)
    assert verdict.text == "left at the end: ticket 2, taken by user in step 0 (yield)"


def test_nothing_is_asked_of_who_is_stuck_or_of_worlds_that_promise_nothing() -> None:
    def stuck(k: Kernel) -> None:
        nothing_left(k, "tickets", lambda: [Left("a ticket", "tickets")])

        async def for_ever() -> None:
            await k.join(k.threads[1])

        async def other() -> None:
            await k.join(k.threads[0])

        k.spawn(for_ever)
        k.spawn(other)

    assert [verdict.kind for verdict in _one(stuck)] == ["deadlock"]

    def promises_nothing(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=8)
        k.spawn(netbsd.uvm_km_alloc, kmap, PAGE_SIZE, 0, WAIT)

    assert not _one(promises_nothing)


def test_what_cannot_be_balanced_is_refused() -> None:
    with pytest.raises(UsageError, match="neither a map"):
        run(lambda k: expect_back(k, object()))
