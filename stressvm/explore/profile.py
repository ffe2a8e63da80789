"""What the pilot teaches: how many visible operations each thread does, on which objects, and whom it spawns.

Threads of different executions are the same if they have the same origin: the n-th thread of the world, or the n-th
thread that a thread of known origin spawned with the same function. Numbers alone would not do, since threads that spawn
race for them.

A pilot may end early, by a finding or a deadlock. Of a thread that had not ended the operation it stood before is counted
as well, and no fewer than those of any thread that ran the same function to its end: an estimate that is too low makes a
sampler blind for what comes late, one that is too high only wastes draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm.check.locks import Ways
from stressvm.explore.sampler import accesses, is_step

if TYPE_CHECKING:
    from stressvm.check.locks import Held
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Op
    from stressvm.kernel.thread import Thread


class _Key(NamedTuple):
    """What a spawned thread is known by: its parent's origin, its function, the how-manieth with it."""

    parent: int
    function: str
    nth: int


def function_of(thread: Thread) -> str:
    """The name of the function that a thread runs."""
    return thread.coro.__qualname__


class Profile:
    """See the module. An origin is an index into the lists here; those of the world's threads are their numbers.

    Attributes:
        world: how many threads the world has.
        steps: visible operations of each origin, its own.
        touched: the same by object number: those that touch it.
        guards: by object number, the locks that whoever touched it held, to write not only shared.
        parents: the origin of the spawner, -1 for the world's.
        functions: what the threads of each origin run.
    """

    __slots__ = ("functions", "guards", "keys", "parents", "steps", "touched", "world", "written")

    def __init__(self, k: Kernel) -> None:
        """Of the execution that `k` has just been through."""
        self.keys: dict[_Key, int] = {}
        self.steps: list[int] = []
        self.touched: list[dict[int, int]] = []
        self.parents: list[int] = []
        self.functions: list[str] = []
        #: Objects that somebody writes to.
        self.written: set[int] = set()
        kin = Kin(self)
        spawned = {number for _, op, number in k.trace if op is k.spawn_op}
        self.world = len(k.threads) - len(spawned)
        for th in k.threads:
            if th.number not in spawned:
                kin.origins[th.number] = self._add(-1, function_of(th))
        self.guards: dict[int, frozenset[int]] = {}
        held = [Ways().free] * len(k.threads)
        for t, op, arg in k.trace:
            if t < 0:
                continue
            self._guard(op, held[t])
            held[t] = held[t][op]
            if op is k.spawn_op:
                kin.born(t, arg, function_of(k.threads[arg]), learn=True)
                # Its start is a step of its own, which traces do not show.
                self.steps[kin.origins[arg]] += 1
            elif is_step(op):
                self._count(kin.origins[t], op)
        self._complete(k, kin)

    def _add(self, parent: int, function: str) -> int:
        self.steps.append(0)
        self.touched.append({})
        self.parents.append(parent)
        self.functions.append(function)
        return len(self.steps) - 1

    def _guard(self, op: Op, held: Held) -> None:
        for number, write in accesses(op).items():
            locks = frozenset(hold.lock.number for hold in held.holds if not (write and hold.shared))
            self.guards[number] = self.guards[number] & locks if number in self.guards else locks

    def _count(self, origin: int, op: Op) -> None:
        self.steps[origin] += 1
        touched = self.touched[origin]
        for number, write in accesses(op).items():
            touched[number] = touched.get(number, 0) + 1
            if write:
                self.written.add(number)

    def _complete(self, k: Kernel, kin: Kin) -> None:
        """Estimate what threads that had not ended would have done."""
        whole: dict[str, list[int]] = {}
        for th in k.threads:
            if th.done and th.error is None:
                whole.setdefault(function_of(th), []).append(kin.origins[th.number])
        for th in k.threads:
            if th.done and th.error is None:
                continue
            origin = kin.origins[th.number]
            pending = k.pend[th.number]
            if pending is not None and not th.done and pending is not k.start_op:
                self._count(origin, pending)
            touched = self.touched[origin]
            for other in whole.get(function_of(th), ()):
                self.steps[origin] = max(self.steps[origin], self.steps[other])
                for number, count in self.touched[other].items():
                    touched[number] = max(touched.get(number, 0), count)

    def shared(self) -> dict[int, int]:
        """The objects that threads share and at least one writes to, and how many operations touch each."""
        users: dict[int, int] = {}
        total: dict[int, int] = {}
        for touched in self.touched:
            for number, count in touched.items():
                users[number] = users.get(number, 0) + 1
                total[number] = total.get(number, 0) + count
        return {number: total[number] for number in sorted(total) if users[number] > 1 and number in self.written}

    def weights(self, obj: int = -1) -> list[int]:
        """For each origin its operations, or those that touch an object, and those of all its descendants."""
        found = list(self.steps) if obj < 0 else [touched.get(obj, 0) for touched in self.touched]
        for origin in range(len(found) - 1, -1, -1):
            # Descendants come after whoever spawned them.
            if self.parents[origin] >= 0:
                found[self.parents[origin]] += found[origin]
        return found


class Kin:
    """Whose threads are whose, in one execution.

    Attributes:
        origins: of each thread, by number; -1 for one whose like the profile does not know.
    """

    __slots__ = ("children", "origins", "profile")

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.origins: dict[int, int] = {}
        self.children: dict[tuple[int, str], int] = {}

    def born(self, parent: int, child: int, function: str, *, learn: bool = False) -> None:
        """Thread `parent` spawned thread `child`."""
        profile = self.profile
        nth = self.children.get((parent, function), 0)
        self.children[parent, function] = nth + 1
        above = self.origins.get(parent, -1)
        key = _Key(above, function, nth)
        if learn:
            profile.keys[key] = profile._add(above, function)  # noqa: SLF001 - the profile's own helper
        self.origins[child] = profile.keys.get(key, -1) if above >= 0 or learn else -1

    def estimate(self, child: int, function: str, weights: list[int]) -> int:
        """The weight of a new thread: that of its origin; else the largest of its function; else the smallest of all."""
        origin = self.origins.get(child, -1)
        if origin >= 0:
            return weights[origin]
        like = [weights[i] for i, name in enumerate(self.profile.functions) if name == function]
        return max(like) if like else min(weights, default=1)
