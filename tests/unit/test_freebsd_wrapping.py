"""2013's vm_map_find with an alignment that wraps at the top of the address space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm import freebsd
from tests.support import every, kinds

if TYPE_CHECKING:
    from stressvm import Kernel

PAGE = freebsd.PAGE_SIZE
TOP = (1 << 64) - PAGE


def _find(alignment: int, taken: int, results: set[tuple[int, int]]) -> set[str | None]:
    """Look for two pages near the top, below which the first pages are taken."""

    def build(k: Kernel) -> None:
        vm_map = freebsd.VmMap2013(k, 0, TOP)
        vm_map.insert(None, 0, 0, taken)

        async def find() -> None:
            space = freebsd.VMFS_ALIGNED_SPACE(alignment)
            results.add(await freebsd.vm_map_find(vm_map, None, 0, TOP - 3 * PAGE, 2 * PAGE, 0, space))

        k.spawn(find)

    return kinds(every(build))


def test_the_search_goes_on_from_the_bottom_and_may_end_below_the_address_given() -> None:
    results: set[tuple[int, int]] = set()
    assert _find(40, PAGE, results) == {None}
    assert results == {(freebsd.KERN_SUCCESS, 1 << 40)}


def test_what_wraps_again_would_be_searched_for_ever() -> None:
    assert _find(63, (1 << 63) + PAGE, set()) == {"panic"}


def test_a_stack_no_longer_than_its_guard_would_be_searched_for_for_ever() -> None:
    def build(k: Kernel) -> None:
        vm_map = freebsd.setup(k, 8, version="2013")

        async def find() -> None:
            space, cow = freebsd.VMFS_ALIGNED_SPACE(13), freebsd.MAP_STACK_GROWS_DOWN
            await freebsd.vm_map_find(vm_map, None, 0, vm_map.min_offset, PAGE, 0, space, cow=cow)

        k.spawn(find)

    assert kinds(every(build)) == {"panic"}
