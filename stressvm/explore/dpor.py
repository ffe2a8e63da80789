"""Optimal dynamic partial order reduction: one execution of each class of equivalent ones, and none in vain.

Two executions are equivalent if exchanging neighbouring steps that do not depend on each other turns one into the other;
`dependency.py` has the relation. Everything that a verdict can be about is the same for all of a class, so one of each is
enough. The search runs an execution, finds its races, and for each adds what would reverse it to the wakeup tree of the
state before (`wakeup_tree.py`), unless something that was explored there already leads to the same. What has been
explored sleeps, until a step is done that depends on it. Executions in which everything that could go on is asleep are in
vain: there are none, as long as steps access what they are foreseen to access (`blocked` counts them).

What a step will access in another order is foreseen to be what it accessed in this one. That can be wrong: a try fails
where it had succeeded, code looks at a cell only if a flag is set, an assertion fails that had held. When a step turns
out to access something else, what was decided by the forecast is decided again (`_surprised`), and from then on races are
reversed more thoroughly (`_and_then`). The theory says nothing of this; it rests on comparison with depth-first search on
many thousands of random programs, and `provided` says so.

Beyond the published algorithm, which knows threads whose next step is determined:

- A step with data choices is a different step for each outcome. Outcomes that were not taken are treated as races of the
  step with itself: it could have come to something else, before or after whatever does not depend on it.
- A sleeper whose timeout was possible and that was woken instead: its timeout is a step that the wakeup prevented. It is
  tried instead of the wakeup.
- A step that ends the execution (a panic) prevents all others; each is tried instead of it.
- Where a timer fires because nothing else can be done, all that are due are tried. Nothing is exchanged across it, except
  requests that were made before and granted later.
- That a spawned thread starts is a step that nobody sees; it is done at once.

What `exhausted` means. All classes have been executed: of the executions that the kernel's timers mode admits, and within
`bounds`, which names a limit that executions ran into. That holds *provided* that steps access what they are known to
access. State outside the kernel's objects that no common lock protects is not known. Nothing can know it for certain;
so executions are repeated in another order now and then (`again`, see reorder.py), which ends the search with a
UsageError if it makes a difference, and `provided` says what the claim rests on. So do steps that turn out to be
impossible where they should be possible, and decisions that lead elsewhere when they are repeated.

Code that looks at more than it locks can say so by `k.touch(number, write=False)`, with `op.EVERYTHING` for all there is:
an invariant, say, that is evaluated in the middle of an execution and inspects what other locks protect.

Source: Abdulla, Aronis, Jonsson, Sagonas, Source sets: a foundation for optimal dynamic partial order reduction
(J. ACM 64, 2017), algorithm 2.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from stressvm.explore.dependency import NOTHING_MORE
from stressvm.explore.partial_order import PartialOrderSearch
from stressvm.explore.stepwise import provided
from stressvm.explore.subtree import Node
from stressvm.explore.wakeup_tree import NO, Branch, Item, insert, leads_to, stripped, weak_initial

if TYPE_CHECKING:
    from stressvm.explore.dependency import Step
    from stressvm.explore.rehearsal import Rehearsal
    from stressvm.explore.subtree import Subtree
    from stressvm.explore.wakeup_tree import Label
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Op


class DPOR(PartialOrderSearch):
    """See the module.

    Attributes:
        blocked: executions in which, at some step, everything that could be done was asleep: done in vain.
        base: the last step at whose state nothing is left to this search; -1 for none (the first is what comes before all decisions).
        rehearsal: the order that its first execution keeps to where it can; None: threads go on as long as they can.

    Args:
        subtree: the piece of the tree that is to be explored; None: all of it.
    """

    def __init__(self, subtree: Subtree | None = None) -> None:
        self.subtree = subtree
        self.rehearsal: Rehearsal | None = None
        super().__init__()

    def _restart(self) -> None:
        super()._restart()
        self.blocked = 0
        #: Steps have accessed something else than was foreseen.
        self.varied = False
        if self.rehearsal is not None:
            self.rehearsal.begin()
        #: How many threads the world has.
        self.world = 0

    def _no_steps(self) -> None:
        super()._no_steps()
        self.base = -1
        #: The path to where the piece goes on, while it is gone for the first time.
        self.path: tuple[Node, ...] = ()
        #: The index of the step where everything that could be done was asleep, 0 for none: what follows is in vain.
        self.in_vain = 0
        if self.subtree is not None:
            self.path = copy.deepcopy(self.subtree.path)
            self.base = self.subtree.base

    def _begin_anew(self) -> None:
        super()._begin_anew()
        # What was under way in the piece is to be explored again.
        given = self.path[: max(self.base, 0)]
        self.path = tuple(Node(node.thread, node.label, [], [], [], None) for node in given)

    @property
    def bounds(self) -> str:
        """What `exhausted` is relative to."""
        return self.limits

    @property
    def provided(self) -> str:
        """See Stepwise."""
        return provided(self.repeated, untold=self.untold, varied=self.varied, differ=self.accesses.vary)

    @property
    def left(self) -> int:
        """How many executions there are still to be, as far as is known by now: 0 after the last one."""
        return 0 if self.exhausted else 1 + sum(len(step.tree) for step in self.steps)

    # ------------------------------------------------------------ going forward

    def follow(self, k: Kernel, last: Step, step: Step) -> None:
        """The first branch of the tree, or whoever is not asleep."""
        if self.path and len(self.steps) <= len(self.path) + 1:
            self._go_to(k, step, self.path[len(self.steps) - 2])
            return
        step.sleep = self.still_asleep(last) if last.sleep else []
        tree = step.tree = last.below
        mask = step.mask
        if tree and step.sleep:
            self._drop_asleep(step)
        if tree:
            self._take(step)
            if not mask >> step.thread & 1:
                raise self.impossible(k, step)
            return
        step.below = []
        step.branch = None
        if not self.world:
            self.world = _world(k)
        if not step.enabled:
            # Which of the timers that are due goes first is a choice, and each is another execution.
            first, *others = k.candidates(mask)
            step.thread = first
            tree.extend(Branch(t, (), -1, -1, []) for t in others)
        elif len(step.pend) > self.world and (new := self._new_born(k, step)):
            step.thread = new
        else:
            if step.sleep:
                mask = self._awake(step)
            cur = k.cur
            step.thread = cur if cur >= 0 and mask >> cur & 1 else (mask & -mask).bit_length() - 1
            if not self.number and self.rehearsal is not None:
                step.thread = self.rehearsal.next(k, mask, step.thread)

    def _go_to(self, k: Kernel, step: Step, node: Node) -> None:
        """On the path to the piece."""
        if not self.world:
            self.world = _world(k)
        step.thread, step.label, step.sleep, step.tree, step.below, step.branch = node
        if not step.mask >> step.thread & 1:
            raise self.impossible(k, step)

    def still_asleep(self, last: Step) -> list[Branch]:
        """Of those asleep before a step, the ones that it leaves alone."""
        t, touches, writes = last.thread, last.touches, last.writes
        return [z for z in last.sleep if z.thread != t and not (z.writes & touches or writes & z.touches)]

    def _take(self, step: Step) -> None:
        step.branch = branch = step.tree.pop(0)
        step.thread = branch.thread
        step.label = branch.label
        step.values = step.arities = ()
        step.below = branch.tree

    def _drop_asleep(self, step: Step) -> None:
        """A branch was added for what its last step was foreseen to access; it accesses less, and has been explored."""
        asleep = {(z.thread, z.label) for z in step.sleep}
        while step.tree and (step.tree[0].thread, step.tree[0].label) in asleep:
            del step.tree[0]

    def _new_born(self, k: Kernel, step: Step) -> int:
        """A thread that has not started: that it starts is nothing that anybody sees, so it does it at once; 0 for none.

        Thread 0 is never one: it is the world's.
        """
        for t in range(self.world, len(step.pend)):
            if step.pend[t] is k.start_op and step.mask >> t & 1:
                return t
        return 0

    def _awake(self, step: Step) -> int:
        """The bits of the threads that can go on and do not sleep; if all sleep, the execution is in vain."""
        asleep = 0
        for z in step.sleep:
            asleep |= 1 << z.thread
        if step.mask & ~asleep:
            return step.mask & ~asleep
        if not self.in_vain:
            self.in_vain = len(self.steps) - 1
            self.blocked += 1
        return step.mask

    # ------------------------------------------------------------ going back

    def recognize(self) -> None:
        """See PartialOrderSearch."""
        for index in range(max(self.kept - 1, self.base + 1, len(self.path)), len(self.steps)):
            step = self.steps[index]
            branch = step.branch
            if branch is None or not step.enabled:
                continue
            if step.touches != branch.touches or step.writes != branch.writes:
                self.varied = True
                self._surprised(index, branch)

    def _surprised(self, index: int, branch: Branch) -> None:
        """A step has accessed more than was foreseen, or less: what it was taken to lead to has to be looked at again.

        And what would begin with something else may come to the same.
        """
        step = self.steps[index]
        known = self.explored(step)
        step.tree[:] = [other for other in step.tree if not leads_to(other, known)]
        for items, left in branch.taken:
            self._look_again(index, items, left)

    def _look_again(self, index: int, items: list[Item], left: int) -> None:
        """Does the execution begin with that sequence, from a step on? Where it does not, that is left to try.

        Where nobody is asleep all that can follow will be explored.
        """
        steps = self.steps
        while left and index < len(steps) and (step := steps[index]).sleep:
            if any(weak_initial(z, items, left) != NO for z in step.sleep):
                return
            at = weak_initial(self.explored(step), items, left)
            if at == NO:
                insert(step.tree, items, left)
                return
            if at >= 0:
                left &= ~items[at].bit
            index += 1

    def is_born(self, step: Step) -> bool:
        """Does a thread start by that step that is not of the world's?"""
        return step.thread >= self.world and step.op.kind == "start"

    def explored(self, step: Step) -> Branch:
        """A step that has been done, as something that has been explored."""
        known = Branch(step.thread, self.label(step), step.touches, step.writes, [], done=True)
        known.arities = tuple(step.arities)
        return known

    def advance(self) -> None:
        """See Stepwise. What has been explored from a state sleeps there."""
        steps = self.steps
        self.in_vain = 0
        self.path = ()
        while len(steps) > self.base + 1:
            index = len(steps) - 1
            if index:
                self._forget(index)
            step = steps[index]
            if step.tree:
                step.sleep.append(self.explored(step))
                self._take(step)
                break
            steps.pop()
        self.kept = len(steps)
        self.exhausted = len(steps) <= self.base + 1
        if self.exhausted and self.accesses.grown:
            self._begin_anew()

    def label(self, step: Step) -> Label:
        """The outcomes of a step's data choices, without the zeros at the end."""
        return stripped(step.values) if step.values else ()

    # ------------------------------------------------------------ what is left to try

    def race(self, other: int, index: int, step: Step) -> None:
        """See PartialOrderSearch."""
        if 0 < self.in_vain <= index or other <= self.base or index < len(self.path):
            return
        steps = self.steps
        before = steps[other]
        between = [at for at in range(other + 1, index) if not steps[at].past >> other & 1]
        touches, writes = self._foreseen(index, step, before)
        # Earlier, the step may come to something else: what data choices there are then is not known.
        if self._insert(before, between, step.thread, (), touches, writes, step.before):
            return
        if step.values and self._chose_otherwise(before, step):
            self._insert(before, between, step.thread, self.label(step), touches, writes, step.before)
        if self.varied:
            self._and_then(before, between, step, touches, writes)

    def _chose_otherwise(self, before: Step, step: Step) -> bool:
        """Is the same step asleep there, after the same data choices with other outcomes?"""
        label = self.label(step)
        n = len(label)
        return any(
            z.thread == step.thread and z.label != label and z.arities[:n] == tuple(step.arities[:n])
            for z in before.sleep
        )

    def instead(self, index: int, t: int, values: tuple[int, ...], op: Op | None) -> None:
        """See PartialOrderSearch."""
        if 0 < self.in_vain <= index or index <= self.base:
            return
        step = self.steps[index]
        if op is None:
            touches, writes = step.touches, step.writes
        else:
            touches, writes = self.accesses.foreseen(self.steps, index, t, op)
        label = stripped(values)
        if self._insert(step, [], t, label, touches, writes, 0):
            return
        steps = self.steps
        rest = [at for at in range(index + 1, len(steps)) if not steps[at].past >> index & 1]
        if rest:
            self._insert(step, rest, t, label, touches, writes, 0)
        unseen = op is not None and op.kind == "start"
        blocks = step.op.needs and step.op.touches & touches & ~NOTHING_MORE if 0 < index == self.final else True
        if self.varied and not (unseen or blocks):
            first = Item(1, t, label, touches, writes, 0, 0)
            self._plant(step, [first, Item(2, step.thread, (), step.touches, step.writes, 1, 0)], 3)

    def _and_then(self, before: Step, between: list[int], step: Step, touches: int, writes: int) -> None:
        """The same, and then the step before which it was put, if that still is what it was.

        Sleepers that only that one would wake say nothing about what comes before it, if it was not foreseen to depend on
        that.
        """
        if before.op.kind == "timeout" or (before.op.needs and before.op.touches & touches & ~NOTHING_MORE):
            return
        items, left = self._items(between, step.thread, (), touches, writes, step.before)
        last = left.bit_length()
        after = 0
        for item in items:
            if item.touches & before.writes or item.writes & before.touches:
                after |= item.after | item.bit
        items.append(Item(1 << last, before.thread, self.label(before), before.touches, before.writes, after, 0))
        self._plant(before, items, left | 1 << last)

    def _foreseen(self, index: int, step: Step, other: Step) -> tuple[int, int]:
        """What a step will access if it does not come after another one: as masks.

        Will one that ended the execution do so without what it really depends on? That has to be looked at.
        """
        own = self.own
        if index == self.final and (other.writes & own[0] or own[1] & other.touches):
            return own
        return step.touches, step.writes

    def _insert(
        self, before: Step, between: list[int], t: int, label: Label, touches: int, writes: int, must: int
    ) -> bool:
        """Explore the steps `between` and then one of thread `t` from the state before a step, if that is not in vain.

        Args:
            before: the step.
            between: indices.
            t: the last one's thread.
            label: its outcomes.
            touches: what it will access.
            writes: what of that it will write.
            must: the bits of what comes before it, whatever it accesses.
        """
        items, left = self._items(between, t, label, touches, writes, must)
        return self._plant(before, items, left)

    def _items(
        self, between: list[int], t: int, label: Label, touches: int, writes: int, must: int
    ) -> tuple[list[Item], int]:
        """The sequence of `_insert`, and the bits of its steps."""
        steps = self.steps
        among = 0
        for at in between:
            among |= 1 << at
        items = []
        must &= among
        after = must
        for at in between:
            step = steps[at]
            if step.touches & writes or step.writes & touches:
                after |= step.past
            past = step.past & among & ~(1 << at)
            items.append(Item(1 << at, step.thread, self.label(step), step.touches, step.writes, past, past))
        items.append(Item(1 << len(steps), t, label, touches, writes, after & among, must))
        return items, among | 1 << len(steps)

    def _plant(self, before: Step, items: list[Item], left: int) -> bool:
        """Add a sequence to the tree before a step, unless a sleeper could go first in it, or it is there."""
        for z in before.sleep:
            if weak_initial(z, items, left) != NO:
                return False
        return insert(before.tree, items, left)


def _world(k: Kernel) -> int:
    """How many threads the world was built with: others may have been spawned before the first decision."""
    return len(k.threads) - sum(t >= 0 and op is k.spawn_op for t, op, _ in k.trace)
