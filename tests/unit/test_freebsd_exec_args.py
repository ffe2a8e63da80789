"""FreeBSD's ranges for the arguments of execve: the slots of the CPUs, the list, and who is woken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import UsageError
from stressvm.vm import freebsd
from tests.freebsd_lone import PAGE, Lone, closing
from tests.support import every, explore, kinds

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel

closed = pytest.fixture(autouse=True)(closing)


class Pool(Lone):
    """The ranges of a machine, and a thread."""

    def __init__(self, cpus: int = 2, entries: int | None = None) -> None:
        super().__init__()
        self.map = freebsd.exec_map(self.k, 32)
        self.pool = freebsd.ExecArgs(self.k, self.map, cpus=cpus, entries=entries, pages=2)
        self.begin()

    def take(self, cpu: int = 0) -> freebsd.ExecArgsKva:
        return self.now(freebsd.exec_alloc_args_kva(self.pool, cpu))

    def give(self, argkva: freebsd.ExecArgsKva, cpu: int = 0) -> None:
        self.now(freebsd.exec_free_args_kva(self.pool, argkva, cpu))

    @property
    def slots(self) -> list[int]:
        return [slot.peek() for slot in self.pool.slots]

    @property
    def freelist(self) -> list[int]:
        return [argkva.number for argkva in self.pool.freelist]


def test_there_are_twice_as_many_as_cpus_and_four_more() -> None:
    one = Pool(cpus=3)
    low = one.map.min_offset
    assert [argkva.addr for argkva in one.pool.ranges] == [low + 2 * n * PAGE for n in range(10)]
    assert (one.map.size, one.freelist[0], one.slots) == (20 * PAGE, 9, [-1, -1, -1])


def test_a_range_goes_back_into_the_slot_of_its_cpu_and_out_of_it_first() -> None:
    one = Pool()
    first, second = one.take(), one.take()
    one.give(first, cpu=1)
    assert (one.slots, len(one.freelist)) == ([-1, first.number], 6)
    one.give(second, cpu=1)
    assert (one.slots, one.freelist[0]) == ([-1, first.number], second.number)
    assert one.take(cpu=1) is first
    assert one.take(cpu=1) is second


def test_low_memory_empties_the_list_and_the_slots_for_a_while() -> None:
    one = Pool(cpus=1, entries=3)
    out, slot = one.take(), one.take()
    one.give(slot)
    one.now(freebsd.exec_args_kva_lowmem(one.pool))
    assert sorted([*one.slots, *one.freelist]) == sorted(a.number for a in one.pool.ranges if a is not out)
    assert {argkva.gen for argkva in one.pool.ranges if argkva is not out} == {1}
    assert (out.gen, one.pool.idle()) == (0, True)
    one.give(out)
    assert (out.gen, out.number in one.freelist) == (1, True)


@pytest.mark.parametrize("kw", [{"cpus": 0}, {"entries": 0}, {"pages": 0}])
def test_impossible_pools_are_refused(kw: dict[str, Any]) -> None:
    one = Lone()
    with pytest.raises(UsageError, match="at least 1"):
        freebsd.ExecArgs(one.k, freebsd.exec_map(one.k, 8), **kw)


# ---------------------------------------------------------------- threads


def execs(entries: int, cpus: list[int], cls: type[freebsd.ExecArgs] = freebsd.ExecArgs) -> Callable[[Kernel], None]:
    """A thread for each CPU named, each of which takes a range, uses it alone, and gives it back."""

    def build(k: Kernel) -> None:
        pool = cls(k, freebsd.exec_map(k, entries), cpus=max(cpus) + 1, entries=entries)
        used: set[int] = set()

        async def execve(cpu: int) -> None:
            argkva = await freebsd.exec_alloc_args_kva(pool, cpu)
            assert argkva.number not in used
            used.add(argkva.number)
            await k.yield_()
            used.discard(argkva.number)
            await freebsd.exec_free_args_kva(pool, argkva, cpu)

        for cpu in cpus:
            k.spawn(execve, cpu)

    return build


def test_with_one_range_for_one_cpu_a_sleeper_may_sleep_for_ever() -> None:
    assert kinds(every(execs(1, [0, 0]))) == {None, "lost-wakeup"}


def test_with_one_more_than_cpus_nobody_does() -> None:
    assert kinds(explore(execs(2, [0, 0, 0]), 3_000)) == {None}
    assert kinds(explore(execs(3, [0, 1, 1, 0]), 2_000)) == {None}


class NobodyWoken(freebsd.ExecArgs):
    """A range that goes on the list wakes nobody."""

    async def to_list(self, argkva: freebsd.ExecArgsKva) -> None:
        """Without the wakeup."""
        await self.mtx.lock()
        self.freelist.insert(0, argkva)
        await self.mtx.unlock()


class IfForWhile(freebsd.ExecArgs):
    """Who was woken takes what is on the list without looking whether it still is."""

    async def from_list(self) -> freebsd.ExecArgsKva:
        """With `if` in place of `while`."""
        await self.mtx.lock()
        if not self.freelist:
            await self.channel.sleep(self.mtx, "execkva", until=self.idle)
        argkva = self.freelist.pop(0)
        await self.mtx.unlock()
        return argkva


class LookThenSwap(freebsd.ExecArgs):
    """The slot is looked at and emptied in two steps."""

    async def from_slot(self, cpu: int) -> freebsd.ExecArgsKva | None:
        """Not atomic."""
        number = await self.slots[cpu].load()
        if number < 0:
            return None
        await self.slots[cpu].store(-1)
        return self.ranges[number]


@pytest.mark.parametrize(
    ("cls", "kind"), [(NobodyWoken, "lost-wakeup"), (IfForWhile, "exception"), (LookThenSwap, "assertion")]
)
def test_planted_defects_are_found(cls: type[freebsd.ExecArgs], kind: str) -> None:
    assert kind in kinds(explore(execs(2, [0, 0, 0, 0], cls), 3_000))
