"""Strategies that read their choices from somewhere: what replay, recording and shrinking are made of.

`Follow` repeats the picks of a run, thread by thread. `Strict` replays a schedule and says where it does not fit.
`Lenient` takes any sequence of numbers, modulo the arity and with 0 when there are no more, so that an edited or a
drawn tape always makes an execution. Each of them notes choices in the canonical form of schedules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.errors import ReplayDiverged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.explore.schedule import Schedule
    from stressvm.kernel.kernel import Kernel


class Tape:
    """Base: turns an index into a candidate, and notes every decision.

    Attributes:
        choices: the index taken at every decision so far.
        arities: the number of alternatives there.
        steps: how long the trace was at that decision; a thread decision at step s decides who does step s.
        preempting: whether it took the baton from a thread that could have gone on.
    """

    __slots__ = ("arities", "at", "choices", "preempting", "steps")

    def begin(self, number: int) -> None:  # noqa: ARG002 - see Strategy
        """See Strategy."""
        self.at = 0
        self.choices: list[int] = []
        self.arities: list[int] = []
        self.steps: list[int] = []
        self.preempting: list[bool] = []

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        candidates = k.candidates(mask)
        index = self.thread_index(k, candidates)
        self._note(k, index, len(candidates), preempting=index > 0 and candidates[0] == k.cur and k.cur not in k.timers)
        return candidates[index]

    def choose(self, k: Kernel, n: int) -> int:
        """See Strategy."""
        index = self.data_index(k, n)
        self._note(k, index, n, preempting=False)
        return index

    def end(self, k: Kernel) -> None:
        """See Strategy."""

    def thread_index(self, k: Kernel, candidates: list[int]) -> int:
        """Which of the candidates goes next."""
        raise NotImplementedError

    def data_index(self, k: Kernel, n: int) -> int:
        """What a data choice yields."""
        raise NotImplementedError

    def _note(self, k: Kernel, index: int, arity: int, *, preempting: bool) -> None:
        self.at += 1
        self.choices.append(index)
        self.arities.append(arity)
        self.steps.append(len(k.trace))
        self.preempting.append(preempting)


def diverged(k: Kernel, text: str) -> ReplayDiverged:
    """The exception to raise: noted in the kernel first, so that no `except` of the code under test can swallow it."""
    exc = ReplayDiverged(text)
    k.abort(exc)
    return exc


class Follow(Tape):
    """Repeats the raw picks of an execution of the same scenario, so that a hot run need not note more than those."""

    __slots__ = ("picks",)

    def __init__(self, picks: Sequence[int]) -> None:
        self.picks = picks

    def thread_index(self, k: Kernel, candidates: list[int]) -> int:
        """See Tape."""
        pick = self._next(k)
        if pick not in candidates:
            raise self._diverged(k, f"thread {pick} was chosen before and cannot run now")
        return candidates.index(pick)

    def data_index(self, k: Kernel, n: int) -> int:
        """See Tape."""
        pick = self._next(k)
        if pick >= n:
            raise self._diverged(k, f"{pick} was chosen before and there are {n} alternatives now")
        return pick

    def _next(self, k: Kernel) -> int:
        if self.at >= len(self.picks):
            raise self._diverged(k, "it goes on where it ended before")
        return self.picks[self.at]

    def _diverged(self, k: Kernel, what: str) -> ReplayDiverged:
        return diverged(
            k,
            f"the scenario is not deterministic: repeating an execution, at step {len(k.trace)} {what}. "
            "Something outside the kernel's objects decides: a global, a random number, the order of a set, the clock",
        )


class Strict(Tape):
    """Replays a schedule to the letter."""

    __slots__ = ("schedule",)

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def thread_index(self, k: Kernel, candidates: list[int]) -> int:
        """See Tape."""
        names = ", ".join(k.threads[t].name for t in candidates)
        return self._next(k, len(candidates), f"threads {names}")

    def data_index(self, k: Kernel, n: int) -> int:
        """See Tape."""
        return self._next(k, n, f"a data choice of {n}")

    def _next(self, k: Kernel, arity: int, what: str) -> int:
        schedule = self.schedule
        step = len(k.trace)
        if self.at >= len(schedule.choices):
            raise diverged(
                k,
                f"replay diverged at step {step}: expected the execution to be over after "
                f"{len(schedule.choices)} decisions, but there is one more, among {what}",
            )
        expected = schedule.arities[self.at]
        if expected != arity:
            raise diverged(
                k, f"replay diverged at step {step}, decision {self.at}: expected {expected} alternatives, found {what}"
            )
        return schedule.choices[self.at]


class Lenient(Tape):
    """Any numbers make an execution: modulo the arity, and 0 when they run out."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers

    def thread_index(self, k: Kernel, candidates: list[int]) -> int:  # noqa: ARG002 - see Tape
        """See Tape."""
        return self.numbers[self.at] % len(candidates) if self.at < len(self.numbers) else 0

    def data_index(self, k: Kernel, n: int) -> int:  # noqa: ARG002 - see Tape
        """See Tape."""
        return self.numbers[self.at] % n if self.at < len(self.numbers) else 0
