"""A freed entry is out of reach: whoever uses it is found, in whatever function; whoever compares pointers is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm.vm import freebsd, netbsd
from stressvm.vm.pages import PAGE_SIZE
from stressvm.vm.stale import watch_freed
from tests.support import every, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel

WAIT = netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_WAITVA


def _netbsd(use: Callable[[Any], object], *, watch: bool = True, locked: bool = False) -> Callable[[Kernel], None]:
    """One looks an entry up and lets go of the map; another unmaps it."""

    def build(k: Kernel) -> None:
        if watch:
            watch_freed(k)
        kmap = netbsd.submap(k, pages=8)
        kmap.fill(2, offset=2)
        va = kmap.min_offset + 2 * PAGE_SIZE

        async def looks() -> None:
            await kmap.lock.lock_read()
            found, entry = kmap.lookup(va)
            if not locked:
                await kmap.lock.unlock_read()
            await k.yield_()
            if found:
                use(entry)
            if locked:
                await kmap.lock.unlock_read()

        async def unmaps() -> None:
            await netbsd.uvm_km_free(kmap, va, 2 * PAGE_SIZE, netbsd.UVM_KMF_VAONLY)

        k.spawn(looks, name="looks")
        k.spawn(unmaps, name="unmaps")

    return build


def _reads(entry: netbsd.MapEntry) -> int:
    return entry.protection


def _writes(entry: netbsd.MapEntry) -> None:
    entry.advice = 1


@pytest.mark.parametrize(("use", "what"), [(_reads, "protection"), (_writes, "advice")])
def test_whoever_uses_an_entry_that_was_freed_is_found(use: Callable[[Any], object], what: str) -> None:
    endings = every(_netbsd(use))
    texts = {ending.text for ending in endings if ending.kind == "stale"}
    assert texts
    assert {ending.kind for ending in endings} == {None, "stale"}
    for text in texts:
        assert f"{use.__name__} uses {what} of <MapEntry" in text
        assert "which unmaps freed at step" in text
    assert len({ending.fingerprint for ending in endings if ending.kind}) == 1


def test_with_the_map_locked_nobody_can_free_it() -> None:
    assert {ending.kind for ending in every(_netbsd(_reads, locked=True))} == {None}


def test_to_compare_pointers_and_to_print_is_no_use() -> None:
    assert {ending.kind for ending in every(_netbsd(lambda entry: (entry is None, entry == 1, repr(entry))))} == {None}


def test_worlds_that_do_not_ask_are_not_watched() -> None:
    assert {ending.kind for ending in every(_netbsd(_reads, watch=False))} == {None}


def _freebsd(use: Callable[[Any], object]) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        watch_freed(k)
        vm_map = freebsd.VmMap13(k, 0x10_0000, 0x20_0000)
        low, end = 0x10_0000, 0x10_0000 + 2 * PAGE_SIZE

        async def looks() -> None:
            await freebsd.vm_map_fixed(vm_map, None, 0, low, 2 * PAGE_SIZE)
            other = k.spawn(freebsd.vm_map_remove, vm_map, low, end, name="unmaps")
            await vm_map.lock.lock_read()
            found, entry = vm_map.lookup(low)
            await vm_map.lock.unlock_read()
            await k.yield_()
            if found:
                use(entry)
            await k.join(other)

        k.spawn(looks, name="looks")

    return build


def test_freebsd_entries_are_freed_when_their_thread_lets_go_of_them() -> None:
    endings = every(_freebsd(lambda entry: entry.eflags))
    assert {ending.kind for ending in endings} == {None, "stale"}
    assert all("of map, which unmaps freed at step" in ending.text for ending in endings if ending.kind)


def test_a_predicate_that_looks_at_a_freed_entry_for_a_report_is_no_use() -> None:
    def build(k: Kernel) -> None:
        watch_freed(k)
        kmap = netbsd.submap(k, pages=8)
        kmap.fill(2, offset=2)
        va = kmap.min_offset + 2 * PAGE_SIZE

        async def sleeps() -> None:
            _, entry = kmap.lookup(va)
            await kmap.lock.misc_lock.lock()
            await kmap.lock.cv.timedwait(
                kmap.lock.misc_lock, 5, until=lambda: entry is not None and entry.wired_count > 0
            )
            await kmap.lock.misc_lock.unlock()

        k.spawn(sleeps)
        k.spawn(netbsd.uvm_km_free, kmap, va, 2 * PAGE_SIZE, netbsd.UVM_KMF_VAONLY)

    assert run(build).verdict is None
