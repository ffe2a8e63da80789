"""CHESS's four work-stealing queues: an owner at the tail, thieves at the head, a lock only where they may meet.

The queue is the THE protocol of Cilk-5: whoever takes first moves its index and then looks at the other's. Two of the
four programs have a fault in the test for room before a push (a slot is overwritten that a thief has claimed and not yet
read). The two "with state" test for room rightly; what is wrong in them is the bookkeeping which they do for a checker
with states: every call pushes an activation record on its thread's stack, and the vector of these stacks grows without a
lock.
"""

from __future__ import annotations

from stressvm import Atomic, Cell, Kernel, Mutex, scenario

SOURCE = "CHESS, Microsoft Research, in SCTBench; threads and numbers as in PERIOD's copy"
RACE = f"{SOURCE}; which fault the published runs met is not told: it can only be the bookkeeping's"
#: Slots of a new queue.
SLOTS = 2


class SpinLock:
    """A word that is swapped until it was free; whoever finds it taken lets others go first."""

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.word = Atomic(k, 0, "lock")

    async def lock(self) -> None:
        """Spin."""
        while await self.word.swap(1):
            await self.k.yield_()

    async def unlock(self) -> None:
        """Store 0."""
        await self.word.store(0)


class Items:
    """What is queued: each must be worked on exactly once."""

    def __init__(self, k: Kernel, number: int) -> None:
        self.fields = [Cell(k, 0, f"item{index}") for index in range(number)]

    async def operate(self, item: int) -> None:
        """Work on it."""
        assert item >= 0, "took what nobody had put there"
        await self.fields[item].store(await self.fields[item].load() + 1)

    async def check(self) -> None:
        """At the end."""
        for index, field in enumerate(self.fields):
            times = await field.load()
            assert times == 1, f"item {index} was worked on {times} times"


class WorkStealQueue:
    """The queue. `spare` is how many slots a push keeps free: 1 is right, 0 is the published fault."""

    def __init__(self, k: Kernel, lock: Mutex | SpinLock, spare: int) -> None:
        self.k = k
        self.lock = lock
        self.spare = spare
        self.head = Atomic(k, 0, "head")
        self.tail = Atomic(k, 0, "tail")
        self.mask = SLOTS - 1
        self.elems = self.array(SLOTS)

    def array(self, slots: int) -> list[Cell[int]]:
        """Empty slots."""
        return [Cell(self.k, -1, f"elems{slots}[{index}]") for index in range(slots)]

    async def note(self, tid: int) -> None:
        """Where the programs with state note how far a call is."""

    async def enter(self, tid: int) -> None:
        """Where the programs with state push an activation record."""

    async def leave(self, tid: int) -> None:
        """Where they pop it."""

    async def steal(self, tid: int) -> int | None:
        """Take the oldest element; None: there is none, or the owner is about to take it. Any thread."""
        await self.enter(tid)
        await self.lock.lock()
        await self.note(tid)
        head = await self.head.load()
        await self.head.store(head + 1)
        await self.note(tid)
        found: int | None = None
        if head < await self.tail.load():
            found = await self.elems[head & self.mask].load()
        else:
            await self.head.store(head)
        await self.lock.unlock()
        await self.leave(tid)
        return found

    async def pop(self, tid: int) -> int | None:
        """Take the newest element; None: there is none. The owner only."""
        await self.enter(tid)
        tail = await self.tail.load() - 1
        await self.tail.store(tail)
        await self.note(tid)
        if await self.head.load() <= tail:
            found: int | None = await self.elems[tail & self.mask].load()
        else:
            await self.tail.store(tail + 1)
            found = await self.locked_pop(tid)
        await self.leave(tid)
        return found

    async def locked_pop(self, tid: int) -> int | None:
        """The same with no thief about; an empty queue starts over at 0."""
        await self.enter(tid)
        await self.lock.lock()
        await self.note(tid)
        tail = await self.tail.load() - 1
        await self.tail.store(tail)
        found: int | None = None
        if await self.head.load() <= tail:
            found = await self.elems[tail & self.mask].load()
        else:
            await self.tail.store(tail + 1)
        if await self.head.load() > tail:
            await self.head.store(0)
            await self.tail.store(0)
            found = None
        await self.lock.unlock()
        await self.leave(tid)
        return found

    async def push(self, tid: int, item: int) -> None:
        """Add an element. The owner only."""
        await self.enter(tid)
        tail = await self.tail.load()
        await self.note(tid)
        if tail < await self.head.load() + len(self.elems) - self.spare:
            await self.elems[tail & self.mask].store(item)
            await self.tail.store(tail + 1)
        else:
            await self.locked_push(tid, item)
        await self.leave(tid)

    async def locked_push(self, tid: int, item: int) -> None:
        """The same with no thief about: bring the indices down, and double the slots if they do not suffice."""
        await self.enter(tid)
        await self.lock.lock()
        await self.note(tid)
        head = await self.head.load()
        count = await self.tail.load() - head
        head &= self.mask
        await self.head.store(head)
        await self.tail.store(head + count)
        if count >= self.mask:
            bigger = self.array(2 * len(self.elems))
            for index in range(count):
                await bigger[index].store(await self.elems[head + index & self.mask].load())
            self.elems = bigger
            self.mask = len(bigger) - 1
            await self.head.store(0)
            await self.tail.store(count)
        assert count < self.mask, "no room, although the slots were doubled"
        tail = await self.tail.load()
        await self.elems[tail & self.mask].store(item)
        await self.tail.store(tail + 1)
        await self.lock.unlock()
        await self.leave(tid)


class Stacks:
    """A vector of stacks, one for each thread number, as a C++ vector does it: its size is one plain word."""

    def __init__(self, k: Kernel) -> None:
        self.size = Cell(k, 0, "stacks.size")
        self.slots: dict[int, list[int]] = {}

    async def resize(self, size: int) -> None:
        """Make new stacks behind the last one and then move the end; or just move the end."""
        now = await self.size.load()
        for number in range(now, size):
            self.slots[number] = []
        if size != now:
            await self.size.store(size)

    async def at(self, tid: int) -> list[int]:
        """The stack of a thread, checked, as `vector::at` does."""
        assert tid < await self.size.load(), f"stack {tid} is out of range"
        return self.slots[tid]

    async def push(self, tid: int) -> None:
        """A new record, after making room for the thread's stack."""
        if await self.size.load() <= tid:
            await self.resize(tid + 1)
        (await self.at(tid)).append(0)

    async def pop(self, tid: int) -> None:
        """The record is done with."""
        stack = await self.at(tid)
        assert stack, f"stack {tid} is empty"
        stack.pop()

    async def note(self, tid: int) -> None:
        """Write into the last record."""
        stack = await self.at(tid)
        assert stack, f"stack {tid} is empty"
        stack[-1] += 1


class WithState(WorkStealQueue):
    """The queue that keeps account of itself."""

    def __init__(self, k: Kernel, lock: Mutex | SpinLock, spare: int) -> None:
        super().__init__(k, lock, spare)
        self.state = Stacks(k)

    async def note(self, tid: int) -> None:
        """See Stacks."""
        await self.state.note(tid)

    async def enter(self, tid: int) -> None:
        """See Stacks."""
        await self.state.push(tid)

    async def leave(self, tid: int) -> None:
        """See Stacks."""
        await self.state.pop(tid)


def work(k: Kernel, queue: WorkStealQueue, items: int, stealers: int, attempts: int, *, by_pairs: bool) -> None:
    """The owner pushes and pops, by pairs or all and all; thieves steal; main looks at the outcome."""
    objects = Items(k, items)
    i = Cell(k, 0, "i")

    async def take(item: int | None) -> None:
        if item is not None:
            await objects.operate(item)

    async def stealer(tid: int) -> None:
        await queue.enter(tid)
        for _ in range(attempts):
            await queue.note(tid)
            await take(await queue.steal(tid))
        await queue.leave(tid)

    async def owner() -> None:
        for number in range(items):
            await queue.note(0)
            await queue.push(0, number)
            if by_pairs and number % 2:
                await take(await queue.pop(0))
        for _ in range(items // 2 if by_pairs else items):
            await queue.note(0)
            await take(await queue.pop(0))

    async def main() -> None:
        await queue.enter(0)
        threads = []
        for number in range(stealers):
            await i.store(number)
            threads.append(k.spawn(stealer, number + 1))
        threads.append(k.spawn(owner))
        for thread in reversed(threads):
            await k.join(thread)
        await objects.check()

    k.spawn(main)


@scenario(expect="assertion", source=SOURCE, executions=5_000)
def work_steal_queue(k: Kernel, stealers: int = 1, items: int = 4, attempts: int = 2) -> None:
    """A push takes the slot of an element that a thief has claimed and not yet read: one is done twice, one never.

    Published, mean executions to the bug (20 of 20 trials): SURW 6, URW 13, POS 12, PCT-3 48, PCT-10 16. SCTBench lists
    3 threads and 161 steps.
    """
    work(k, WorkStealQueue(k, Mutex(k, "cs"), 0), items, stealers, attempts, by_pairs=True)


@scenario(source=SOURCE, executions=200)
def work_steal_queue_ok(k: Kernel, stealers: int = 1, items: int = 4, attempts: int = 2) -> None:
    """The same with a slot kept free."""
    work(k, WorkStealQueue(k, Mutex(k, "cs"), 1), items, stealers, attempts, by_pairs=True)


@scenario(expect="assertion", source=SOURCE, executions=5_000)
def interlocked_work_steal_queue(k: Kernel, stealers: int = 1, items: int = 4, attempts: int = 2) -> None:
    """The same fault, with a lock that spins.

    Published, mean executions to the bug (20 of 20 trials unless said otherwise): SURW 6, URW 428, POS 14, PCT-3 48,
    PCT-10 13, random walk never. SCTBench lists 3 threads and 169 steps.
    """
    work(k, WorkStealQueue(k, SpinLock(k), 0), items, stealers, attempts, by_pairs=True)


@scenario(expect="assertion", source=RACE)
def interlocked_work_steal_queue_with_state(k: Kernel, stealers: int = 2, items: int = 4, attempts: int = 2) -> None:
    """The queue is right; two thieves make the vector of stacks grow at once, and one of them finds no stack.

    Published, mean executions to the bug (20 of 20 trials unless said otherwise): SURW 6, URW 1,367 (4 of 20), POS 5,
    PCT-3 907, PCT-10 204, random walk 26. SCTBench lists 3 threads and 660 steps.
    """
    work(k, WithState(k, SpinLock(k), 1), items, stealers, attempts, by_pairs=True)


@scenario(expect="assertion", source=RACE)
def state_work_steal_queue(k: Kernel, stealers: int = 2, items: int = 4, attempts: int = 2) -> None:
    """As the one before, with an owner that pushes everything and then pops everything.

    Published, mean executions to the bug (20 of 20 trials unless said otherwise): SURW 7, URW 5 (3 of 20), POS 6,
    PCT-3 842, PCT-10 199. SCTBench lists 3 threads and 2,406 steps.
    """
    work(k, WithState(k, SpinLock(k), 1), items, stealers, attempts, by_pairs=False)
