"""Lock order, as WITNESS checks it: what could deadlock is told from executions in which nothing went wrong.

Every acquisition that would have waited orders the locks that the thread held before the one that it got. Locks of one
*class* are ordered as one, so an order that is broken on different instances is found, too; a class is all locks of one
type whose names differ in numbers only, unless the rules say otherwise. The rules are those of FreeBSD's witness(4):

- Order reversal: the orders of an execution, together with the order that the user has given, close a cycle. A try
  cannot wait, so nothing is ordered before what it gets; what it got is ordered before what comes after.
- A sleepable lock (sx) is acquired with one held whose holder must not sleep (a mutex of either kind). NetBSD's
  reader-writer lock is neither: there the holder of a mutex may take it, and may sleep.
- Two locks of one class are held at once. WITNESS reports that unless the class has DUPOK. Here the default is to
  compare instances (`Duplicates.ORDERED`): locks of one class that are always taken in one order are no finding.
- A thread sleeps with a non-sleepable lock held that is not the interlock. On NetBSD that is allowed (adaptive mutexes),
  so it has to be asked for.

What differs from WITNESS: an acquisition is ordered after every lock held, not after the last one only, so an order that
runs past a lock got by a try is seen; what is said names both orders with their threads and steps; a reversal takes two
threads, and no lock that keeps them apart, since all that may run is there; and orders are not kept from one execution to
the next, so that the answer depends on one execution alone. `WITNESS` are the rules without these allowances.

A reversal between locks held shared on both sides counts, as in WITNESS: with a writer waiting in between it deadlocks
where writers are preferred.

Source: FreeBSD sys/kern/subr_witness.c, witness_checkorder.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from itertools import combinations, islice, pairwise, product
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from stressvm.check.cycles import Edge, around, cycles
from stressvm.check.locks import Acquisition, Effect, Held, Hold, Moment, Ways, effect_of
from stressvm.check.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event, ObjectId
    from stressvm.kernel.thread import Thread

#: Of threads that take part in a cycle in one way or another.
COMBINATIONS_MAX: Final = 10_000

_NUMBER: Final = re.compile(r"\d+")


def by_name(lock: ObjectId) -> str:
    """The class of a lock: its name without numbers. A lock that nobody named is a class by itself."""
    if lock.name == f"{lock.type}{lock.number}":
        return lock.name
    return _NUMBER.sub("", lock.name) or lock.name


def by_instance(lock: ObjectId) -> str:
    """The class of a lock: itself."""
    return lock.name


class Duplicates(enum.Enum):
    """Two locks of one class held by one thread.

    ORDERED: a finding if they are taken in both orders.
    NEVER: a finding, unless the class is among `Rules.dupok`.
    """

    ORDERED = "ordered"
    NEVER = "never"


class Rule(enum.Enum):
    """What is broken."""

    REVERSAL = "lock order reversal"
    STATIC = "reversal of the given lock order"
    DUPLICATE = "duplicate lock of a class"
    SLEEPABLE = "sleepable lock acquired with a non-sleepable one held"
    SLEEPING = "sleep with a non-sleepable lock held"


@dataclass(frozen=True, slots=True)
class Rules:
    """What is to be checked.

    Attributes:
        class_of: the class of a lock.
        order: orders that are given: each a sequence of names of classes, first to be taken first.
        blessed: pairs of classes whose reversal is known, and no finding.
        duplicates: see there.
        dupok: classes of which two may always be held.
        sleepable: types of lock whose holder may sleep, and that must not be acquired under one of the next.
        unsleepable: types of lock whose holder must not sleep.
        sleeping: is a sleep with an unsleepable lock held a finding?
        alone: is a reversal a finding if it is one and the same thread that takes the locks in all of the orders?
        guarded: is one a finding if those who take them all hold another lock meanwhile, that only one can have?
    """

    class_of: Callable[[ObjectId], str] = by_name
    order: tuple[tuple[str, ...], ...] = ()
    blessed: frozenset[frozenset[str]] = frozenset()
    duplicates: Duplicates = Duplicates.ORDERED
    dupok: frozenset[str] = frozenset()
    sleepable: frozenset[str] = frozenset({"sx"})
    unsleepable: frozenset[str] = frozenset({"mutex", "spinmutex"})
    sleeping: bool = False
    alone: bool = False
    guarded: bool = False


#: What witness(4) reports, all of it.
WITNESS: Final = Rules(duplicates=Duplicates.NEVER, sleeping=True, alone=True, guarded=True)


@dataclass(frozen=True, slots=True)
class Seen:
    """Where an order was seen: the thread got `second` at a step, and had had `first` since another.

    `guards` are the numbers of the locks that it held besides, and did not share.
    """

    thread: int
    name: str
    first: Hold
    first_step: int
    second: Hold
    step: int
    guards: frozenset[int] = frozenset()

    def __str__(self) -> str:
        """As a report has it."""
        return (
            f"{self.name} acquired {_how(self.second)} at step {self.step} with {_how(self.first)} held since step "
            f"{self.first_step}"
        )


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that an execution breaks.

    Attributes:
        rule: which.
        classes: of the locks; for a reversal, the cycle.
        seen: where; for a reversal one for each order of the cycle that was not given by the user.
        text: one sentence with names.
    """

    rule: Rule
    classes: tuple[str, ...]
    seen: tuple[Seen, ...]
    text: str

    def verdict(self) -> Verdict:
        """The same as a check says it. The fingerprint is made of the rule and the classes."""
        threads = tuple(dict.fromkeys(seen.thread for seen in self.seen))
        pairs = zip(self.classes, self.classes[1:] + self.classes[:1], strict=True)
        sites = tuple(f"{first} then {second}" for first, second in pairs)
        steps = tuple(sorted({step for seen in self.seen for step in (seen.first_step, seen.step)}))
        # A deadlock that is predicted tells more of a reversal.
        about = frozenset(sites) if self.rule is Rule.REVERSAL else frozenset()
        return Verdict("lock-order", self.text, threads, (self.rule.value, *sites), steps=steps, about=about)


def _how(hold: Hold) -> str:
    return f"{hold.lock.name} (shared)" if hold.shared else hold.lock.name


@dataclass(slots=True)
class _Facts:
    """What the states of an execution say, without threads and steps."""

    edges: dict[Edge, tuple[Hold, Hold]] = field(default_factory=dict)
    twins: dict[Edge, tuple[Hold, Hold]] = field(default_factory=dict)
    under: dict[Edge, tuple[Hold, Hold]] = field(default_factory=dict)
    asleep: dict[str, Hold] = field(default_factory=dict)


#: A rule, the classes, and a pair of locks for each order (for a sleep the lock, twice).
_Broken = tuple[Rule, tuple[str, ...], list[tuple[Hold, Hold]]]


class LockOrder:
    """A detector: looks at one execution after another.

    Args:
        rules: what is to be checked.
        ways: what follows holds; one that is shared with other checks looks at an execution once for all of them.

    Attributes:
        orders: all orders between classes seen so far in any execution, in the order in which they were seen.
    """

    kind = "lock-order"
    per_class = True

    def __init__(self, rules: Rules | None = None, ways: Ways | None = None) -> None:
        self.rules = rules or Rules()
        self.ways = ways or Ways()
        self.orders: dict[Edge, None] = {}
        self._given = [Edge(*pair) for names in self.rules.order for pair in pairwise(names)]
        #: By the states that an execution has been in, what it breaks, if threads do.
        self._known: dict[int, tuple[_Broken, ...]] = {}
        #: By the states of each thread, that it breaks none although it looks like it.
        self._allowed: set[tuple[int, ...]] = set()
        self._epoch = 0

    def look(self, k: Kernel) -> tuple[Verdict, ...]:
        """See Detector."""
        return tuple(violation.verdict() for violation in self.observe(k.trace, k.threads))

    def observe(self, trace: Sequence[Event], threads: Sequence[Thread]) -> tuple[Violation, ...]:
        """What an execution breaks, judged by itself; the same for the same execution.

        Args:
            trace: of an execution that has ended, however it ended.
            threads: of it.

        Raises:
            UsageError: the trace has an operation on a lock that nobody knows.
        """
        ways = self.ways
        bits = ways.seen(trace, len(threads))
        if ways.forgotten != self._epoch:
            self._epoch = ways.forgotten
            self._known.clear()
            self._allowed.clear()
        if not bits:
            return ()
        broken = self._known.get(bits)
        if broken is None:
            facts = self._facts(ways.states_of(bits))
            self.orders.update(dict.fromkeys(facts.edges))
            broken = self._known[bits] = tuple(self._violations(facts))
        if not broken:
            return ()
        own = ways.seen_by(trace, len(threads))
        if own in self._allowed:
            return ()
        found = tuple(self._told(broken, trace, threads))
        if not found:
            self._allowed.add(own)
        return found

    # ------------------------------------------------------------ what the states say

    def _facts(self, states: Iterable[Held]) -> _Facts:
        rules = self.rules
        class_of = rules.class_of
        facts = _Facts()
        for state in states:
            holds = state.holds
            if state.moment is Moment.ASLEEP:
                for hold in holds:
                    if hold.lock.type in rules.unsleepable:
                        name = class_of(hold.lock)
                        facts.asleep[name] = min(hold, facts.asleep.get(name, hold), key=lambda one: one.lock.number)
                continue
            second = holds[-1]
            if second.tried:
                continue
            for first in holds[:-1]:
                pair = (first, second)
                one, other = class_of(first.lock), class_of(second.lock)
                if one == other:
                    facts.twins.setdefault(Edge(_instance(first.lock), _instance(second.lock)), pair)
                else:
                    facts.edges.setdefault(Edge(one, other), pair)
                if first.lock.type in rules.unsleepable and second.lock.type in rules.sleepable:
                    facts.under.setdefault(Edge(one, other), pair)
        return facts

    def _violations(self, facts: _Facts) -> Iterator[_Broken]:
        """What is broken, unless it is one thread's alone."""
        rules = self.rules
        # In an order of their own: that of the states depends on the executions before.
        for edge, pair in sorted(facts.under.items(), key=itemgetter(0)):
            yield Rule.SLEEPABLE, edge, [pair]
        if rules.sleeping:
            for name, hold in sorted(facts.asleep.items(), key=itemgetter(0)):
                yield Rule.SLEEPING, (name,), [(hold, hold)]
        for cycle in cycles(sorted(edge for edge in facts.edges if not self._is_blessed(edge)), self._given):
            pairs = [facts.edges[edge] for edge in around(cycle) if edge in facts.edges]
            yield (Rule.REVERSAL if len(pairs) == len(cycle) else Rule.STATIC), cycle, pairs
        class_of = rules.class_of
        if rules.duplicates is Duplicates.ORDERED:
            for cycle in cycles(sorted(facts.twins)):
                pairs = [facts.twins[edge] for edge in around(cycle)]
                name = class_of(pairs[0][0].lock)
                if name not in rules.dupok:
                    yield Rule.REVERSAL, (name,), pairs
        else:
            names: dict[str, tuple[Hold, Hold]] = {}
            for _, pair in sorted(facts.twins.items(), key=itemgetter(0)):
                names.setdefault(class_of(pair[0].lock), pair)
            for name, pair in names.items():
                if name not in rules.dupok:
                    yield Rule.DUPLICATE, (name,), [pair]

    def _is_blessed(self, edge: Edge) -> bool:
        return frozenset(edge) in self.rules.blessed

    # ------------------------------------------------------------ where it happened

    def _told(
        self, broken: tuple[_Broken, ...], trace: Sequence[Event], threads: Sequence[Thread]
    ) -> Iterator[Violation]:
        """The same with threads and steps."""
        acquisitions = list(self.ways.acquisitions(trace, len(threads)))
        for rule, classes, pairs in broken:
            if rule is Rule.SLEEPING:
                seen = [_sleep_with(pairs[0][0].lock, trace, threads, acquisitions)]
            else:
                seen = self._together([self._like(pair, acquisitions, threads) for pair in pairs])
                if not seen:
                    continue
            yield Violation(rule, classes, tuple(seen), _text(rule, classes, seen))

    def _like(
        self, pair: tuple[Hold, Hold], acquisitions: Sequence[Acquisition], threads: Sequence[Thread]
    ) -> list[Seen]:
        """Where two classes (or two locks of one class) were seen in that order: the first of each thread and guards."""
        class_of = self.rules.class_of
        first, second = pair[0].lock, pair[1].lock
        one, other = class_of(first), class_of(second)
        found: dict[tuple[int, frozenset[int]], Seen] = {}
        for got in acquisitions:
            if got.got.tried or class_of(got.got.lock) != other:
                continue
            if one == other and got.got.lock != second:
                continue
            for hold, since in got.held:
                if hold.lock == first if one == other else class_of(hold.lock) == one:
                    guards = frozenset(
                        held.lock.number for held, _ in got.held if held.lock != hold.lock and not held.shared
                    )
                    name = threads[got.thread].name
                    found.setdefault(
                        (got.thread, guards), Seen(got.thread, name, hold, since, got.got, got.step, guards)
                    )
        return list(found.values())

    def _together(self, orders: list[list[Seen]]) -> list[Seen]:
        """One of each order, that together are a finding, of as many threads as it goes; empty if there is none."""
        best: list[Seen] = []
        most = 0
        for seen in islice(product(*orders), COMBINATIONS_MAX):
            threads = {one.thread for one in seen}
            if len(threads) <= most or (len(seen) > 1 and len(threads) == 1 and not self.rules.alone):
                continue
            if self.rules.guarded or not any(
                one.thread != other.thread and one.guards & other.guards for one, other in combinations(seen, 2)
            ):
                best, most = list(seen), len(threads)
        return best


def _instance(lock: ObjectId) -> str:
    return f"{lock.name}\0{lock.number}"


def _sleep_with(
    lock: ObjectId, trace: Sequence[Event], threads: Sequence[Thread], among: Sequence[Acquisition]
) -> Seen:
    """The first sleep of a thread that has that lock and does not give it up."""
    since: dict[int, tuple[int, Hold]] = {}
    got = {found.step: found for found in among}
    for step, (t, op, _) in enumerate(trace):
        if step in got and got[step].got.lock == lock:
            since[t] = (step, got[step].got)
        elif effect_of(op) is Effect.UNLOCK and op.obj == lock:
            since.pop(t, None)
        elif effect_of(op) is Effect.SLEEP:
            if any(number == lock.number for number, _ in op.accesses[1:]):
                since.pop(t, None)
            elif t in since:
                at, hold = since[t]
                return Seen(t, threads[t].name, hold, at, Hold(op.obj, shared=False, tried=False), step)
    raise AssertionError(f"no thread slept with {lock.name} held")


def _text(rule: Rule, classes: tuple[str, ...], seen: list[Seen]) -> str:
    if rule is Rule.SLEEPING:
        (only,) = seen
        return (
            f"{rule.value}: {only.name} slept on {only.second.lock.name} at step {only.step} with {_how(only.first)} held "
            f"since step {only.first_step}"
        )
    text = "; ".join(str(one) for one in seen)
    if rule is Rule.STATIC:
        text += f"; the given order makes it a cycle: {' before '.join((*classes, classes[0]))}"
    return f"{rule.value}: {text}"
