"""Which programs have a data race, what is said of it, and that it does not matter where a hunt is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Atomic, Cell, CondVar, Field, Kernel, Mutex, Rw, RwLock, Semaphore, SleepQueue, Sx, scenario
from stressvm.check.races import Race, Races, find
from stressvm.explore.batch import Failure, open_runner
from stressvm.explore.execution import Subject, execute, record
from stressvm.explore.hunt import hunt_subject
from stressvm.explore.settings import Settings
from stressvm.explore.tape import Lenient
from stressvm.report.explain import explain
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm.check.verdict import Verdict

    Body = Callable[[], Awaitable[None]]


def races(build: Callable[[Kernel], None], *choices: int) -> tuple[Race, ...]:
    """Those of one execution: the threads one after the other, unless `choices` say otherwise."""
    what = subject(build)

    async def main() -> tuple[Race, ...]:
        async with opened(what.kernel(), "stepped") as driver:
            await execute(what, driver, Lenient(choices))
            return find(driver.k)

    found: tuple[Race, ...] = in_trio(main)
    return found


def said(build: Callable[[Kernel], None]) -> tuple[Verdict, ...]:
    """What the detector says of the first execution."""
    what = subject(build)

    async def main() -> tuple[Verdict, ...]:
        async with opened(what.kernel(), "stepped") as driver:
            await execute(what, driver, Lenient(()))
            return Races().look(driver.k)

    found: tuple[Verdict, ...] = in_trio(main)
    return found


def world(make: Callable[[Kernel], tuple[Body, ...]]) -> Callable[[Kernel], None]:
    """Spawns the bodies, in order."""

    def build(k: Kernel) -> None:
        for body in make(k):

            async def thread(body: Body = body) -> None:
                await body()

            k.spawn(thread)

    return build


# ---------------------------------------------------------------- what is a race


@pytest.mark.parametrize("ways", ["load store", "store load", "store store", "peek poke", "poke poke", "load poke"])
def test_two_uses_without_a_lock_are_a_race(ways: str) -> None:
    first, second = ways.split()

    def make(k: Kernel) -> tuple[Body, ...]:
        cell = Cell(k, 0, "cell")

        def using(way: str) -> Body:
            async def use() -> None:
                await k.yield_()
                if way == "load":
                    await cell.load()
                elif way == "store":
                    await cell.store(1)
                elif way == "peek":
                    cell.peek()
                else:
                    cell.poke(1)

            return use

        return using(first), using(second)

    (race,) = races(world(make))
    assert (race.first.op.kind, race.second.op.kind) == (first, second)
    assert (race.first.thread, race.second.thread) == (0, 1)


def test_two_reads_are_none() -> None:
    def make(k: Kernel) -> tuple[Body, ...]:
        cell, field = Cell(k, 0), Field(k, "field")

        async def look() -> None:
            await cell.load()
            field.read()

        return look, look, look

    assert not races(world(make))


def guarded(k: Kernel, lock: Callable[[], Awaitable[None]], unlock: Callable[[], Awaitable[None]]) -> tuple[Body, ...]:
    """Two threads that change a field in between."""
    field = Field(k, "field")

    async def change() -> None:
        await lock()
        field.read()
        field.write()
        await unlock()

    return change, change


def test_locks_order() -> None:
    def mutex(k: Kernel) -> tuple[Body, ...]:
        m = Mutex(k)
        return guarded(k, m.lock, m.unlock)

    def sx(k: Kernel) -> tuple[Body, ...]:
        lock = Sx(k)
        return guarded(k, lock.xlock, lock.unlock)

    def semaphore(k: Kernel) -> tuple[Body, ...]:
        sema = Semaphore(k, 1)
        return guarded(k, sema.wait, sema.post)

    assert [races(world(make)) for make in (mutex, sx, semaphore)] == [(), (), ()]


def test_readers_of_a_lock_do_not_order_each_other() -> None:
    def sharing(k: Kernel) -> tuple[Body, ...]:
        lock = Sx(k)
        return guarded(k, lock.slock, lock.unlock)

    assert len(races(world(sharing))) == 1


def test_a_writer_comes_after_all_readers() -> None:
    def make(k: Kernel) -> tuple[Body, ...]:
        lock, field = RwLock(k), Field(k, "field")

        async def look() -> None:
            await lock.enter(Rw.READER)
            field.read()
            await lock.exit()

        async def change() -> None:
            await lock.enter(Rw.WRITER)
            field.write()
            await lock.downgrade()
            field.read()
            await lock.exit()

        return look, look, change, look, change

    assert not races(world(make))


def test_a_semaphore_of_two_units_guards_nothing() -> None:
    def make(k: Kernel) -> tuple[Body, ...]:
        sema = Semaphore(k, 2)
        return guarded(k, sema.wait, sema.post)

    # The second takes its unit before the first one puts its own back.
    assert len(races(world(make), 0, 1, 1)) == 1


def test_another_lock_guards_nothing() -> None:
    def make(k: Kernel) -> tuple[Body, ...]:
        one, other = Mutex(k), Mutex(k)
        (change, _) = guarded(k, one.lock, one.unlock)
        field = k.objects[-1]
        assert isinstance(field, Field)

        async def elsewhere() -> None:
            await other.lock()
            field.write()
            await other.unlock()

        return change, elsewhere

    assert len(races(world(make))) == 1


def test_a_failed_try_orders_nothing() -> None:
    def make(k: Kernel) -> tuple[Body, ...]:
        m, field = Mutex(k), Field(k, "field")

        async def hold() -> None:
            field.write()
            await m.lock()

        async def attempt() -> None:
            assert not await m.trylock()
            field.write()

        return hold, attempt

    assert len(races(world(make))) == 1


def test_an_atomic_passes_on_what_its_writers_did() -> None:
    def publishing(k: Kernel) -> tuple[Body, ...]:
        flag, field = Atomic(k, 0), Field(k, "field")

        async def write() -> None:
            await k.yield_()
            field.write()
            await flag.store(1)

        async def read() -> None:
            if await flag.load():
                field.read()

        return write, read

    def storing(k: Kernel) -> tuple[Body, ...]:
        flag, field = Atomic(k, 0), Field(k, "field")

        async def write() -> None:
            await k.yield_()
            field.write()
            await flag.store(1)

        return write, write

    assert not races(world(publishing))
    assert len(races(world(storing))) == 1, "to store is not to look"


def test_a_wakeup_orders_the_sleeper_and_nobody_else() -> None:
    def make(k: Kernel, *, changes: bool) -> tuple[Body, ...]:
        channel, field = SleepQueue(k, "channel"), Field(k, "field")

        async def sleep() -> None:
            await channel.sleep(None, "wait", timo=5)
            field.write()

        async def wake() -> None:
            await k.yield_()
            field.write()
            await channel.wakeup()

        async def late() -> None:
            await k.yield_()
            await channel.wakeup()
            if changes:
                field.write()

        return sleep, wake, late

    assert not races(world(lambda k: make(k, changes=False)))
    assert len(races(world(lambda k: make(k, changes=True)))) == 1


def test_the_world_spawn_and_join_order() -> None:
    def build(k: Kernel) -> None:
        cell = Cell(k, 0, "cell")
        cell.write(1)

        async def child() -> None:
            await cell.store(2)

        async def parent() -> None:
            await cell.load()
            thread = k.spawn(child)
            await k.join(thread)
            await cell.store(3)

        k.spawn(parent)

    assert not races(build)


def test_a_signal_orders_the_sleep_that_it_ends() -> None:
    def make(k: Kernel, *, asleep: bool) -> tuple[Body, ...]:
        channel, field = SleepQueue(k, "channel"), Field(k, "field")

        async def sleep() -> None:
            if asleep:
                await channel.sleep(None, "wait", timo=5, pcatch=True)
            else:
                await k.yield_()
                await k.yield_()
            field.write()

        async def post() -> None:
            await k.yield_()
            field.write()
            k.psignal(k.threads[0])

        return sleep, post

    assert not races(world(lambda k: make(k, asleep=True)))
    assert len(races(world(lambda k: make(k, asleep=False)))) == 1


def test_predicates_are_no_uses() -> None:
    def make(k: Kernel) -> tuple[Body, ...]:
        m, cv, cell = Mutex(k), CondVar(k), Cell(k, 0, "cell")

        async def wait() -> None:
            await m.lock()
            await cv.timedwait(m, 3, until=lambda: bool(cell.peek()))
            await m.unlock()

        async def change() -> None:
            await m.lock()
            cell.poke(1)
            await m.unlock()

        return wait, change

    assert not races(world(make))


@pytest.mark.parametrize("benign", ["", "a statistic that may be off by one"])
def test_what_is_declared_to_be_benign_is_believed(benign: str) -> None:
    def make(k: Kernel) -> tuple[Body, ...]:
        cell, field = Cell(k, 0, "cell", benign=benign), Field(k, "field", benign)

        async def count() -> None:
            await cell.store(await cell.load() + 1)
            field.write()
            cell.poke(7)

        return count, count

    assert len(races(world(make))) == (0 if benign else 2)


def test_the_first_race_on_each_thing_is_told_in_order() -> None:
    def make(k: Kernel) -> tuple[Body, ...]:
        cells = [Cell(k, 0, name) for name in ("late", "early")]

        async def use() -> None:
            await cells[1].store(1)
            await cells[0].store(1)
            await cells[1].store(2)

        return use, use

    found = races(world(make))
    assert [race.second.op.obj.name for race in found] == ["early", "late"]
    assert found[0].second.step == 3, "its first use, not its second"


# ---------------------------------------------------------------- what is said of it


def test_a_verdict_names_both_uses() -> None:
    def build(k: Kernel) -> None:
        page = Field(k, "page12.flags")
        m = Mutex(k, "m")

        async def scan() -> None:
            await m.lock()
            page.read()
            await m.unlock()

        async def fault() -> None:
            await k.yield_()
            page.write()

        k.spawn(scan, name="pagedaemon")
        k.spawn(fault, name="faulter")

    (verdict,) = said(build)
    assert verdict.kind == "data-race"
    assert verdict.text == (
        "page12.flags: pagedaemon read it (before step 1) and faulter wrote it (before step 3), and nothing orders the two"
    )
    here = "test_a_verdict_names_both_uses.<locals>.build.<locals>"
    assert verdict.sites == (f"read page.flags in {here}.scan", f"write page.flags in {here}.fault")
    assert verdict.threads == (0, 1)


@scenario()
def racing(k: Kernel) -> None:
    """Two threads that do not lock what they change."""
    cell, field = Cell(k, 0, "cell"), Field(k, "field")

    async def change_both() -> None:
        await cell.store(1)
        field.write()

    k.spawn(change_both)
    k.spawn(change_both)


def test_a_report_shows_both_stacks() -> None:
    what = Subject(racing, {}, ("data-race",))

    async def main() -> str:
        async with opened(what.kernel(), "stepped") as driver:
            return explain(await record(what, driver, Lenient(())), ())

    text: str = in_trio(main)
    where = text.partition("Where it is:")[2]
    assert where.count("in racing.<locals>.change_both: await cell.store(1)") == 2
    assert "it also shows: data-race" in text


# ---------------------------------------------------------------- in a hunt


def test_a_hunt_finds_it_and_a_scenario_may_tolerate_it() -> None:
    def hunt(**declared: Any) -> tuple[str, set[str]]:
        made = scenario(**declared)(racing.build)
        result = in_trio(lambda: hunt_subject(Subject(made, {}), Settings(executions=20)))
        return result.status, {finding.kind for finding in result.findings}

    assert hunt() == ("unexpected", {"data-race"})
    assert hunt(expect="data-race") == ("found", {"data-race"})
    assert hunt(tolerate=["data-race"]) == ("exhausted", set())


@scenario()
def now_and_then(k: Kernel) -> None:
    """Races in some classes of executions, of three kinds."""
    flag, m = Atomic(k, 0, "flag"), Mutex(k, "m")
    fields = [Field(k, name) for name in ("one", "other", "third")]

    async def first() -> None:
        await m.lock()
        fields[0].write()
        await m.unlock()
        await flag.fetchadd(1)
        await m.lock()
        fields[2].write()
        await m.unlock()

    async def second() -> None:
        if await m.trylock():
            fields[0].write()
            await m.unlock()
        elif await flag.load():
            fields[0].read()
        else:
            fields[1].write()

    async def third() -> None:
        await k.yield_()
        if await flag.load():
            fields[1].read()
            fields[2].read()

    for body in (first, second, third):
        k.spawn(body)


@pytest.mark.parametrize("cuts", [(120,), (7, 20, 21, 120), tuple(range(10, 121, 10))])
def test_what_is_found_does_not_depend_on_where_the_hunt_is_cut(cuts: tuple[int, ...]) -> None:
    what = Subject(now_and_then, {})
    settings = Settings(executions=120, strategy="random", keep_going=True)

    async def main() -> list[Failure]:
        found: dict[str, Failure] = {}
        begin = 0
        for end in cuts:
            # Each in a process of its own, that has seen nothing before.
            async with open_runner(what, settings) as runner:
                batch = await runner.run(begin, end, 60.0)
                assert batch.stop == end
                for failure in batch.failures:
                    found.setdefault(failure.fingerprint, failure)
                begin = end
        return list(found.values())

    failures: list[Failure] = in_trio(main)
    assert {failure.kind for failure in failures} == {"data-race"}
    assert [failure.number for failure in failures] == FIRST, cuts


#: The executions that show a race not shown before.
FIRST = [3, 20]
