"""One piece of a search's tree, explored by whoever has been lent it, and what came of it: see split.py."""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING, NamedTuple

from stressvm.explore.batch import SLICE_SECONDS, Batch, failures_of
from stressvm.explore.searching import Searcher
from stressvm.explore.split import Piece
from stressvm.kernel.errors import StressvmError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stressvm.explore.searching import Outcome
    from stressvm.explore.split import Rests
    from stressvm.explore.subject import Subject
    from stressvm.explore.subtree import Subtree
    from stressvm.kernel.driver import Driver


class Explored(NamedTuple):
    """What came of a piece of a search's tree, or of a part of it.

    Attributes:
        batch: its executions, by their numbers in the piece.
        lengths: how long each was, in steps.
        complete: there is no more of the piece: it has come to its end, to where it is split, or to what ends the hunt.
        children: what it was split into.
        rests: on what it rests that all but the children has been explored.
    """

    batch: Batch
    lengths: Sequence[int]
    complete: bool
    children: tuple[Subtree, ...]
    rests: Rests

    def part(self, start: int, stop: int, first: int) -> Batch:
        """From its execution `start` on, counted from its own first, to before `stop`; they are `first`, ... of the hunt."""
        batch = self.batch
        ahead = first - batch.first - start
        failures = [
            failure._replace(number=failure.number + ahead)
            for failure in batch.failures
            if start <= failure.number - batch.first < stop
        ]
        seconds = batch.seconds * (stop - start) / max(1, batch.executions)
        return Batch(first, stop - start, batch.classes[start:stop], sum(self.lengths[start:stop]), seconds, failures)


class Exploration:
    """The exploration of one piece, in instalments.

    Args:
        subject: what is executed.
        lane: runs the executions; its kernel asks at every step.
        subtree: the piece; None: the whole tree.
        keep_going: go on after a bug.
    """

    def __init__(self, subject: Subject, lane: Driver, subtree: Subtree | None, *, keep_going: bool) -> None:
        self.piece = Piece(subtree)
        self.searcher = Searcher(subject, lane, self.piece)
        self.keep_going = keep_going
        self.done = 0

    async def run(self, start: int, most: int, seconds: float, pause: Callable[[], bool]) -> Explored:
        """The next executions: to the end of the piece, to where it is split, or to a bug.

        Args:
            start: the first one to be counted; those before it are run, uncounted, if they have not been.
            most: end after so many.
            seconds: end after that time.
            pause: end at once when it says so.
        """
        piece = self.piece
        outcomes: list[Outcome] = []
        batch = Batch(start)
        known: set[str] = set()
        started = time.monotonic()
        look = started + SLICE_SECONDS
        ended = False
        while len(outcomes) < most and not ended:
            number = start + len(outcomes)
            try:
                outcome = await self.searcher.execute(number)
            except StressvmError as exc:
                batch.error = exc
                ended = True
                break
            if outcome is None:
                break
            outcomes.append(outcome)
            ended = piece.exhausted
            if outcome.verdict is not None:
                for failure in failures_of(number, outcome.picks, outcome.verdict):
                    if failure.fingerprint not in known:
                        known.add(failure.fingerprint)
                        batch.failures.append(failure)
                ended = ended or not self.keep_going
            now = time.monotonic()
            if now >= look:
                look = now + SLICE_SECONDS
                if now >= started + seconds or pause():
                    break
        self.done = start + len(outcomes)
        batch.executions = len(outcomes)
        batch.classes = array("Q", [outcome.klass for outcome in outcomes])
        batch.steps = sum(outcome.steps for outcome in outcomes)
        batch.seconds = time.monotonic() - started
        lengths = array("L", [outcome.steps for outcome in outcomes])
        return Explored(batch, lengths, ended or piece.exhausted, tuple(piece.children), piece.rests)
