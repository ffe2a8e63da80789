"""The frame of detectors: which are asked, when, how often, and what becomes of their answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from stressvm import KINDS, Atomic, Detector, Kernel, LockOrder, Mutex, Rules, UsageError, Verdict, scenario
from stressvm.check.detectors import DETECTORS, Asked, asked
from stressvm.explore.batch import open_runner
from stressvm.explore.execution import Subject, execute, record
from stressvm.explore.hunt import Settings, hunt_subject
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.schedule import parse
from stressvm.explore.tape import Lenient, Strict
from tests.support import in_trio, opened

if TYPE_CHECKING:
    from stressvm import Scenario
    from stressvm.explore.batch import Failure
    from stressvm.explore.result import Result


class Counting:
    """Says something of every execution in which the first thread goes last, and counts how often it is asked."""

    kind = "assertion"

    def __init__(self, *, per_class: bool = True, sites: tuple[str, ...] = ("last",)) -> None:
        self.per_class = per_class
        self.sites = sites
        self.asked = 0

    def look(self, k: Kernel) -> tuple[Verdict, ...]:
        """See Detector."""
        self.asked += 1
        last = k.trace[-1][0]
        return tuple(Verdict(self.kind, f"it is {site}", (0,), (site,)) for site in self.sites) if last == 0 else ()


def turns(*checks: str | Detector, **declared: Any) -> Scenario:
    """Three threads that add to one counter, twice each, and to one of their own."""

    @scenario(checks=checks, **declared)
    def turns(k: Kernel) -> None:
        shared = Atomic(k, 0, "shared")

        async def thread(own: Atomic) -> None:
            for _ in range(2):
                await own.fetchadd(1)
                await shared.fetchadd(1)

        for n in range(3):
            k.spawn(thread, Atomic(k, 0, f"own{n}"))

    return turns


def hunted(one: Scenario, **settings: Any) -> Result:
    result: Result = in_trio(lambda: hunt_subject(Subject(one, {}), Settings(**settings)))
    return result


# ---------------------------------------------------------------- which are asked


def test_by_default_a_scenario_that_declares_nothing_is_asked_by_all_that_are_on() -> None:
    names = asked(("default",), None)
    assert names == tuple(name for name, entry in DETECTORS.items() if entry.asked is Asked.DEFAULT)
    assert {"lock-order", "predicted-deadlock", "not-linearizable", "data-race"} <= set(names)
    assert set(names) <= set(asked(("all",), None)) < set(DETECTORS)
    assert "witness" not in asked(("all",), None)
    assert asked(("none",), None) == asked((), None) == ()
    assert asked(("witness", "lock-order"), None) == ("lock-order", "witness")


def test_a_scenario_that_declares_a_finding_is_asked_for_that_and_for_what_is_named() -> None:
    for words in (("default",), ("all",), ("none",), ()):
        assert asked(words, "deadlock") == ()
        assert asked(words, "lock-order") == ("lock-order",)
        assert asked(words, "not-linearizable") == ("not-linearizable",)
    assert asked(("predicted-deadlock",), "deadlock") == ("predicted-deadlock",)


def test_every_detector_finds_a_kind_that_there_is() -> None:
    for entry in DETECTORS.values():
        assert entry.kind in KINDS
        made = entry.make(LockOrder().ways)
        assert made.kind == entry.kind
        assert made.per_class in (True, False)


def test_a_check_that_there_is_not_is_refused_wherever_it_is_named() -> None:
    with pytest.raises(UsageError, match=r"no such check: 'lock-orde'; there are: default, all, none, .*lock-order"):
        Settings(checks=("lock-orde",))
    with pytest.raises(UsageError, match="no such check: 'races'"):
        turns("races")
    with pytest.raises(UsageError, match="name the checks one by one"):
        turns("all")
    with pytest.raises(UsageError, match="`none` leaves nothing"):
        Settings(checks=("none", "lock-order"))
    with pytest.raises(UsageError, match="no such check: 'x'"):
        Subject(turns(), {}, ("x",))


# ---------------------------------------------------------------- how often


def test_one_that_looks_at_classes_is_asked_once_for_each() -> None:
    classes, each = Counting(), Counting(per_class=False)
    result = hunted(turns(classes), executions=400, strategy="random", keep_going=True, checks=("none",))
    hunted(turns(each), executions=400, strategy="random", keep_going=True, checks=("none",))
    # 6!/(2!2!2!) orders of what is done with the shared counter; and recordings are looked at by themselves.
    assert 80 < result.seen.distinct <= 90
    assert result.seen.distinct <= classes.asked < 200
    assert each.asked >= 400


@pytest.mark.parametrize("cuts", [(400,), (1, 7, 100, 300, 400), tuple(range(10, 401, 10))])
@pytest.mark.parametrize("driver", ["stepped", "trio"])
def test_what_is_found_does_not_depend_on_how_executions_are_cut(cuts: tuple[int, ...], driver: str) -> None:
    async def failures(cuts: tuple[int, ...], driver: str, *, per_class: bool) -> list[Failure]:
        settings = Settings(strategy="random", keep_going=True, driver=driver, checks=("none",))
        found: dict[str, Failure] = {}
        start = 0
        for stop in cuts:
            # As workers do it: each has a memory of its own.
            made = Counting(per_class=per_class, sites=("last", "later"))
            async with open_runner(Subject(turns(made), {}), settings) as runner:
                batch = await runner.run(start, stop, 60.0)
            assert batch.error is None
            assert batch.stop == stop
            for failure in batch.failures:
                found.setdefault(failure.fingerprint, failure)
            start = stop
        return list(found.values())

    alone = in_trio(lambda: failures((400,), "stepped", per_class=False))
    assert [failure.kind for failure in alone] == ["assertion", "assertion"]
    assert in_trio(lambda: failures(cuts, driver, per_class=True)) == alone


# ---------------------------------------------------------------- what becomes of the answers


async def executed(one: Scenario, number: int = 0) -> Verdict | None:
    what = Subject(one, {})
    async with opened(what.kernel(), "stepped") as driver:
        verdict = await execute(what, driver, RandomWalk(1), number)
        driver.unwind()
        return verdict


def ends_badly(*checks: str | Detector, **declared: Any) -> Scenario:
    @scenario(checks=checks, **declared)
    def ends_badly(k: Kernel) -> None:
        async def thread() -> None:
            await k.yield_()
            raise ValueError

        k.spawn(thread)

    return ends_badly


def test_they_are_asked_after_what_stopped_an_execution_unless_that_is_tolerated() -> None:
    made = Counting()
    verdict = in_trio(lambda: executed(ends_badly(made)))
    assert verdict is not None
    assert (verdict.kind, made.asked) == ("exception", 0)
    verdict = in_trio(lambda: executed(ends_badly(made, tolerate=("exception",))))
    assert verdict is not None
    assert (verdict.kind, made.asked) == ("assertion", 1)


def test_a_kind_that_is_tolerated_is_not_told() -> None:
    made = Counting(sites=("one", "two"))
    one = turns(made, tolerate=("assertion",))
    assert hunted(one, executions=50).status in ("clean", "exhausted")
    assert made.asked


def test_all_that_an_execution_shows_is_found_and_each_bug_has_its_schedule() -> None:
    one = turns(Counting(sites=("one", "two")))
    result = hunted(one, executions=50)
    assert result.status == "unexpected"
    assert [finding.verdict.sites for finding in result.findings] == [("one",), ("two",)]
    assert len({finding.fingerprint for finding in result.findings}) == 2
    for finding in result.findings:
        schedule = parse(finding.schedule.blob())
        assert schedule.bug == finding.fingerprint
        assert [other.sites for other in finding.verdict.also] != [finding.verdict.sites]

        async def again() -> str:
            what = Subject(one, {}, schedule.checks)  # noqa: B023 - called at once
            async with opened(what.kernel(), "stepped") as driver:
                found = await record(what, driver, Strict(schedule))  # noqa: B023
                verdict = found.about(schedule.bug).verdict  # noqa: B023
                assert verdict is not None
                return verdict.fingerprint

        assert in_trio(again) == finding.fingerprint


class Raising:
    """A check with a mistake in it."""

    kind = "assertion"
    per_class = False

    def look(self, k: Kernel) -> None:
        """See Detector."""
        del k
        raise ZeroDivisionError("oh")


def test_one_that_raises_is_told_with_the_scenario() -> None:
    result = hunted(turns(Raising()), executions=5)
    assert result.status == "error"
    assert "scenario turns: a check raised ZeroDivisionError: oh (test_detectors.py:" in result.error


def test_a_graver_verdict_tells_what_is_about_the_same() -> None:
    class Two(Counting):
        def look(self, k: Kernel) -> tuple[Verdict, ...]:
            del k
            told = Verdict("deadlock", "", (), ("a",), about=frozenset({"x", "y"}))
            return told, replace(told, kind="lock-order", about=frozenset({"x"})), replace(told, about=frozenset())

    verdict = in_trio(lambda: executed(turns(Two())))
    assert verdict is not None
    assert [one.kind for one in verdict.all] == ["deadlock"]


# ---------------------------------------------------------------- schedules


def both_ways(*checks: str | Detector) -> Scenario:
    @scenario(checks=checks)
    def both_ways(k: Kernel) -> None:
        a, b = Mutex(k, "a"), Mutex(k, "b")

        async def thread(first: Mutex, second: Mutex) -> None:
            await first.lock()
            await second.lock()
            await second.unlock()
            await first.unlock()

        async def after(first: Mutex, second: Mutex) -> None:
            await k.join(one)
            await thread(first, second)

        one = k.spawn(thread, a, b)
        k.spawn(after, b, a)

    return both_ways


def one_way(*checks: str | Detector) -> Scenario:
    @scenario(checks=checks)
    def one_way(k: Kernel) -> None:
        a, b = Mutex(k, "a"), Mutex(k, "b")

        async def thread() -> None:
            await a.lock()
            await b.lock()
            await b.unlock()
            await a.unlock()

        k.spawn(thread)
        k.spawn(thread)

    return one_way


def test_a_schedule_names_the_checks_that_looked() -> None:
    (finding,) = hunted(both_ways(), checks=("lock-order",)).findings
    assert finding.kind == "lock-order"
    assert finding.schedule.checks == ("lock-order",)
    blob = parse(finding.schedule.blob())
    assert blob.checks == ("lock-order",)
    assert blob == finding.schedule


def test_a_detector_of_the_scenario_s_own_stands_for_the_named_one() -> None:
    assert hunted(both_ways()).status == "unexpected"
    rules = Rules(blessed=frozenset({frozenset({"a", "b"})}))
    assert hunted(both_ways(LockOrder(rules))).status == "exhausted"
    assert hunted(one_way()).status == "exhausted"
    (finding,) = hunted(one_way(LockOrder(Rules(order=(("b", "a"),)))), checks=("none",)).findings
    assert finding.verdict.sites == ("reversal of the given lock order", "a then b", "b then a")


def test_recording_says_the_same_as_the_hot_run() -> None:
    what = Subject(both_ways(), {}, ("default",))

    async def main() -> None:
        async with opened(what.kernel(), "stepped") as driver:
            hot = await execute(what, driver, Lenient(()))
            driver.unwind()
            cold = await record(what, driver, Lenient(()))
        assert hot is not None
        assert cold.verdict == hot
        assert [place.step for place in cold.shown()] == list(hot.steps)
        assert [place.what for place in cold.shown()] == ["lock a", "lock b", "lock b", "lock a"]
        assert all(place.stack[-2].function.endswith("thread") for place in cold.shown())

    in_trio(main)
