"""Where execve(2) puts the arguments: a fixed number of ranges of exec_map, handed out again and again.

Each CPU has a slot for one range. Who needs a range takes the one in the slot of its CPU, by an atomic swap; if there is
none it takes one from a list under a mutex, or sleeps until somebody puts one there. Who is done puts its range into the
slot if that is empty, by compare and swap, and else on the list, where it wakes one sleeper: all of them want the same.

A range that goes into a slot wakes nobody. So a sleeper may wait while a range is idle in a slot, until the next one is
released with the slot full. The kernel has twice as many ranges as CPUs and four more, so that most must be on the list
when all is quiet; with no more ranges than CPUs, a sleeper may sleep for ever.

Source: sys/kern/kern_exec.c of releng/13.0, exec_alloc_args_kva, exec_release_args_kva, exec_args_kva_lowmem.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.cell import Atomic
from stressvm.kernel.errors import UsageError
from stressvm.kernel.mutex import Mutex
from stressvm.kernel.sleepq import SleepQueue
from stressvm.vm.freebsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.freebsd.vm_map import VmMap

#: What is in a slot without a range; others have the number of one.
_NONE = -1


class ExecArgsKva:
    """struct exec_args_kva: a range of exec_map, and the generation that its pages are of."""

    __slots__ = ("addr", "gen", "number")

    def __init__(self, number: int, addr: int) -> None:
        self.number = number
        self.addr = addr
        self.gen = 0

    def __repr__(self) -> str:
        """Where it is."""
        return f"<ExecArgsKva {self.number} at {self.addr:#x}>"


class ExecArgs:
    """All ranges of a kernel; while the world is built. Their pages are taken from exec_map at once.

    Args:
        k: the kernel.
        exec_map: where they are; it must have room for them.
        cpus: how many slots there are.
        entries: how many ranges; by default as many as the kernel has, 2 * cpus + 4.
        pages: the size of one.
    """

    def __init__(
        self, k: Kernel, exec_map: VmMap, *, cpus: int = 1, entries: int | None = None, pages: int = 1
    ) -> None:
        if cpus < 1 or (entries is not None and entries < 1) or pages < 1:
            raise UsageError(f"ExecArgs(cpus={cpus}, entries={entries}, pages={pages}): each at least 1")
        count = 2 * cpus + 4 if entries is None else entries
        self.k = k
        self.map = exec_map
        self.size = pages * F.PAGE_SIZE
        self.ranges = [ExecArgsKva(n, exec_map.fill(pages, offset=n * pages)) for n in range(count)]
        self.slots = [Atomic(k, _NONE, f"exec_args_kva.cpu{cpu}") for cpu in range(cpus)]
        self.gen = Atomic(k, 0, "exec_args_gen")
        self.mtx = Mutex(k, "exec_args_kva_mtx")
        self.freelist = list(reversed(self.ranges))
        self.channel = SleepQueue(k, "exec_args_kva_freelist")

    def idle(self) -> bool:
        """Is a range idle, on the list or in a slot? Pure."""
        return bool(self.freelist) or any(slot.peek() != _NONE for slot in self.slots)

    # ------------------------------------------------------------ the steps

    async def from_slot(self, cpu: int) -> ExecArgsKva | None:
        """Take what is in the slot of a CPU."""
        number = await self.slots[cpu].swap(_NONE)
        return None if number == _NONE else self.ranges[number]

    async def from_list(self) -> ExecArgsKva:
        """Take one from the list. Sleeps: until there is one."""
        await self.mtx.lock()
        while not self.freelist:
            await self.channel.sleep(self.mtx, "execkva", until=self.idle)
        argkva = self.freelist.pop(0)
        await self.mtx.unlock()
        return argkva

    async def to_slot(self, argkva: ExecArgsKva, cpu: int) -> bool:
        """Put it into the slot of a CPU, if that is empty."""
        return await self.slots[cpu].cas(_NONE, argkva.number)

    async def to_list(self, argkva: ExecArgsKva) -> None:
        """Put it on the list, and wake one sleeper. Sleeps: for the mutex."""
        await self.mtx.lock()
        self.freelist.insert(0, argkva)
        await self.channel.wakeup_one()
        await self.mtx.unlock()

    async def release(self, argkva: ExecArgsKva, gen: int, cpu: int) -> None:
        """exec_release_args_kva: pages of an older generation are given up, then the range is idle again."""
        if argkva.gen != gen:
            await self.give_pages_up()
            argkva.gen = gen
        if not await self.to_slot(argkva, cpu):
            await self.to_list(argkva)

    async def give_pages_up(self) -> None:
        """vm_map_madvise(MADV_FREE): the map is locked for reading, and there are no pages."""
        await self.map.lock.lock_read()
        await self.map.lock.unlock_read()


async def exec_alloc_args_kva(pool: ExecArgs, cpu: int = 0) -> ExecArgsKva:
    """Take a range for the arguments of an execve.

    Locks: none on entry and exit. Sleeps: for the mutex of the list, and until a range is put on the list.

    Args:
        pool: the ranges.
        cpu: which CPU the thread is on.

    Returns:
        A range, which exec_free_args_kva takes back.

    Source: sys/kern/kern_exec.c, exec_alloc_args_kva.
    """
    argkva = await pool.from_slot(cpu)
    return argkva if argkva is not None else await pool.from_list()


async def exec_free_args_kva(pool: ExecArgs, argkva: ExecArgsKva, cpu: int = 0) -> None:
    """Give a range back. One sleeper is woken if it goes on the list, and nobody if it goes into the slot of the CPU.

    Locks: none on entry and exit. Sleeps: for the mutex of the list; for exec_map's lock if memory has been low.

    Args:
        pool: the ranges.
        argkva: what exec_alloc_args_kva returned.
        cpu: which CPU the thread is on now.

    Source: sys/kern/kern_exec.c, exec_free_args_kva.
    """
    await pool.release(argkva, await pool.gen.load(), cpu)
    pool.k.progress()


async def exec_args_kva_lowmem(pool: ExecArgs, cpu: int = 0) -> None:
    """Memory is low: the pages of all idle ranges are given up, those of the others when they are released.

    For a while the list and the slots are empty although ranges are idle; whatever of them finds no empty slot goes on
    the list, and wakes a sleeper each.

    Locks: none on entry and exit. Sleeps: for the mutex of the list, and for exec_map's lock.

    Args:
        pool: the ranges.
        cpu: which CPU the thread is on.

    Source: sys/kern/kern_exec.c, exec_args_kva_lowmem.
    """
    gen = await pool.gen.fetchadd(1) + 1
    await pool.mtx.lock()
    idle, pool.freelist = pool.freelist, []
    await pool.mtx.unlock()
    for argkva in idle:
        await pool.release(argkva, gen, cpu)
    for other in range(len(pool.slots)):
        found = await pool.from_slot(other)
        if found is not None:
            await pool.release(found, gen, cpu)
