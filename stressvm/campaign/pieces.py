"""The hunt with workers by a search that falls into pieces: workers are lent pieces of its tree.

Pieces are counted in order, and so is what they are split into, each where the piece was; so every execution has the number
that it has in one process (`explore/split.py`), and the result is the same. What comes back out of order waits.

What a worker died of is explored once more, and then in smaller parts. If in the end it is a single execution that ends its
process, the search cannot go on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from stressvm.campaign.parallel import ParallelHunt, ending
from stressvm.campaign.workers import LentPiece
from stressvm.explore.batch import Batch
from stressvm.explore.split import Rests
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from stressvm.campaign.workers import Death, Lease
    from stressvm.explore.pieces import Explored
    from stressvm.explore.subtree import Subtree

#: Seconds after which a worker brings back what it has of a piece.
_INSTALMENT_SECONDS: Final = 1.0
#: Executions that are lent at once, at most.
_MOST: Final = 1 << 20
#: The same when a worker has died of more.
_FEWER: Final = 64


@dataclass(slots=True, eq=False)
class Work:
    """A piece as the hunt knows it.

    Attributes:
        number: of the piece, for leases.
        subtree: what it is; None: the whole tree.
        explored: what has come back of it and has not been counted, in order.
        done: executions that have come back.
        lent: a worker is at it.
        complete: no more will come.
        most: how many executions may be lent at once: fewer and fewer while workers die of it.
    """

    number: int
    subtree: Subtree | None
    explored: list[Explored] = field(default_factory=list)
    done: int = 0
    lent: bool = False
    complete: bool = False
    most: int = _MOST


class PiecewiseHunt(ParallelHunt):
    """See the module."""

    def _begin(self) -> None:
        #: The pieces that have not been counted entirely, in order; none before the first execution has been looked at.
        self.work: list[Work] = []
        self.pieces = 0
        self.pilot = False
        #: On what it rests that the pieces counted have been explored, and how many executions they had.
        self.rests = Rests()
        self.position = 0

    # ---------------------------------------------------------------- leases

    def _lend(self) -> None:
        if not self.pilot:
            # The first execution is looked at more closely, by itself. Whoever still has leases of the hunt before this
            # one gives them up first: they come back while the hunt waits, and it asks again.
            worker = self.workers.wanting(sequential=False)
            if worker is not None:
                self.pilot = True
                self.workers.give(worker, self.number, 0, 1, _INSTALMENT_SECONDS)
            return
        ahead = sum(max(work.done, work.lent) for work in self.work)
        for work in self.work:
            if work.lent or work.complete or work.done >= self.executions:
                continue
            if self.result.executions + ahead >= self.executions and work is not self.work[0]:
                return
            worker = self.workers.wanting(sequential=False)
            if worker is None:
                return
            self.workers.give(
                worker,
                self.number,
                work.done,
                min(self.executions, work.done + work.most),
                _INSTALMENT_SECONDS,
                LentPiece(work.number, work.subtree),
            )
            work.lent = True
            ahead += 1

    def _receive(self, lease: Lease, answer: Batch | Explored) -> None:
        if lease.piece is None:
            assert isinstance(answer, Batch)
            if answer.error is not None:
                raise answer.error
            if answer.exhausted:
                self.ledger.keep_batch(answer, self.result.seen, time.monotonic() - self.started)
                self._count(answer)
            elif answer.executions:
                self._add(0, None)
            else:
                self.pilot = False
            return
        index, work = self._lent(lease.piece.number)
        work.lent = False
        if isinstance(answer, Batch):
            if answer.error is not None:
                raise answer.error
            return
        work.most = _MOST
        work.done += answer.batch.executions
        work.complete = answer.complete
        work.explored.append(answer)
        for at, subtree in enumerate(answer.children, index + 1):
            self._add(at, subtree)

    def _add(self, at: int, subtree: Subtree | None) -> None:
        self.work.insert(at, Work(self.pieces, subtree))
        self.pieces += 1

    def _lent(self, number: int) -> tuple[int, Work]:
        return next((at, work) for at, work in enumerate(self.work) if work.number == number)

    def _bury(self, lease: Lease, death: Death) -> None:
        if lease.piece is None:
            self.deaths[0, 1] = self.deaths.get((0, 1), 0) + 1
            self.pilot = False
            hopeless = self.deaths[0, 1] > 1
        else:
            work = self._lent(lease.piece.number)[1]
            work.lent = False
            hopeless = work.most == 1
            work.most = min(_FEWER, max(1, work.most // 2))
        if hopeless:
            raise UsageError(
                f"scenario {self.subject.scenario.name}: the process of an execution ended ({ending(death)}), and so when that was "
                f"tried again; strategy {self.settings.strategy} cannot go on: use one that samples, which reports such an "
                "execution and goes on"
            )

    # ---------------------------------------------------------------- in order of number

    def _take(self) -> None:
        """Count what is next in order."""
        while self.work and not self.over:
            work = self.work[0]
            while work.explored and not self.over:
                explored = work.explored.pop(0)
                self._count_part(explored, last=work.complete and not work.explored and len(self.work) == 1)
                if explored.complete:
                    self.rests = self.rests.plus(explored.rests)
            if not work.complete:
                return
            self.work.pop(0)

    def _count_part(self, explored: Explored, *, last: bool) -> None:
        """Count a part of a piece, as batches that end where the hunt has to be looked at or was stored up to."""
        size = explored.batch.executions
        result = self.result
        while not self.over and result.executions < self.executions:
            first = result.executions
            at = first - self.position
            if at > size or (at == size and size):
                break
            stored = self.ledger.batch(first)
            if stored is not None:
                self._count(stored)
                continue
            known = self.ledger.next_first(first) or self.executions
            stop = min(size, at + min(known, self.settings.checkpoint(first, self.executions)) - first)
            batch = explored.part(at, stop, first)
            if stop == size:
                batch.error = explored.batch.error
                if last and batch.error is None and not batch.ends(keep_going=self.settings.keep_going):
                    rests = self.rests.plus(explored.rests)
                    batch.exhausted, batch.cut = True, bool(rests.cut)
                    batch.bounds, batch.provided = rests.bounds, rests.provided
            if batch.executions:
                self.ledger.keep_batch(batch, result.seen, time.monotonic() - self.started)
            self._count(batch)
            if stop == size:
                break
        self.position += size
