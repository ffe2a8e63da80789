"""Brings a predicted deadlock about: a strategy that keeps each thread of the pattern waiting at its acquisition.

A thread of the pattern *stands* when the next thing it does is the acquisition of the lock that it wants and it holds what
the pattern says. It is kept waiting there until all of them stand, or nobody else can go on: then one of them is let go.
What is confirmed is an execution like any other, with a schedule that replays. What is not confirmed may still be
possible: the number of attempts says how hard it was tried.

Source: Joshi et al., A randomized dynamic program analysis technique for detecting real deadlocks (PLDI 2009).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from stressvm.check.locks import QUEUES, SHARES, WAITS, Held, Ways, effect_of
from stressvm.check.predict import Predictor
from stressvm.check.sync_preserving import Ideals
from stressvm.explore.execution import Recording, execute, record
from stressvm.explore.sampler import Sampler, is_step
from stressvm.explore.tape import Follow
from stressvm.kernel.thread import Wake

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stressvm.check.predict import Link, Prediction
    from stressvm.explore.execution import Subject
    from stressvm.kernel.driver import Driver
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Op

#: How often a deadlock is tried to be brought about.
ATTEMPTS: Final = 100

#: Patterns that are one bug, for they differ in threads and steps only, of which so many are tried.
PATTERNS_MAX: Final = 4

#: A thread that goes on for as long as it can is left all the same at one step in so many.
SWITCH_ONE_IN: Final = 16

_ASKS: Final = WAITS | QUEUES


class Plan(NamedTuple):
    """What the witness of a prediction did: steps as thread, kind and number of the object, and outcomes of data choices."""

    steps: tuple[tuple[int, str, int], ...] = ()
    choices: Mapping[int, tuple[int, ...]] = {}


NO_PLAN: Final = Plan()


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What came of a prediction.

    Attributes:
        prediction: it.
        recording: the execution that ends in the deadlock, with its schedule; None: unconfirmed.
        attempts: executions made.
        stood: in how many of them all threads of the pattern stood at their acquisitions at once.
    """

    prediction: Prediction
    recording: Recording | None
    attempts: int
    stood: int

    @property
    def text(self) -> str:
        """One sentence."""
        if self.recording is not None:
            return f"confirmed in attempt {self.attempts}"
        return f"unconfirmed: {self.attempts} attempts to bring it about have failed"


class Steer(Sampler):
    """See the module.

    Args:
        prediction: the pattern.
        plan: it is followed in execution 0.
        seed: of the random choices.

    Attributes:
        stood: have all threads of the pattern stood at once, in the current execution?
    """

    PURPOSE: ClassVar[str] = "steer:"

    __slots__ = ("chosen", "done", "favourite", "going", "links", "plan", "seen", "states", "stood", "ways")

    def __init__(self, prediction: Prediction, plan: Plan = NO_PLAN, seed: int = 1) -> None:
        self.links = {link.thread: link for link in prediction.links}
        self.plan = plan
        self.ways = Ways()
        super().__init__(seed)

    def begin(self, number: int) -> None:
        """See Strategy."""
        super().begin(number)
        self.stood = False
        #: The bit of the thread that goes on for as long as it can, in every other attempt.
        self.favourite = 0
        #: How much of the trace has been looked at, and how much of the plan has been done; -1: it does not fit.
        self.seen = 0
        self.done = 0 if number == 0 and self.plan.steps else -1
        #: Data choices that each thread has made.
        self.chosen: dict[int, int] = {}
        self.states: dict[int, Held] = {}
        #: Threads that stood and were let go, with what they were to do.
        self.going: dict[int, Op] = {}

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        self._look(k)
        standing = self._standing(k)
        if len(standing) == len(self.links):
            self.stood = True
        if self.stood:
            return self.walk(mask)
        if 0 <= self.done < len(self.plan.steps):
            planned = self.plan.steps[self.done][0]
            if mask >> planned & 1:
                return planned
            self.done = -1
        others = mask
        for t in standing:
            others &= ~(1 << t)
        if others:
            return self._some(others)
        freed = self.walk(mask)
        op = k.pend[freed]
        assert op is not None
        self.going[freed] = op
        return freed

    def _some(self, mask: int) -> int:
        """One of them, at random."""
        if not self.number % 2:
            return self.walk(mask)
        if not mask & self.favourite or not self.below(SWITCH_ONE_IN):
            self.favourite = 1 << self.walk(mask)
        return self.favourite.bit_length() - 1

    def choose(self, k: Kernel, n: int) -> int:
        """See Strategy. While the plan is followed, the same as there."""
        made = self.chosen.get(k.cur, 0)
        self.chosen[k.cur] = made + 1
        planned = self.plan.choices.get(k.cur, ())
        if self.done >= 0 and made < len(planned):
            return min(planned[made], n - 1)
        return self.below(n)

    def _standing(self, k: Kernel) -> list[int]:
        """Threads of the pattern that stand at their acquisitions."""
        return [t for t, link in self.links.items() if t < len(k.pend) and self._stands(k.pend[t], t, link)]

    def _stands(self, op: Op | None, t: int, link: Link) -> bool:
        if op is None or op.obj != link.wanted.lock or t in self.going:
            return False
        effect = effect_of(op)
        if effect not in _ASKS or (effect in SHARES) != link.wanted.shared:
            return False
        held = {hold.lock: hold.shared for hold in self.states.get(t, self.ways.free).holds}
        return held == {hold.lock: hold.shared for hold, _ in link.held}

    def _look(self, k: Kernel) -> None:
        """Take in what has been done since."""
        trace = k.trace
        steps = self.plan.steps
        for t, op, arg in trace[self.seen :]:
            self.going.pop(t, None)
            if 0 <= self.done < len(steps) and t >= 0 and is_step(op):
                self.done = self.done + 1 if (t, op.kind, op.obj.number) == steps[self.done] else -1
            if arg is not Wake.SIGNAL:
                self.states[t] = self.states.get(t, self.ways.free)[op]
        self.seen = len(trace)


def plan_of(prediction: Prediction, k: Kernel) -> Plan:
    """The witness of a prediction as steps to be made, while the kernel still has the execution that it was made of.

    NO_PLAN if it has none.
    """
    trace = k.trace
    witness = Ideals(trace, len(k.threads), Ways()).before([link.step for link in prediction.links])
    if witness is None:
        return NO_PLAN
    events = [trace[step] for step in witness]
    steps = tuple((t, op.kind, op.obj.number) for t, op, _ in events if is_step(op))
    choices: dict[int, tuple[int, ...]] = {}
    for t, op, arg in trace:
        # One with a single alternative is not asked for.
        if op is k.choose_op and arg[1] > 1:
            choices[t] = (*choices.get(t, ()), arg[0])
    return Plan(steps, choices)


async def confirm(
    subject: Subject,
    driver: Driver,
    prediction: Prediction,
    plan: Plan = NO_PLAN,
    *,
    attempts: int = ATTEMPTS,
    seed: int = 1,
) -> Confirmation:
    """Try to bring a predicted deadlock about.

    Args:
        subject: what was executed.
        driver: one that nothing runs on at present.
        prediction: the pattern.
        plan: see `plan_of`; without it, threads are only kept waiting.
        attempts: executions at most.
        seed: of the random choices.

    Raises:
        UsageError: the scenario cannot be run, or is not deterministic.
    """
    strategy = Steer(prediction, plan, seed)
    k = driver.k
    stood = 0
    for number in range(attempts):
        verdict = await execute(subject, driver, strategy, number)
        picks = tuple(k.picks)
        closed = _closed(k, prediction)
        stood += strategy.stood
        driver.unwind()
        if verdict is not None and verdict.kind == "deadlock" and closed:
            return Confirmation(prediction, await record(subject, driver, Follow(picks)), number + 1, stood)
    return Confirmation(prediction, None, attempts, stood)


async def bring_about(
    subject: Subject, driver: Driver, picks: Sequence[int], fingerprint: str
) -> tuple[Recording | None, str]:
    """Try to bring about a deadlock that an execution predicts.

    Args:
        subject: what was executed.
        driver: one that nothing runs on at present.
        picks: the raw decisions of the execution.
        fingerprint: of the prediction, as a verdict.

    Returns:
        The execution that ends in the deadlock, or None; and how it was come by, or how hard it was tried.

    Raises:
        UsageError: the scenario is not deterministic.
    """
    # What detectors say of the attempts is no matter.
    bare = replace(subject, checks=())
    k = driver.k
    await execute(bare, driver, Follow(picks))
    found = [
        one for one in Predictor().observe(k.trace, k.threads) if one.verdict(k.threads).fingerprint == fingerprint
    ]
    plans = [plan_of(prediction, k) for prediction in found]
    driver.unwind()
    attempts = 0
    for prediction, plan in zip(found[:PATTERNS_MAX], plans, strict=False):
        made = await confirm(bare, driver, prediction, plan)
        attempts += made.attempts
        if made.recording is not None:
            return made.recording, f"brought about in attempt {attempts}"
    return None, f"unconfirmed: {attempts} attempts to bring it about have failed"


def _closed(k: Kernel, prediction: Prediction) -> bool:
    """Do all its threads wait, each for the lock that the next one has?"""
    links = prediction.links
    for link, after in zip(links, (*links[1:], links[0]), strict=True):
        t = link.thread
        op = k.pend[t] if t < len(k.threads) and not k.threads[t].done else None
        if op is None or op.obj != link.wanted.lock or after.thread not in k.objects[op.obj.number].holders():
            return False
    return True
