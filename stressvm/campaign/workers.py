"""Worker processes: each is lent ranges of execution numbers, runs them, and sends back what they came to.

Workers are forked, so they have the scenarios that were loaded, whatever these closed over. A worker knows one
scenario at a time and goes on until its pipe is closed or its parent has gone. Nothing of a result depends on which
worker ran what: that is what lets a dead worker's lease be given to another.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from stressvm.explore.batch import Batch, open_runner
from stressvm.explore.pieces import Exploration
from stressvm.explore.running import run_trio
from stressvm.kernel.errors import InternalError, StressvmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.context import ForkProcess

    from stressvm.explore.batch import Runner
    from stressvm.explore.pieces import Explored
    from stressvm.explore.settings import Settings
    from stressvm.explore.subject import Subject
    from stressvm.explore.subtree import Subtree

#: Leases that a worker has at once: the one it works at, and the next, so that it never waits for us.
AHEAD: Final = 2

#: Whole seconds that a worker is given to end by itself.
_END_SECONDS: Final = 2.0

_STOP_BYTES: Final = 8


class Lease(NamedTuple):
    """A range of executions lent to a worker, to be worked at for so many seconds."""

    subject: int
    first: int
    stop: int
    seconds: float
    #: Leases of an earlier round than the one told by `Workers.recall` are given up.
    round: int
    #: It is of that piece of a search's tree, and the numbers are those in the piece.
    piece: LentPiece | None = None


class LentPiece(NamedTuple):
    """A piece of a search's tree, and its number in the hunt; None: the whole tree."""

    number: int
    subtree: Subtree | None


class Death(NamedTuple):
    """A worker ended with this exit status (negative: by that signal)."""

    status: int


@dataclass(slots=True, eq=False)
class Worker:
    """A worker as its pool knows it."""

    process: ForkProcess
    pipe: connection.Connection
    leases: deque[Lease] = field(default_factory=deque)


class Workers:
    """A pool of workers for the subjects of one campaign; a context manager.

    Args:
        subjects: what leases name by number.
        settings: of all of them.
        jobs: how many workers.
    """

    def __init__(self, subjects: Sequence[Subject], settings: Settings, jobs: int) -> None:
        self.subjects = subjects
        self.settings = settings
        self.jobs = jobs
        self.round = 0
        self.workers: list[Worker] = []
        self.context = multiprocessing.get_context("fork")
        self.recalled = mmap.mmap(-1, _STOP_BYTES)

    def __enter__(self) -> Self:
        """Fork them."""
        for _ in range(self.jobs):
            self._hire()
        return self

    def __exit__(self, *exc: object) -> None:
        """End them; those that do not end are killed."""
        self.recall()
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join(_END_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self.workers.clear()

    def recall(self) -> None:
        """All leases given so far end at the next look: what of them is done comes back."""
        self.round += 1
        self.recalled[:] = self.round.to_bytes(_STOP_BYTES, "little")

    def wanting(self, *, sequential: bool) -> Worker | None:
        """The worker with the fewest leases, or always the same one; None if it has enough."""
        among = self.workers[:1] if sequential else self.workers
        worker = min(among, key=lambda worker: len(worker.leases))
        return worker if len(worker.leases) < AHEAD else None

    def give(
        self, worker: Worker, subject: int, first: int, stop: int, seconds: float, piece: LentPiece | None = None
    ) -> Lease:
        """Lend a range to a worker."""
        lease = Lease(subject, first, stop, seconds, self.round, piece)
        worker.leases.append(lease)
        try:
            worker.pipe.send(lease)
        except OSError:
            # It has died: that is told by `wait`.
            return lease
        return lease

    def outstanding(self) -> int:
        """Leases that have not come back."""
        return sum(len(worker.leases) for worker in self.workers)

    def wait(self, seconds: float) -> Iterator[tuple[Lease, Batch | Explored | Death]]:
        """What has come back, after waiting that long at most; the lease that a worker died of comes with `Death`.

        Its further leases come back as empty batches. A new worker takes its place.
        """
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in connection.wait(list(by_pipe), seconds):
            assert isinstance(pipe, connection.Connection)
            worker = by_pipe[pipe]
            try:
                answer = pipe.recv()
            except (EOFError, OSError):
                yield from self._buried(worker)
                continue
            if isinstance(answer, str):
                raise InternalError(answer)
            yield worker.leases.popleft(), answer

    def _buried(self, worker: Worker) -> Iterator[tuple[Lease, Batch | Explored | Death]]:
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        self._hire()
        status = worker.process.exitcode or 0
        for number, lease in enumerate(worker.leases):
            yield lease, Batch(lease.first) if number else Death(status)

    def _hire(self) -> None:
        ours, theirs = self.context.Pipe()
        others = [worker.pipe for worker in self.workers]
        process = self.context.Process(target=self._work, args=(theirs, ours, others, os.getpid()), daemon=True)
        sys.stdout.flush()
        sys.stderr.flush()
        process.start()
        theirs.close()
        self.workers.append(Worker(process, ours))

    # ---------------------------------------------------------------- in the worker

    def _work(
        self,
        pipe: connection.Connection,
        ours: connection.Connection,
        others: Sequence[connection.Connection],
        parent: int,
    ) -> None:
        """The life of a worker."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Inherited ends of pipes would keep a worker from seeing that the other end has gone.
        for inherited in (ours, *others):
            inherited.close()
        try:
            run_trio(self._serve, pipe, parent)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except Exception as exc:  # noqa: BLE001 - told to whoever can report it
            pipe.send("".join(traceback.format_exception(exc)))

    async def _serve(self, pipe: connection.Connection, parent: int) -> None:
        lease: Lease = pipe.recv()
        while True:
            subject = lease.subject
            try:
                async with open_runner(self.subjects[subject], self.settings) as runner:
                    pieces = Pieces(runner)
                    while lease.subject == subject:
                        made = lease.round

                        def recalled(made: int = made) -> bool:
                            return int.from_bytes(self.recalled[:], "little") > made or os.getppid() != parent

                        batch: Batch | Explored
                        if recalled():
                            batch = Batch(lease.first)
                        elif lease.piece is None:
                            batch = await runner.run(lease.first, lease.stop, lease.seconds, recalled)
                        else:
                            batch = await pieces.run(lease, recalled)
                        pipe.send(batch)
                        lease = pipe.recv()
            except* StressvmError as group:
                pipe.send(Batch(lease.first, error=_first(group)))
                lease = pipe.recv()


class Pieces:
    """The pieces of a search's tree that a worker explores, one after the other."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.number = -1
        self.exploration: Exploration | None = None

    async def run(self, lease: Lease, pause: Callable[[], bool]) -> Explored:
        """A lease's part of its piece."""
        runner, piece = self.runner, lease.piece
        assert piece is not None
        assert runner.searcher is not None
        exploration = self.exploration
        if exploration is None or self.number != piece.number or exploration.done != lease.first:
            exploration = Exploration(
                runner.subject, runner.searcher.lane, piece.subtree, keep_going=runner.settings.keep_going
            )
            self.exploration, self.number = exploration, piece.number
        return await exploration.run(lease.first, lease.stop - lease.first, lease.seconds, pause)


def _first(group: BaseExceptionGroup[StressvmError]) -> StressvmError:
    exc = group.exceptions[0]
    return _first(exc) if isinstance(exc, BaseExceptionGroup) else exc
