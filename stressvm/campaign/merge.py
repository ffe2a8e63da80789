"""Shards put together: what n machines did with n parts of a campaign, as if one had done it all."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stressvm.explore.batch import Batch, Failure, open_runner
from stressvm.explore.hunt import examine
from stressvm.explore.result import Examination, Result
from stressvm.kernel.errors import UsageError
from stressvm.kernel.stepped import stepped
from stressvm.kernel.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stressvm.campaign.store import Ledger, Store
    from stressvm.explore.execution import Subject
    from stressvm.explore.result import Finding
    from stressvm.explore.settings import Settings, Shard

#: Settings in which the shards of one campaign may differ.
_OWN: Final = ("shard", "jobs", "format", "logs")


def same_campaign(stores: Sequence[Store], shards: Sequence[Shard]) -> None:
    """Are these the shards of one campaign, each once, and none left out?

    Raises:
        UsageError: they are not.
    """
    first = stores[0]
    for store in stores[1:]:
        mine, theirs = (
            {key: value for key, value in one.get("values").items() if key not in _OWN} for one in (first, store)
        )
        for key in mine:
            if mine[key] != theirs.get(key):
                raise UsageError(
                    f"{store.path.parent}: another campaign than {first.path.parent}: --{key} was {theirs.get(key)} there, {mine[key]} here"
                )
        ours = [(one.name, one.params, one.digest) for one in first.subjects()]
        if [(one.name, one.params, one.digest) for one in store.subjects()] != ours:
            raise UsageError(
                f"{store.path.parent}: another campaign than {first.path.parent}: it hunted in other scenarios, or in other versions of them"
            )
    counts = {shard.count for shard in shards}
    if len(counts) > 1:
        raise UsageError(f"these are shards of different cuts: {', '.join(str(shard) for shard in shards)}")
    (count,) = counts
    there = [shard.index for shard in shards]
    for index in range(count):
        if there.count(index) != 1:
            what = "is missing" if index not in there else "is there more than once"
            raise UsageError(f"shard {index + 1}/{count} {what}: give the log folder of each shard once")


class Merging:
    """The shards of one scenario.

    Args:
        subject: the scenario.
        settings: of the whole campaign.
        shards: each with what it has stored.
    """

    def __init__(self, subject: Subject, settings: Settings, shards: Sequence[tuple[Shard, Ledger]]) -> None:
        self.subject = subject
        self.settings = settings
        self.shards = shards

    async def run(self, found: Callable[[Result, Finding], None]) -> Result:
        """Put together; UsageError (as the result's error) where the scenario does not do what it did."""
        result = Result(self.subject)
        failures = sorted(self._failures(), key=lambda one: one[0])
        ends = [shard.number_of(batch.stop - 1) for shard, batch in self._all() if batch.exhausted]
        if not self.settings.keep_going:
            ends += [failure.number for failure, _ in failures[:1]]
        stop = min(ends) + 1 if ends else None
        failures = [one for one in failures if stop is None or one[0].number < stop]
        try:
            for shard, ledger in self.shards:
                for batch in await self._batches(shard, ledger, None if stop is None else shard.below(stop)):
                    result.count(batch)
                result.seconds += ledger.spent()
            await self._examine(result, failures, found)
        except UsageError as exc:
            result.error = str(exc)
        result.settle()
        return result

    def _all(self) -> Iterator[tuple[Shard, Batch]]:
        for shard, ledger in self.shards:
            for batch in _stored(ledger):
                yield shard, batch

    def _failures(self) -> Iterator[tuple[Failure, Ledger]]:
        for _, ledger in self.shards:
            for batch in _stored(ledger):
                for failure in batch.failures:
                    yield failure, ledger

    async def _batches(self, shard: Shard, ledger: Ledger, stop: int | None) -> list[Batch]:
        """Of a shard, what counts: all, or what one process would have run before it stopped."""
        found = []
        for batch in _stored(ledger):
            if stop is None or batch.stop <= stop:
                found.append(batch)
            elif batch.first < stop:
                # Only a part of it would have been run: that part again, to know what it came to.
                settings = replace(self.settings, shard=shard, keep_going=True)
                async with open_runner(self.subject, settings) as runner:
                    found.append(await runner.run(batch.first, stop, float("inf")))
        return found

    async def _examine(
        self,
        result: Result,
        failures: Sequence[tuple[Failure, Ledger]],
        found: Callable[[Result, Finding], None],
    ) -> None:
        async with stepped(self.subject.kernel()) as driver:
            with Watchdog([driver.k], self.settings.hang_seconds):
                for failure, ledger in failures:
                    if failure.fingerprint in result.fingerprints:
                        continue
                    result.fingerprints.add(failure.fingerprint)
                    examination = Examination(self.subject, failure, self.settings, time.monotonic(), ledger)
                    await examine(result, examination, driver, found)


def _stored(ledger: Ledger) -> Iterator[Batch]:
    """The batches of a shard that follow each other without a gap."""
    first = 0
    end = ledger.ended()
    while (end is None or first < end) and (batch := ledger.batch(first)) is not None:
        yield batch
        first = batch.stop
