"""Deadlocks predicted from executions that had none, after Goodlock.

Every acquisition that would have waited is a *dependency*: a thread, what it held, what it wanted. Dependencies of
distinct threads in which each wants what the next holds are a pattern of a deadlock, if two things do not forbid it: a
lock that two of the threads held at the time (a guard: only one can be there at once), and an order between two of the
acquisitions that starting, joining and waking threads impose. Two that share a lock are in nobody's way.

What is predicted may still be impossible: what threads do may depend on what they have read. Two things can be done
about it. A witness, if there is one, is a reordering of a part of this very execution that ends in the deadlock (see
sync_preserving.py). And the deadlock can be brought about: see explore/steer.py.

Not predicted: deadlocks of which the execution does not show all acquisitions, because a thread would have to take
another branch; those with a semaphore or a sleep in the cycle; and those that need a waiting writer to keep readers out.

Source: Havelund, Using runtime analysis to guide model checking of Java programs (SPIN 2000); Joshi et al., A randomized
dynamic program analysis technique for detecting real deadlocks (PLDI 2009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.check.cycles import Edge, cycles
from stressvm.check.lock_order import by_name
from stressvm.check.locks import EFFECTS, KERNEL_EFFECTS, Effect, Hold, Moment, Ways, effect_of
from stressvm.check.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event, ObjectId
    from stressvm.kernel.thread import Thread

#: Patterns of one execution; more are not looked for.
PATTERNS_MAX: Final = 200

#: Beginnings of patterns looked at, for each number of threads.
CHAINS_MAX: Final = 100_000

#: Kinds of operations by which threads start, join and wake others. (That is sooner asked than `effect_of`.)
_ORDERING: Final = frozenset(
    kind
    for kinds in (*EFFECTS.values(), KERNEL_EFFECTS)
    for kind, effect in kinds.items()
    if effect in (Effect.SPAWN, Effect.JOIN, Effect.WAKE)
)

#: Occurrences of one dependency that are told apart by what came before them.
OCCURRENCES_MAX: Final = 8


class Link(NamedTuple):
    """What one thread of a pattern does: it wants a lock, and holds others.

    Attributes:
        thread: its number.
        name: its name.
        held: what it holds, each with the step at which it got it.
        wanted: what it acquired, and how.
        step: when.
    """

    thread: int
    name: str
    held: tuple[tuple[Hold, int], ...]
    wanted: Hold
    step: int

    def __str__(self) -> str:
        """As a report has it."""
        held = ", ".join(f"{_how(hold)} (since step {step})" for hold, step in self.held)
        return f"{self.name} wants {_how(self.wanted)} at step {self.step} and holds {held}"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A pattern of a deadlock.

    Attributes:
        links: each wants what the next holds, and the last what the first holds; the thread of least number is first.
    """

    links: tuple[Link, ...]

    @property
    def text(self) -> str:
        """One sentence with names."""
        return "predicted deadlock: " + "; ".join(map(str, self.links))

    @property
    def threads(self) -> tuple[int, ...]:
        """The numbers of the threads."""
        return tuple(link.thread for link in self.links)

    def verdict(self, threads: Sequence[Thread]) -> Verdict:
        """The same as a check says it: what it is told by is functions and locks, not threads and steps."""
        sites = tuple(
            f"{link.wanted.lock.name} after {'+'.join(sorted(hold.lock.name for hold, _ in link.held))} in "
            f"{threads[link.thread].coro.__qualname__}"
            for link in self.links
        )
        steps = tuple(sorted({step for link in self.links for step in (link.step, *(at for _, at in link.held))}))
        return Verdict("predicted-deadlock", self.text, self.threads, sites, self.threads, steps, about=self.orders)

    @property
    def orders(self) -> frozenset[str]:
        """The orders of lock classes that it is made of, as lock order tells them."""
        pairs = [(by_name(hold.lock), by_name(link.wanted.lock)) for link in self.links for hold, _ in link.held]
        return frozenset(f"{first} then {second}" for first, second in pairs)


class _Dependency(NamedTuple):
    link: Link
    locks: frozenset[int]
    clock: tuple[int, ...]


class Predictor:
    """A detector: looks at one execution after another, and remembers only how programs nest locks.

    Args:
        ways: what follows holds; one that is shared with other checks looks at an execution once for all of them.
    """

    kind = "predicted-deadlock"
    per_class = True

    def __init__(self, ways: Ways | None = None) -> None:
        self.ways = ways or Ways()
        #: By the states that an execution has been in: are there cycles among locks?
        self._cycles: dict[int, bool] = {}
        #: By those of each thread: is there a pattern in them, if nothing comes before anything?
        self._possible: dict[tuple[int, ...], bool] = {}
        self._epoch = 0

    def look(self, k: Kernel) -> tuple[Verdict, ...]:
        """See Detector."""
        predictions = self.observe(k.trace, k.threads)
        return tuple(
            {verdict.fingerprint: verdict for verdict in (one.verdict(k.threads) for one in predictions)}.values()
        )

    def observe(self, trace: Sequence[Event], threads: Sequence[Thread]) -> tuple[Prediction, ...]:
        """What an execution predicts; the same for the same execution.

        Args:
            trace: of an execution that has ended.
            threads: of it.

        Returns:
            The patterns, at most PATTERNS_MAX, those that need the fewest threads first.
        """
        ways = self.ways
        bits = ways.seen(trace, len(threads))
        if ways.forgotten != self._epoch:
            self._epoch = ways.forgotten
            self._cycles.clear()
            self._possible.clear()
        cyclic = self._cycles.get(bits)
        if cyclic is None:
            cyclic = self._cycles[bits] = self._cyclic(bits)
        if not cyclic:
            return ()
        own = ways.seen_by(trace, len(threads))
        possible = self._possible.get(own)
        if possible is None:
            possible = self._possible[own] = any(_patterns(self._unordered(own)))
        if not possible:
            return ()
        return tuple(Prediction(links) for links in _patterns(_dependencies(trace, threads, ways)))

    def _cyclic(self, bits: int) -> bool:
        """Is there a cycle among locks at all? Few executions have one, and this is known from their states alone."""
        edges: set[Edge] = set()
        for state in self.ways.states_of(bits):
            *before, last = state.holds
            if state.moment is Moment.ACQUIRED and not last.tried:
                edges.update(Edge(_key(first.lock), _key(last.lock)) for first in before)
        return bool(cycles(edges))

    def _unordered(self, own: tuple[int, ...]) -> list[_Dependency]:
        """The dependencies, as far as states tell: without steps, and nothing comes before anything."""
        found = []
        for t, bits in enumerate(own):
            clock = tuple(int(t == other) for other in range(len(own)))
            for state in self.ways.states_of(bits):
                *before, last = state.holds
                if state.moment is Moment.ACQUIRED and not last.tried:
                    link = Link(t, "", tuple((hold, 0) for hold in before), last, 0)
                    found.append(_Dependency(link, frozenset(hold.lock.number for hold in before), clock))
        return found


def _key(lock: ObjectId) -> str:
    return f"{lock.name}\0{lock.number}"


def _how(hold: Hold) -> str:
    return f"{hold.lock.name} (shared)" if hold.shared else hold.lock.name


def conflict(one: Hold, other: Hold) -> bool:
    """Can two threads not have these at one time?"""
    return one.lock == other.lock and not (one.shared and other.shared)


# ---------------------------------------------------------------- dependencies


def _dependencies(trace: Sequence[Event], threads: Sequence[Thread], ways: Ways) -> list[_Dependency]:
    """All of them, each once for each of its ways to hold and for what had to come before it."""
    clocks = must_happen_before(trace, len(threads))
    occurrences: dict[tuple[int, frozenset[Hold], Hold], set[tuple[int, ...]]] = {}
    found = []
    for got in ways.acquisitions(trace, len(threads)):
        if not got.held or got.got.tried:
            continue
        key = (got.thread, frozenset(hold for hold, _ in got.held), got.got)
        clock = clocks[got.step]
        known = occurrences.setdefault(key, set())
        if clock in known or len(known) >= OCCURRENCES_MAX:
            continue
        known.add(clock)
        link = Link(got.thread, threads[got.thread].name, got.held, got.got, got.step)
        found.append(_Dependency(link, frozenset(hold.lock.number for hold, _ in got.held), clock))
    return found


def must_happen_before(trace: Sequence[Event], threads: int) -> list[tuple[int, ...]]:
    """For each step the vector clock of its thread, by what starts, joins and wakes threads alone.

    Step a of thread t comes before step b, whatever the schedule, if entry t of b's clock is at least that of a's. (They
    are counted up by starting and waking others only.)
    """
    clocks = [tuple(int(t == own) for t in range(threads)) for own in range(threads)]
    nothing = (0,) * threads
    found = []
    for t, op, arg in trace:
        if t < 0:
            found.append(nothing)
            continue
        if op.kind not in _ORDERING:
            found.append(clocks[t])
            continue
        effect = effect_of(op)
        if effect is Effect.JOIN:
            clocks[t] = _joined(clocks[t], clocks[arg])
        found.append(clocks[t])
        if effect is Effect.SPAWN or (effect is Effect.WAKE and arg):
            mine = clocks[t]
            for other in (arg,) if effect is Effect.SPAWN else arg:
                clocks[other] = _joined(clocks[other], mine)
            clocks[t] = (*mine[:t], mine[t] + 1, *mine[t + 1 :])
    return found


def _joined(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(max, one, other))


def _ordered(one: _Dependency, other: _Dependency) -> bool:
    """Does one of them have to come before the other?"""
    t, u = one.link.thread, other.link.thread
    return other.clock[t] >= one.clock[t] or one.clock[u] >= other.clock[u]


# ---------------------------------------------------------------- patterns


def _patterns(among: list[_Dependency]) -> Iterator[tuple[Link, ...]]:
    """Each pattern once, those with few threads first."""
    known: set[frozenset[tuple[int, Hold, frozenset[Hold]]]] = set()
    for length in range(2, len({one.link.thread for one in among}) + 1):
        for chain in _chains(among, length):
            key = frozenset(
                (one.link.thread, one.link.wanted, frozenset(hold for hold, _ in one.link.held)) for one in chain
            )
            if key not in known:
                known.add(key)
                yield tuple(one.link for one in chain)
                if len(known) >= PATTERNS_MAX:
                    return


def _chains(among: list[_Dependency], length: int) -> Iterator[list[_Dependency]]:
    """Cycles of so many threads, beginning with the thread of least number."""
    by_lock: dict[int, list[_Dependency]] = {}
    for one in reversed(among):
        for number in one.locks:
            by_lock.setdefault(number, []).append(one)
    stack = [[first] for first in reversed(among)]
    for _ in range(CHAINS_MAX):
        if not stack:
            return
        chain = stack.pop()
        wanted = chain[-1].link.wanted
        if len(chain) < length:
            stack.extend([*chain, other] for other in by_lock.get(wanted.lock.number, ()) if _follows(chain, other))
        elif _holds(chain[0], wanted):
            yield chain


def _follows(chain: list[_Dependency], other: _Dependency) -> bool:
    """May it be the next of a pattern?"""
    if other.link.thread <= chain[0].link.thread or not _holds(other, chain[-1].link.wanted):
        return False
    return not any(
        one.link.thread == other.link.thread or _guarded(one, other) or _ordered(one, other) for one in chain
    )


def _holds(one: _Dependency, wanted: Hold) -> bool:
    """Does its thread have what keeps others from `wanted`?"""
    return wanted.lock.number in one.locks and any(conflict(hold, wanted) for hold, _ in one.link.held)


def _guarded(one: _Dependency, other: _Dependency) -> bool:
    """Do both hold a lock that only one can have?"""
    return bool(one.locks & other.locks) and _any_conflict(one.link.held, other.link.held)


def _any_conflict(one: Iterable[tuple[Hold, int]], other: Iterable[tuple[Hold, int]]) -> bool:
    return any(conflict(mine, theirs) for mine, _ in one for theirs, _ in other)
