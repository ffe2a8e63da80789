"""One execution of a scenario, hot or recorded.

The hot form notes picks and trace and asks for a verdict (subject.py). Everything that reports need and that costs time
(names, stacks, canonical choices, since when a sleeper's condition held) comes from a second, recorded run of the same
schedule: `record`.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from stressvm.check.post_mortem import PostMortem, examine
from stressvm.check.waiting import waits
from stressvm.explore.stacks import Place, places_at
from stressvm.explore.subject import Subject, execute
from stressvm.explore.watch import Announced
from stressvm.kernel.thread import Frame, stack_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.check.verdict import Verdict
    from stressvm.explore.tape import Tape
    from stressvm.kernel.driver import Driver
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event

__all__ = ["DIGEST_EVERY", "Record", "Recording", "Subject", "ThreadReport", "digests", "execute", "plain", "record"]

#: A digest of the trace is kept every so many steps.
DIGEST_EVERY: Final = 64


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
        places: where threads were at the steps and uses of data that the verdict, and what else the execution shows, name.
        post_mortem: the facts of a bug report.
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
    places: tuple[Place, ...] = ()
    post_mortem: PostMortem | None = None

    def about(self, fingerprint: str) -> Recording:
        """The same, told as that bug; itself if it does not show it."""
        verdict = self.verdict.of(fingerprint) if self.verdict is not None else None
        return self if verdict is None else replace(self, verdict=verdict)

    def shown(self) -> tuple[Place, ...]:
        """The places that the verdict itself names."""
        verdict = self.verdict
        if verdict is None:
            return ()
        return tuple(
            place
            for place in self.places
            if (place.step in verdict.steps if place.touch < 0 else place.touch in verdict.touches)
        )

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
        touched = self.k.touched
        mark = len(touched)
        for th in self.k.threads:
            if th.sleep is not None and th.sleep.until is not None:
                self.untils[th.number] = th.sleep.until
        for t, until in self.untils.items():
            if not _holds(until):
                self.since.pop(t, None)
            else:
                self.since.setdefault(t, len(self) - 1)
        # What they looked at is no part of the execution.
        del touched[mark:]


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
    announced: list[Announced] = []

    def watched_build(kernel: Kernel, /, **params: Any) -> None:
        trace = _Watched(kernel)
        watched.append(trace)
        kernel.trace = trace
        announced.append(Announced(kernel))
        kernel.pend = announced[0]
        build(kernel, **params)

    spied = replace(subject, scenario=replace(subject.scenario, build=watched_build))
    verdict = await execute(spied, driver, tape, audit=True)
    if verdict is not None and verdict.kind == "rescued-sleep":
        verdict = _with_delay(verdict, watched[0])
    picks = tuple(k.picks)
    try:
        watched[0].look()
        recording = Recording(
            subject=subject,
            verdict=verdict,
            choices=tuple(tape.choices),
            arities=tuple(tape.arities),
            records=_records(k, watched[0], tape),
            threads=_threads(k, watched[0]),
            digests=digests(k.trace),
            decided=tuple(tape.steps),
            preemptions=sum(tape.preempting),
            post_mortem=examine(k, verdict, announced[0].told(verdict.kind if verdict else ""), announced[0].reads),
        )
    finally:
        driver.unwind()
    if verdict is None:
        return recording
    steps = {step for one in verdict.all for step in one.steps}
    touches = {place for one in verdict.all for place in one.touches}
    if not steps and not touches:
        return recording
    return replace(recording, places=await places_at(subject, driver, picks, steps, touches))


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
