"""Happens-before and races: what the searches share that explore one execution of each class of equivalent ones.

When an execution has ended, its new steps are looked at in order: what must come before each (`Step.past`, as bits:
joining is one operation, whatever the number of threads), and with which earlier steps it *races*: those it depends on,
with nothing between that has to stay there, such that it would have been possible before them. What is done about a race
is the search's own affair (`race`).

A lock's release and the acquisition that it makes possible cannot change places; the acquisition before and this one
can. So a step that needs something of its object races with the last earlier step before which it could have been had,
and it matters what the object had to offer then. The same goes for requests that are never granted: a thread that is
stuck at the end races with whoever got what it waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.explore.accesses import Accesses
from stressvm.explore.dependency import CUT, Step, ends_all, take_footprint
from stressvm.explore.stepwise import Stepwise
from stressvm.kernel.kernel import members
from stressvm.kernel.op import ENDED, EVERYTHING, Op, bits, whose_end

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


class PartialOrderSearch(Stepwise):
    """Base: see the module."""

    def _restart(self) -> None:
        super()._restart()
        self.accesses = Accesses()
        self._no_steps()

    def _no_steps(self) -> None:
        #: By what is accessed, the bits of the steps that access it, and of those that write it.
        self.users: dict[int, int] = {}
        self.writers: dict[int, int] = {}
        #: The bits of the steps that access everything, and of those that write anything.
        self.wide = self.any_writers = 0
        #: The last step before which nothing is possible any more: a timer's that fired when nothing else could be done.
        self.floor = 0
        #: The index of each thread's last step, and those of the steps that woke it.
        self.last: dict[int, int] = {}
        self.wakes: dict[int, list[int]] = {}
        #: The index of the step that ended the execution, 0 for none; and what it accesses of its own.
        self.final = 0
        self.own = (0, 0)
        #: (index of a step, thread that could have done something before and was woken by it)
        self.lost: list[tuple[int, int]] = []

    def _begin_anew(self) -> None:
        """From the start, with all that has been learnt of what steps access."""
        self.steps.clear()
        self._root()
        self._no_steps()
        self.accesses.grown = False
        self.exhausted = False

    def account(self, step: Step, k: Kernel) -> None:
        """See Stepwise."""
        take_footprint(step, k)
        if self.accesses.known or len(k.touched) != step.mark:
            self.accesses.widen(self.steps, k)

    # ------------------------------------------------------------ happens-before and races

    def examine(self, k: Kernel) -> None:
        """All that is new in an execution that has ended."""
        steps = self.steps
        if self.kept == 1:
            steps[0].past = 1
            steps[0].touches = steps[0].writes = 0
            steps[0].footprint = ()
        final = self.final = self._final(k)
        if final:
            self.own = (steps[final].touches, steps[final].writes)
            ends_all(steps[final])
        self.recognize()
        for index in range(max(1, self.kept - 1), len(steps)):
            self._order(index, k)
        self.prevented()
        self.pending(k)
        for at in self.chosen:
            self.alternatives(at)

    def recognize(self) -> None:
        """All accesses of a new execution are known: the place to compare them with what was foreseen."""

    def _final(self, k: Kernel) -> int:
        """The index of the step that stopped the execution; 0 if it came to its end."""
        trouble = k.trouble
        if trouble is None or trouble.kind in CUT or len(self.steps) == 1:
            return 0
        return len(self.steps) - 1 if self.steps[-1].thread == trouble.thread else 0

    def _order(self, index: int, k: Kernel) -> None:
        """What comes before a step, what it races with, what it made possible."""
        steps = self.steps
        step = steps[index]
        t = step.thread
        bit = 1 << index
        previous = since = self.last.get(t, 0)
        before = steps[previous].past
        wakes = self.wakes.get(t)
        if wakes and wakes[-1] > previous:
            since = wakes[-1]
            before |= steps[since].past
        op = step.op
        if op.needs == ENDED:
            before |= steps[self.last.get(whose_end(op.footprint[0][0]), 0)].past
        step.previous = previous
        step.since = since
        step.before = before
        self.last[t] = index
        footprint = step.footprint
        if index + 1 < len(steps):
            after = steps[index + 1]
            enabled, pend = after.enabled, after.pend
        else:
            enabled, pend = k.enabled, k.pend
        new = enabled & ~step.enabled & ~(1 << t)
        if new or footprint is not op.footprint or len(k.trace) == step.start or k.trace[step.start][2] is not None:
            self._effects(index, step, new, pend)
        users, writers = self.users, self.writers
        suspects = self.wide
        for number, write in footprint:
            if number == EVERYTHING:
                suspects |= self._all(index) if write else self.any_writers
                self.wide |= bit
            elif write:
                suspects |= users.get(number, 0)
                users[number] = users.get(number, 0) | bit
                writers[number] = writers.get(number, 0) | bit
            else:
                suspects |= writers.get(number, 0)
                users[number] = users.get(number, 0) | bit
        if step.writes:
            self.any_writers |= bit
        else:
            suspects &= self.any_writers
        suspects &= ~before & (bit - 1)
        if not step.enabled:
            step.past = self.floor = bit | (bit - 1)
        elif suspects:
            # Not before the races: what was asked for before a timer fired could have been done before it.
            step.past = self.races(index, step, before, suspects) | self.floor | bit
        else:
            step.past = before | self.floor | bit

    def _all(self, index: int) -> int:
        """The bits of all steps before one in which anything was done: that a thread starts is nothing that anybody sees."""
        return sum(1 << at for at in range(1, index) if self.steps[at].touches)

    def races(self, index: int, step: Step, before: int, suspects: int) -> int:
        """Find the races of a step, or of one that is pending at the end.

        Args:
            index: of the step.
            step: the step.
            before: the bits of what comes before it in any case.
            suspects: the bits of the other steps that it depends on.

        Returns:
            The bits of all that comes before it.
        """
        steps = self.steps
        past = before
        while suspects:
            other = suspects.bit_length() - 1
            theirs = steps[other].past
            past |= theirs
            if self.possible(other, index, step):
                self.race(other, index, step)
                # Whatever comes before the other one: to be looked at when these two have changed places.
                suspects &= ~theirs
            else:
                suspects &= ~(1 << other)
        return past

    def possible(self, other: int, index: int, step: Step) -> bool:
        """Would a step have been possible before another one, after all that does not depend on that one?"""
        needs = step.op.needs
        if not needs:
            return True
        number = step.op.footprint[0][0]
        # The object is then as it was before the first of its users that would not be there.
        users = self.users.get(number, 0) & ((1 << index) - 1) >> other << other
        steps = self.steps
        while users:
            at = (users & -users).bit_length() - 1
            if steps[at].past >> other & 1:
                user = steps[at]
                if at > step.since:
                    return bool(user.enabled >> step.thread & 1)
                offers = self._offered(user, number)
                if offers is not None:
                    return bool(offers & needs)
            users &= users - 1
        return index < len(steps)

    def _offered(self, user: Step, number: int) -> int | None:
        """What an object had to offer before a step; None if the step only looked at it, or it is no object."""
        accesses = user.op.accesses
        if len(accesses) == 1 and accesses[0][0] == number:
            return user.offers
        if user.others is not None and number in user.others:
            return user.others[number]
        return 0 if user.writes & bits(number) else None

    def _effects(self, index: int, step: Step, new: int, pend: list[Op | None]) -> None:
        """Whom a step has made possible other than by what both access, and whose plans it has changed.

        Args:
            index: of the step.
            step: the step.
            new: the bits of the threads that can go on since.
            pend: what all have announced now.
        """
        woke: list[int] = []
        if new:
            for other in members(new):
                op = pend[other]
                assert op is not None
                if not (op.writes & step.touches or step.writes & op.touches):
                    woke.append(other)
        for other, op in enumerate(step.pend):
            if op is not pend[other] and other != step.thread and other not in woke:
                woke.append(other)
        if woke:
            step.woke = woke
            for other in woke:
                self.wakes.setdefault(other, []).append(index)
                if step.enabled >> other & 1:
                    self.lost.append((index, other))

    def _forget(self, index: int) -> None:
        """Take back what `_order` noted of the last step."""
        step = self.steps[index]
        keep = (1 << index) - 1
        self.last[step.thread] = step.previous
        users, writers = self.users, self.writers
        for number, write in step.footprint:
            if number == EVERYTHING:
                self.wide &= keep
            else:
                users[number] &= keep
                if write:
                    writers[number] &= keep
        self.any_writers &= keep
        if step.woke:
            for other in step.woke:
                self.wakes[other].pop()
            step.woke = ()
            while self.lost and self.lost[-1][0] == index:
                self.lost.pop()
        if not step.enabled:
            self.floor = 0
            for earlier in range(index - 1, 0, -1):
                if not self.steps[earlier].enabled:
                    self.floor = (2 << earlier) - 1
                    break

    # ------------------------------------------------------------ what did not happen

    def pending(self, k: Kernel) -> None:
        """Those stuck at the end: they race with whoever got what they wait for."""
        final = self.final
        if not k.alive and not final:
            return
        steps = self.steps
        for th in k.threads:
            op = k.pend[th.number]
            if th.done or op is None or not op.needs or th.number == steps[final].thread:
                continue
            before = self._before(th.number)
            suspects = self.users.get(op.footprint[0][0], 0) | self.wide
            self.races(len(steps), self._imagined(th.number, op), before, suspects & ~before & ~(1 << final))

    def _imagined(self, t: int, op: Op) -> Step:
        """The step that thread `t` would do at the end."""
        step = Step()
        step.thread = t
        step.values = ()
        step.op = op
        step.footprint = op.footprint
        step.touches = op.touches
        step.writes = op.writes
        step.before = self._before(t)
        wakes = self.wakes.get(t)
        step.since = max(self.last.get(t, 0), wakes[-1] if wakes else 0)
        return step

    def _before(self, t: int) -> int:
        """What comes before all that thread `t` may do next."""
        before = self.steps[self.last.get(t, 0)].past
        wakes = self.wakes.get(t)
        return before | self.steps[wakes[-1]].past if wakes else before

    def prevented(self) -> None:
        """What could have been done instead of steps that made it impossible.

        A sleeper that might have timed out was woken; a step ended the execution.
        """
        steps = self.steps
        for index, other in self.lost:
            self.instead(index, other, (), steps[index].pend[other])
        final = self.final
        if final:
            for other in members(steps[final].enabled & ~(1 << steps[final].thread)):
                self.instead(final, other, (), steps[final].pend[other])

    def alternatives(self, index: int) -> None:
        """What the data choices in a step could have come to otherwise."""
        step = self.steps[index]
        for at, (value, n) in enumerate(zip(step.values, step.arities, strict=True)):
            for other in range(n):
                if other != value:
                    self.instead(index, step.thread, (*step.values[:at], other), None)

    # ------------------------------------------------------------ what a search does about it

    def race(self, other: int, index: int, step: Step) -> None:
        """Step `index` could have come before step `other`."""
        raise NotImplementedError

    def instead(self, index: int, t: int, values: tuple[int, ...], op: Op | None) -> None:
        """Thread `t` could have done something instead of step `index`.

        Either its operation `op`, which was not possible any more afterwards, or (None) the same step with those outcomes
        of its data choices, and 0 for the rest.
        """
        raise NotImplementedError
