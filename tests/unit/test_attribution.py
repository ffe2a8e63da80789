"""A sleeper that nobody woke: which wakeup it missed, since when what it waits for is there, and who owed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Cell, CondVar, Kernel, Mutex, SleepQueue
from stressvm.check.chain import chain, links
from stressvm.report.explain import explain
from stressvm.report.facts import post_mortem_facts
from tests.support import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.check.attribution import Attribution
    from stressvm.explore.execution import Recording


def _only(build: Callable[[Kernel], None], *choices: int) -> tuple[Attribution, Recording]:
    recording = run(build, choices)
    assert recording.post_mortem is not None
    assert recording.verdict is not None, "the execution ends well"
    (one,) = recording.post_mortem.attributions
    assert one.text in explain(recording, ())
    (facts,) = post_mortem_facts(recording)["missed_wakeups"]
    assert facts["text"] == one.text
    return one, recording


def _named(recording: Recording, thread: int | None) -> str | None:
    return None if thread is None else recording.names()[thread]


def test_whoever_made_it_true_while_the_thread_slept_and_woke_nobody_owes_it() -> None:
    def build(k: Kernel) -> None:
        mutex, cv, ready = Mutex(k, "m"), CondVar(k, "cv"), Cell(k, 0, "ready")

        async def waits() -> None:
            await mutex.lock()
            while not ready.peek():
                await cv.wait(mutex, until=lambda: bool(ready.peek()))
            await mutex.unlock()

        async def early() -> None:
            await cv.signal()

        async def gives() -> None:
            await mutex.lock()
            ready.poke(1)
            await mutex.unlock()

        k.spawn(early, name="early")
        k.spawn(waits, name="waits")
        k.spawn(gives, name="gives")

    one, recording = _only(build)
    assert recording.verdict is not None
    assert recording.verdict.kind == "lost-wakeup"
    assert one.channel == "cv"
    assert one.made is not None
    made = recording.records[one.made.step]
    # It is plain code between the lock and the unlock: it belongs to the lock's step, of its own thread.
    assert (made.kind, made.obj, _named(recording, one.made.thread)) == ("lock", "m", "gives")
    assert _named(recording, one.owed_by) == "gives"
    assert one.missed is None
    assert one.last is not None
    assert (_named(recording, one.last.thread), one.last.woken) == ("early", ())
    assert "gives should have woken it, and woke nobody" in one.text


def test_a_change_is_its_makers_even_if_another_thread_acts_before_it_is_seen() -> None:
    def build(k: Kernel) -> None:
        mutex, cv = Mutex(k, "m"), CondVar(k, "cv")
        ready: list[int] = []

        async def waits() -> None:
            await mutex.lock()
            await cv.wait(mutex, until=lambda: bool(ready))
            await mutex.unlock()

        async def gives() -> None:
            await k.yield_()
            ready.append(1)
            await k.yield_()

        async def other() -> None:
            await k.yield_()

        k.spawn(waits, name="waits")
        k.spawn(gives, name="gives")
        k.spawn(other, name="other")

    # waits*2, gives' first yield, then `other`, before `gives` does another step.
    for choices in ((), (0, 0, 0, 1), (0, 0, 1), (0, 0, 0, 0, 1)):
        one, recording = _only(build, *choices)
        assert one.made is not None
        assert _named(recording, one.made.thread) == "gives"
        assert recording.records[one.made.step].thread == one.made.thread


def test_a_wakeup_that_came_before_the_thread_was_queued_is_the_one_it_missed() -> None:
    def build(k: Kernel) -> None:
        queue, ready = SleepQueue(k, "chan"), Cell(k, 0, "ready")
        mutex = Mutex(k, "m")

        async def waits() -> None:
            if not await ready.load():
                await mutex.lock()
                await queue.sleep(mutex, "ready", until=lambda: bool(ready.peek()))
                await mutex.unlock()

        async def gives() -> None:
            await ready.store(1)
            await queue.wakeup()

        k.spawn(waits, name="waits")
        k.spawn(gives, name="gives")

    # `waits` looks; `gives` does all of its work; `waits` sleeps.
    one, recording = _only(build, 0, 1)
    assert one.made is not None
    assert one.missed is not None
    assert one.made.step < one.missed.step < one.slept
    assert recording.records[one.made.step].kind == "store"
    assert recording.records[one.missed.step].kind == "wakeup"
    assert _named(recording, one.owed_by) == "gives"
    assert "came before it was in the queue, and found nobody" in one.text


def test_a_wakeup_that_went_to_another_is_told_with_its_heir() -> None:
    def build(k: Kernel) -> None:
        mutex, cv = Mutex(k, "m"), CondVar(k, "cv")
        units = Cell(k, 0, "units")

        async def takes() -> None:
            await mutex.lock()
            await cv.wait(mutex, until=lambda: units.peek() > 0)
            await mutex.unlock()

        async def gives() -> None:
            await mutex.lock()
            units.poke(1)
            await cv.signal()
            await mutex.unlock()

        k.spawn(takes, name="first")
        k.spawn(takes, name="second")
        k.spawn(gives, name="gives")

    one, recording = _only(build)
    assert _named(recording, one.sleeper) == "second"
    assert one.missed is not None
    assert [_named(recording, t) for t in one.missed.woken] == ["first"]
    assert _named(recording, one.owed_by) == "first"
    assert "first did not pass it on" in one.text


def test_without_a_predicate_the_last_wakeup_is_all_that_can_be_told() -> None:
    def build(k: Kernel) -> None:
        mutex, cv = Mutex(k, "m"), CondVar(k, "cv")

        async def waits() -> None:
            await mutex.lock()
            await cv.wait(mutex)
            await mutex.unlock()

        async def gives() -> None:
            await cv.signal()

        k.spawn(waits, name="waits")
        k.spawn(gives, name="gives")

    # `waits` has the mutex; `gives` signals; `waits` sleeps.
    one, recording = _only(build, 0, 1)
    assert recording.verdict is not None
    assert recording.verdict.kind == "stranded"
    assert one.made is None
    assert one.missed is not None
    assert _named(recording, one.owed_by) == "gives"
    assert "It gave no predicate" in one.text


def test_a_timeout_that_saved_a_sleeper_is_attributed_as_well() -> None:
    def build(k: Kernel) -> None:
        mutex, cv = Mutex(k, "m"), CondVar(k, "cv")
        ready: list[int] = []

        async def waits() -> None:
            await mutex.lock()
            await cv.timedwait(mutex, 10, until=lambda: bool(ready))
            ready.clear()
            await mutex.unlock()

        async def gives() -> None:
            await mutex.lock()
            ready.append(1)
            await mutex.unlock()

        k.spawn(waits, name="waits")
        k.spawn(gives, name="gives")

    one, recording = _only(build)
    assert recording.verdict is not None
    assert recording.verdict.kind == "rescued-sleep"
    assert one.made is not None
    assert _named(recording, one.made.thread) == "gives"
    assert _named(recording, one.owed_by) == "gives"
    assert "nobody ever woke it" in one.text


def test_who_holds_what_and_waits_where_is_told_as_ps_does() -> None:
    def build(k: Kernel) -> None:
        a, b, cv = Mutex(k, "a"), Mutex(k, "b"), CondVar(k, "cv")

        async def sleeps() -> None:
            await a.lock()
            await b.lock()
            await cv.wait(b, wmesg="parked")

        async def wants() -> None:
            await b.lock()
            await a.lock()

        async def ends() -> None:
            pass

        k.spawn(sleeps, name="sleeps", priority=3)
        k.spawn(wants, name="wants")
        k.spawn(ends, name="ends")

    recording = run(build)
    assert recording.post_mortem is not None
    sleeps, wants, ends = recording.post_mortem.processes
    assert (sleeps.state, sleeps.wmesg, sleeps.channel, sleeps.holds, sleeps.priority) == (
        "sleep",
        "parked",
        "cv",
        ("a",),
        3,
    )
    assert (wants.state, wants.channel, wants.holds) == ("lock", "a", ("b",))
    assert (ends.state, ends.holds, ends.since) == ("ended", (), None)
    text = explain(recording, ())
    assert any("sleep" in line and "parked" in line and "sleeps" in line for line in text.splitlines())


def test_the_chain_goes_back_from_thread_to_thread() -> None:
    def build(k: Kernel) -> None:
        x, y = Cell(k, 0, "x"), Cell(k, 0, "y")

        async def first() -> None:
            await x.store(1)

        async def second() -> None:
            await x.load()
            await y.store(1)

        async def third() -> None:
            await y.load()
            raise AssertionError("here")

        for fn in (first, second, third):
            k.spawn(fn, name=fn.__name__)

    recording = run(build)
    assert recording.post_mortem is not None
    told = [
        (recording.records[link.before].kind, recording.records[link.after].kind, recording.records[link.after].obj)
        for link in recording.post_mortem.links
    ]
    assert told == [("store", "load", "x"), ("store", "load", "y")]
    assert recording.post_mortem.failing == 3


def test_reads_do_not_lead_to_reads() -> None:
    found: list[list[int]] = []

    def build(k: Kernel) -> None:
        x = Cell(k, 0, "x")

        async def reads() -> None:
            await x.load()

        async def last() -> None:
            await k.join(k.threads[0])
            await k.join(k.threads[1])
            found.append(links(k.trace))
            assert chain(k.trace, 1) == ()

        k.spawn(reads)
        k.spawn(reads)
        k.spawn(last)

    run(build)
    assert found[0][:2] == [-1, -1]
    assert found[0][2] == 0
