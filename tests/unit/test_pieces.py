"""A hunt whose search falls into pieces begins while workers are still at something else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stressvm import Kernel, Mutex, scenario
from stressvm.campaign.pieces import PiecewiseHunt
from stressvm.campaign.workers import AHEAD, Workers
from stressvm.explore.settings import Settings
from stressvm.explore.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.explore.batch import Batch
    from stressvm.explore.result import Finding, Kept
    from stressvm.explore.seen import Seen


@scenario
def sections(k: Kernel) -> None:
    """Three threads of two locked sections: ninety orders."""
    lock = Mutex(k, "lock")

    async def member() -> None:
        for _ in range(2):
            await lock.lock()
            await lock.unlock()

    for _ in range(3):
        k.spawn(member)


class Forgetful:
    """A ledger that keeps nothing."""

    def batch(self, first: int) -> Batch | None:
        del first
        return None

    def next_first(self, number: int) -> int | None:
        del number
        return None

    def keep_batch(self, batch: Batch, seen: Seen, elapsed: float) -> None:
        pass

    def known(self) -> Sequence[Any]:
        return ()

    def spent(self) -> float:
        return 0.0

    def finding(self, fingerprint: str) -> Kept | None:
        del fingerprint
        return None

    def keep_finding(self, finding: Finding) -> None:
        pass

    def ended(self) -> int | None:
        return None

    def keep_end(self, executions: int) -> None:
        pass


def test_it_waits_for_the_leases_of_the_hunt_before_it() -> None:
    subject = Subject(sections, {})
    settings = Settings(executions=1000, strategy="dpor")
    with Workers([subject, subject], settings, 1) as workers:
        # What a hunt that ended early leaves: nobody has taken back what the only worker was given.
        for _ in range(AHEAD):
            worker = workers.wanting(sequential=True)
            assert worker is not None
            workers.give(worker, 0, 0, 1, 1.0)
        assert workers.wanting(sequential=True) is None
        hunt = PiecewiseHunt(workers, 1, None, lambda _result: None, lambda _result, _finding: None, Forgetful())
        result = hunt.run()
    assert (result.error, result.status, result.executions) == ("", "exhausted", 90)
