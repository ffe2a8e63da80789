"""URW: the uniform random walk (Zhao, Wolff, Mathur and Roychoudhury, ASPLOS 2025).

Each candidate is picked with a probability proportional to how much it still has to do, its unborn children included. With
exact counts and no blocking every interleaving then has the same probability, whereas a random walk hardly ever lets one
thread do much while others do nothing. Counts come from the pilot, a plain random walk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.explore.profile import Kin, Profile, function_of
from stressvm.explore.sampler import Sampler, Steps
from stressvm.kernel.kernel import MEMBERS, members

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


class Weighted(Sampler):
    """What both have: the pilot, and weights that follow the threads.

    Attributes:
        profile: what the pilot taught; None before it has ended.
        weights: for each thread, what it and its descendants still have to do.
        expected: the same at the start, by origin.

    Args:
        seed: of the campaign.
    """

    __slots__ = ("expected", "kin", "profile", "seen", "weights")

    def __init__(self, seed: int) -> None:
        self.profile: Profile | None = None
        self.expected: list[int] = []
        super().__init__(seed)

    def begin(self, number: int) -> None:
        """See Strategy. The pilot, number 0, is a plain random walk."""
        super().begin(number)
        self.weights: list[int] = []
        self.kin: Kin | None = None
        #: How much of the trace the weights take into account.
        self.seen = 0

    def end(self, k: Kernel) -> None:
        """See Strategy. Learns from the pilot."""
        if not self.number:
            self.learn(Profile(k))

    def learn(self, profile: Profile) -> None:
        """Take that for what executions are like."""
        self.profile = profile

    def arrivals(self, k: Kernel) -> list[tuple[int, int]]:
        """Give weights to threads not seen before, and take them from those that spawned them.

        Returns:
            (parent, child) of all that were spawned by threads, in order.
        """
        weights = self.weights
        profile = self.profile
        assert profile is not None
        if not k.trace and len(k.threads) == profile.world:
            weights += self.expected[: profile.world]
            return []
        if self.kin is None:
            self.kin = Kin(profile)
            self.kin.origins.update((t, t) for t in range(len(weights)))
        kin = self.kin
        births = [(t, number) for t, op, number in k.trace[self.seen :] if op is k.spawn_op]
        spawned = {child for _, child in births}
        threads = k.threads
        first = len(weights)
        weights.extend([0] * (len(threads) - first))
        for t in range(first, len(threads)):
            if t not in spawned:
                if t < profile.world:
                    kin.origins[t] = t
                weights[t] = kin.estimate(t, function_of(threads[t]), self.expected)
        for parent, child in births:
            function = function_of(threads[child])
            kin.born(parent, child, function)
            weights[child] = kin.estimate(child, function, self.expected)
            weights[parent] -= weights[child]
        return births


class URW(Weighted):
    """See the module.

    Args:
        seed: of the campaign.
    """

    PURPOSE = "urw:"

    __slots__ = ("steps", "unstarted")

    def __init__(self, seed: int) -> None:
        self.steps = Steps()
        super().__init__(seed)

    def begin(self, number: int) -> None:
        """See Strategy."""
        super().begin(number)
        #: Threads whose first step, which is not in the trace, has not been counted.
        self.unstarted: list[int] = []

    def learn(self, profile: Profile) -> None:
        """See Weighted."""
        super().learn(profile)
        self.expected = profile.weights()

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        if self.profile is None or not self.number:
            return self.walk(mask)
        trace = k.trace
        weights = self.weights
        if len(weights) != len(k.threads):
            self.unstarted.extend(child for _, child in self.arrivals(k))
        steps = self.steps
        for t, op, _ in trace[self.seen :]:
            if steps[op]:
                weights[t] -= 1
        self.seen = len(trace)
        if self.unstarted:
            self._started(k)
        try:
            among = MEMBERS[mask]
        except KeyError:
            among = members(mask)
        total = 0
        for t in among:
            if weights[t] < 1:  # noqa: PLR1730 - it goes on for longer than expected; `max` would be called for all
                weights[t] = 1
            total += weights[t]
        at = self.at
        if total > 0x1000 or at >= len(self.table):
            left = self.below(total)
        else:
            self.at = at + 1
            left = self.table[at] * total >> 16
        for t in among:
            left -= weights[t]
            if left < 0:
                break
        return t

    def _started(self, k: Kernel) -> None:
        for t in list(self.unstarted):
            if k.pend[t] is not k.start_op or k.threads[t].done:
                self.weights[t] -= 1
                self.unstarted.remove(t)
