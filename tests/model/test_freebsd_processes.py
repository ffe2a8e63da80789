"""FreeBSD's stacks and forks with several threads: every order, and the defects that the orders find."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm.vm import freebsd
from tests.support import every, explore, kinds, outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel
    from stressvm.vm.freebsd import VmMapEntry

PAGE = freebsd.PAGE_SIZE
LOW = 1 << 32
RW = freebsd.VM_PROT_RW
BOTH = pytest.mark.parametrize("cls", [freebsd.VmMap13, freebsd.VmMap2013])


def space(k: Kernel, cls: type[freebsd.VmMap], fork: type[freebsd.Fork] = freebsd.Fork) -> freebsd.Vmspace:
    """A process with 64 pages of addresses."""
    freebsd.sysctl(k).sgrowsiz = 4 * PAGE
    return freebsd.vmspace_alloc(k, LOW, LOW + 64 * PAGE, cls=cls, fork=fork, fault=freebsd.LookupFault())


def at(page: int) -> int:
    return LOW + page * PAGE


def built(vm: freebsd.Vmspace, start: int, end: int) -> None:
    """An entry, while the world is built."""
    assert freebsd.vm_map_insert(vm.map, None, 0, at(start), at(end), RW, RW) == 0


def with_stack(k: Kernel, cls: type[freebsd.VmMap], pages: int = 16) -> freebsd.Vmspace:
    """A process with a stack that ends at page 32, 4 pages of which are there."""
    vm = space(k, cls)
    size = pages * PAGE
    assert vm.map.stack_locked(at(32) - size, size, 4 * PAGE, RW, RW, freebsd.MAP_STACK_GROWS_DOWN) == 0
    return vm


async def touch(k: Kernel, vm: freebsd.Vmspace, page: int) -> None:
    """A fault that may grow the stack; what came of it is recorded."""
    result, found = await vm.map.vm_map_lookup(at(page), freebsd.VM_PROT_READ, grow=True)
    if found is not None:
        await found.vm_map.lookup_done()
    k.record(did=result)


# ---------------------------------------------------------------- two faults in one gap


def two_faults(cls: type[freebsd.VmMap], pages: tuple[int, int], size: int = 16) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        vm = with_stack(k, cls, size)
        for page in pages:
            vm.adopt(k.spawn(touch, k, vm, page))

    return build


@BOTH
def test_both_faults_succeed_whoever_grows_the_stack(cls: type[freebsd.VmMap]) -> None:
    endings = explore(two_faults(cls, (27, 26)), 1_500)
    assert kinds(endings) == {None}
    assert {tuple(sorted(said)) for said in outcomes(endings)} == {("touch0 0", "touch1 0")}


class OldGap(freebsd.VmMap13):
    """After the lock was lost, the gap known from before is believed in."""

    def lost(self, gap_entry: VmMapEntry) -> VmMapEntry | None:
        """It may be smaller by now, or gone."""
        return gap_entry


def test_an_upgrade_that_fails_makes_the_gap_unknown() -> None:
    said = {word for said in outcomes(explore(two_faults(OldGap, (27, 26)), 1_500)) for word in said}
    assert f"touch0 {freebsd.KERN_PROTECTION_FAILURE}" in said
    # With nothing but the guard and four pages in it, the gap shrinks to the guard; without a guard it is gone.
    gone = explore(without_guard(OldGap), 1_500)
    assert {ending.text.split(": ")[1][:14] for ending in gone if ending.kind == "invariant"} == {"<VmMapEntry 0x"}
    assert kinds(explore(without_guard(freebsd.VmMap13), 1_500)) == {None}


def without_guard(cls: type[freebsd.VmMap]) -> Callable[[Kernel], None]:
    """A gap of 4 pages that is filled by the first growth."""

    def build(k: Kernel) -> None:
        vm = with_stack(k, cls, 8)
        gap = vm.map.entries.first
        assert gap is not None
        gap.next_read = 0
        for page in (27, 26):
            vm.adopt(k.spawn(touch, k, vm, page))

    return build


@BOTH
def test_a_stack_that_is_unmapped_meanwhile_is_not_grown(cls: type[freebsd.VmMap]) -> None:
    def build(k: Kernel) -> None:
        vm = with_stack(k, cls)

        async def unmap() -> None:
            await freebsd.vm_map_remove(vm.map, at(28), at(32))

        vm.adopt(k.spawn(touch, k, vm, 27, name="touch"))
        k.spawn(unmap)

    endings = every(build)
    assert kinds(endings) == {None}
    assert outcomes(endings) == {("touch 0",), (f"touch {freebsd.KERN_PROTECTION_FAILURE}",)}


class Unrecorded(freebsd.VmMap13):
    """A piece of memory whose size is changed without the tree being told."""

    def resize(self, entry: VmMapEntry, end: int) -> None:
        """Only the entry list learns of it."""
        self.entries.resize(entry, end=end)


def test_the_tree_must_be_told_of_every_size() -> None:
    def build(cls: type[freebsd.VmMap]) -> Callable[[Kernel], None]:
        def made(k: Kernel) -> None:
            vm_map = freebsd.setup(k, 16, cls=cls, search=freebsd.Search.SPLAY)
            vm_map.fill(2)
            vm_map.fill(1, offset=12)

            async def extend() -> None:
                await freebsd.vm_map_find(vm_map, None, 0, vm_map.min_offset, PAGE, prot=RW, max_prot=RW)

            k.spawn(extend)

        return made

    assert kinds(every(build(freebsd.VmMap13))) == {None}
    (ending,) = every(build(Unrecorded))
    assert "G1-G4 structure" in ending.text


# ---------------------------------------------------------------- searches and insertions


class Sentinel(freebsd.VmMap13):
    """What findspace returns for no space is compared with the wrong thing, and taken for an address."""

    def findspace(self, start: int, length: int) -> int | None:
        """Never None."""
        found = super().findspace(start, length)
        return self.max_offset - length + 1 if found is None else found


class Overlapping(freebsd.VmMap13):
    """The entry behind what is inserted is not looked at."""

    def next_overlaps(self, prev: VmMapEntry | None, end: int) -> bool:  # noqa: ARG002 - that is the defect
        """It may begin anywhere."""
        return False


class Adjacent(freebsd.VmMap13):
    """What ends where the next entry begins is refused."""

    def next_overlaps(self, prev: VmMapEntry | None, end: int) -> bool:
        """With `<=` in place of `<`."""
        after = self.after(prev)
        return after is not None and after.start <= end


def one_call(cls: type[freebsd.VmMap], start: int, pages: int, find_space: int) -> set[tuple[str, ...]]:
    """Map so many pages at page `start` of 16, of which page 8 is taken: what it came to, or the verdict."""

    def build(k: Kernel) -> None:
        vm_map = freebsd.setup(k, 16, cls=cls)
        assert (
            freebsd.vm_map_insert(
                vm_map, freebsd.VmObject(1), 0, vm_map.min_offset + 8 * PAGE, vm_map.min_offset + 9 * PAGE
            )
            == 0
        )

        async def call() -> None:
            addr = vm_map.min_offset + start * PAGE
            result, _ = await freebsd.vm_map_find(vm_map, None, 0, addr, pages * PAGE, find_space=find_space)
            k.record(did=result)

        k.spawn(call, name="call")

    return {ending.said or (str(ending.kind),) for ending in every(build)}


def test_planted_defects_of_searches_and_insertions_are_found() -> None:
    any_space, fixed = freebsd.VMFS_ANY_SPACE, freebsd.VMFS_NO_SPACE
    assert one_call(freebsd.VmMap13, 0, 10, any_space) == {(f"call {freebsd.KERN_NO_SPACE}",)}
    assert one_call(Sentinel, 0, 10, any_space) == {(f"call {freebsd.KERN_INVALID_ADDRESS}",)}
    assert one_call(freebsd.VmMap13, 6, 3, fixed) == {(f"call {freebsd.KERN_NO_SPACE}",)}
    assert one_call(Overlapping, 6, 3, fixed) == {("invariant",)}
    assert one_call(freebsd.VmMap13, 6, 2, fixed) == {("call 0",)}
    assert one_call(Adjacent, 6, 2, fixed) == {(f"call {freebsd.KERN_NO_SPACE}",)}


# ---------------------------------------------------------------- fork


def fork_and_wire(fork: type[freebsd.Fork], cls: type[freebsd.VmMap] = freebsd.VmMap13) -> Callable[[Kernel], None]:
    """A thread wires what was never touched, another forks; the last one accounts for everything."""

    def build(k: Kernel) -> None:
        vm = space(k, cls, fork)
        built(vm, 0, 2)
        freebsd.audit(k)

        async def wire() -> None:
            assert await freebsd.vm_map_wire(vm.map, at(0), at(2), freebsd.VM_MAP_WIRE_USER) == 0

        async def divide() -> None:
            child = await freebsd.fork1(vm)
            assert child is not None
            entry = child.map.entries.first
            assert entry is not None
            k.record(did=entry.object is not None)
            await freebsd.vmspace_free(child)

        async def account() -> None:
            for thread in threads:
                await k.join(thread)
            freebsd.audit(k)

        threads = [k.spawn(wire, name="wire"), k.spawn(divide, name="divide")]
        k.spawn(account)

    return build


class KeepGoing(freebsd.Fork):
    """A fork that does not wait until nobody wires."""

    async def keep_out(self) -> None:
        """The map may be busy."""


def test_a_fork_waits_until_nobody_wires() -> None:
    for cls, fork in ((freebsd.VmMap13, freebsd.Fork), (freebsd.VmMap2013, freebsd.Fork2013)):
        endings = every(fork_and_wire(fork, cls), limit=60_000)
        assert kinds(endings) == {None}
        # Before it is wired there is nothing to be copied, after that all is copied at once.
        assert outcomes(endings) == {("divide False",), ("divide True",)}
    found = explore(fork_and_wire(KeepGoing), 500)
    assert {ending.text.split(": ")[1] for ending in found if ending.kind == "invariant"} == {"G12 busy"}


def test_a_fork_against_unmapping_and_faults_accounts_for_everything() -> None:
    def build(k: Kernel) -> None:
        vm = space(k, freebsd.VmMap13)
        built(vm, 0, 4)

        async def write() -> None:
            await touch(k, vm, 1)

        async def unmap() -> None:
            await freebsd.vm_map_remove(vm.map, at(2), at(3))

        async def divide() -> None:
            child = await freebsd.fork1(vm)
            assert child is not None
            _, found = await child.map.vm_map_lookup(at(0), freebsd.VM_PROT_WRITE)
            if found is not None:
                await found.vm_map.lookup_done()
            await freebsd.vmspace_free(child)

        async def account() -> None:
            for thread in threads:
                await k.join(thread)
            freebsd.audit(k)
            await freebsd.vmspace_free(vm)
            freebsd.audit(k)
            assert not freebsd.ucred(k).reserved

        threads = [k.spawn(call) for call in (write, unmap, divide)]
        k.spawn(account)

    assert kinds(explore(build, 1_500)) == {None}


class Twice(freebsd.Fork):
    """What is copied on write is not counted as a reference."""

    def copy_swap_object(self, entry: VmMapEntry, new: VmMapEntry, obj: freebsd.VmObject) -> None:
        """One too few."""
        super().copy_swap_object(entry, new, obj)
        assert new.object is not None
        new.object.ref_count -= 1


class Uncharged(freebsd.Fork):
    """The child's copies are not charged for in advance."""

    def copy_swap_object(self, entry: VmMapEntry, new: VmMapEntry, obj: freebsd.VmObject) -> None:
        """The entry is, and the process is not."""
        charge = self.charge
        super().copy_swap_object(entry, new, obj)
        self.charge = charge


@pytest.mark.parametrize(("fork", "text"), [(Twice, "is held 2 times"), (Uncharged, "bytes of swap are charged for")])
def test_a_fork_that_counts_wrongly_is_found(fork: type[freebsd.Fork], text: str) -> None:
    def build(k: Kernel) -> None:
        vm = space(k, freebsd.VmMap13, fork)
        built(vm, 0, 4)

        async def divide() -> None:
            await touch(k, vm, 0)
            await freebsd.fork1(vm)

        k.spawn(divide)

    (ending,) = every(build)
    assert (ending.kind, text in ending.text) == ("invariant", True)


# ---------------------------------------------------------------- kmem_suballoc against others, find_min's two holds


def test_find_min_may_find_in_its_second_search_what_the_first_did_not() -> None:
    def build(k: Kernel) -> None:
        vm_map = freebsd.setup(k, 8)
        vm_map.fill()
        low = vm_map.min_offset

        async def find() -> None:
            result, addr = await freebsd.vm_map_find_min(vm_map, None, 0, low + 4 * PAGE, PAGE, low)
            k.record(did=(result, (addr - low) // PAGE if not result else -1))

        async def free() -> None:
            await freebsd.vm_map_remove(vm_map, low + PAGE, low + 2 * PAGE)
            await freebsd.vm_map_remove(vm_map, low + 5 * PAGE, low + 6 * PAGE)

        k.spawn(find, name="find")
        k.spawn(free, name="free")

    assert outcomes(every(build)) == {
        (f"find {(freebsd.KERN_NO_SPACE, -1)}",),
        ("find (0, 1)",),
        ("find (0, 5)",),
    }
