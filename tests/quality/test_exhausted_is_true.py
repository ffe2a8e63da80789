"""What a search claims at its end is true: depth-first search, which takes nothing to be equivalent, finds the same.

On every shipped scenario with few executions the classes and the bugs of partial order reduction are compared with those
of depth-first search, and so is what a hunt claims. And state that threads share and do not declare keeps a hunt from
claiming anything.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

import pytest

from stressvm import Kernel, Mutex, scenario
from stressvm.check.detectors import BY_ORDER
from stressvm.check.happens_before import class_of
from stressvm.explore.dfs import DFS
from stressvm.explore.dpor import DPOR
from stressvm.explore.execution import Subject, execute
from stressvm.explore.hunt import hunt_subject
from stressvm.explore.loading import by_name, select
from stressvm.explore.settings import Settings
from stressvm.kernel.errors import UsageError
from stressvm.kernel.stepped import stepped
from tests.model.small_maps import LONG
from tests.support import in_trio

if TYPE_CHECKING:
    from stressvm.explore.result import Result
    from stressvm.explore.scenario import Scenario
    from stressvm.explore.search import Search

#: Scenarios with more executions are left out.
EXECUTIONS: Final = 3_000
#: Those of the normal run: maps with busy marks and sleepers, threads that end the execution, try locks, wakeups in vain.
FEW: Final = (
    "freebsd13_exec_map_waiters",
    "freebsd13_exec_map_wakeup_one",
    "gp_08_search_does_not_go_back_ok",
    "uf_04_entry_without_references_ok",
    "uf_05_looked_up_and_then_tested_ok",
    "uf_07_wired_before_it_is_busy",
    "uf_07_wired_before_it_is_busy_ok",
    "uf_10_shared_by_its_owner",
)


def found(what: Subject, search: Search) -> dict[int, frozenset[str]] | None:
    """The bugs of each class of executions, by class; None if there are too many executions.

    Raises:
        UsageError: the scenario cannot be searched like that.
    """
    classes: dict[int, frozenset[str]] = {}

    async def main() -> bool:
        every_step = getattr(search, "EVERY_STEP", False)
        async with stepped(what.kernel(every_step=every_step)) as driver:
            k = driver.k
            for number in itertools.count():
                verdict = await execute(what, driver, search, number)
                bugs = verdict.all if verdict is not None else ()
                same = frozenset(one.fingerprint for one in bugs if one.kind not in BY_ORDER)
                assert classes.setdefault(class_of(k), same) == same, "one class, and it came to different things"
                driver.unwind()
                again = getattr(search, "again", None)
                while again is not None:
                    again.compare(k, verdict, await execute(what, driver, again))
                    driver.unwind()
                    again = again.following
                if search.exhausted:
                    return True
                if number + 1 >= EXECUTIONS:
                    return False
        raise AssertionError

    return classes if in_trio(main) else None


def hunted(what: Subject, seed: int = 1, executions: int = EXECUTIONS) -> Result:
    """What the default strategy comes to."""

    async def main() -> Result:
        return await hunt_subject(what, Settings(seed=seed, executions=executions, keep_going=True))

    result: Result = in_trio(main)
    return result


def compare(what: Scenario) -> bool:
    """Was there something to compare?"""
    subject = Subject(what, dict(what.params))
    every = found(subject, DFS())
    if every is None:
        return False
    try:
        reduced = found(subject, DPOR())
    except UsageError:
        # It says that something is shared and not declared: then nothing may be claimed.
        assert not hunted(subject).exhausted, what.name
        return True
    assert reduced == every, what.name
    result = hunted(subject)
    if result.exhausted:
        bugs = {bug for one in every.values() for bug in one}
        assert bugs <= result.fingerprints, what.name
        assert set(result.seen.counts) <= every.keys(), what.name
    return True


@pytest.mark.parametrize("name", FEW)
def test_partial_order_reduction_finds_all_that_there_is(name: str) -> None:
    assert compare(by_name(name))


@pytest.mark.skipif(not LONG, reason="takes minutes")
def test_it_does_so_on_every_small_scenario() -> None:
    assert sum(compare(what) for what in select([])) >= 100


def undeclared(order: tuple[int, ...], sections: int) -> Subject:
    """Threads that note in a plain list that they come to their end: a bug if they do so in that order."""

    @scenario()
    def shares(k: Kernel) -> None:
        log: list[int] = []
        locks = [Mutex(k, f"m{number}") for number in range(len(order))]

        async def run(number: int) -> None:
            for _ in range(sections):
                await locks[number].lock()
                await locks[number].unlock()
            log.append(number)
            assert log != list(order)

        for number in range(len(order)):
            k.spawn(run, number)

    return Subject(shares, {})


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 2, 1), (1, 2, 0), (2, 0, 1), (1, 3, 0, 2)])
@pytest.mark.parametrize("sections", [1, 2])
def test_nothing_is_claimed_where_threads_share_what_they_do_not_declare(order: tuple[int, ...], sections: int) -> None:
    """For many seeds: the bug is found, and the hunt goes on to its last execution."""
    for seed in range(20):
        what = undeclared(order, sections)
        result = hunted(what, seed, 300)
        assert not result.exhausted
        assert not result.error
        assert result.executions == 300
        assert result.findings
