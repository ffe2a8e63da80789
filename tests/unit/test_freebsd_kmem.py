"""FreeBSD's kernel memory: addresses, pages, mappings, and what is left when one of them cannot be had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Kernel, Panic, UsageError
from stressvm.bench.defects.freebsd_memory_world import PAGE, RW, R, W, X, kernel
from stressvm.vm import freebsd, pages
from stressvm.vm.freebsd import M_EXEC, M_NOWAIT, M_USE_RESERVE, M_WAITOK, M_ZERO, NBPDR
from stressvm.vm.pages import ZEROS, nth_allocation
from tests.freebsd_lone import Lone, closing
from tests.support import every, kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

BOTH = pytest.mark.parametrize("version", ["13", "2013"])
RWX = RW | X


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield from closing()


class LoneKernel(Lone):
    """Kernel memory, and a thread."""

    def __init__(self, version: str = "13", npages: int = 12, **kw: Any) -> None:
        super().__init__()
        self.kmem = kernel(self.k, npages, version, **kw)
        self.pages = self.kmem.phys
        self.npages = npages
        self.begin()

    def malloc(self, count: int, flags: int = M_NOWAIT) -> int | None:
        """Where, in pages from the map's lowest; None for nowhere."""
        addr = self.now(freebsd.kmem_malloc(self.kmem, count * PAGE, flags))
        return (addr - self.kmem.map.min_offset) // PAGE if addr else None

    def free(self, page: int, count: int) -> None:
        self.now(freebsd.kmem_free(self.kmem, self.at(page), count * PAGE))

    def at(self, page: int) -> int:
        return self.kmem.map.min_offset + page * PAGE

    def translations(self) -> list[tuple[int, int, bool]]:
        found = self.kmem.pmap.translations(*self.kmem.map.bounds)
        return [((one.va - self.kmem.map.min_offset) // PAGE, one.prot, one.wired) for one in found]

    def use(self, page: int, access: int, content: str | None = None) -> str:
        rc, found = self.now(freebsd.vmspace_access(self.kmem.map, self.at(page), access, content))
        assert rc == 0
        assert found is not None
        return found.content

    @property
    def free_pages(self) -> int:
        return int(self.pages.free.peek())

    def nothing_left(self) -> None:
        assert self.translations() == []
        assert self.free_pages == self.npages
        assert self.pages.wired == 0
        assert self.kmem.arena.inuse == 0
        self.kmem.memory.audit()


@BOTH
def test_kernel_memory_is_wired_and_comes_back(version: str) -> None:
    one = LoneKernel(version)
    assert [one.malloc(2), one.malloc(1)] == [0, 2]
    prot = RW if version == "13" else RWX
    assert one.translations() == [(page, prot, True) for page in range(3)]
    assert (one.free_pages, one.pages.wired) == (9, 3)
    assert one.kmem.pmap.wired_count == 3
    one.use(1, W, "mine")
    assert one.use(1, R) == "mine"
    one.free(0, 2)
    assert one.translations() == [(2, prot, True)]
    assert one.malloc(2) == 0
    one.free(0, 2)
    one.free(2, 1)
    one.nothing_left()


@BOTH
def test_zeros_if_they_are_asked_for(version: str) -> None:
    one = LoneKernel(version)
    assert one.malloc(1) == 0
    one.use(0, W, "old")
    one.free(0, 1)
    assert one.malloc(1) == 0
    assert one.use(0, R) == "old", "the same page, as it was left"
    one.free(0, 1)
    assert one.malloc(1, M_WAITOK | M_ZERO) == 0
    assert one.use(0, R) == ZEROS


def test_13_lets_nothing_be_executed_but_what_is_to_be() -> None:
    one = LoneKernel()
    one.malloc(1)
    one.malloc(1, M_WAITOK | M_EXEC)
    assert [prot for _, prot, _ in one.translations()] == [RW, RWX]


@BOTH
def test_sizes_are_rounded_up_to_pages(version: str) -> None:
    one = LoneKernel(version)
    addr = one.now(freebsd.kmem_malloc(one.kmem, 1, M_NOWAIT))
    other = one.now(freebsd.kmem_malloc(one.kmem, PAGE + 1, M_NOWAIT))
    assert (other - addr, one.free_pages) == (PAGE, 9)
    one.now(freebsd.kmem_free(one.kmem, other, PAGE + 1))
    one.now(freebsd.kmem_free(one.kmem, addr, 1))
    one.nothing_left()


@BOTH
def test_without_pages_the_addresses_go_back(version: str) -> None:
    one = LoneKernel(version, npages=4)
    assert one.malloc(4) is None, "one page is left for interrupts"
    one.nothing_left()
    assert one.malloc(4, M_NOWAIT | M_USE_RESERVE) == 0
    assert one.malloc(1) is None
    one.free(0, 4)
    one.nothing_left()


@BOTH
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_whichever_page_cannot_be_had_nothing_is_kept(version: str, nth: int) -> None:
    one = LoneKernel(version, shortage=nth_allocation(nth))
    assert one.malloc(3) is None
    one.nothing_left()
    assert one.malloc(3) == 0


@BOTH
def test_without_addresses_no_page_is_asked_for(version: str) -> None:
    one = LoneKernel(version, map_pages=4, kmem_pages=4)
    assert one.malloc(3) == 0
    asked = one.pages.allocated
    assert one.malloc(2) is None
    assert one.pages.allocated == asked
    assert one.malloc(1) == 3


def test_in_10_who_wants_the_reserve_may_not_wait() -> None:
    one = LoneKernel("2013")
    with pytest.raises(Panic, match="M_USE_RESERVE requires M_NOWAIT"):
        one.malloc(1, M_WAITOK | M_USE_RESERVE)


def test_in_13_who_may_wait_spins_for_addresses() -> None:
    def build(k: Kernel) -> None:
        kmem = kernel(k, 16, map_pages=2)

        async def user() -> None:
            await freebsd.kmem_malloc(kmem, 3 * PAGE, M_WAITOK)

        k.spawn(user)

    assert kinds(every(build, max_steps=500)) == {"livelock"}


def test_only_10_lets_the_caller_choose_an_arena() -> None:
    one = LoneKernel("2013")
    addr = one.now(freebsd.kmem_malloc(one.kmem, PAGE, M_NOWAIT, one.kmem.kernel_arena))
    assert one.kmem.kernel_arena.inuse == PAGE
    one.now(freebsd.kmem_free(one.kmem, addr, PAGE, one.kmem.kernel_arena))
    one.nothing_left()
    other = LoneKernel()
    with pytest.raises(UsageError, match="13 has one arena for it"):
        other.now(freebsd.kmem_malloc(other.kmem, PAGE, M_NOWAIT, other.kmem.kernel_arena))


# ---------------------------------------------------------------- kmem_back, kva_alloc


@BOTH
def test_addresses_alone_and_pages_for_them(version: str) -> None:
    one = LoneKernel(version)
    addr = one.now(freebsd.kva_alloc(one.kmem, 2 * PAGE))
    assert addr
    assert one.free_pages == one.npages
    assert one.now(freebsd.kmem_back(one.kmem, addr, PAGE, M_WAITOK | M_ZERO)) == 0
    assert len(one.translations()) == 1
    with pytest.raises(Panic, match=r"vacated: .* still mapped"):
        one.now(freebsd.kva_free(one.kmem, addr, 2 * PAGE))


@BOTH
def test_they_are_given_back_one_after_the_other(version: str) -> None:
    one = LoneKernel(version)
    addr = one.now(freebsd.kva_alloc(one.kmem, 2 * PAGE))
    assert one.now(freebsd.kmem_back(one.kmem, addr, 2 * PAGE, M_NOWAIT)) == 0
    one.now(freebsd.kmem_unback(one.kmem, addr, PAGE))
    assert len(one.translations()) == 1
    one.now(freebsd.kmem_unback(one.kmem, addr + PAGE, PAGE))
    one.now(freebsd.kva_free(one.kmem, addr, 2 * PAGE))
    one.nothing_left()
    assert one.kmem.kernel_arena.inuse == 0


@BOTH
def test_pages_that_cannot_be_had_are_no_space(version: str) -> None:
    one = LoneKernel(version, npages=3)
    addr = one.now(freebsd.kva_alloc(one.kmem, 3 * PAGE))
    assert one.now(freebsd.kmem_back(one.kmem, addr, 3 * PAGE, M_NOWAIT)) == freebsd.KERN_NO_SPACE
    assert one.free_pages == 3
    assert one.translations() == []


@BOTH
def test_addresses_run_out(version: str) -> None:
    one = LoneKernel(version, map_pages=6, kmem_pages=2)
    room = 6 if version == "13" else 4
    got = [one.now(freebsd.kva_alloc(one.kmem, PAGE)) for _ in range(room + 1)]
    assert len(set(got[:-1])) == room
    assert 0 not in got[:-1]
    assert got[-1] == 0
    one.now(freebsd.kva_free(one.kmem, got[2], PAGE))
    assert one.now(freebsd.kva_alloc(one.kmem, PAGE)) == got[2]


@BOTH
def test_to_unback_what_has_no_page_is_a_panic(version: str) -> None:
    one = LoneKernel(version)
    addr = one.now(freebsd.kva_alloc(one.kmem, PAGE))
    with pytest.raises(Panic, match="kmem_unback: page fault"):
        one.now(freebsd.kmem_unback(one.kmem, addr, PAGE))


# ---------------------------------------------------------------- where addresses come from


def test_13_imports_through_two_arenas_and_grows_the_page_tables() -> None:
    one = LoneKernel(map_pages=8 * 512, quantum=NBPDR)
    assert one.kmem.map.kernel_vm_end == one.at(0)
    assert one.malloc(1) == 0
    # The domain's arena wants 2 MiB aligned to as much, so the other one imports three times that.
    assert one.kmem.map.kernel_vm_end == one.at(3 * 512)
    assert one.kmem.pmap.kernel_vm_end == one.at(3 * 512)
    assert [entry.end - entry.start for entry in one.kmem.map.entries] == [3 * NBPDR]
    assert one.kmem.kernel_arena.size == 3 * NBPDR
    assert one.kmem.arena.size == NBPDR
    one.free(0, 1)
    assert one.kmem.arena.size == NBPDR, "nothing goes back"
    one.nothing_left()


def test_10_gives_spans_back_to_the_kernels_map() -> None:
    one = LoneKernel("2013", map_pages=64)
    assert len(one.kmem.map.entries) == 1, "kmem_arena's"
    addr = one.now(freebsd.kva_alloc(one.kmem, 3 * PAGE))
    assert one.kmem.map.size == (4 + 3) * PAGE
    one.now(freebsd.kva_free(one.kmem, addr, 3 * PAGE))
    assert one.kmem.map.size == 4 * PAGE


def test_10_caches_small_sizes() -> None:
    one = LoneKernel("2013", map_pages=64, qcache_max=16 * PAGE)
    addr = one.now(freebsd.kva_alloc(one.kmem, 3 * PAGE))
    one.now(freebsd.kva_free(one.kmem, addr, 3 * PAGE))
    assert one.kmem.kernel_arena.inuse == 3 * PAGE
    assert one.now(freebsd.kva_alloc(one.kmem, 3 * PAGE)) == addr


def test_page_tables_of_the_kernel_take_pages_and_keep_them() -> None:
    one = LoneKernel(map_pages=4 * 512, page_tables=True)
    assert one.malloc(1) == 0
    assert one.free_pages == 12 - 1 - 3, "a page, and a table at each of three levels"
    one.free(0, 1)
    assert one.free_pages == 12 - 3


def test_without_a_page_for_a_page_table_the_kernel_panics() -> None:
    one = LoneKernel(page_tables=True, npages=2)
    with pytest.raises(Panic, match="pmap_growkernel: no memory to grow kernel"):
        one.malloc(1)


def test_a_kernel_map_that_is_filled_while_the_world_is_built_has_its_page_tables() -> None:
    one = Lone()
    memory = freebsd.Memory(pages.VmPages13(one.k, 8))
    kernel_map = freebsd.kernel_map(one.k, 4 * 512, memory=memory)
    kernel_map.fill(600)
    assert kernel_map.kernel_vm_end == kernel_map.min_offset + 2 * NBPDR
    assert kernel_map.pmap is not None
    assert kernel_map.pmap.kernel_vm_end == kernel_map.kernel_vm_end
    one.begin()
    kernel_map.check()


def test_a_kernel_without_memory_has_no_kernel_memory() -> None:
    one = Lone()
    kernel_map = freebsd.kernel_map(one.k, 8)
    with pytest.raises(UsageError, match="has no memory"):
        freebsd.kmem_init(kernel_map)
    one.begin()


def test_a_kmem_arena_that_does_not_fit_is_refused() -> None:
    one = Lone()
    with pytest.raises(UsageError, match="has no room for so much"):
        kernel(one.k, 8, "2013", map_pages=4, kmem_pages=5)
    one.begin()


def test_what_was_freed_too_early_is_found_when_it_is_used_again() -> None:
    """A page that the kernel still maps, freed by hand."""
    one = LoneKernel()
    one.malloc(1)
    page = one.kmem.kernel_object.pages.lookup(0)
    assert page is not None
    one.now(one.kmem.kernel_object.lock.lock())
    one.now(one.pages.vm_page_unwire(page, pages.PageQueue.NONE))
    one.now(one.kmem.kernel_object.free(page))
    one.now(one.kmem.kernel_object.lock.unlock())
    with pytest.raises(Panic, match="is reused, and still mapped"):
        one.malloc(1)
