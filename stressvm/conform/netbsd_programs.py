"""Small concurrent programs on one NetBSD map, written down as data, and what can come of them.

A program is a map, what is allocated in it beforehand, and a list of operations for each thread. An outcome is all that
can be told from outside when nobody can go on any more: the results of each thread, the entries of the map, and whether
WANTVA is set. Programs and outcomes are JSON, so the same program can be given to the kernel's own code; addresses are
page numbers, counted from the map's lowest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from stressvm.conform import programs
from stressvm.conform.netbsd_states import States
from stressvm.conform.programs import text
from stressvm.conform.tally import Differs
from stressvm.explore.random_walk import RandomWalk
from stressvm.kernel.kernel import Timers
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stressvm.conform.records import Record
    from stressvm.conform.tally import Tally
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.strategy import Strategy
    from stressvm.kernel.thread import Thread

PAGE: Final = netbsd.PAGE_SIZE
VAONLY: Final = netbsd.UVM_KMF_VAONLY

#: Flags of an allocation, by the names that programs use.
FLAGS: Final = {
    "TRYLOCK": netbsd.UVM_KMF_TRYLOCK,
    "NOWAIT": netbsd.UVM_KMF_NOWAIT,
    "CANFAIL": netbsd.UVM_KMF_CANFAIL,
    "WAITVA": netbsd.UVM_KMF_WAITVA,
}

#: The systems that programs are for: version, and whether the map is VM_MAP_INTRSAFE.
SYSTEMS: Final = {"netbsd6": ("6", False), "netbsd5.2-intrsafe": ("5.2", True)}

#: An operation is told from an outcome's point of view: a page number, "ok", "fail", "skip", or where it sleeps.
Result: TypeAlias = int | str | dict[str, str]

#: What executions of a program came to.
Reached: TypeAlias = programs.Reached

#: What an outcome consists of.
OUTCOME: Final = ("threads", "entries", "wantva")

#: What may be said of an execution of a program: its sleepers were forgotten, or left without what they wait for, or an
#: unfair schedule lets threads chase one another. Anything else is a fault.
VERDICTS: Final = frozenset({"lost-wakeup", "exhausted", "livelock"})

#: For a program that loses a wakeup in some interleaving: how many executions to look for it, at least.
SEARCH_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Alloc:
    """uvm_km_alloc of so many pages: the page number, or "fail"."""

    pages: int
    flags: int


@dataclass(frozen=True, slots=True)
class FreeOwn:
    """uvm_km_free of what an earlier allocation of this thread got: "ok", or "skip" if that failed."""

    index: int


@dataclass(frozen=True, slots=True)
class FreeInitial:
    """uvm_km_free of one of the initial ranges: "ok"."""

    index: int


@dataclass(frozen=True, slots=True)
class Busy:
    """vm_map_lock, vm_map_busy, vm_map_unlock: "ok"."""


@dataclass(frozen=True, slots=True)
class Unbusy:
    """vm_map_unbusy: "ok"."""


Operation: TypeAlias = Alloc | FreeOwn | FreeInitial | Busy | Unbusy


@dataclass(frozen=True, slots=True)
class Program:
    """A program, and the outcomes that it is known to have.

    Attributes:
        name: with the timeout mode, unique.
        system: a key of SYSTEMS.
        kind: what it was written to show.
        pages: the size of the map.
        initial: (first page, pages) of each range allocated beforehand, in order.
        threads: the operations of each thread.
        timers: when a sleep for addresses times out.
        lost_wakeup: in some outcome a thread sleeps for addresses for ever beside room enough for it.
        endless: it has schedules without an end; None if that is not recorded.
        outcomes: all that it can come to, each as text (see `Outcome`).
    """

    name: str
    system: str
    kind: str
    pages: int
    initial: tuple[tuple[int, int], ...]
    threads: tuple[tuple[Operation, ...], ...]
    timers: Timers
    lost_wakeup: bool
    endless: bool | None
    outcomes: frozenset[str]


def is_program(fields: Mapping[str, Any]) -> bool:
    """Is that line one of these?"""
    return str(fields.get("system")) in SYSTEMS and "threads" in fields


def parse(record: Record) -> Program:
    """A line of a file.

    Raises:
        UsageError: a field is missing, or is not what it should be.
    """
    fields = record.fields
    try:
        program = Program(
            name=f"{fields['id']}-{fields['mode']}",
            system=fields["system"],
            kind=fields["kind"],
            pages=fields["pages"],
            initial=tuple((start, length) for start, length in fields["init"]),
            threads=tuple(tuple(_operation(*op) for op in ops) for ops in fields["threads"]),
            timers=Timers(fields["mode"]),
            lost_wakeup=_yes_or_no("lost_wakeup", fields["lost_wakeup"]),
            endless=_yes_or_no("unbounded", fields["unbounded"]) if "unbounded" in fields else None,
            outcomes=frozenset(text({name: outcome[name] for name in OUTCOME}) for outcome in fields["outcomes"]),
        )
        _validate(program)
    except KeyError as exc:
        raise record.bad(
            f"the field {exc} is missing, or a flag is not known; record it again, or leave the line out"
        ) from None
    except (TypeError, ValueError, AttributeError) as exc:
        raise record.bad(f"this is no program: {exc}; record it again, or leave the line out") from None
    return program


def _yes_or_no(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be true or false, not {value!r}")
    return value


def _validate(program: Program) -> None:
    """Everything that running it relies on."""
    if not program.threads:
        raise ValueError("there must be a thread")
    end = 0
    for start, length in sorted(program.initial):
        if not end <= start < start + length <= program.pages:
            raise ValueError(f"the initial range [{start}, {length}] is taken, empty or not in the map")
        end = start + length
    for ops in program.threads:
        for number, operation in enumerate(ops):
            match operation:
                case FreeOwn(index) if not 0 <= index < number or not isinstance(ops[index], Alloc):
                    raise ValueError(f"operation {number} frees what operation {index} got, which is no allocation")
                case FreeInitial(index) if not 0 <= index < len(program.initial):
                    raise ValueError(f"operation {number} frees the initial range {index}, and there is none")
                case Alloc(pages, _) if pages < 1:
                    raise ValueError(f"operation {number} allocates {pages} pages")
                case Busy() | Unbusy() if SYSTEMS[program.system][1]:
                    raise ValueError(f"operation {number}: INTRSAFE maps cannot be busy")


def _operation(word: str, *args: Any) -> Operation:
    match (word, *args):
        case ("alloc", int(pages), list(names)):
            flags = VAONLY
            for name in names:
                flags |= FLAGS[name]
            return Alloc(pages, flags)
        case ("free", "op", int(index)):
            return FreeOwn(index)
        case ("free", "init", int(index)):
            return FreeInitial(index)
        case ("busy",):
            return Busy()
        case ("unbusy",):
            return Unbusy()
    raise ValueError(f"no such operation: {[word, *args]!r}")


@dataclass(slots=True)
class World:
    """One execution of a program: its map and what the threads have got so far."""

    program: Program
    kmap: netbsd.VmMap
    results: list[list[Result]] = field(default_factory=list)

    async def run(self, number: int) -> None:
        """A thread: its operations one after the other."""
        results = self.results[number]
        operations = self.program.threads[number]
        while len(results) < len(operations):
            results.append(await self.perform(operations[len(results)], results))

    async def perform(self, operation: Operation, results: list[Result]) -> Result:
        """One operation; `results` are the thread's earlier ones."""
        match operation:
            case Alloc(pages, flags):
                va = await netbsd.uvm_km_alloc(self.kmap, pages * PAGE, 0, flags)
                return self.page(va) if va else "fail"
            case FreeOwn(index):
                return await self.free_own(index, results)
            case FreeInitial(index):
                await self.free(*self.program.initial[index])
            case Busy():
                await self.lock.lock()
                await self.lock.busy()
                await self.lock.unlock()
            case Unbusy():
                await self.lock.unbusy()
        return "ok"

    async def free_own(self, index: int, results: list[Result]) -> str:
        """Free what operation number `index` of the same thread got."""
        allocation = next(
            ops[index] for ops, own in zip(self.program.threads, self.results, strict=True) if own is results
        )
        page = results[index]
        assert isinstance(allocation, Alloc), "programs are validated"
        if not isinstance(page, int):
            return "skip"
        await self.free(page, allocation.pages)
        return "ok"

    async def free(self, page: int, pages: int) -> None:
        """uvm_km_free of so many pages."""
        await netbsd.uvm_km_free(self.kmap, self.kmap.min_offset + page * PAGE, pages * PAGE, VAONLY)

    @property
    def lock(self) -> netbsd.VmMapLock:
        """The lock of a map that can be busy."""
        assert isinstance(self.kmap.lock, netbsd.VmMapLock), "INTRSAFE maps cannot be busy"
        return self.kmap.lock

    def page(self, va: int) -> int:
        """An address as programs have it."""
        return (va - self.kmap.min_offset) // PAGE

    def outcome(self) -> str:
        """What has come of it, as text; when the execution is over and nobody is unwound yet."""
        threads = []
        for thread, results in zip(self.kmap.k.threads, self.results, strict=True):
            threads.append(results if thread.done else [*results, self._asleep(thread)])
        entries = [[self.page(entry.start), self.page(entry.end)] for entry in self.kmap.entries]
        wantva = bool(self.kmap.flags.peek() & netbsd.VM_MAP_WANTVA)
        return text({"threads": threads, "entries": entries, "wantva": wantva})

    def _asleep(self, thread: Thread) -> Result:
        assert thread.sleep is not None, f"{thread.name} is stuck, and not in a sleep"
        assert thread.sleep.queue is self.kmap.lock.cv, f"{thread.name} sleeps elsewhere"
        return {"asleep": {"addresses": "va", "busy map": "busy"}[thread.sleep.wmesg]}


def build(k: Kernel, program: Program) -> World:
    """The world of a program, its threads ready to go."""
    version, intrsafe = SYSTEMS[program.system]
    kmap = netbsd.submap(k, program.pages, version=version, intrsafe=intrsafe)
    world = World(program, kmap, [[] for _ in program.threads])
    for start, length in program.initial:
        kmap.fill(length, offset=start)
    for number in range(len(program.threads)):
        k.spawn(world.run, number, name=f"t{number}")
    return world


def explore(
    program: Program, strategy: Strategy, executions: int, *, until_kind: str = "", at_most: int = 0
) -> Reached:
    """Run executions 0, 1, 2, ... of a program.

    Args:
        program: what to run.
        strategy: makes the choices.
        executions: how many.
        until_kind: having done those, go on until a finding of this kind has been seen,
        at_most: but no further than this many in all.
    """
    return programs.explore(
        lambda k: build(k, program),
        strategy,
        executions,
        timers=program.timers,
        known=program.outcomes | VERDICTS,
        enough=lambda reached: not until_kind or until_kind in reached.verdicts,
        at_most=at_most,
    )


def match(program: Program, executions: int) -> Reached:
    """Go through all states of a program, in so many executions at most."""
    return programs.match(
        lambda k: build(k, program),
        States,
        executions,
        timers=program.timers,
        known=program.outcomes | VERDICTS,
    )


def check(program: Program, tally: Tally, executions: int, seed: int) -> None:
    """Run a program: it comes to all that it should and nothing else, and loses a wakeup only if it should.

    If it has too many states for so many executions, as many random ones follow, and not every outcome need come about.

    Raises:
        Differs: it does not.
    """
    reached = match(program, executions)
    tally.executions += reached.executions
    tally.outcomes += len(program.outcomes)
    met = set(reached.outcomes)
    try:
        programs.compare(reached, program.outcomes, VERDICTS, programs.MATCHED)
        if reached.complete:
            _compare_more(program, reached, programs.MATCHED)
            return
        tally.left_out[programs.TOO_MANY.format(executions)] += 1
        until = "lost-wakeup" if program.lost_wakeup else ""
        reached = explore(program, RandomWalk(seed), executions, until_kind=until, at_most=max(executions, SEARCH_MAX))
        tally.executions += reached.executions
        met |= set(reached.outcomes)
        programs.compare(reached, program.outcomes, VERDICTS, f"seed {seed}")
        _compare_more(program, reached, f"seed {seed}")
    finally:
        tally.met += len(program.outcomes & met)


def _compare_more(program: Program, reached: Reached, how: str) -> None:
    """What else is recorded of a program."""
    where = f"{reached.executions} executions ({how})"
    if ("lost-wakeup" in reached.verdicts) != program.lost_wakeup:
        words = {True: "a lost wakeup", False: "no lost wakeup"}
        raise Differs(where, words[program.lost_wakeup], words[not program.lost_wakeup])
    if reached.complete and program.endless is not None and bool(reached.circles) != program.endless:
        words = {True: "schedules without an end", False: "none without an end"}
        raise Differs(where, words[program.endless], words[not program.endless])


def answer(record: Record, tally: Tally, executions: int, seed: int) -> None:
    """Check the program of one line, and note what comes of it.

    Raises:
        UsageError: it is no program.
    """
    program = parse(record)
    tally.kind = "programs"
    operations = sum(len(ops) for ops in program.threads)
    tally.operations += operations
    try:
        check(program, tally, executions, seed)
    except Differs as difference:
        tally.case_done(difference.at(record, program.name))
    else:
        tally.operations_passed += operations
        tally.case_done(None)
