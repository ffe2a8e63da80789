"""Partial order reduction within a bound of preemptions: every class that some schedule within the bound reaches.

Here a class may be reached by one schedule within the bound and by another that exceeds it, so two things that the
unbounded search relies on do not hold: that some order of a class is as good as any other (so nothing may sleep), and
that a step tried at the race is tried where it matters. When two steps race, the later one's thread is therefore tried
before the earlier one, and also where the earlier one's thread had got the baton: a switch there may cost less.

A preemption is counted as everywhere in stressvm: the baton is taken from a thread that could have gone on, other than
by its timer. The search prefers to go on with the current thread, which costs nothing.

Source: Coons, Musuvathi, McKinley, Bounded partial-order reduction (OOPSLA 2013), algorithm 2 and section 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.explore.partial_order import PartialOrderSearch
from stressvm.explore.wakeup_tree import Branch, stripped
from stressvm.kernel.errors import UsageError
from stressvm.kernel.kernel import members

if TYPE_CHECKING:
    from stressvm.explore.dependency import Step
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Op


class BoundedPOR(PartialOrderSearch):
    """See the module.

    Args:
        preemptions: at most so many in an execution.
    """

    def __init__(self, preemptions: int) -> None:
        if preemptions < 0:
            raise UsageError(f"at most {preemptions} preemptions: 0 is the fewest")
        self.preemptions = preemptions
        super().__init__()

    @property
    def bounds(self) -> str:
        """What `exhausted` is relative to."""
        found = f"at most {self.preemptions} preemption{'' if self.preemptions == 1 else 's'}"
        return f"{found}, {self.limits}" if self.limits else found

    # ------------------------------------------------------------ going forward

    def follow(self, k: Kernel, last: Step, step: Step) -> None:
        """The current thread if possible, else the first."""
        mask = step.mask
        step.below = []
        step.sleep = []
        step.tree = []
        step.spent = last.spent + self.costs(last, last.thread)
        candidates = k.candidates(mask)
        step.thread = step.current if step.current >= 0 else candidates[0]
        if not step.enabled:
            # Which of the timers that are due goes first is a choice, and each is another execution.
            for t in candidates[1:]:
                self._try(step, t, ())

    def costs(self, step: Step, t: int) -> int:
        """Is it a preemption to go on with that thread?"""
        return int(step.current >= 0 and t != step.current)

    # ------------------------------------------------------------ going back

    def advance(self) -> None:
        """See Stepwise."""
        steps = self.steps
        while steps:
            index = len(steps) - 1
            step = steps[index]
            step.sleep.append(Branch(step.thread, stripped(step.values), 0, 0, []))
            if index:
                self._forget(index)
            if step.tree:
                branch = step.tree.pop(0)
                step.thread = branch.thread
                step.label = branch.label
                step.values = step.arities = ()
                break
            steps.pop()
        self.kept = len(steps)
        self.exhausted = not steps
        if self.exhausted and self.accesses.grown:
            self._begin_anew()

    # ------------------------------------------------------------ what is left to try

    def races(self, index: int, step: Step, before: int, suspects: int) -> int:
        """With the last such step of each thread: to change places with one after the other may exceed the bound.

        Also with those that made it possible. They stay where they are; but until then its thread, having done what it does
        before, could be left for nothing.
        """
        steps = self.steps
        past = before
        threads = 0
        while suspects:
            other = suspects.bit_length() - 1
            suspects &= ~(1 << other)
            past |= steps[other].past
            t = steps[other].thread
            if not threads >> t & 1:
                self.race(other, index, step)
                if self.possible(other, index, step):
                    threads |= 1 << t
        return past

    def race(self, other: int, index: int, step: Step) -> None:  # noqa: ARG002 - where the step is does not matter
        """See PartialOrderSearch: before the other step, and where its thread had got the baton, or could have lost it."""
        steps = self.steps
        t = step.thread
        self._switch(steps[other], t)
        while steps[other].current == steps[other].thread:
            other -= 1
        self._switch(steps[other], t)

    def _switch(self, step: Step, t: int) -> None:
        """Go on with thread `t` there; if it cannot, with any: one of them may lead to its turn."""
        for other in (t,) if step.mask >> t & 1 else members(step.mask):
            self._try(step, other, ())

    def instead(self, index: int, t: int, values: tuple[int, ...], op: Op | None) -> None:
        """See PartialOrderSearch."""
        if op is None:
            self._try(self.steps[index], t, stripped(values))
        else:
            self.race(index, len(self.steps), self._imagined(t, op))

    def _try(self, step: Step, t: int, label: tuple[int, ...]) -> None:
        """Try that from there, unless it has been, is being, or exceeds the bound."""
        if step.spent + self.costs(step, t) > self.preemptions:
            return
        if t == step.thread and label == stripped(step.values):
            return
        for known in (step.sleep, step.tree):
            if any(branch.thread == t and branch.label == label for branch in known):
                return
        step.tree.append(Branch(t, label, 0, 0, []))
