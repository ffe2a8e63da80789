"""Fair scheduling around any strategy: loops that wait for others come to an end (Musuvathi and Qadeer, PLDI 2008).

A thread that gives way (yields, delays, lets a timed sleep time out) thereby says that it cannot get on by itself. From
then on it may not run as long as a thread can that it has kept waiting: one that could have run, or that it has disabled
itself, ever since it last gave way, and has not run since. Whoever runs is waited for no longer. So a loop goes round twice
at most before all others had their turn, a search through the rest of the decisions ends, and an execution that all the
same makes no progress until its steps run out is a livelock of the program, not a whim of the strategy.

A thread that loops without ever giving way is taken to give way after every so many steps of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm.check.fairness import PATIENCE_MIN, PATIENCE_PART, gives_way
from stressvm.explore.sampler import Steps
from stressvm.kernel.errors import UsageError
from stressvm.kernel.kernel import members

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Op
    from stressvm.kernel.strategy import Strategy

_EVERYBODY: Final = -1


class Fair:
    """See the module. What it is around, sampler or search, is asked only where fairness leaves a choice.

    Attributes:
        inner: what it is around.
        restricted: has fairness ever ruled out a candidate?

    Args:
        inner: the strategy.
        patience: steps after which a thread is taken to give way; None: a sixteenth of the step budget.
    """

    __slots__ = (
        "before",
        "chosen",
        "disabled",
        "enabled",
        "inner",
        "patience",
        "restricted",
        "runs",
        "scheduled",
        "seen",
        "steps",
        "waits_for",
    )

    def __init__(self, inner: Strategy, patience: int | None = None) -> None:
        if patience is not None and patience < 1:
            raise UsageError(f"fair scheduling with a patience of {patience} steps: it is 1 at least")
        if getattr(inner, "EVERY_STEP", False):
            raise UsageError("fair scheduling goes by what happened before: a search that reorders steps cannot use it")
        self.inner = inner
        self.patience = patience
        self.steps = Steps()
        self.restricted = False
        self._reset()

    def _reset(self) -> None:
        # Of each thread, bits of others: who it has to wait for; who has run, could run all the time, was disabled by it
        # since it last gave way. And how many steps it has done since.
        self.waits_for: list[int] = []
        self.scheduled: list[int] = []
        self.enabled: list[int] = []
        self.disabled: list[int] = []
        self.runs: list[int] = []
        self.seen = 0
        #: Who was chosen last, and among whom.
        self.chosen = -1
        self.before = 0

    @property
    def exhausted(self) -> bool:
        """See the search that it is around."""
        return bool(getattr(self.inner, "exhausted", False))

    @property
    def bounds(self) -> str:
        """See the search that it is around."""
        inner = str(getattr(self.inner, "bounds", ""))
        return ", ".join(filter(None, [inner, "fair schedules" if self.restricted else ""]))

    def begin(self, number: int) -> None:
        """See Strategy."""
        if not number:
            self.restricted = False
        self._reset()
        self.inner.begin(number)

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        self._follow(k, mask)
        allowed = mask
        for t in members(mask):
            if self.waits_for[t] & mask:
                allowed &= ~(1 << t)
        assert allowed, "an internal error: threads wait for each other to be scheduled"
        if allowed != mask:
            self.restricted = True
        chosen = self.inner.pick(k, allowed) if allowed & (allowed - 1) else allowed.bit_length() - 1
        self.chosen = chosen
        self.before = mask
        return chosen

    def choose(self, k: Kernel, n: int) -> int:
        """See Strategy."""
        return self.inner.choose(k, n)

    def end(self, k: Kernel) -> None:
        """See Strategy."""
        self.inner.end(k)

    def _follow(self, k: Kernel, mask: int) -> None:
        """Take into account what was done since the last pick: one step chosen, then those without alternative."""
        new = len(k.threads) - len(self.runs)
        if new:
            self.waits_for.extend([0] * new)
            self.scheduled.extend([_EVERYBODY] * new)
            self.enabled.extend([0] * new)
            self.disabled.extend([0] * new)
            self.runs.extend([0] * new)
        done: list[tuple[int, Any]] = [(t, op) for t, op, _ in k.trace[self.seen :] if t >= 0 and self.steps[op]]
        self.seen = len(k.trace)
        if self.chosen < 0:
            return
        if not done or done[0][0] != self.chosen:
            # The start of a thread is a step, but not in the trace.
            done.insert(0, (self.chosen, None))
        before = self.before
        for at, (t, op) in enumerate(done):
            after = 1 << done[at + 1][0] if at + 1 < len(done) else mask
            self._step(t, op, before, after, k)
            before = after
        self.chosen = -1

    def _step(self, t: int, op: Op | None, before: int, after: int, k: Kernel) -> None:
        bit = 1 << t
        for other in range(len(self.runs)):
            self.scheduled[other] |= bit
            self.enabled[other] &= after
            self.waits_for[other] &= ~bit
        self.disabled[t] |= before & ~after & ~bit
        self.runs[t] += 1
        patience = self.patience or max(PATIENCE_MIN, k.max_steps // PATIENCE_PART)
        if self.runs[t] >= patience or (op is not None and gives_way(op)):
            self.waits_for[t] |= (self.enabled[t] | self.disabled[t]) & ~self.scheduled[t] & ~bit
            self.enabled[t] = after
            self.disabled[t] = self.scheduled[t] = self.runs[t] = 0
