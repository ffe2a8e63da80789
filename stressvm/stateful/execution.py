"""A program being executed, and all that can be asked about it when it has come to rest.

Every operation notes where in the trace it began and ended, so an operation can be found in the trace and a step of the
trace belongs to an operation. `Execution.holds` turns the trace into critical sections: who held a lock, from which
step to which. In the order of those sections a sequential model can do what the program did, and must come to the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from stressvm.kernel.errors import UsageError
from stressvm.kernel.thread import Wake
from stressvm.stateful.program import Ref, refs, resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.object import KernelObject
    from stressvm.kernel.op import Event
    from stressvm.stateful.program import Program, Step

W = TypeVar("W")

#: What a lock's operations are called in a trace.
_EXCLUSIVE: Final = frozenset({"lock", "trylock", "write-lock", "try-write-lock", "try-upgrade"})
_SHARED: Final = frozenset({"read-lock", "try-read-lock", "downgrade"})
_RELEASES: Final = frozenset({"unlock", "downgrade", "try-upgrade"})


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that programs may name.

    Attributes:
        function: async, `(machine, world, **arguments)`.
        wants_thread: it also takes `thread`, a ThreadState.
    """

    function: Callable[..., Coroutine[Any, Any, Any]]
    wants_thread: bool

    def start(self, machine: Any, world: Any, thread: ThreadState, args: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        """What the thread awaits."""
        if self.wants_thread:
            return self.function(machine, world, thread=thread, **args)
        return self.function(machine, world, **args)


class Stories(Protocol):
    """What knows how to build a world and what operations there are: a machine."""

    def build(self, k: Kernel, *args: Any, **world: Any) -> Any:
        """Build the world."""

    def operations(self) -> Mapping[str, Operation]:
        """Operations by name."""


@dataclass(slots=True)
class Performed:
    """One operation of one thread, as it went.

    Attributes:
        thread, index: which; `ref` is both.
        step: what the program says.
        args: the arguments it got, references resolved.
        begin: the length of the trace before its first visible step.
        end: after its last one; -1 while it has not ended.
        result: what it returned.
    """

    thread: int
    index: int
    step: Step
    args: dict[str, Any]
    begin: int
    end: int = -1
    result: Any = None

    @property
    def name(self) -> str:
        """The operation's name."""
        return self.step.name

    @property
    def ref(self) -> Ref:
        """Which operation of the program it is."""
        return Ref(self.thread, self.index)

    @property
    def done(self) -> bool:
        """Has it ended? One that sleeps for ever has not."""
        return self.end >= 0

    def __str__(self) -> str:
        """Which, what, and what came of it."""
        return f"t{self.thread}#{self.index} {self.step} -> {self.result if self.done else 'not done'}"


@dataclass(frozen=True, slots=True)
class Hold:
    """Somebody held a lock.

    Attributes:
        thread: its number.
        start: the step that acquired it.
        end: the step that gave it up; the length of the trace if none did.
        exclusive: for writing, not for reading.
        by: the operation in the midst of which it was acquired; None outside of all.
    """

    thread: int
    start: int
    end: int
    exclusive: bool
    by: Performed | None


@dataclass(slots=True)
class ThreadState:
    """A thread of a program, as its operations see it: `results` are those of its operations so far, in order."""

    number: int
    results: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Execution(Generic[W]):
    """One execution of a program.

    Attributes:
        k: the kernel; `k.trace` is all that happened.
        world: what the machine built.
        program: what was executed.
        performed: for each thread its operations that were begun, in order.
        error: what the machine's own check raised at the end.
    """

    k: Kernel
    world: W
    program: Program
    performed: tuple[list[Performed], ...]
    error: Exception | None = None

    def operations(self) -> list[Performed]:
        """All operations that were begun, in the order in which they began."""
        return sorted((op for ops in self.performed for op in ops), key=lambda op: op.begin)

    def result(self, ref: Ref) -> Any:
        """What an operation returned; None if it has not ended."""
        ops = self.performed[ref.thread]
        return ops[ref.index].result if ref.index < len(ops) else None

    def steps_of(self, op: Performed) -> list[tuple[int, Event]]:
        """The steps of an operation, with their places in the trace; the steps of others between them are left out."""
        trace = self.k.trace
        end = op.end if op.done else len(trace)
        return [(at, trace[at]) for at in range(op.begin, end) if trace[at][0] == op.thread]

    def holds(self, lock: KernelObject) -> list[Hold]:
        """Who held a lock, in the order in which they acquired it: mutex, reader-writer lock or sx lock.

        An upgrade ends a hold for reading and begins one for writing, a downgrade the reverse; going to sleep with
        the lock as interlock ends a hold. A thread that reads recursively is taken to hold the lock until it first
        lets go.
        """
        number = lock.ident.number
        trace = self.k.trace
        found: list[Hold] = []
        begun: dict[int, tuple[int, bool]] = {}

        def close(thread: int, at: int) -> None:
            if thread in begun:
                start, exclusive = begun.pop(thread)
                found.append(Hold(thread, start, at, exclusive, self.at(thread, start)))

        for at, (thread, op, arg) in enumerate(trace):
            kind = op.kind
            if op.obj.number == number:
                if kind in _RELEASES:
                    close(thread, at)
                if kind in _EXCLUSIVE or kind in _SHARED:
                    begun.setdefault(thread, (at, kind in _EXCLUSIVE))
            elif kind == "sleep" and arg is not Wake.SIGNAL and any(touched == number for touched, _ in op.accesses):
                close(thread, at)
        for thread in tuple(begun):
            close(thread, len(trace))
        return sorted(found, key=lambda hold: hold.start)

    def at(self, thread: int, step: int) -> Performed | None:
        """The operation of a thread to which a step of the trace belongs."""
        if not 0 <= thread < len(self.performed):
            return None
        for op in self.performed[thread]:
            if op.begin <= step and (not op.done or step < op.end):
                return op
        return None


def begin(machine: Stories, k: Kernel, program: Program) -> Execution[Any]:
    """Build a program's world and spawn its threads.

    Raises:
        UsageError: the machine has no such operations.
    """
    operations = machine.operations()
    for step in (step for steps in program.threads for step in steps):
        if step.name not in operations:
            raise UsageError(
                f"the program has an operation {step.name!r}, and {type(machine).__name__} has none of that name "
                f"(it has: {', '.join(sorted(operations))})"
            )
    world = machine.build(k, **program.world)
    execution = Execution(k, world, program, tuple([] for _ in program.threads))

    async def thread(number: int) -> None:
        state = ThreadState(number)
        for index, step in enumerate(program.threads[number]):
            if any(ref.thread != number for ref in refs(step.args)):
                # When it looks at what another thread has got is for the schedule to say.
                await k.yield_()
            args = {name: resolved(value, execution.result) for name, value in step.args.items()}
            k.record(op=str(step))
            op = Performed(number, index, step, args, len(k.trace))
            execution.performed[number].append(op)
            op.result = await operations[step.name].start(machine, world, state, args)
            op.end = len(k.trace)
            state.results.append(op.result)
            k.record(op=step.name, got=op.result)

    for number in range(len(program.threads)):
        k.spawn(thread, number, name=f"t{number}")
    return execution
