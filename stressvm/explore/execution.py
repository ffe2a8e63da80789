"""One execution of a scenario, hot or recorded.

The hot form notes picks and trace and asks for a verdict. Everything that reports need and that costs time (names,
stacks, canonical choices, since when a sleeper's condition held) comes from a second, recorded run of the same
schedule: `record`.
"""

from __future__ import annotations

import enum
import hashlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stressvm.check.judge import judge
from stressvm.check.verdict import UNUSABLE, Verdict, place
from stressvm.check.waiting import waits
from stressvm.kernel.errors import Panic, StressvmError, UsageError
from stressvm.kernel.every_step import EveryStepKernel
from stressvm.kernel.kernel import Kernel
from stressvm.kernel.thread import Frame, frames_of, stack_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stressvm.explore.scenario import Scenario
    from stressvm.explore.tape import Tape
    from stressvm.kernel.driver import Driver
    from stressvm.kernel.op import Event
    from stressvm.kernel.strategy import Strategy

#: A digest of the trace is kept every so many steps.
DIGEST_EVERY: Final = 64


@dataclass(frozen=True, slots=True)
class Subject:
    """What is executed: a scenario with the values of its parameters."""

    scenario: Scenario
    params: Mapping[str, Any]

    def kernel(self, *, every_step: bool = False) -> Kernel:
        """A kernel with the scenario's settings.

        Args:
            every_step: for a strategy that has `EVERY_STEP`.
        """
        scenario = self.scenario
        make = EveryStepKernel if every_step else Kernel
        return make(hz=scenario.hz, timers=scenario.timers, max_steps=scenario.max_steps)


async def execute(
    subject: Subject, driver: Driver, strategy: Strategy, number: int = 0, *, audit: bool = False
) -> Verdict | None:
    """Run one execution up to its verdict. The threads are not unwound yet: call `driver.unwind()` next.

    Raises:
        UsageError: the scenario cannot be run (it raised while building its world, or awaits foreign things).
        ReplayDiverged: the strategy could not do what it was to do.
    """
    k = driver.k
    strategy.begin(number)
    k.reset(strategy)
    try:
        subject.scenario.build(k, **subject.params)
        k.start()
    except StressvmError:
        driver.unwind()
        raise
    except Exception as exc:
        driver.unwind()
        name = subject.scenario.name
        raise UsageError(
            f"scenario {name} raised while building its world: {type(exc).__name__}: {exc}{_where(exc)}"
        ) from exc
    if audit:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            await driver.run(audit=True)
        forgotten = next((warning for warning in caught if "was never awaited" in str(warning.message)), None)
        if forgotten is not None:
            driver.unwind()
            where = f"{Path(forgotten.filename).name}:{forgotten.lineno}"
            raise UsageError(f"scenario {subject.scenario.name}: {forgotten.message}: an `await` is missing at {where}")
    else:
        await driver.run()
    if k.fatal is not None:
        driver.unwind()
        raise k.fatal
    try:
        verdict = judge(k)
    except Exception as exc:  # a predicate given by the scenario
        driver.unwind()
        raise UsageError(
            f"scenario {subject.scenario.name}: a predicate (until, holder) raised {type(exc).__name__}: {exc}{_where(exc)}"
        ) from exc
    if verdict is not None and verdict.kind in UNUSABLE:
        driver.unwind()
        raise UsageError(f"scenario {subject.scenario.name}: {verdict.text}")
    if verdict is not None and verdict.kind not in subject.scenario.tolerate:
        return verdict
    if subject.scenario.after is not None and k.trouble is None:
        return _at_rest(subject.scenario.after, driver)
    return None


def _at_rest(after: Callable[[Kernel], None], driver: Driver) -> Verdict | None:
    """What the scenario itself says of a world that has come to rest."""
    try:
        after(driver.k)
    except UsageError:
        driver.unwind()
        raise
    except Exception as exc:  # noqa: BLE001 - whatever the scenario's own check raises is its finding
        kind = "exception"
        if isinstance(exc, AssertionError | Panic):
            kind = "panic" if isinstance(exc, Panic) else "assertion"
        name, where = type(exc).__name__, place(frames_of(exc.__traceback__))
        text = str(exc).partition("\n")[0]
        return Verdict(kind, f"{name}: {text} (in {where}, at the end)", (), (f"{name} in {where}, at the end",))
    return None


def _where(exc: BaseException) -> str:
    """The innermost line of user code in a traceback."""
    frames = [frame for frame in frames_of(exc.__traceback__) if not frame.ours]
    return f" ({frames[-1]})" if frames else ""


@dataclass(frozen=True, slots=True)
class Record:
    """One step as reports show it.

    Attributes:
        step: its number in the execution.
        thread: number of the thread (-1: while the world was built).
        kind: what was done.
        obj: name of the object ("" for none).
        arg: its argument in plain form, or None.
        preempted: it took the baton from a thread that could have gone on.
        tick: virtual time.
    """

    step: int
    thread: int
    kind: str
    obj: str
    arg: Any
    preempted: bool
    tick: int


@dataclass(frozen=True, slots=True)
class ThreadReport:
    """A thread at the end: its state in words, what it waits for, and its stack, outermost frame first."""

    number: int
    name: str
    state: str
    wmesg: str
    since: int | None
    stack: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """All of one execution.

    Attributes:
        subject: what was executed.
        verdict: the bug it shows, or None.
        choices, arities: the schedule.
        records: its steps.
        threads: how each thread ended.
        digests: of the trace, every DIGEST_EVERY steps and at the end.
        decided: for each choice, the step that it decided.
        preemptions: how often the baton was taken from a thread that could have gone on.
    """

    subject: Subject
    verdict: Verdict | None
    choices: tuple[int, ...]
    arities: tuple[int, ...]
    records: tuple[Record, ...]
    threads: tuple[ThreadReport, ...]
    digests: tuple[str, ...]
    decided: tuple[int, ...]
    preemptions: int

    def names(self) -> tuple[str, ...]:
        """The threads' names by number."""
        return tuple(thread.name for thread in self.threads)


class _Watched(list["Event"]):
    """A trace that looks after every step: since when has what a thread last slept for been there?"""

    def __init__(self, k: Kernel) -> None:
        super().__init__()
        self.k = k
        self.untils: dict[int, Callable[[], bool]] = {}
        self.since: dict[int, int] = {}
        self.ticks: list[int] = []
        #: For every timeout of a thread whose condition held: the thread, since which step, and since which tick.
        self.rescues: list[tuple[int, int, int]] = []

    def append(self, event: Event) -> None:
        super().append(event)
        k = self.k
        self.ticks.append(k.now)
        t, op, satisfied = event
        if op.kind == "timeout" and satisfied is True:
            since = self.since.get(t, len(self) - 1)
            self.rescues.append((t, since, k.now - self.ticks[since]))
        elif op.kind == "sleep" and satisfied is True:
            self.since.setdefault(t, len(self) - 1)
        self.look()

    def look(self) -> None:
        """Whose condition holds, after the last step?"""
        for th in self.k.threads:
            if th.sleep is not None and th.sleep.until is not None:
                self.untils[th.number] = th.sleep.until
        for t, until in self.untils.items():
            if not _holds(until):
                self.since.pop(t, None)
            else:
                self.since.setdefault(t, len(self) - 1)


def _holds(until: Callable[[], bool]) -> bool:
    """Between two steps it may look at what is being changed; to raise is to be false there."""
    try:
        return bool(until())
    except Exception:  # noqa: BLE001 - user code
        return False


async def record(subject: Subject, driver: Driver, tape: Tape) -> Recording:
    """Run an execution again, or for the first time, and keep all of it."""
    k = driver.k
    build = subject.scenario.build
    watched: list[_Watched] = []

    def watched_build(kernel: Kernel, /, **params: Any) -> None:
        trace = _Watched(kernel)
        watched.append(trace)
        kernel.trace = trace
        build(kernel, **params)

    spied = Subject(replace(subject.scenario, build=watched_build), subject.params)
    verdict = await execute(spied, driver, tape, audit=True)
    if verdict is not None and verdict.kind == "rescued-sleep":
        verdict = _with_delay(verdict, watched[0])
    try:
        watched[0].look()
        return Recording(
            subject=subject,
            verdict=verdict,
            choices=tuple(tape.choices),
            arities=tuple(tape.arities),
            records=_records(k, watched[0], tape),
            threads=_threads(k, watched[0]),
            digests=digests(k.trace),
            decided=tuple(tape.steps),
            preemptions=sum(tape.preempting),
        )
    finally:
        driver.unwind()


def _with_delay(verdict: Verdict, trace: _Watched) -> Verdict:
    """A rescued sleep, with how long what it waited for had been there."""
    since, ticks = next((since, ticks) for t, since, ticks in trace.rescues if t in verdict.threads)
    return replace(verdict, text=f"{verdict.text}: it had been there for {ticks} ticks, since step {since}")


def _records(k: Kernel, trace: _Watched, tape: Tape) -> tuple[Record, ...]:
    preempted = {step for step, taken in zip(tape.steps, tape.preempting, strict=True) if taken}
    return tuple(
        Record(step, t, op.kind, op.obj.name, plain(arg), step in preempted, tick)
        for step, ((t, op, arg), tick) in enumerate(zip(k.trace, trace.ticks, strict=True))
    )


def _threads(k: Kernel, trace: _Watched) -> tuple[ThreadReport, ...]:
    waiting = {wait.thread: wait.what for wait in waits(k)} if k.trouble is None else {}
    reports = []
    for th in k.threads:
        if th.error is not None and k.trouble is not None and k.trouble.thread == th.number:
            state = f"stopped: {k.trouble.text}"
        elif th.done:
            state = "ended"
        else:
            op = k.pend[th.number]
            state = waiting.get(th.number, f"at {op!r}" if op is not None else "has not reached an operation yet")
        wmesg = th.sleep.wmesg if th.sleep is not None else ""
        stack = () if th.done and th.error is None else stack_of(th)
        since = trace.since.get(th.number) if th.sleep is not None else None
        reports.append(ThreadReport(th.number, th.name, state, wmesg, since, stack))
    return tuple(reports)


def digests(trace: list[Event]) -> tuple[str, ...]:
    """Digests of a trace that are the same on any machine and Python."""
    running = hashlib.blake2b(digest_size=4)
    found = []
    for step, (t, op, arg) in enumerate(trace, start=1):
        running.update(f"{t} {op.kind} {op.obj.number} {plain(arg)!r}\n".encode())
        if step % DIGEST_EVERY == 0:
            found.append(running.hexdigest())
    found.append(running.hexdigest())
    return tuple(found)


def plain(value: Any) -> Any:
    """A value as it may stand in records: numbers, texts and containers of them; of anything else, the type."""
    if isinstance(value, int) and not isinstance(value, bool) and not -(1 << 63) <= value < 1 << 64:
        return hex(value)
    if isinstance(value, str) and not value.isascii():
        return value.encode(errors="backslashreplace").decode()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    return f"<{type(value).__name__}>"
