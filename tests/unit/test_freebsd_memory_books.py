"""The books that the model keeps of FreeBSD's memory are right at every moment at which anybody may look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm.bench.defects.freebsd_memory_world import LOW, PAGE, MemoryWorld, swapped
from stressvm.vm import freebsd
from stressvm.vm.pmap import FreeBSDPmap
from tests.freebsd_lone import closing
from tests.freebsd_memory import LoneMemory
from tests.support import explore, kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm import Kernel

BOTH = pytest.mark.parametrize("version", ["13", "2013"])


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield from closing()


@BOTH
def test_a_page_that_is_in_memory_and_in_swap_is_not_in_swap_only_when_both_go(version: str) -> None:
    one = LoneMemory(version, swap=4, daemon=False)
    swapped(one.world, one.space, 1, "swapped")
    swapped(one.world, one.space, 2, "never read")
    one.begin()
    assert one.read(1) == "swapped"
    assert one.world.swap is not None
    assert one.world.swap.statistics().only == 1
    assert one.now(one.space.remove(1, 2)) == 0
    one.finish()
    stats = one.world.swap.statistics()
    assert (stats.in_use, stats.only) == (0, 0)


@BOTH
def test_the_slot_of_a_page_that_was_moved_to_the_front_is_in_swap_only(version: str) -> None:
    """A write takes the page of the object behind. Its slot there is of no use to anybody, and goes with that object."""
    one = LoneMemory(version, swap=4, daemon=False)
    swapped(one.world, one.space, 0, "swapped")
    one.begin()
    assert one.world.swap is not None
    assert one.read(0) == "swapped"
    child = one.fork()
    one.write(1, "mine")
    front = one.entry(0).object
    assert front is not None
    assert front.backing_object is not None
    behind = front.backing_object.store
    assert behind is not None
    # With a fault at work on it, the object behind is not collapsed into the one in front.
    behind.pip += 1
    one.now(child.exit())
    behind.pip -= 1
    assert one.world.swap.only == 0
    one.write(0, "after")
    assert not behind.pages.resident, "the page was moved"
    assert one.world.swap.only == 1
    one.finish()
    stats = one.world.swap.statistics()
    assert (stats.in_use, stats.only) == (0, 0)


@BOTH
def test_what_a_fork_charges_is_reserved_before_pages_are_copied(version: str) -> None:
    """Copying takes a while, and whoever unlocks another map meanwhile proves that swap is not charged twice."""

    def build(k: Kernel) -> None:
        world = MemoryWorld(k, 16, version, pmap=FreeBSDPmap)
        parent, other = world.space(2, name="parent"), world.space(1, name="other")

        async def forks() -> None:
            assert await parent.wire(0, 2) == 0
            child = await parent.fork()
            assert child is not None

        async def looks() -> None:
            for _ in range(30):
                assert await freebsd.vm_map_inherit(other.map, LOW, LOW + PAGE, freebsd.VM_INHERIT_COPY) == 0

        world.spawn(forks)
        world.spawn(looks)
        world.end()

    endings = explore(build, 60)
    assert kinds(endings) == {None}, next(ending.text for ending in endings if ending.kind)
