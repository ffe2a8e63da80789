"""The state machine: rules add operations, the end of an example runs them.

Rules stay synchronous, as Hypothesis wants them, and nothing of the kernel runs while Hypothesis draws. That keeps three
things apart which would fight if the threads ran step by step along with the rules: an example is drawn without
knowing how the program behaves, so shrinking an operation away does not change what the others are; the
schedule is one string of bytes, which Hypothesis shortens and lowers by itself; and program and schedule together are
plain data that make the same execution anywhere.

`trio.run` starts once for each example and costs about half a millisecond, a tenth of what Hypothesis needs for the
example; a pool that outlived examples was not worth its cost in isolation.
"""

from __future__ import annotations

import inspect
import re
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from hypothesis import currently_in_test_context, note
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from stressvm.explore.execution import Subject, execute, record
from stressvm.explore.running import run_trio
from stressvm.explore.scenario import Scenario
from stressvm.explore.schedule import parse as parse_schedule
from stressvm.explore.tape import Lenient, Strict
from stressvm.kernel.errors import ReplayDiverged, StressvmError, UsageError
from stressvm.kernel.kernel import Timers
from stressvm.kernel.stepped import stepped
from stressvm.kernel.watchdog import Watchdog
from stressvm.stateful.execution import Execution, Operation, begin
from stressvm.stateful.failure import Story, failure, indented
from stressvm.stateful.program import EMPTY, Program, Ref, Step, checked, parse, refs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from stressvm.check.verdict import Verdict
    from stressvm.explore.execution import Recording
    from stressvm.explore.schedule import Schedule
    from stressvm.kernel.kernel import Kernel

W = TypeVar("W")

#: Where the kernel keeps the execution that is under way.
_CURRENT: Final = "stressvm.stateful"

#: How long a thread may run without reaching a kernel operation.
_HANG_SECONDS: Final = 30.0

#: The rules that add operations draw the number of a thread below this.
_THREADS_MAX: Final = 4

_MARK: Final = "stressvm_operation"


def operation(
    *, target: Bundle[Ref] | None = None, on: str | None = None, drawn: bool = True, **arguments: st.SearchStrategy[Any]
) -> Callable[[Callable[..., Coroutine[Any, Any, Any]]], Any]:
    """Make an operation of an async method `(self, world, **arguments)`, and a rule that adds it.

    The rule draws a thread and the arguments. Arguments must be what a program can hold (see `stressvm.stateful.
    program`). One from a Bundle is a `Ref`; when the operation runs, it gets the result in its place, or None if there
    is none by then. A method with an argument `thread` gets the `ThreadState` of the thread that runs it.

    Args:
        target: where the rule puts the `Ref` of what it added, for the arguments of others.
        on: the name of an argument that is a Ref: the operation is added to that thread, and none is drawn.
        drawn: whether there is a rule; without one, a rule of the machine's own may add it.
        **arguments: a strategy for each argument.

    Raises:
        UsageError: it is not an async function, or the arguments do not fit.
    """

    def make(function: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
        name = function.__name__
        if not inspect.iscoroutinefunction(function):
            raise UsageError(f"operation {name} is not async: it is run by a kernel thread")
        if "thread" in arguments or (on is not None and on not in arguments):
            raise UsageError(
                f"operation {name}: `thread` is drawn for it, and on={on!r} must name one of its arguments"
            )

        def add(self: KernelMachine[Any], thread: int = 0, **given: Any) -> Ref | None:
            number = thread if on is None else given[on].thread
            ref = self.thread(number).add(name, **given)
            return ref if target is not None else None

        add.__name__, add.__qualname__, add.__doc__ = name, function.__qualname__, function.__doc__
        add.__module__ = function.__module__
        if drawn:
            drawing: dict[str, Any] = {} if on is not None else {"thread": st.integers(0, _THREADS_MAX - 1)}
            drawing |= arguments if target is None else {**arguments, "target": target}
            ruled: Callable[[Any], Any] = rule(**drawing)
            add = ruled(add)
        setattr(add, _MARK, Operation(function, "thread" in inspect.signature(function).parameters))
        return add

    return make


class ProgramThread:
    """A kernel thread of the program that is being written."""

    def __init__(self, machine: KernelMachine[Any], number: int) -> None:
        self.machine = machine
        self.number = number

    def add(self, name: str, **args: Any) -> Ref:
        """Append an operation to the program.

        Args:
            name: of an operation of the machine.
            **args: its arguments; what `add` returned stands for the result of that operation.

        Raises:
            UsageError: there is no such operation, or an argument cannot stand in a program.
        """
        machine = self.machine
        if name not in machine.operations():
            known = ", ".join(sorted(machine.operations()))
            raise UsageError(f"{type(machine).__name__} has no operation {name!r} (it has: {known})")
        threads = machine.draft
        step = Step(name, checked(name, args))
        for ref in refs(step.args):
            if ref.thread >= len(threads) or ref.index >= len(threads[ref.thread]):
                raise UsageError(f"{step}: {ref} is no operation of this program")
        while len(threads) <= self.number:
            threads.append([])
        threads[self.number].append(step)
        return Ref(self.number, len(threads[self.number]) - 1)


class KernelMachine(RuleBasedStateMachine, Generic[W]):
    """Base of machines that write concurrent kernel programs.

    A subclass gives `build`, some `@operation`s, and perhaps `after`; its `TestCase` is the test. What these methods
    need to remember belongs into the world: they also serve replays, where no rule has run.

    Attributes:
        threads_max: kernel threads of a program, at most 4.
        tolerate: kinds of findings that are none here; sleepers that nobody has anything for are common in programs
            written at random.
        timers: when timed sleeps time out.
        hz: ticks a second of virtual time.
        max_steps: visible operations after which an execution is stopped as livelocked or too long.
        operations_may_go: a failing program is made smaller by leaving out operations, with those that use their results;
            False where rules have preconditions, so that what is left might be a program that they would not have made.
    """

    threads_max: ClassVar[int] = 3
    tolerate: ClassVar[frozenset[str]] = frozenset({"exhausted"})
    timers: ClassVar[Timers] = Timers.IDLE
    hz: ClassVar[int] = 100
    max_steps: ClassVar[int] = 10_000
    operations_may_go: ClassVar[bool] = True

    def __init__(self) -> None:
        if not 1 <= self.threads_max <= _THREADS_MAX:
            raise UsageError(
                f"{type(self).__name__}.threads_max = {self.threads_max}: 1 to {_THREADS_MAX} are possible"
            )
        super().__init__()
        self.draft = []
        self.world = {}
        self.tape = b""

    # ------------------------------------------------------------ what a subclass gives

    def build(self, k: Kernel, *args: Any, **world: Any) -> W:
        """Build a world in a fresh kernel. May not sleep; spawns no thread of the program.

        Args:
            k: the kernel.
            *args: none; a subclass names what it wants of `world`.
            **world: what `describe_world` was given.
        """
        raise NotImplementedError

    def after(self, execution: Execution[W]) -> None:
        """Look at what came of it, when nobody can go on any more and no other check has found anything.

        Threads may sleep for ever, if that is tolerated. An AssertionError is a finding.
        """

    # ------------------------------------------------------------ what rules call

    def describe_world(self, **world: Any) -> None:
        """Arguments for `build`, which become part of the program."""
        self.world |= checked("the world", world)

    def thread(self, number: int) -> ProgramThread:
        """The kernel thread of that number (modulo how many there may be), to add operations to."""
        return ProgramThread(self, number % self.threads_max)

    @initialize(tape=st.binary(min_size=64, max_size=192))
    def schedule(self, tape: bytes) -> None:
        """The schedule: a number for each decision, modulo its alternatives; when there are no more, 0."""
        self.tape = tape

    def program(self) -> Program:
        """What has been written so far."""
        return Program(dict(self.world), tuple(tuple(steps) for steps in self.draft))

    # ------------------------------------------------------------ execution

    def teardown(self) -> None:
        """The end of an example: run what it has written."""
        if any(self.draft):
            self.run()

    def run(self) -> Execution[W]:
        """Execute the program on a fresh kernel, under the schedule; at the end of an example that happens by itself.

        Returns:
            The execution, its threads ended.

        Raises:
            ProgramFailed: it ended with a finding.
            UsageError: it cannot be executed.
        """
        program = self.program()
        subject = Subject(self._scenario(), {"program": program.json()})
        try:
            execution, verdict = run_trio(_execute, subject, self.tape)
        except StressvmError as exc:
            exc.add_note(f"in the program\n{indented(program)}")
            raise
        if verdict is None:
            return execution
        failed = failure(type(self), subject, program, self.tape, verdict)
        if currently_in_test_context():
            note(Story(failed))
        else:
            failed.add_note(failed.story())
        raise failed from _cause(execution, verdict)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """An operation must not take the place of something that the machine itself needs.

        Raises:
            UsageError: one does; nothing would be run, or checked, and all would seem well.
        """
        super().__init_subclass__(**kwargs)
        own = {*dir(KernelMachine), *KernelMachine.__annotations__}
        if wrong := sorted(name for name, member in vars(cls).items() if hasattr(member, _MARK) and name in own):
            raise UsageError(
                f"{cls.__name__}: {', '.join(wrong)} is the machine's own: give the operation another name"
            )

    @classmethod
    def operations(cls) -> Mapping[str, Operation]:
        """The machine's operations by name."""
        if "_operations" not in cls.__dict__:
            methods = inspect.getmembers(cls, lambda member: hasattr(member, _MARK))
            cls._operations = {name: getattr(method, _MARK) for name, method in methods}
        return cls._operations

    _operations: ClassVar[Mapping[str, Operation]]
    draft: list[list[Step]]
    world: dict[str, Any]
    tape: bytes

    # ------------------------------------------------------------ as a scenario

    @classmethod
    def scenario(cls, name: str = "", *, program: str = EMPTY, expect: str | None = None) -> Scenario:
        """The machine's programs as a scenario with one parameter, `program`.

        Assign it at the top of the machine's module: then failures print a `stressvm replay` command, and `stressvm
        hunt FILE --param program=...` explores the schedules of one program.

        Args:
            name: of the scenario, and of the variable; the class's name in small letters by default.
            program: the default of the parameter, as JSON.
            expect: the kind of finding that it declares.
        """
        name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
        parse(program)
        made = replace(cls._scenario(), name=name, params={"program": program}, expect=expect)
        cls._exported = made
        return made

    _exported: ClassVar[Scenario]

    @classmethod
    def _scenario(cls) -> Scenario:
        if "_exported" not in cls.__dict__:
            cls._exported = _scenario(cls)
        return cls._exported

    @classmethod
    def replay(cls, blob: str) -> Recording:
        """Run a recorded schedule of one of the machine's programs again.

        Returns:
            The recording, if the execution is clean.

        Raises:
            ProgramFailed: it shows a finding.
            ReplayDiverged: it cannot be followed.
            UsageError: it is no schedule of such a program.
        """
        schedule = parse_schedule(blob)
        if "program" not in schedule.params:
            raise UsageError(
                f"the schedule belongs to the scenario {schedule.scenario}, which runs no machine's program"
            )
        subject = Subject(cls._scenario(), {"program": schedule.params["program"]})
        recording = run_trio(_record, subject, schedule)
        if recording.digests != schedule.digests:
            raise ReplayDiverged(
                f"replay diverged: the trace digest at the end is {recording.digests[-1]}, expected "
                f"{schedule.digests[-1] if schedule.digests else 'none'}; an operation or its argument differs"
            )
        if recording.verdict is None:
            return recording
        failed = failure(cls, subject, parse(subject.params["program"]), recording.choices, recording.verdict)
        failed.add_note(failed.story())
        raise failed


def _scenario(cls: type[KernelMachine[Any]]) -> Scenario:
    """The scenario of a machine's programs, as long as it has not been exported under a name."""

    def build(k: Kernel, program: str = EMPTY) -> None:
        machine = cls()
        execution = begin(machine, k, parse(program))
        k.once(_CURRENT, lambda: (machine, execution))

    def after(k: Kernel) -> None:
        machine, execution = k.once(_CURRENT, _no_execution)
        try:
            machine.after(execution)
        except Exception as exc:
            execution.error = exc
            raise

    build.__doc__ = inspect.getdoc(cls)
    return Scenario(
        name=cls.__name__,
        build=build,
        expect=None,
        tolerate=cls.tolerate,
        source="",
        params={"program": EMPTY},
        timers=cls.timers,
        max_steps=cls.max_steps,
        hz=cls.hz,
        executions=0,
        file=_file(cls),
        after=after,
    )


def _file(cls: type) -> str:
    """Where a class is defined, as `stressvm` finds it; empty for one that is typed in."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return str(Path(file).resolve()) if file else ""


def _no_execution() -> Any:
    raise AssertionError("there is an execution when it ends")


async def _execute(subject: Subject, tape: bytes) -> tuple[Execution[Any], Verdict | None]:
    k = subject.kernel()
    # Python has one interval timer: if somebody uses it, such as a test runner with a timeout, they watch.
    taken = hasattr(signal, "getitimer") and bool(signal.getitimer(signal.ITIMER_REAL)[0])
    async with stepped(k) as driver:
        with nullcontext() if taken else Watchdog([k], _HANG_SECONDS):
            verdict = await execute(subject, driver, Lenient(tape))
            driver.unwind()
    _, execution = k.once(_CURRENT, _no_execution)
    return execution, verdict


async def _record(subject: Subject, schedule: Schedule) -> Recording:
    async with stepped(subject.kernel()) as driver:
        return await record(subject, driver, Strict(schedule))


def _cause(execution: Execution[Any], verdict: Verdict) -> BaseException | None:
    """The exception behind a finding, where there is one."""
    if execution.error is not None:
        return execution.error
    errors = [execution.k.threads[t].error for t in verdict.threads if verdict.kind in {"assertion", "exception"}]
    return errors[0] if errors else None
