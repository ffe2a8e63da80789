"""One execution of a small program: its operations on the kernel's own objects, and what has come of it.

The programs' language is a little wider than the kernels' manners: a thread that asks for a lock which it has itself
blocks for ever, where a kernel panics; sleepers on one condition variable may have given up different mutexes. Those
assertions are all that the objects here leave out.

Thread-local operations are done at once after the step before them, because a thread runs on until it announces its
next step; those before its first step, while the kernel's prologue brings it there.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from stressvm.conform.small_program import LOCAL
from stressvm.kernel.cell import Atomic
from stressvm.kernel.condvar import CondVar
from stressvm.kernel.mutex import Mutex
from stressvm.kernel.rwlock import Rw, RwLock
from stressvm.kernel.semaphore import Semaphore
from stressvm.kernel.thread import Wake

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from stressvm.conform.small_program import Program, Value
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.object import Interlock
    from stressvm.kernel.thread import Thread

COMPARE: Final[dict[str, Callable[[int, int], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

#: What a timed sleep lasts at most; under Timers.ANYTIME any number does.
TICKS: Final = 1

#: Where everything is when nothing goes on: the variables, each thread's registers, and each thread's status.
State: TypeAlias = tuple[tuple[int, ...], tuple[tuple[int, ...], ...], tuple[str, ...]]


class OwnMutex(Mutex):
    """A mutex whose owner, asking for it again, waits for ever."""

    __slots__ = ()

    async def lock(self) -> None:
        """Acquire it. Sleeps: for ever if the caller holds it."""
        k = self.k
        me = k.cur
        if self.owner == me:
            self.want |= 1 << me
            k.enabled &= ~(1 << me)
            if k.away(self.lock_op):
                await k.baton
        await super().lock()


class OwnRwLock(RwLock):
    """A reader-writer lock whose writer, asking for it again, waits for ever."""

    __slots__ = ()

    def _check_entry(self, how: str, me: int) -> None:
        """Nothing is forbidden."""


class OwnCondVar(CondVar):
    """A condition variable on which sleepers may have given up different mutexes."""

    __slots__ = ()

    def _admit(self, interlock: Interlock | None) -> None:
        """Nothing is forbidden."""


class Task:
    """A thread of a program: its registers, and the operation that it is at."""

    __slots__ = ("args", "registers", "thread", "word")

    def __init__(self, registers: int) -> None:
        self.registers = [0] * registers
        self.word = ""
        self.args: tuple[Any, ...] = ()
        self.thread: Thread | None = None

    def value(self, value: Value) -> int:
        """A number, or a register and what is added to it."""
        register, number = value
        return number if register < 0 else self.registers[register] + number


class World:
    """The objects of a program and its threads; each operation is a method of the same name.

    Attributes:
        failed: an assertion was false.
        choices: data choices made so far.
    """

    def __init__(self, k: Kernel, program: Program) -> None:
        self.k = k
        self.program = program
        names = program.objects
        self.vars = [Atomic(k, 0, name) for name in names["vars"]]
        self.mutexes = [OwnMutex(k, name) for name in names["mutexes"]]
        self.rwlocks = [OwnRwLock(k, name) for name in names["rwlocks"]]
        self.condvars = [OwnCondVar(k, name, timeout_signals=False) for name in names["condvars"]]
        self.sems = [Semaphore(k, units, name) for units, name in zip(program.units, names["sems"], strict=True)]
        self.failed = False
        self.choices = 0
        self.tasks = [Task(len(thread.registers)) for thread in program.threads]
        for number, task in enumerate(self.tasks):
            task.thread = k.spawn(self.run, task, number, name=f"T{number}")

    async def run(self, task: Task, number: int) -> None:
        """A thread: its operations one after the other."""
        operations = self.program.threads[number].operations
        at = 0
        while at < len(operations):
            operation = operations[at]
            at += 1
            word = task.word = operation.word
            args = task.args = operation.args
            if word in LOCAL:
                at += self.local(task, word, args)
            else:
                step: Callable[..., Coroutine[Any, Any, None]] = getattr(self, word)
                await step(task, *args)

    # ------------------------------------------------------------ steps

    async def load(self, task: Task, var: int, register: int) -> None:
        """Read a variable."""
        task.registers[register] = await self.vars[var].load()

    async def store(self, task: Task, var: int, value: Value) -> None:
        """Write a variable."""
        await self.vars[var].store(task.value(value))

    async def fadd(self, task: Task, var: int, value: Value, register: int) -> None:
        """Add to a variable; the register has what it was."""
        task.registers[register] = await self.vars[var].fetchadd(task.value(value))

    async def cas(self, task: Task, var: int, expected: Value, new: Value, register: int) -> None:
        """Compare and swap; the register says whether."""
        task.registers[register] = int(await self.vars[var].cas(task.value(expected), task.value(new)))

    async def lock(self, _: Task, mutex: int) -> None:
        """Acquire a mutex."""
        await self.mutexes[mutex].lock()

    async def trylock(self, task: Task, mutex: int, register: int) -> None:
        """Acquire a mutex if it is free; the register says whether."""
        task.registers[register] = int(await self.mutexes[mutex].trylock())

    async def unlock(self, _: Task, mutex: int) -> None:
        """Release a mutex."""
        await self.mutexes[mutex].unlock()

    async def rdlock(self, _: Task, rwlock: int) -> None:
        """Acquire for reading."""
        await self.rwlocks[rwlock].enter(Rw.READER)

    async def wrlock(self, _: Task, rwlock: int) -> None:
        """Acquire for writing."""
        await self.rwlocks[rwlock].enter(Rw.WRITER)

    async def rwunlock(self, _: Task, rwlock: int) -> None:
        """Release, in whichever way it is held."""
        await self.rwlocks[rwlock].exit()

    async def tryupgrade(self, task: Task, rwlock: int, register: int) -> None:
        """From the only reader to the writer; the register says whether."""
        task.registers[register] = int(await self.rwlocks[rwlock].tryupgrade())

    async def wait(self, _: Task, condvar: int, mutex: int) -> None:
        """Sleep until woken: two steps."""
        await self.condvars[condvar].wait(self.mutexes[mutex])

    async def timedwait(self, task: Task, condvar: int, mutex: int, register: int) -> None:
        """Sleep until woken or timed out, which the register says: two steps or three."""
        # Every wait may time out, however many did before it.
        self.k.progress()
        woken = await self.condvars[condvar].timedwait(self.mutexes[mutex], TICKS)
        task.registers[register] = int(woken is Wake.TIMEOUT)

    async def signal(self, _: Task, condvar: int) -> None:
        """Wake the longest waiting."""
        await self.condvars[condvar].signal()

    async def broadcast(self, _: Task, condvar: int) -> None:
        """Wake all."""
        await self.condvars[condvar].broadcast()

    async def sem_wait(self, _: Task, sem: int) -> None:
        """Take a unit."""
        await self.sems[sem].wait()

    async def sem_post(self, _: Task, sem: int) -> None:
        """Put a unit back."""
        await self.sems[sem].post()

    # ------------------------------------------------------------ what is no step

    def local(self, task: Task, word: str, args: tuple[Any, ...]) -> int:
        """A thread-local operation; how many of those after it are skipped."""
        if word == "skip_if":
            left, comparison, right, skips = args
            return int(skips) if COMPARE[comparison](task.value(left), task.value(right)) else 0
        if word == "skip":
            return int(args[0])
        if word == "assert":
            left, comparison, right = args
            if not COMPARE[comparison](task.value(left), task.value(right)):
                self.failed = True
        elif word == "set":
            task.registers[args[0]] = task.value(args[1])
        else:
            task.registers[args[1]] = self.k.choose(args[0])
            self.choices += 1
        return 0

    # ------------------------------------------------------------ what has come of it

    def state(self) -> State:
        """All of it; when the execution is over and nobody is unwound yet."""
        status = tuple(map(self.status, self.tasks)) if self.k.alive else ()
        return tuple([var.value for var in self.vars]), tuple([tuple(task.registers) for task in self.tasks]), status

    def status(self, task: Task) -> str:
        """Has a thread ended, or where does it wait for ever?"""
        thread = task.thread
        assert thread is not None
        if thread.done:
            return "done"
        names = self.program.objects
        match task.word:
            case "lock":
                return f"lock({names['mutexes'][task.args[0]]})"
            case "rdlock" | "wrlock":
                return f"{task.word}({names['rwlocks'][task.args[0]]})"
            case "sem_wait":
                return f"sem_wait({names['sems'][task.args[0]]})"
            case "wait" | "timedwait" if thread.sleep is not None:
                return f"wait({names['condvars'][task.args[0]]})"
            case "wait" | "timedwait":
                return f"reacquire({names['mutexes'][task.args[1]]})"
        return f"stopped at {task.word}"

    def asleep(self) -> bool:
        """Does a thread sleep for ever on a condition variable?"""
        return any(task.thread is not None and task.thread.sleep is not None for task in self.tasks)


def in_words(program: Program, state: State) -> str:
    """A final state as it is written down."""
    values, registers, statuses = state
    parts = [",".join(f"{name}={value}" for name, value in zip(program.objects["vars"], values, strict=True))]
    for number, thread in enumerate(program.threads):
        own = ",".join(f"{name}={value}" for name, value in zip(thread.registers, registers[number], strict=True))
        parts.append(f"T{number}:{own}:{statuses[number] if statuses else 'done'}")
    return ";".join(parts)
