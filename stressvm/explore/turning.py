"""When a bug became inevitable: the last decision of a schedule before which the execution could still have ended well.

From the schedule's beginning, cut after ever so many decisions, other continuations are tried: each alternative of the next
decision with the default afterwards, and some at random. That none of them ends well is no proof, so it is said how many were
tried. A clean continuation of a long beginning is one of a shorter beginning, too; so the longest is found by halving.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from stressvm.explore.execution import Recording, Subject, execute
from stressvm.explore.tape import Lenient

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stressvm.explore.flips import Flip
    from stressvm.kernel.driver import Driver

#: Random continuations of each beginning, besides the alternatives of its next decision.
RANDOM_MAX: Final = 12
#: Alternatives of one decision that are tried.
ALTERNATIVES_MAX: Final = 8
#: Steps that all of it may take, so that it ends soon in large worlds; no clock decides.
STEPS_MAX: Final = 30_000


@dataclass(frozen=True, slots=True)
class Turning:
    """The turning point.

    Attributes:
        decision: the place in the schedule of the decision after which nothing helped; None: nothing ever did.
        step: the step that it decided.
        tried: how many continuations were tried.
        changes: how many decisions of the schedule the smallest change found changes; 0: none was found.
        choices: the schedule with that change, which ends well.
        instead: that change in words.
    """

    decision: int | None
    step: int
    tried: int
    changes: int
    choices: tuple[int, ...]
    instead: str


class _Search:
    def __init__(self, subject: Subject, driver: Driver, recording: Recording) -> None:
        self.subject = subject
        self.driver = driver
        self.recording = recording
        self.tried = 0
        self.steps = 0
        #: By length of the beginning, the choices of a continuation that ends well, or None.
        self.known: dict[int, tuple[int, ...] | None] = {}

    async def clean(self, length: int) -> bool:
        """Does a continuation of the first so many decisions end well?"""
        if length not in self.known:
            self.known[length] = None
            for numbers in self.continuations(length):
                if self.steps >= STEPS_MAX:
                    break
                tape = Lenient(numbers)
                verdict = await execute(self.subject, self.driver, tape)
                self.steps += len(self.driver.k.trace) + 1
                self.driver.unwind()
                self.tried += 1
                if verdict is None:
                    self.known[length] = tuple(tape.choices)
                    break
        return self.known[length] is not None

    def continuations(self, length: int) -> Iterator[tuple[int, ...]]:
        """What is tried after the first so many decisions."""
        recording = self.recording
        begin = recording.choices[:length]
        if length < len(recording.choices):
            taken = recording.choices[length]
            others = [n for n in range(recording.arities[length]) if n != taken][:ALTERNATIVES_MAX]
            yield from ((*begin, other) for other in others)
            yield from ((*begin, other, *recording.choices[length + 1 :]) for other in others)
        yield begin
        random = Random(length)
        for _ in range(RANDOM_MAX):
            yield (*begin, *(random.getrandbits(16) for _ in range(len(recording.choices) - length + 32)))


async def turning_point(subject: Subject, driver: Driver, recording: Recording, flips: Sequence[Flip]) -> Turning:
    """Find it.

    Args:
        subject: what was executed.
        driver: one that nothing runs on at present.
        recording: of the failing execution.
        flips: what each of its decisions against the default is good for.
    """
    search = _Search(subject, driver, recording)
    # Before decision `low` there is a way out; before decision `high`, which is the end, there is none.
    low, high = -1, len(recording.choices)
    while high - low > 1 and search.steps < STEPS_MAX:
        middle = (low + high) // 2
        if await search.clean(middle):
            low = middle
        else:
            high = middle
    if low < 0:
        return Turning(None, -1, search.tried, 0, (), "")
    undone = next((flip for flip in reversed(flips) if flip.then is None), None)
    if undone is not None:
        at = undone.decision
        choices = (*recording.choices[:at], 0, *recording.choices[at + 1 :])
        text = f"at step {undone.step} {_goes_on(recording, undone.step, preempting=undone.preempting)}"
        return Turning(low, recording.decided[low], search.tried, 1, choices, text)
    found = search.known[low] or ()
    changes = sum(1 for one, other in zip(recording.choices, found, strict=False) if one != other)
    text = f"another thread goes at step {recording.decided[low]}, and {changes - 1} more decisions differ after that"
    if changes == 1:
        text = f"another thread goes at step {recording.decided[low]}"
    return Turning(low, recording.decided[low], search.tried, changes, found, text)


def _goes_on(recording: Recording, step: int, *, preempting: bool) -> str:
    """Who goes instead."""
    records = recording.records
    names = recording.names()
    before = records[step - 1].thread if 0 < step <= len(records) else -1
    if preempting and before >= 0:
        return f"{names[before]} goes on instead"
    who = names[records[step].thread] if step < len(records) and records[step].thread >= 0 else "it"
    return f"the first in line goes instead of {who}"
