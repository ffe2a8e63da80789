"""One execution of a program on FreeBSD's map: what each thread does, and what has come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from stressvm.conform.freebsd_program import (
    FLAGS,
    MODES,
    NOT_AT_ALL,
    READING,
    STRATEGIES,
    WRITING,
    outcome_text,
)
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from stressvm.conform.freebsd_case import Personality
    from stressvm.conform.freebsd_program import Operation, Program
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Thread

PAGE: Final = freebsd.PAGE_SIZE
OK: Final = "ok"
#: An operation that was not called: its lock was not held, or there was nothing to give back.
SKIP: Final = "skip"

#: What an operation came to: a code, a page, a word, or several of those.
Result: TypeAlias = int | str | list[int | None] | None


@dataclass(slots=True)
class Task:
    """A thread of a program: what it has got so far, and how it holds the lock."""

    results: list[Result] = field(default_factory=list)
    held: str = NOT_AT_ALL
    thread: Thread | None = None


def _wiring(args: dict[str, Any]) -> int:
    """The flags of a wiring."""
    holes = freebsd.VM_MAP_WIRE_HOLESOK if args.get("holes_ok") else freebsd.VM_MAP_WIRE_NOHOLES
    return MODES[args["mode"]] | holes | (freebsd.VM_MAP_WIRE_WRITE if args.get("write") else 0)


class World:
    """A map and its threads; each operation is a method of the same name, which gives its result."""

    def __init__(self, k: Kernel, program: Program, personality: Personality) -> None:
        self.k = k
        self.program = program
        self.map = freebsd.setup(
            k,
            program.pages,
            version=personality.version,
            kind=program.map,
            search=personality.search,
            memory=self.memory(),
        )
        self.low = self.map.min_offset
        self.map.fault = self.fault([self.low + page * PAGE for page in program.bad_pages])
        for start, length, prot in program.initial:
            self.map.insert(None, 0, *self.range(start, length), prot, program.max_prot)
        self.tasks = [Task() for _ in program.threads]
        if program.setup:
            k.spawn(self.prepare, name="setup")
        else:
            self.spawn()

    def memory(self) -> freebsd.Memory | None:
        """What is under the map: nothing."""
        return None

    def fault(self, bad: list[int]) -> freebsd.Fault:
        """What a fault does, and at which addresses it fails."""
        return freebsd.LookupFault(bad) if self.program.fault == "lookup" else freebsd.Fault(bad)

    def spawn(self) -> None:
        """Start the program's threads."""
        for number, task in enumerate(self.tasks):
            task.thread = self.k.spawn(self.run, task, self.program.threads[number], name=f"t{number}")

    async def prepare(self) -> None:
        """What one thread does before the others start."""
        await self.run(Task(), self.program.setup)
        self.spawn()

    async def run(self, task: Task, operations: tuple[Operation, ...]) -> None:
        """A thread: its operations one after the other."""
        results = task.results
        while len(results) < len(operations):
            operation = operations[len(results)]
            if task.held in operation.held:
                results.append(await getattr(self, operation.word)(task, operation.args))
            else:
                results.append(SKIP)

    # ------------------------------------------------------------ addresses

    def range(self, start: int, length: int) -> tuple[int, int]:
        """So many pages, as addresses."""
        return self.low + start * PAGE, self.low + (start + length) * PAGE

    def page(self, addr: int) -> int:
        """An address as programs have it."""
        return (addr - self.low) // PAGE

    def start(self, task: Task, args: dict[str, Any]) -> int | None:
        """Where an operation is to be done: given, or what an earlier one got; None if that got nothing."""
        if "own" not in args:
            start: int = args["start"]
            return start
        got = task.results[args["own"]]
        if isinstance(got, list):
            got = got[1]
        return got if isinstance(got, int) else None

    # ------------------------------------------------------------ whole calls, none of which finds the lock held

    async def kmap_alloc_wait(self, _: Task, args: dict[str, Any]) -> Result:
        """The page, or None for never."""
        addr = await freebsd.kmap_alloc_wait(self.map, args["size"] * PAGE)
        return self.page(addr) if addr else None

    async def kmap_free_wakeup(self, task: Task, args: dict[str, Any]) -> Result:
        """It has no result."""
        start = self.start(task, args)
        if start is None:
            return SKIP
        await freebsd.kmap_free_wakeup(self.map, self.low + start * PAGE, args["len"] * PAGE)
        return OK

    async def find(self, _: Task, args: dict[str, Any]) -> Result:
        """vm_map_find: the code and the page."""
        aligned = args["strategy"] == "ALIGNED"
        space = freebsd.VMFS_ALIGNED_SPACE(args["align_log2"]) if aligned else STRATEGIES[args["strategy"]]
        addr, prot, max_prot = self.low + args["addr"] * PAGE, freebsd.VM_PROT_RW, self.program.max_prot
        rc, found = await freebsd.vm_map_find(self.map, None, 0, addr, args["size"] * PAGE, 0, space, prot, max_prot)
        return [rc, None if rc else self.page(found)]

    async def fixed(self, _: Task, args: dict[str, Any]) -> Result:
        """vm_map_fixed."""
        cow = freebsd.MAP_CHECK_EXCL if args["excl"] else 0
        addr, prot, max_prot = self.low + args["start"] * PAGE, freebsd.VM_PROT_RW, self.program.max_prot
        return await freebsd.vm_map_fixed(self.map, None, 0, addr, args["len"] * PAGE, prot, max_prot, cow)

    async def remove(self, task: Task, args: dict[str, Any]) -> Result:
        """vm_map_remove."""
        start = self.start(task, args)
        if start is None:
            return SKIP
        return await freebsd.vm_map_remove(self.map, *self.range(start, args["len"]))

    async def wire(self, _: Task, args: dict[str, Any]) -> Result:
        """vm_map_wire."""
        return await freebsd.vm_map_wire(self.map, *self.range(args["start"], args["len"]), _wiring(args))

    async def unwire(self, _: Task, args: dict[str, Any]) -> Result:
        """vm_map_unwire."""
        return await freebsd.vm_map_unwire(self.map, *self.range(args["start"], args["len"]), _wiring(args))

    async def protect(self, _: Task, args: dict[str, Any]) -> Result:
        """vm_map_protect, of the protection alone."""
        start, end = self.range(args["start"], args["len"])
        return await freebsd.vm_map_protect(
            self.map, start, end, args["prot"], freebsd.VM_PROT_NONE, freebsd.VM_MAP_PROTECT_SET_PROT
        )

    async def wait_mapped(self, _: Task, args: dict[str, Any]) -> Result:
        """Sleep until a page is mapped, looking again whenever woken."""
        lock = self.map.lock
        addr = self.low + args["addr"] * PAGE
        while True:
            await lock.lock()
            if (await freebsd.vm_map_lookup_entry(self.map, addr))[0]:
                await lock.unlock()
                return OK
            await lock.unlock_and_wait()

    # ------------------------------------------------------------ the lock

    async def lock(self, task: Task, _: dict[str, Any]) -> Result:
        """vm_map_lock."""
        await self.map.lock.lock()
        task.held = WRITING
        return OK

    async def lock_read(self, task: Task, _: dict[str, Any]) -> Result:
        """vm_map_lock_read."""
        await self.map.lock.lock_read()
        task.held = READING
        return OK

    async def trylock(self, task: Task, _: dict[str, Any]) -> Result:
        """vm_map_trylock: 1 if it got it."""
        if not await self.map.lock.trylock():
            return 0
        task.held = WRITING
        return 1

    async def trylock_read(self, task: Task, _: dict[str, Any]) -> Result:
        """vm_map_trylock_read: 1 if it got it."""
        if not await self.map.lock.trylock_read():
            return 0
        task.held = READING
        return 1

    async def unlock(self, task: Task, _: dict[str, Any]) -> Result:
        """vm_map_unlock, or vm_map_unlock_read."""
        lock = self.map.lock
        await (lock.unlock() if task.held == WRITING else lock.unlock_read())
        task.held = NOT_AT_ALL
        return OK

    async def lock_upgrade(self, task: Task, _: dict[str, Any]) -> Result:
        """vm_map_lock_upgrade: 0 if it is held for writing now, 1 if not at all."""
        upgraded = await self.map.lock.lock_upgrade()
        task.held = WRITING if upgraded else NOT_AT_ALL
        return 0 if upgraded else 1

    async def lock_downgrade(self, task: Task, _: dict[str, Any]) -> Result:
        """vm_map_lock_downgrade."""
        await self.map.lock.lock_downgrade()
        task.held = READING
        return OK

    async def busy(self, _: Task, __: dict[str, Any]) -> Result:
        """vm_map_busy."""
        await self.map.lock.busy()
        return OK

    async def unbusy(self, _: Task, __: dict[str, Any]) -> Result:
        """vm_map_unbusy, of a map that is busy."""
        if not self.map.lock.busy_count:
            return SKIP
        await self.map.lock.unbusy()
        return OK

    async def wait_busy(self, _: Task, __: dict[str, Any]) -> Result:
        """vm_map_wait_busy."""
        await self.map.lock.wait_busy()
        return OK

    async def unlock_and_wait(self, task: Task, _: dict[str, Any]) -> Result:
        """vm_map_unlock_and_wait."""
        task.held = NOT_AT_ALL
        await self.map.lock.unlock_and_wait()
        return OK

    async def wakeup(self, _: Task, __: dict[str, Any]) -> Result:
        """vm_map_wakeup."""
        await self.map.lock.wakeup()
        return OK

    # ------------------------------------------------------------ under the lock

    async def insert(self, _: Task, args: dict[str, Any]) -> Result:
        """vm_map_insert."""
        start, end = self.range(args["start"], args["len"])
        return freebsd.vm_map_insert(self.map, None, 0, start, end, freebsd.VM_PROT_RW, self.program.max_prot)

    async def delete(self, _: Task, args: dict[str, Any]) -> Result:
        """vm_map_delete."""
        return await freebsd.vm_map_delete(self.map, *self.range(args["start"], args["len"]))

    async def findspace(self, _: Task, args: dict[str, Any]) -> Result:
        """vm_map_findspace: the page, or None."""
        addr = freebsd.vm_map_findspace(self.map, self.low + args["start"] * PAGE, args["size"] * PAGE)
        return None if addr is None else self.page(addr)

    async def lookup(self, _: Task, args: dict[str, Any]) -> Result:
        """vm_map_lookup_entry: is it mapped, and the entry, or else the one before it."""
        found, entry = await freebsd.vm_map_lookup_entry(self.map, self.low + args["addr"] * PAGE)
        return [int(found), *((None, None) if entry is None else (self.page(entry.start), self.page(entry.end)))]

    # ------------------------------------------------------------ what has come of it

    def outcome(self) -> str:
        """All of it, as text; when the execution is over and nobody is unwound yet."""
        threads = [{"ops": task.results, "asleep": self.asleep(task)} for task in self.tasks]
        entries = [self.columns(entry)[: self.program.columns] for entry in self.map.entries]
        return outcome_text(threads, entries, needs_wakeup=self.map.needs_wakeup, busy=self.map.lock.busy_count)

    def columns(self, entry: freebsd.VmMapEntry) -> list[Any]:
        """What of an entry can be seen."""
        flags = "".join(letter for letter, flag in FLAGS.items() if entry.eflags & flag)
        return [self.page(entry.start), self.page(entry.end), entry.protection, entry.wired_count, flags]

    def asleep(self, task: Task) -> dict[str, Any] | None:
        """In which operation, and on which channel, a thread is stuck; None for one that has ended."""
        thread = task.thread
        if thread is not None and thread.done:
            return None
        sleep = thread.sleep if thread is not None else None
        channel = "lock"
        if sleep is not None:
            channels = {"vmmaps": self.map.lock.root, "busy": self.map.lock.busy_channel}
            channel = next((name for name, queue in channels.items() if queue is sleep.queue), "other")
        return {"op": len(task.results), "on": channel}
