"""The path of a search: the steps of the current execution, each with the state in which it was chosen.

The search repeats the path of the last execution up to where something was left to try, does that, and goes on freely:
as `follow` says. When an execution has ended it is looked at (`examine`), and the path goes back to the last place where
something is left to try (`advance`). It is asked at every step, also where nothing is to be decided, since it has to know
where each step begins; see kernel/every_step.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from stressvm.explore.dependency import CUT, Step, take_footprint
from stressvm.explore.reorder import Reordered, several
from stressvm.explore.tape import diverged
from stressvm.kernel.errors import UsageError
from stressvm.kernel.every_step import EveryStepKernel

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel

#: A data choice among more is not explored: each alternative is an execution at least.
ALTERNATIVES_MAX: Final = 4096

#: So many of the first executions are done again in another order; later every one whose number is a power of two.
REPEATED: Final = 16


class Stepwise:
    """Base: see the module. Executions 0, 1, 2, ... one after the other; 0 starts the search anew.

    Attributes:
        exhausted: after `end`: there is no further execution within the bounds.
        steps: the path; the first is what happens before the first decision.
        kept: how many of them the next execution repeats, the one that is new at its end included.
        cut: after how many steps executions were cut short; 0 if none was.
        again: a strategy that does the last execution's steps in another order, if that is to be done; see reorder.py.
        repeated: how often that was so.
        untold: the time was asked for where it is not known what it depends on.
    """

    EVERY_STEP: ClassVar[bool] = True

    def __init__(self) -> None:
        self.number = -1
        self._restart()

    def _restart(self) -> None:
        self.exhausted = False
        self.cut = 0
        self.repeated = 0
        self.again: Reordered | None = None
        #: An execution has been done again in several orders.
        self.turned = False
        self.untold = False
        self.steps: list[Step] = []
        self.kept = 0
        self.at = 0
        #: The data choices of the current execution by index of step: outcomes and alternatives.
        self.chosen: dict[int, list[tuple[int, int]]] = {}

    # ------------------------------------------------------------ one execution

    def begin(self, number: int) -> None:
        """See Strategy.

        Raises:
            UsageError: `number` is neither 0 nor the one after the last, or the search had come to its end.
        """
        if number == 0:
            self._restart()
        elif number != self.number + 1 or self.exhausted:
            last = f"{self.number}, the last" if self.exhausted else str(self.number)
            raise UsageError(f"a search was asked for execution {number} after {last}: it goes on by ones")
        self.number = number
        self.chosen.clear()
        if not self.steps:
            self._root()
        self.at = 1

    def _root(self) -> None:
        """What happens before the first decision is the first step, of nobody."""
        root = Step()
        root.thread = root.current = -1
        root.label = ()
        root.mask = root.enabled = root.offers = root.start = root.mark = root.spent = 0
        root.pend = []
        root.previous = root.since = -1
        root.before = 0
        root.values = root.arities = root.woke = ()
        root.sleep = []
        root.tree = []
        root.below = []
        root.branch = None
        self.steps.append(root)
        self.kept = 1

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy; asked at every step."""
        at = self.at
        self.at = at + 1
        if at < self.kept:
            step = self.steps[at]
            if step.mask != mask:
                raise self._changed(k)
            if at == self.kept - 1:
                self._turn(step, k)
            return step.thread
        return self._new(k, mask)

    def account(self, step: Step, k: Kernel) -> None:
        """A step has come to its end: what has it accessed?"""
        take_footprint(step, k)

    def _turn(self, step: Step, k: Kernel) -> None:
        """The last step that is kept is where the execution leaves the path of the one before."""
        if step.start != len(k.trace):
            raise self._changed(k)
        if not step.mask >> step.thread & 1:
            raise self.impossible(k, step)
        self._stand(step, k)

    def _new(self, k: Kernel, mask: int) -> int:
        """A step that no execution has done before."""
        steps = self.steps
        last = steps[-1]
        if len(steps) > 1:
            self.account(last, k)
        elif not isinstance(k, EveryStepKernel):
            raise UsageError("this search must be asked at every step: give the driver an EveryStepKernel")
        step = Step()
        step.mask = mask
        step.enabled = k.enabled
        cur = k.cur
        step.current = cur if cur >= 0 and mask >> cur & 1 and cur not in k.timers else -1
        step.pend = k.pend.copy()
        step.start = len(k.trace)
        step.mark = len(k.touched)
        step.label = step.values = step.arities = step.woke = ()
        steps.append(step)
        self.follow(k, last, step)
        self._stand(step, k)
        return step.thread

    def _stand(self, step: Step, k: Kernel) -> None:
        """What the step's thread stands before."""
        op = step.pend[step.thread]
        assert op is not None
        step.op = op
        step.nth = 0
        accesses = op.accesses
        if len(accesses) == 1:
            step.offers = k.objects[accesses[0][0]].offers()
            step.others = None
        else:
            step.offers = 0
            step.others = {number: k.objects[number].offers() for number, _ in accesses} if accesses else None

    def choose(self, k: Kernel, n: int) -> int:
        """See Strategy."""
        at = self.at - 1
        made = self.chosen.setdefault(at, [])
        label = self.steps[at].label
        value = label[len(made)] if len(made) < len(label) else 0
        if n > ALTERNATIVES_MAX:
            raise self._refuse(k, f"k.choose({n}): more than {ALTERNATIVES_MAX} alternatives cannot all be explored")
        if value >= n:
            raise self._changed(k)
        made.append((value, n))
        return value

    def impossible(self, k: Kernel, step: Step) -> UsageError:
        """The error for a step that should be possible, by all that steps have been seen to access, and is not."""
        name = k.threads[step.thread].name
        return self._refuse(
            k,
            f"an order of steps that should be possible is not: thread {name} cannot go on at step {step.start}. Something "
            "outside the kernel's objects decides who can go on; use another search",
        )

    def _refuse(self, k: Kernel, text: str) -> UsageError:
        error = UsageError(text)
        k.abort(error)
        return error

    def _changed(self, k: Kernel) -> Exception:
        return diverged(
            k,
            f"the scenario is not deterministic: the same decisions led elsewhere at step {len(k.trace)}. "
            "Something outside the kernel's objects decides: a global, a random number, the order of a set, the clock",
        )

    def end(self, k: Kernel) -> None:
        """See Strategy. Looks at the execution, and moves on to the next."""
        if k.fatal is not None:
            return
        if self.at < self.kept:
            self._changed(k)
            return
        steps = self.steps
        if len(steps) > 1:
            self.account(steps[-1], k)
        for at, made in self.chosen.items():
            steps[at].values = [value for value, _ in made]
            steps[at].arities = [n for _, n in made]
        if k.trouble is not None and k.trouble.kind in CUT:
            self.cut = k.max_steps
        self.untold = self.untold or bool(getattr(k, "told_time", False))
        self.examine(k)
        self.again = self._repeat(k)
        self.advance()

    def _repeat(self, k: Kernel) -> Reordered | None:
        """The first executions, and ever fewer later, are to be done again with their steps in another order.

        None once an execution was cut short: then nothing is claimed that this could refute.
        """
        number = self.number
        if (number >= REPEATED and number & (number - 1)) or self.cut:
            return None
        if not self.turned and k.trouble is None:
            # The first that nothing cut off: all that there is to a small space, perhaps.
            self.turned = True
            again = several(k, self.steps)
        else:
            once = Reordered(k, self.steps)
            again = None if once.same else once
        if again is None:
            return None
        self.repeated += 1
        return again

    @property
    def limits(self) -> str:
        """By what executions were cut short, in words."""
        return f"at most {self.cut} steps" if self.cut else ""

    @property
    def provided(self) -> str:
        """On what `exhausted` depends that no search can know for certain, in words."""
        return provided(self.repeated, untold=self.untold)

    # ------------------------------------------------------------ a search's own affair

    def follow(self, k: Kernel, last: Step, step: Step) -> None:
        """Choose the thread of a new step, which comes after `last`: `step.thread`, `step.label`."""
        raise NotImplementedError

    def examine(self, k: Kernel) -> None:
        """An execution has ended: find what is left to try."""
        raise NotImplementedError

    def advance(self) -> None:
        """Go back to where something is left to try; `exhausted` if there is nothing."""
        raise NotImplementedError


def provided(repeated: int, *, untold: bool, varied: bool = False, differ: bool = False) -> str:
    """On what it depends that a search has explored everything, in words.

    Args:
        repeated: executions that agreed when they were done in another order.
        untold: threads were told the time where it is not known what it depends on.
        varied: steps accessed something else than was foreseen.
        differ: steps did not access the same in all orders.
    """
    found = (
        "provided that threads share nothing but kernel objects and what locks protect "
        f"({repeated} executions agreed when their steps were done in another order)"
    )
    if untold:
        found += ", and that nothing depends on the time that threads were told"
    if varied:
        found += "; in other orders steps accessed other things than before, of which no proof is known"
    if differ:
        found += (
            "; a step counts as accessing all that it did in any order, so that some executions may differ in nothing but the "
            "order of independent steps"
        )
    return found
