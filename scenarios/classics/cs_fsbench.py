"""SCTBench CS/fsbench: threads allocate blocks for inodes, with one thread more than there are locks for inodes."""

from stressvm import Cell, Kernel, Mutex, scenario

SOURCE = "SCTBench, CS/fsbench_bad and fsbench_ok (Flanagan and Godefroid, POPL 2005)"
BLOCKS = 26
INODES = 32


def allocate(k: Kernel, threads: int) -> None:
    """Each thread looks for a free block for the inode of its number."""
    lock_inode = [Mutex(k, f"locki{number}") for number in range(BLOCKS)]
    lock_block = [Mutex(k, f"lockb{number}") for number in range(BLOCKS)]
    busy = [Cell(k, value=False, name=f"busy{number}") for number in range(BLOCKS)]
    inode = [Cell(k, 0, f"inode{number}") for number in range(INODES)]
    i = Cell(k, 0, "i")

    async def routine(tid: int) -> None:
        own = tid % INODES
        assert own < BLOCKS, f"inode {own} has no lock"
        await lock_inode[own].lock()
        if await inode[own].load() == 0:
            block = own * 2 % BLOCKS
            for _ in range(BLOCKS // 2):
                await lock_block[block].lock()
                if not await busy[block].load():
                    await busy[block].store(value=True)
                    await inode[own].store(block + 1)
                    await lock_block[block].unlock()
                    break
                await lock_block[block].unlock()
                block = (block + 1) % BLOCKS
        await lock_inode[own].unlock()

    async def main() -> None:
        for number in range(threads):
            await i.store(number)
            k.spawn(routine, number)

    k.spawn(main)


@scenario(expect="assertion", source=SOURCE)
def fsbench(k: Kernel, threads: int = 27) -> None:
    """The 27th thread indexes past the 26 locks, in every schedule.

    Published: SCTBench lists 28 threads and 155 steps; the bug shows in the first execution.
    """
    allocate(k, threads)


@scenario(source=SOURCE, executions=30)
def fsbench_ok(k: Kernel, threads: int = 26) -> None:
    """As many threads as there are locks: all is well."""
    allocate(k, threads)
