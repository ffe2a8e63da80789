"""SURW: the selectively uniform random walk (Zhao, Wolff, Mathur and Roychoudhury, ASPLOS 2025), also by roles.

Operations on one object, drawn anew for every execution, come in uniformly distributed order; all else is left to random
priorities. So few operations remain that all their orders are soon met, and one of the objects is mostly the one that the
bug is about.

    which thread is to do the next operation on the object is drawn, by what each still has to do there;
    until it does, no other thread may do one; meanwhile the candidate with the highest priority runs, and what
    a thread has done with nothing of the object gives it a new priority;
    if nobody can go on without it, and it cannot itself, another one is drawn.

Nothing has to be known of the threads that are held back this way: they are those that stand before an operation on the
object and are not the one drawn. Threads that are blocked elsewhere take part in the draw, since they still have to come;
the published form draws among the candidates only, and so hardly ever lets one be first that others keep waiting.

A bug often needs one thread to come before, or after, all of many that are alike. By roles, the function that the thread
runs is drawn first, each with the same probability, and only then one of the threads that run it: how many there are
matters no more. Nor does it matter how many have not been spawned yet: any of them can be drawn.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, Final

from stressvm.explore.profile import Profile, function_of
from stressvm.explore.sampler import gives_way, is_step
from stressvm.explore.urw import Weighted
from stressvm.kernel.kernel import MEMBERS, members

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Op
    from stressvm.kernel.thread import Thread

#: What an operation is to SURW: nothing in particular; one that it orders; a yield.
_PLAIN: Final = 0
_CHOSEN: Final = 1
_YIELD: Final = 2

#: How much less often an object is drawn that is only touched under one lock: the order in which threads get the lock says
#: all about it, and the lock is drawn as well.
GUARDED: Final = 0.25

#: No object at all.
_NONE: Final = -(1 << 62)


class _Kinds(dict["Op", int]):
    """What each operation is, where those on one object are ordered."""

    REMEMBERED: ClassVar[int] = 1 << 12

    __slots__ = ("obj",)

    def __init__(self, obj: int) -> None:
        super().__init__()
        self.obj = obj

    def __missing__(self, op: Op) -> int:
        if len(self) >= self.REMEMBERED:
            self.clear()
        found = _YIELD if gives_way(op) else _PLAIN
        if is_step(op) and any(number == self.obj for number, _ in op.accesses):
            found = _CHOSEN
        self[op] = found
        return found


class _Target:
    """An object whose operations may be ordered.

    Attributes:
        expected: see Weighted.
        own: the same without what descendants do.
        kinds: of operations.
    """

    __slots__ = ("expected", "kinds", "own")

    def __init__(self, profile: Profile, obj: int) -> None:
        self.expected = profile.weights(obj)
        self.own = [touched.get(obj, 0) for touched in profile.touched]
        self.kinds = _Kinds(obj)


class SURW(Weighted):
    """See the module.

    An object is drawn with a probability that grows with how often it is used, from half of an equal share on; less often
    if a lock guards it. Where threads share none, their priorities alone decide.

    Attributes:
        intended: the thread that is to do the next operation on the object; -1 if it has not been drawn.
        priorities: of the threads, from 0; -1 for one to be drawn.

    Args:
        seed: of the campaign.
    """

    PURPOSE = "surw:"

    __slots__ = ("fair_after", "intended", "kinds", "limit", "lots", "own", "patience", "priorities", "targets")

    def __init__(self, seed: int) -> None:
        self.targets: list[_Target] = []
        #: For each target the sum of the shares, of 0x10000 together, up to its own.
        self.lots: list[int] = []
        self.kinds = _Kinds(_NONE)
        self.own: list[int] = []
        self.patience = 0
        super().__init__(seed)

    def learn(self, profile: Profile) -> None:
        """See Weighted."""
        super().learn(profile)
        shared = profile.shared()
        self.targets = [_Target(profile, obj) for obj in shared]
        uses = sum(shared.values())
        shares = [0.5 / len(shared) + 0.5 * count / uses for count in shared.values()]
        for index, obj in enumerate(shared):
            if profile.guards.get(obj):
                shares[index] *= GUARDED
        self.lots = [round(0x10000 * lot / sum(shares)) for lot in accumulate(shares)]
        self.patience = max(64, sum(profile.steps))
        self.kinds, self.expected = _Kinds(_NONE), [0] * len(profile.steps)
        self.own = self.expected

    def begin(self, number: int) -> None:
        """See Strategy. Draws the object."""
        super().begin(number)
        self.priorities: list[int] = []
        self.intended = -1
        self.fair_after = sys.maxsize
        #: The length of the trace at which waiting for the intended thread ends, or walking at random begins.
        self.limit = sys.maxsize
        if self.targets and number:
            target = self.targets[0]
            if len(self.targets) > 1:
                target = self.targets[bisect_right(self.lots, self.draw(0))]
                self.at = 1
            self.expected = target.expected
            self.own = target.own
            self.kinds = target.kinds

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        if self.profile is None or not self.number:
            return self.walk(mask)
        priorities = self.priorities
        if len(priorities) != len(k.pend):
            self._arrivals(k)
        trace = k.trace
        kinds = self.kinds
        steps = len(trace)
        weights = self.weights
        for t, op, _ in trace[self.seen :]:
            kind = kinds[op]
            if not kind:
                priorities[t] = -1
            elif kind == _CHOSEN:
                weights[t] -= 1
                self.intended = -1
            else:
                priorities[:] = [-1] * len(priorities)
        self.seen = steps
        if steps > self.limit:
            if steps > self.fair_after:
                return self.walk(mask)
            # What is done meanwhile does not end: perhaps it waits for somebody who is held back.
            self.intended = -1
            self.limit = self.fair_after
        try:
            among = MEMBERS[mask]
        except KeyError:
            among = members(mask)
        pend: list[Any] = k.pend
        table = self.table
        best = plain = -1
        held = []
        for t in among:
            if kinds[pend[t]] == _CHOSEN:
                held.append(t)
                continue
            priority = priorities[t]
            if priority < 0:
                at = self.at
                self.at = at + 1
                priority = priorities[t] = table[at] if at < len(table) else self.draw(at)
            if priority > best:
                best = priority
                plain = t
        if plain >= 0 and (not held or best > self._most_urgent(held)):
            return plain
        intended = self.intended
        if intended < 0 or (plain < 0 and not mask >> intended & 1):
            # Nobody has been drawn; or all stand before the object, and the one drawn cannot go on.
            coming = among
            if plain >= 0 and len(among) < k.alive:
                coming = [t for t, th in enumerate(k.threads) if mask >> t & 1 or self._comes(th, pend[t])]
            intended = self.intended = self.intend(k, coming)
            self.limit = min(self.fair_after, steps + self.patience)
        if mask >> intended & 1 and kinds[pend[intended]] == _CHOSEN and (plain < 0 or priorities[intended] >= best):
            return intended
        return plain

    def _comes(self, thread: Thread, op: Op) -> bool:
        """May a thread that cannot go on now come to the object if others go on?"""
        return not thread.done and self.kinds[op] != _CHOSEN

    def intend(self, k: Kernel, coming: list[int]) -> int:
        """Draw who is to do the next operation on the object, by what is expected of each."""
        weights = self.weights
        total = 0
        for t in coming:
            if weights[t] < 1:
                # No more was expected of it; yet it may stand there.
                weights[t] = self.kinds[k.pend[t]] == _CHOSEN  # type: ignore[index]
            total += weights[t]
        at = self.at
        if total > 0x1000 or at >= len(self.table):
            left = self.below(total)
        else:
            self.at = at + 1
            left = self.table[at] * total >> 16
        for t in coming:
            left -= weights[t]
            if left < 0:
                break
        return t

    def _most_urgent(self, held: list[int]) -> int:
        """The highest priority of those that stand before the object."""
        priorities = self.priorities
        best = -1
        for t in held:
            priority = priorities[t]
            if priority < 0:
                at = self.at
                self.at = at + 1
                priority = priorities[t] = self.draw(at)
            if priority > best:  # noqa: PLR1730 - a call would cost more
                best = priority
        return best

    def _arrivals(self, k: Kernel) -> None:
        if self.fair_after == sys.maxsize:
            self.fair_after = self.limit = k.max_steps // 2
        for parent, child in self.arrivals(k):
            if parent == self.intended and self.inherited(parent, child):
                self.intended = child
        self.priorities.extend([-1] * (len(k.pend) - len(self.priorities)))

    def inherited(self, parent: int, child: int) -> bool:
        """A thread that is to do the next operation has spawned another one: is it that one's to do?"""
        before = max(1, self.weights[parent] + self.weights[child])
        return self.below(before) < self.weights[child]


class RoleSURW(SURW):
    """SURW by roles: see the module.

    Also a thread that has not been spawned yet may be the next one: then whoever is to spawn it goes for it, and what
    others do on the object waits until it is there and has been.

    Attributes:
        roles: of each thread, a number that stands for its function.
        mixed: may there be two roles?
        unborn: origins of threads to come, and the living thread that each descends from.
        heir: the origin that the intended thread stands for; -1 for itself.

    Args:
        seed: of the campaign.
    """

    PURPOSE = "roles:"

    __slots__ = ("coming", "heir", "known", "line", "mixed", "numbers", "of_origin", "roles", "unborn")

    def __init__(self, seed: int) -> None:
        self.numbers: dict[str, int] = {}
        self.known: list[int] = []
        #: By origin: the role, and the descendants.
        self.of_origin: list[int] = []
        self.line: list[list[int]] = []
        #: The origins to come at the start of an execution, and the thread of the world that each descends from.
        self.coming: dict[int, int] = {}
        super().__init__(seed)

    def learn(self, profile: Profile) -> None:
        """See Weighted."""
        super().learn(profile)
        self.numbers = {}
        self.of_origin = [self._number(name) for name in profile.functions]
        self.known = self.of_origin[: profile.world]
        self.line = [[] for _ in profile.functions]
        self.coming = {}
        for origin in range(profile.world, len(profile.functions)):
            above = origin
            while profile.parents[above] >= 0:
                above = profile.parents[above]
                self.line[above].append(origin)
            self.coming[origin] = above

    def begin(self, number: int) -> None:
        """See Strategy."""
        super().begin(number)
        self.roles = self.known
        self.mixed = len(self.numbers) > 1
        self.unborn = dict(self.coming)
        self.heir = -1

    def arrivals(self, k: Kernel) -> list[tuple[int, int]]:
        """See Weighted."""
        births = super().arrivals(k)
        if len(self.roles) != len(k.threads):
            self.roles = [self._number(function_of(th)) for th in k.threads]
            self.mixed = True
        for _, child in births:
            assert self.kin is not None
            origin = self.kin.origins[child]
            if self.unborn.pop(origin, -1) >= 0:
                for descendant in self.line[origin]:
                    if descendant in self.unborn:
                        self.unborn[descendant] = child
        return births

    def inherited(self, parent: int, child: int) -> bool:
        """See SURW."""
        if not self.mixed:
            return super().inherited(parent, child)
        assert self.kin is not None
        origin = self.kin.origins[child]
        if self.heir < 0 or origin < 0:
            return False
        if origin == self.heir:
            self.heir = -1
            return True
        return self.heir in self.line[origin]

    def _number(self, function: str) -> int:
        return self.numbers.setdefault(function, len(self.numbers))

    def intend(self, k: Kernel, coming: list[int]) -> int:
        """See SURW."""
        self.heir = -1
        if not self.mixed:
            return super().intend(k, coming)
        roles = self.roles
        weights = self.weights
        own = self.own
        may = set(coming)
        #: What threads are to do themselves.
        left = {t: weights[t] for t in coming}
        by_role: dict[int, list[tuple[int, int, int]]] = {}
        for origin, t in self.unborn.items():
            if own[origin] and t in may:
                left[t] -= own[origin]
                by_role.setdefault(self.of_origin[origin], []).append((own[origin], t, origin))
        for t in coming:
            weight = left[t]
            if weight < 1:
                weight = int(self.kinds[k.pend[t]] == _CHOSEN)  # type: ignore[index]
            if weight:
                by_role.setdefault(roles[t], []).append((weight, t, -1))
        if not by_role:
            return super().intend(k, coming)
        among = list(by_role.values())[self.below(len(by_role))]
        lot = self.below(sum(weight for weight, _, _ in among))
        at = 0
        while (lot := lot - among[at][0]) >= 0:
            at += 1
        _, t, self.heir = among[at]
        return t
