"""FreeBSD's page faults with nobody else about: what is mapped afterwards, with which rights, and what is returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Panic, UsageError
from stressvm.bench.defects.freebsd_memory_world import LOW, PAGE, RW, SYSTEM, R, W, X, swapped
from stressvm.vm import freebsd
from stressvm.vm.freebsd import MapKind
from stressvm.vm.pages import ZEROS, PageQueue
from stressvm.vm.pmap import FreeBSDPmap
from tests.freebsd_lone import LoneMap, closing
from tests.freebsd_memory import LoneMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

BOTH = pytest.mark.parametrize("version", ["13", "2013"])
COW = freebsd.MAP_COPY_ON_WRITE


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield from closing()


def lone(version: str = "13", **kw: Any) -> LoneMemory:
    one = LoneMemory(version, **kw)
    one.begin()
    return one


def with_file(version: str = "13", *, cow: int = 0, prot: int = RW, size: int = 4, **kw: Any) -> LoneMemory:
    """Pages 0 to 3 are those of a file, which has `size` pages."""
    one = LoneMemory(version, mapped=0, **kw)
    one.file = freebsd.VmObject(size, pager=freebsd.Pager("file", missing={2}, errors={3}))  # type: ignore[attr-defined]
    one.insert(0, 4, one.file, prot=prot, cow=cow)  # type: ignore[attr-defined]
    one.space.now.update({0: "file:0", 1: "file:1"})
    one.begin()
    return one


# ---------------------------------------------------------------- zeros


@BOTH
def test_what_was_never_touched_is_zeros_and_then_what_was_written(version: str) -> None:
    one = lone(version)
    assert one.space.translations() == []
    assert one.read(1) == ZEROS
    assert one.space.translations() == [(1, RW, False)]
    one.write(1, "mine")
    one.write(2, "other")
    assert one.read(1) == "mine"
    assert one.read(2) == "other"
    assert [page for page, _, _ in one.space.translations()] == [1, 2]
    assert one.free == 22
    assert one.page(1).queue is PageQueue.ACTIVE
    assert not one.page(1).busy
    one.finish()


@BOTH
def test_a_second_fault_on_the_same_page_makes_no_other(version: str) -> None:
    one = lone(version)
    assert one.fault(0, R) == 0
    page = one.page(0)
    assert one.fault(0, W) == 0
    assert one.page(0) is page
    assert one.free == 23
    one.finish()


@BOTH
def test_the_rights_of_a_mapping_are_those_of_its_entry(version: str) -> None:
    one = LoneMemory(version, mapped=0)
    for page, prot in enumerate((R, RW, R | X, RW | X)):
        one.insert(page, page + 1, prot=prot)
    one.begin()
    for page in range(4):
        assert one.fault(page, R) == 0
    assert [prot for _, prot, _ in one.space.translations()] == [R, RW, R | X, RW | X]
    one.finish()


@BOTH
def test_where_nothing_is_mapped_or_allowed_nothing_is_made(version: str) -> None:
    one = LoneMemory(version, mapped=0)
    one.insert(0, 1, prot=R)
    one.insert(2, 3, prot=freebsd.VM_PROT_NONE)
    one.begin()
    assert one.fault(1, R) == freebsd.KERN_INVALID_ADDRESS
    assert one.fault(0, W) == freebsd.KERN_PROTECTION_FAILURE
    assert one.fault(0, X) == freebsd.KERN_PROTECTION_FAILURE
    assert one.fault(2, R) == freebsd.KERN_PROTECTION_FAILURE
    assert one.now(freebsd.vmspace_access(one.map, one.space.at(1), R)) == (freebsd.KERN_INVALID_ADDRESS, None)
    assert one.space.translations() == []
    assert one.free == 24


@BOTH
def test_a_page_of_a_part_of_the_object_is_found_at_its_index(version: str) -> None:
    one = lone(version)
    one.write(2, "two")
    assert one.now(one.space.protect(0, 2, R)) == 0
    assert [entry.offset for entry in one.map.entries] == [0, 2 * PAGE]
    assert one.read(2) == "two"
    one.write(3, "three")
    assert one.read(3) == "three"
    assert one.entry(0).object is one.entry(3).object
    one.finish()


@BOTH
def test_a_stack_grows_by_a_fault(version: str) -> None:
    one = LoneMemory(version, mapped=0)
    freebsd.sysctl(one.k).sgrowsiz = 2 * PAGE
    one.begin()
    assert one.now(freebsd.vm_map_stack(one.map, LOW, 8 * PAGE, RW, RW)) == 0
    one.write(7, "bottom")
    one.write(5, "grown")
    assert one.fault(0, W) == freebsd.KERN_PROTECTION_FAILURE, "the guard"
    assert one.read(7) == "bottom"
    assert [page for page, _, _ in one.space.translations()] == [5, 7]
    one.finish()


@BOTH
def test_without_swap_to_be_had_a_copy_cannot_be_made(version: str) -> None:
    one = with_file(version, cow=COW)
    cred = freebsd.ucred(one.k)
    cred.limit = cred.reserved
    one.entry(0).cred = None
    cred.swap_release(4 * PAGE)
    cred.limit = 0
    assert one.fault(0, W) == freebsd.KERN_RESOURCE_SHORTAGE
    assert one.fault(0, R) == 0


# ---------------------------------------------------------------- pagers


@BOTH
def test_a_file_is_read_by_its_pager_and_shared(version: str) -> None:
    one = with_file(version)
    assert one.read(0) == "file:0"
    assert one.read(2) == ZEROS, "the pager has no such page"
    one.write(1, "written")
    assert one.read(1) == "written"
    assert one.page(1).owner is one.entry(0).object.store  # type: ignore[union-attr]
    one.finish()


@pytest.mark.parametrize(
    ("version", "beyond", "unreadable"),
    [
        ("13", freebsd.KERN_OUT_OF_BOUNDS, freebsd.KERN_OUT_OF_BOUNDS),
        ("2013", freebsd.KERN_PROTECTION_FAILURE, freebsd.KERN_FAILURE),
    ],
)
def test_a_page_that_cannot_be_had_is_an_error_and_nothing_is_kept(version: str, beyond: int, unreadable: int) -> None:
    one = with_file(version, size=4)
    assert one.fault(3, R) == unreadable
    one.file.size = 1  # type: ignore[attr-defined]
    assert one.fault(1, R) == beyond
    assert one.free == 24
    assert one.space.translations() == []
    one.file.size = 4  # type: ignore[attr-defined]
    one.finish()


@BOTH
def test_a_bad_page_fails_as_long_as_it_is_not_there(version: str) -> None:
    kind = freebsd.VmFault if version == "13" else freebsd.VmFault2013
    one = lone(version, fault=kind([LOW + PAGE]))
    assert one.fault(1, R) == freebsd.KERN_OUT_OF_BOUNDS
    assert one.now(one.space.wire(0, 2)) == freebsd.KERN_OUT_OF_BOUNDS
    assert one.fault(0, R) == 0
    assert one.free == 23
    one.finish()


@BOTH
def test_what_was_written_to_swap_is_read_back(version: str) -> None:
    one = LoneMemory(version, swap=4, daemon=False)
    swapped(one.world, one.space, 1, "swapped")
    one.begin()
    assert one.world.swap is not None
    assert one.world.swap.only == 1
    assert one.read(1) == "swapped"
    assert one.world.swap.only == 0
    assert one.page(1).clean, "swap has it, too"
    assert one.read(0) == ZEROS
    one.write(1, "newer")
    assert one.read(1) == "newer"
    one.finish()
    assert not one.world.swap.contents


# ---------------------------------------------------------------- copy on write


@BOTH
def test_a_private_page_is_copied_when_it_is_written(version: str) -> None:
    one = with_file(version, cow=COW)
    assert one.read(0) == "file:0"
    assert one.space.translations() == [(0, R, False)]
    of_file = one.page(0)
    one.write(0, "mine")
    assert one.space.translations() == [(0, RW, False)]
    assert one.page(0) is not of_file
    assert of_file.content == "file:0"
    assert not of_file.busy
    assert one.read(0) == "mine"
    assert one.read(1) == "file:1"
    assert {page: prot for page, prot, _ in one.space.translations()} == {0: RW, 1: R}
    one.finish()


@BOTH
def test_a_page_behind_two_shadows_is_found_with_both_offsets(version: str) -> None:
    one = LoneMemory(version, mapped=0, pmap=FreeBSDPmap)
    file = freebsd.VmObject(8, pager=freebsd.Pager("file"))
    one.insert(0, 4, file, 2, prot=RW, cow=COW)
    one.space.now.update({page: f"file:{page + 2}" for page in range(4)})
    one.begin()
    one.write(0, "first")
    child = one.fork()
    one.write(1, "second")
    assert one.read(3) == "file:5"
    assert one.read(3, child) == "file:5"
    assert one.read(1, child) == "file:3"
    assert one.read(0, child) == "first"
    child_pages = {page: prot for page, prot, _ in child.translations()}
    assert child_pages == {0: R, 1: R, 3: R}
    one.finish()


@BOTH
def test_after_a_fork_nobody_writes_what_the_other_reads(version: str) -> None:
    one = lone(version)
    one.write(0, "before")
    one.write(1, "before")
    assert {prot for _, prot, _ in one.space.translations()} == {RW}
    child = one.fork()
    assert one.space.translations() == [(0, R, False), (1, R, False)]
    assert child.translations() == []
    assert one.read(0, child) == "before"
    assert one.page(0, child) is one.page(0)
    one.write(0, "child", child)
    one.write(1, "parent")
    assert one.read(0) == "before"
    assert one.read(1, child) == "before"
    assert one.read(0, child) == "child"
    one.finish()


@BOTH
def test_when_the_other_has_gone_its_page_is_not_copied_again(version: str) -> None:
    one = lone(version)
    one.write(0, "before")
    page = one.page(0)
    child = one.fork()
    one.write(1, "shadowed", child)
    one.now(child.exit())
    one.write(0, "after")
    assert one.page(0) is page, "taken over, not copied"
    assert one.free == 23
    one.finish()


@BOTH
def test_a_page_behind_is_moved_if_nobody_else_can_have_it(version: str) -> None:
    """The two objects have not been collapsed into one: a fault was at work on the one behind."""
    one = lone(version)
    one.write(0, "before")
    page = one.page(0)
    child = one.fork()
    one.write(1, "mine")
    front = one.entry(0).object
    assert front is not None
    behind = front.backing_object
    assert behind is not None
    assert behind.store is not None
    behind.store.pip += 1
    one.now(child.exit())
    behind.store.pip -= 1
    assert front.backing_object is behind
    assert behind.ref_count == 1
    one.write(0, "after")
    assert one.page(0) is page
    assert page.owner is front.store
    assert not behind.store.pages.resident
    assert one.free == 22
    one.finish()


@BOTH
def test_shared_memory_stays_one(version: str) -> None:
    one = lone(version)
    one.write(0, "before")
    assert one.now(freebsd.vm_map_inherit(one.map, LOW, LOW + PAGE, freebsd.VM_INHERIT_SHARE)) == 0
    child = one.fork()
    one.write(0, "parent")
    child.now[0] = "parent"
    child.maybe.clear()
    assert one.read(0, child) == "parent"
    one.write(0, "child", child)
    one.space.now[0] = "child"
    assert one.read(0) == "child"
    one.finish()


# ---------------------------------------------------------------- wiring


@BOTH
@pytest.mark.parametrize("flags", [freebsd.VM_MAP_WIRE_USER, SYSTEM])
def test_wiring_brings_pages_in_and_keeps_them(version: str, flags: int) -> None:
    one = lone(version)
    assert one.now(one.space.wire(0, 2, flags)) == 0
    assert one.space.translations() == [(0, RW, True), (1, RW, True)]
    assert [one.page(page).wire_count for page in (0, 1)] == [1, 1]
    assert one.pages.wired == 2
    one.write(0, "wired")
    assert one.now(one.space.unwire(0, 2, flags)) == 0
    assert one.space.translations() == [(0, RW, False), (1, RW, False)]
    assert one.pages.wired == 0
    assert one.page(0).queue is PageQueue.ACTIVE
    assert one.read(0) == "wired"
    one.finish()


@BOTH
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_wiring_that_fails_leaves_nothing_wired(version: str, bad: int) -> None:
    kind = freebsd.VmFault if version == "13" else freebsd.VmFault2013
    one = LoneMemory(version, mapped=0, fault=kind([LOW + bad * PAGE]))
    one.insert(0, 1)
    one.insert(1, 3, prot=RW | X)
    one.begin()
    assert one.now(one.space.wire(0, 3)) == freebsd.KERN_OUT_OF_BOUNDS
    assert one.pages.wired == 0
    assert one.space.translations() == [(page, RW if not page else RW | X, False) for page in range(bad)]
    assert {entry.wired_count for entry in one.map.entries} == {0}
    one.finish()


@BOTH
def test_unmapping_unwires_first(version: str) -> None:
    one = lone(version)
    assert one.now(one.space.wire(0, 4)) == 0
    assert one.now(one.space.remove(1, 3)) == 0
    assert one.space.translations() == [(0, RW, True), (3, RW, True)]
    assert (one.pages.wired, one.free) == (2, 22), "the pages are free at once: nobody else could map them"
    one.finish()


@BOTH
def test_wiring_what_must_be_copied_copies_it_at_once(version: str) -> None:
    one = with_file(version, cow=COW)
    assert one.now(one.space.wire(0, 2)) == 0
    assert one.space.translations() == [(0, RW, True), (1, RW, True)]
    assert one.page(0).owner is one.entry(0).object.store  # type: ignore[union-attr]
    assert one.entry(0).object is not one.file  # type: ignore[attr-defined]
    one.write(0, "mine")
    assert one.now(one.space.unwire(0, 2)) == 0
    assert one.pages.wired == 0
    one.finish()


@BOTH
def test_wired_memory_that_becomes_writable_gets_pages_of_its_own(version: str) -> None:
    one = with_file(version, cow=COW, prot=R)
    assert one.now(one.space.wire(0, 2)) == 0
    of_file = one.page(0)
    assert of_file.wire_count == 1
    assert one.now(one.space.protect(0, 2, RW)) == 0
    assert one.space.translations() == [(0, RW, True), (1, RW, True)]
    assert one.page(0) is not of_file
    assert (of_file.wire_count, one.page(0).wire_count) == (0, 1)
    one.write(0, "mine")
    assert of_file.content == "file:0"
    one.finish()


@BOTH
def test_a_fork_copies_what_is_wired_and_writable_at_once(version: str) -> None:
    one = lone(version)
    one.write(0, "wired")
    assert one.now(one.space.wire(0, 2)) == 0
    child = one.fork()
    assert one.space.translations() == [(0, RW, True), (1, RW, True)], "nothing was taken from the parent"
    assert child.translations() == [(0, RW, False), (1, RW, False)]
    assert one.page(0, child) is not one.page(0)
    one.write(0, "parent")
    assert one.read(0, child) == "wired"
    one.finish()


# ---------------------------------------------------------------- rights, and unmapping


@BOTH
def test_protection_is_taken_from_mappings_and_given_by_faults(version: str) -> None:
    one = lone(version)
    one.write(0, "mine")
    one.write(1, "mine")
    assert one.now(one.space.protect(0, 1, R)) == 0
    assert one.space.translations() == [(0, R, False), (1, RW, False)]
    assert one.now(one.space.write(0, "not")) == freebsd.KERN_PROTECTION_FAILURE
    assert one.now(one.space.protect(0, 1, RW)) == 0
    assert one.space.translations() == [(0, R, False), (1, RW, False)]
    one.write(0, "again")
    assert one.now(one.space.protect(0, 2, freebsd.VM_PROT_NONE)) == 0
    assert one.space.translations() == []
    assert one.now(one.space.protect(0, 2, R)) == 0
    assert one.read(0) == "again"
    one.finish()


@BOTH
def test_what_is_unmapped_is_gone_and_what_is_mapped_there_is_new(version: str) -> None:
    one = lone(version)
    for page in range(4):
        one.write(page, "old")
    assert one.now(one.space.remove(1, 3)) == 0
    assert [page for page, _, _ in one.space.translations()] == [0, 3]
    assert one.free == 22
    assert one.fault(1, R) == freebsd.KERN_INVALID_ADDRESS
    assert one.now(one.space.remap(1, 3)) == 0
    assert one.read(1) == ZEROS
    assert one.read(3) == "old"
    one.finish()


@BOTH
def test_pages_behind_a_shrunk_mapping_do_not_come_back(version: str) -> None:
    """An object that is extended again over what was unmapped has no old pages there."""
    one = lone(version)
    one.write(3, "old")
    assert one.now(one.space.remove(2, 4)) == 0
    assert one.now(one.space.remap(2, 4)) == 0
    assert len(one.map.entries) == 1, "extended"
    assert one.read(3) == ZEROS
    one.finish()


@BOTH
def test_page_tables_can_be_made_of_pages_and_are_given_back(version: str) -> None:
    one = lone(version, page_tables=True, npages=32)
    one.write(0, "mine")
    assert one.free == 32 - 1 - 3, "a page, and a table at each of three levels"
    assert one.now(one.space.remove(0, 4)) == 0
    assert one.free == 32
    one.finish()


# ---------------------------------------------------------------- maps of the kernel, and maps without memory


def test_a_submap_is_faulted_in_through_the_kernels_pmap() -> None:
    one = LoneMemory(mapped=0)
    kernel_map = freebsd.kernel_map(one.k, 64, memory=one.memory)
    exec_map = freebsd.exec_map(one.k, 16, parent=kernel_map)
    assert exec_map.pmap is kernel_map.pmap is one.memory.machine.kernel_pmap
    one.begin()
    addr = one.now(freebsd.kmap_alloc_wait(exec_map, 2 * PAGE))
    for vm_map in (kernel_map, exec_map):
        rc, page = one.now(freebsd.vmspace_access(vm_map, addr, W, "arguments"))
        assert rc == 0
        assert page is not None
        assert page.content == "arguments"
    assert kernel_map.pmap is not None
    assert kernel_map.pmap.resident_count == 1
    one.now(freebsd.kmap_free_wakeup(exec_map, addr, 2 * PAGE))
    assert kernel_map.pmap.resident_count == 0
    one.finish()


def test_a_fault_where_the_kernel_promised_none_is_a_panic() -> None:
    one = LoneMemory(mapped=0)
    kernel_map = freebsd.kernel_map(one.k, 64, memory=one.memory)
    low = kernel_map.min_offset
    kernel_map.insert(None, 0, low, low + PAGE, RW, RW, freebsd.MAP_NOFAULT)
    one.begin()
    with pytest.raises(Panic, match="vm_fault: fault on nofault entry"):
        one.now(freebsd.vm_fault(kernel_map, low, R))


def test_a_page_cannot_be_wired_by_a_fault_in_an_entry_that_is_not() -> None:
    one = lone()
    with pytest.raises(Panic, match="VM_FAULT_WIRE"):
        one.fault(0, R, wire=True)


def test_a_map_without_memory_has_stubs_for_faults_and_cannot_be_used() -> None:
    one = LoneMap()
    assert one.insert(0, 4) == 0
    assert one.now(freebsd.vm_fault(one.map, one.at(0), R)) == 0
    assert one.now(freebsd.vm_fault(one.map, one.at(9), R)) == 0, "it touches nothing"
    assert one.map.pmap is None
    with pytest.raises(UsageError, match="has no memory"):
        one.now(freebsd.vmspace_access(one.map, one.at(0), R))


def test_a_kernel_map_outside_the_kernels_pmap_is_refused() -> None:
    one = LoneMemory()
    freebsd.setup(one.k, 8, kind=MapKind.SYSTEM, min_offset=1 << 40, memory=one.memory)
    with pytest.raises(UsageError, match="make the kernel's map first"):
        freebsd.setup(one.k, 8, kind=MapKind.SUBMAP, min_offset=1 << 41, memory=one.memory)


# ---------------------------------------------------------------- what is proven


def planted(text: str) -> Any:
    return pytest.raises(Panic, match=text)


def test_a_translation_without_an_entry_is_a_violation() -> None:
    one = lone()
    one.write(0, "mine")
    page = one.page(0)
    assert one.map.pmap is not None
    page.set_busy(0)
    one.now(one.map.pmap.enter(one.space.at(9), page, R, R))
    with planted("G15 translations: .* which is in no entry"):
        one.insert(4, 5)


@pytest.mark.parametrize(("prot", "mapped", "text"), [(R, RW, "for writing"), (RW, R | X, "for executing")])
def test_a_translation_with_more_rights_than_its_entry_is_a_violation(prot: int, mapped: int, text: str) -> None:
    one = LoneMemory(mapped=0)
    one.insert(0, 1, prot=prot)
    one.begin()
    one.read(0)
    assert one.map.pmap is not None
    page = one.page(0)
    page.set_busy(0)
    one.now(one.map.pmap.enter(LOW, page, mapped, R))
    with planted(f"G15 translations: .* {text}"):
        one.insert(4, 5)


def test_a_translation_to_another_page_is_a_violation() -> None:
    one = lone()
    one.write(0, "mine")
    one.write(1, "other")
    page = one.page(1)
    assert one.map.pmap is not None
    page.set_busy(0)
    one.now(one.map.pmap.enter(LOW, page, RW, R))
    with planted("G15 pages: .* is not what"):
        one.insert(4, 5)


def test_what_is_left_behind_is_found() -> None:
    one = lone()
    one.write(0, "mine")
    page = one.page(0)
    page.set_busy(0)
    with planted("memory: leak: .* is busy, for ever"):
        one.memory.audit()
    page.set_unbusy()
    obj = one.entry(0).object
    assert obj is not None
    obj.reference()
    with planted("memory: leak: .* held 1 times"):
        one.memory.audit()
    obj.deallocate()
    assert obj.store is not None
    obj.store.pip += 1
    with planted("memory: leak: a fault is at work"):
        one.memory.audit()
    obj.store.pip -= 1
    one.memory.audit()


def test_a_map_of_one_version_on_pages_of_another_is_refused() -> None:
    one = LoneMemory()
    with pytest.raises(UsageError, match="map: a map of version 2013 with pages of version 13"):
        freebsd.setup(one.k, 8, version="2013", memory=one.memory)
