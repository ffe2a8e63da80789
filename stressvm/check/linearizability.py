"""Linearizability: is there an order of the calls, one after the other, that explains what all of them returned?

Each call must come between its beginning and its return, and what it returned must be what the sequential specification
says. The search is that of Wing and Gong with Lowe's memory: walk along beginnings and returns in the order of time; at a
beginning, try to put the call next, and if the specification allows that, and no search has been at the same set of calls
and the same state before, take the call out of the list and start from the front; at a return, the call that returns has
had no place: take back the last decision. Calls of independent objects are searched for apart (`Model.partition`).

A call that has not returned may have its place or not. Linearizability is closed under prefixes, so there is one return
that breaks it: up to there no order explains the calls, whatever those that are still under way will return. That call is
the culprit, and the specification says why, in each of the states that it could have been called in. It is not before the
furthest return that the search has come to.

Source: Wing and Gong, Testing and verifying concurrent objects (JPDC 1993); Lowe, Testing for linearizability (CCPE 2017);
Horn and Kroening, Faster linearizability checking via P-compositionality (FORTE 2015); the structure of the search is that
of porcupine's checker.go.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from stressvm.check.history import NEVER, Call, History, calls_of, histories
from stressvm.check.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.kernel.kernel import Kernel

S = TypeVar("S")

#: Steps of the specification that one judgement may take.
STEPS_MAX: Final = 200_000

#: Calls that a text names.
NAMED_MAX: Final = 8


class Model(Protocol[S]):
    """A sequential specification. States are values: hashable, and never changed."""

    def initial(self, calls: Sequence[Call], /) -> S:
        """The state before any of these calls, which are those of one partition."""

    def step(self, state: S, call: Call, /) -> tuple[bool, S]:
        """May a call return what it did in that state? And the state after it.

        If it has not returned (`call.pending`): can it have an effect, and which?
        """

    def partition(self, calls: Sequence[Call], /) -> list[list[Call]]:
        """The calls of objects that have nothing to do with each other, apart; each in the same order as before."""

    def why(self, state: S, call: Call, /) -> tuple[str, str]:
        """Why a call may not return what it did in that state: a word for the kind of mistake, and a sentence."""


class Specification:
    """A base for models: one object, and nothing to say about mistakes."""

    def partition(self, calls: Sequence[Call]) -> list[list[Call]]:
        """All together."""
        return [list(calls)]

    def why(self, state: Any, call: Call) -> tuple[str, str]:  # noqa: ARG002 - see Model
        """That it may not."""
        return "wrong", f"in the state {state!r} it may not return that"


class Answer(enum.Enum):
    """LINEARIZABLE: there is such an order. BROKEN: there is none. UNKNOWN: it took too long to tell."""

    LINEARIZABLE = "linearizable"
    BROKEN = "not linearizable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of a search.

    Attributes:
        answer: see there.
        order: an order that explains everything; if there is none, a longest that was found of the calls up to the
            culprit's return, without the culprit. Several partitions follow each other.
        culprit: if there is none: the call whose return breaks it.
        reasons: why it may not return what it did, in the states in which the search has tried it, those after the most
            other calls first: the kind of mistake, and a sentence.
    """

    answer: Answer
    order: tuple[Call, ...] = ()
    culprit: Call | None = None
    reasons: tuple[tuple[str, str], ...] = ()


def linearize(calls: Sequence[Call], model: Model[Any], steps: int = STEPS_MAX) -> Judgement:
    """Judge a history.

    Args:
        calls: in any order.
        model: the specification.
        steps: of it that the search may take, for each partition.
    """
    orders: list[Call] = []
    answer = Answer.LINEARIZABLE
    for part in model.partition(sorted(calls, key=_begins)):
        search = _Search(part, model, steps)
        if search.run():
            orders += search.order
        elif search.cut:
            answer = Answer.UNKNOWN
        else:
            return _broken(part, search.furthest, model, steps)
    return Judgement(answer, tuple(orders) if answer is Answer.LINEARIZABLE else ())


def _begins(call: Call) -> tuple[int, int]:
    return (call.start, call.thread)


def _broken(part: Sequence[Call], furthest: Call, model: Model[Any], steps: int) -> Judgement:
    """Search once more, for what can be said: with the calls up to one return, then up to the next, and so on."""
    for culprit in sorted((call for call in part if not call.pending and call.end >= furthest.end), key=_ends):
        known = [_until(call, culprit.end) for call in part if call.start <= culprit.end]
        search = _Search(known, model, steps, culprit=culprit)
        if not search.run() and not search.cut:
            reasons: dict[tuple[str, str], None] = {}
            for _, state in sorted(search.refused, key=lambda one: -one[0]):
                reasons[model.why(state, culprit)] = None
            return Judgement(Answer.BROKEN, tuple(search.longest), culprit, tuple(reasons))
    # It takes longer to tell with what is not known yet.
    return Judgement(Answer.BROKEN, (), furthest)


def _until(call: Call, time: int) -> Call:
    """What was known of a call at that time."""
    return replace(call, result=None, end=NEVER) if call.pending or call.end > time else call


class _Search:
    """One search: beginnings and returns as a doubly linked list of numbers, 0 being its head.

    Attributes:
        order: the calls that have their places, in order.
        longest: the longest that `order` has been without the culprit.
        furthest: the call whose return is the furthest that was come to.
        cut: it took too many steps.
        refused: how many calls had their places, and the state, whenever the culprit was refused.
    """

    def __init__(self, calls: Sequence[Call], model: Model[Any], steps: int, culprit: Call | None = None) -> None:
        self.calls = list(calls)
        self.model = model
        self.left = steps
        self.cut = False
        self.culprit = culprit
        self.order: list[Call] = []
        self.longest: list[Call] = []
        self.refused: list[tuple[int, Any]] = []
        self.furthest = max(self.calls, key=_ends, default=Call(-1, "", ()))
        self._link()

    def _link(self) -> None:
        """Time: a call begins before what ends at the same step, for that can only be itself."""
        ends = sorted(
            [(call.start, 0, index) for index, call in enumerate(self.calls)]
            + [(*_ends(call), index) for index, call in enumerate(self.calls)]
        )
        count = len(ends)
        #: By number in the list: the call, and whether it begins there; and where it returns.
        self.call_at = [-1] + [index for _, _, index in ends]
        self.begins = [False] + [kind == 0 for _, kind, _ in ends]
        self.return_of = {index: at for at, (_, kind, index) in enumerate(ends, start=1) if kind}
        self.next = [*range(1, count + 1), 0]
        self.previous = [count, *range(count)]

    def run(self) -> bool:
        """Is there an order?"""
        model, calls, following = self.model, self.calls, self.next
        state = model.initial(calls)
        placed = 0
        furthest = 0
        been: set[tuple[int, Any]] = set()
        decisions: list[tuple[int, Any]] = []
        at = following[0]
        while at:
            index = self.call_at[at]
            call = calls[index]
            if self.begins[at]:
                if not self.left:
                    self.cut = True
                    return False
                self.left -= 1
                allowed, after = model.step(state, call)
                if allowed and (placed | 1 << index, after) not in been:
                    placed |= 1 << index
                    been.add((placed, after))
                    decisions.append((at, state))
                    state = after
                    self.order.append(call)
                    self._lift(at)
                    at = following[0]
                    continue
                if not allowed and call is self.culprit:
                    self.refused.append((len(decisions), state))
                at = following[at]
                continue
            if call.pending:
                # Only calls that have not returned are left: they need no place.
                return True
            if at > furthest:
                furthest, self.furthest = at, call
            if len(self.order) > len(self.longest) or not self.longest:
                self.longest = [one for one in self.order if one is not self.culprit]
            if not decisions:
                return False
            at, state = decisions.pop()
            placed &= ~(1 << self.call_at[at])
            self.order.pop()
            self._put_back(at)
            at = following[at]
        return True

    def _lift(self, at: int) -> None:
        """Take a beginning and its return out of the list."""
        for number in (at, self.return_of[self.call_at[at]]):
            before, after = self.previous[number], self.next[number]
            self.next[before] = after
            self.previous[after] = before

    def _put_back(self, at: int) -> None:
        for number in (self.return_of[self.call_at[at]], at):
            self.next[self.previous[number]] = number
            self.previous[self.next[number]] = number


def _ends(call: Call) -> tuple[int, int]:
    """When it returns, those that do not last."""
    return (call.end, 1) if not call.pending else (1 << 62, 2)


# ---------------------------------------------------------------- executions


class Histories:
    """A detector: judges the histories of an execution whose specification is known.

    Not by classes: a call counts from the first operation of its thread after it, and whether another call had returned by
    then may be told by steps that do not depend on each other.
    """

    kind = "not-linearizable"
    per_class = False
    of_promises = True

    def look(self, k: Kernel) -> Verdict | None:
        """See Detector."""
        return judge_histories(k)


def judge_histories(k: Kernel, steps: int = STEPS_MAX) -> Verdict | None:
    """The first history of an ended execution that its specification does not explain, or None.

    Args:
        k: the kernel, with the execution's objects and trace.
        steps: see `linearize`. What cannot be told within so many is no finding.
    """
    for history in histories(k):
        if history.model is not None:
            judgement = linearize(calls_of(k.trace, history), history.model, steps)
            if judgement.answer is Answer.BROKEN:
                return _verdict(k, history, judgement)
    return None


def _verdict(k: Kernel, history: History, judgement: Judgement) -> Verdict:
    culprit = judgement.culprit
    assert culprit is not None
    kind, reason = judgement.reasons[0] if judgement.reasons else ("unexplained", "")
    text = f"{history.ident.name}: {k.threads[culprit.thread].name}: {culprit} (steps {culprit.start} to {culprit.end})"
    text += ": no order of the calls explains that"
    if reason:
        text += f": {reason}"
    if judgement.order:
        names = [f"{k.threads[call.thread].name} {call}" for call in judgement.order[-NAMED_MAX:]]
        more = "... " if len(judgement.order) > NAMED_MAX else ""
        text += f" (after {more}{'; '.join(names)})"
    sites = (f"{history.ident.name} {culprit.name}", kind)
    return Verdict("not-linearizable", text, (culprit.thread,), sites, steps=(culprit.start, culprit.end))
