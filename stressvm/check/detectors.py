"""The detectors that there are, which of them are asked, and how.

`judge` says what stopped an execution and who is stuck at its end. Detectors are asked after that, of an execution that
came to rest with nothing wrong: a program that always ends well may have races, locks in two orders, calls that no order
explains. What a detector says of an execution depends on that execution alone, so that a schedule is enough to see it
again; nothing is learned in one execution and held against the next. The scenario is closed: all threads that could
take part in a reversal or a race are in every execution.

Which are asked: a scenario that declares nothing is asked by those that the hunt's settings name; one that declares a
finding by the detector of that kind, and by what the settings name one by one, for its other faults are no news. What a
scenario names itself is always asked.

Many executions differ in the order of independent steps only, and are of one class. Detectors for which that makes no
difference are asked once for each class, and the answer is kept.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.check.happens_before import class_of
from stressvm.check.inversion import PriorityInversion
from stressvm.check.leaks import Leaks
from stressvm.check.linearizability import Histories
from stressvm.check.lock_order import WITNESS, LockOrder
from stressvm.check.locks import Ways
from stressvm.check.predict import Predictor
from stressvm.check.races import Races
from stressvm.check.starvation import Starvation
from stressvm.check.wakeups import Herds
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from stressvm.check.detector import Detector
    from stressvm.check.verdict import Verdict
    from stressvm.kernel.kernel import Kernel

#: Classes whose answers are kept; with more, all are forgotten, and found out again.
CLASSES_MAX: Final = 1 << 16


class Asked(enum.Enum):
    """When a detector is asked: by default, only with `all` checks, or only where it is named."""

    DEFAULT = "default"
    ALL = "all"
    NAMED = "named"


class Entry(NamedTuple):
    """A detector that can be asked for by name.

    Attributes:
        make: makes one; what follows the locks of an execution is shared by all that want it.
        asked: see there.
        kind: of what it finds.
    """

    make: Callable[[Ways], Detector]
    asked: Asked
    kind: str


#: By name, the gravest first: in that order they are asked. The name is the kind, but for variants of a check.
DETECTORS: Final[Mapping[str, Entry]] = {
    "not-linearizable": Entry(lambda _: Histories(), Asked.DEFAULT, "not-linearizable"),
    "data-race": Entry(lambda _: Races(), Asked.DEFAULT, "data-race"),
    "predicted-deadlock": Entry(Predictor, Asked.DEFAULT, "predicted-deadlock"),
    "lock-order": Entry(lambda ways: LockOrder(ways=ways), Asked.DEFAULT, "lock-order"),
    "leak": Entry(lambda _: Leaks(), Asked.DEFAULT, "leak"),
    "starvation": Entry(lambda _: Starvation(), Asked.DEFAULT, "starvation"),
    "priority-inversion": Entry(lambda _: PriorityInversion(), Asked.DEFAULT, "priority-inversion"),
    "herd": Entry(lambda _: Herds(), Asked.DEFAULT, "herd"),
    "witness": Entry(lambda ways: LockOrder(WITNESS, ways), Asked.NAMED, "lock-order"),
}

#: Kinds of findings that may depend on the order of independent steps.
BY_ORDER: Final = frozenset(entry.kind for entry in DETECTORS.values() if not entry.make(Ways()).per_class)

#: Words that stand for several.
GROUPS: Final = ("default", "all", "none")


def checked(words: Iterable[str]) -> tuple[str, ...]:
    """Names of detectors and of groups, if there are such.

    Raises:
        UsageError: there is one that there is not.
    """
    found = tuple(words)
    for word in found:
        if word not in DETECTORS and word not in GROUPS:
            raise UsageError(f"no such check: {word!r}; there are: {', '.join((*GROUPS, *DETECTORS))}")
    if "none" in found and len(found) > 1:
        raise UsageError(f"checks {', '.join(found)}: `none` leaves nothing for the others")
    return found


def asked(words: Sequence[str], expect: str | None) -> tuple[str, ...]:
    """The names of the detectors that look at a scenario, in the order in which they are asked.

    Args:
        words: what the settings name: detectors, or groups of them.
        expect: the kind of finding that the scenario declares; None: nothing.
    """
    found = []
    for name, (_, when, kind) in DETECTORS.items():
        grouped = (when is Asked.DEFAULT and "default" in words) or (when is not Asked.NAMED and "all" in words)
        if name in words or (grouped and expect is None) or (kind == expect and when is not Asked.NAMED):
            found.append(name)
    return tuple(found)


class Inspector:
    """Asks detectors about one execution after another of one subject.

    Args:
        names: of the detectors.
        own: others, that the scenario brings; where one of these finds what a named one would, the named one is not asked.
    """

    def __init__(self, names: Sequence[str], own: Sequence[Detector] = ()) -> None:
        ways = Ways()
        brought = {detector.kind for detector in own}
        named = [DETECTORS[name].make(ways) for name in names if DETECTORS[name].kind not in brought]
        detectors = [*own, *named]
        self.by_class = [detector for detector in detectors if detector.per_class]
        self.each = [detector for detector in detectors if not detector.per_class]
        #: Of those, the ones that have something to say of a world that promises nothing.
        self.always = [detector for detector in self.each if not getattr(detector, "of_promises", False)]
        #: The order in which answers are told.
        self.rank = {id(detector): place for place, detector in enumerate(detectors)}
        #: By class, what the detectors said that ask for classes only.
        self.known: dict[int, list[tuple[int, Verdict]]] = {}
        #: The execution looked at last, and its class.
        self.last: tuple[Kernel | None, int] = (None, 0)
        self.klass = 0

    def class_of(self, k: Kernel) -> int:
        """The class of an execution that has ended; asked twice, it is told from memory."""
        last = (k, k.serial)
        if self.last != last:
            self.last = last
            self.klass = class_of(k)
        return self.klass

    def look(self, k: Kernel) -> tuple[Verdict, ...]:
        """What an ended execution shows, the gravest first, each bug once; see `Detector.look`."""
        found = self._of_class(k) if self.by_class else []
        each = self.each if k.singletons else self.always
        if each:
            found = found + self._ask(each, k)
        if not found:
            return ()
        found = sorted(found, key=_rank)
        told: list[Verdict] = []
        for _, verdict in found:
            if not any(_tells(other, verdict) for other in told):
                told.append(verdict)
        return tuple(told)

    def _of_class(self, k: Kernel) -> list[tuple[int, Verdict]]:
        klass = self.class_of(k)
        found = self.known.get(klass)
        if found is None:
            if len(self.known) >= CLASSES_MAX:
                self.known.clear()
            found = self.known[klass] = self._ask(self.by_class, k)
        return found

    def _ask(self, detectors: Sequence[Detector], k: Kernel) -> list[tuple[int, Verdict]]:
        found = []
        for detector in detectors:
            said = detector.look(k)
            if said is not None:
                rank = self.rank[id(detector)]
                found += [(rank, verdict) for verdict in (said if isinstance(said, tuple) else (said,))]
        return found


def _rank(one: tuple[int, Verdict]) -> int:
    return one[0]


def _tells(other: Verdict, verdict: Verdict) -> bool:
    """Is that the same bug, or one that explains it?"""
    return other.fingerprint == verdict.fingerprint or bool(verdict.about and verdict.about <= other.about)
