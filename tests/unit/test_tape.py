"""Tapes: repeating picks, replaying to the letter, reading anything leniently."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stressvm import Kernel, Mutex, ReplayDiverged
from stressvm.explore.execution import Recording, record
from stressvm.explore.schedule import Schedule
from stressvm.explore.tape import Follow, Strict, Tape
from tests.support import explore, in_trio, opened, run, subject

if TYPE_CHECKING:
    from collections.abc import Callable


def _world(k: Kernel) -> None:
    m = Mutex(k, "m")

    async def thread(me: int) -> None:
        await m.lock()
        k.record(did=k.choose(3))
        await m.unlock()
        if me:
            await k.yield_()

    for me in range(3):
        k.spawn(thread, me)


def _fewer(k: Kernel) -> None:
    k.spawn(k.yield_)
    k.spawn(k.yield_)


def _more(k: Kernel) -> None:
    for _ in range(3):
        k.spawn(k.yield_)


def _record(build: Callable[[Kernel], None], tape: Tape) -> Recording:
    what = subject(build)

    async def main() -> Recording:
        async with opened(what.kernel(), "stepped") as driver:
            return await record(what, driver, tape)

    recording: Recording = in_trio(main)
    return recording


def _schedule(recording: Recording) -> Schedule:
    return Schedule("s", recording.choices, recording.arities)


def test_the_empty_tape_is_the_execution_without_preemptions() -> None:
    recording = run(_world)
    assert set(recording.choices) == {0}
    assert recording.preemptions == 0
    assert [step.thread for step in recording.records if step.kind == "lock"] == [0, 1, 2]


@given(st.lists(st.integers(0, 255), max_size=60))
def test_any_numbers_make_an_execution_and_its_schedule_repeats_it(numbers: list[int]) -> None:
    first = run(_world, numbers)
    assert all(0 <= choice < arity >= 2 for choice, arity in zip(first.choices, first.arities, strict=True))
    again = _record(_world, Strict(_schedule(first)))
    assert (again.records, again.choices, again.digests) == (first.records, first.choices, first.digests)
    lenient = run(_world, first.choices)
    assert lenient.records == first.records


def test_following_the_picks_of_a_hot_run_gives_the_same_trace_and_its_schedule() -> None:
    for ending in explore(_world, 30):
        followed = _record(_world, Follow(ending.picks))
        assert [(s.thread, s.kind, s.obj, repr(s.arg)) for s in followed.records] == list(ending.steps)
        assert run(_world, followed.choices).records == followed.records


def test_choices_name_the_current_thread_first_and_then_the_others_by_number() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            await k.yield_()
            await k.yield_()

        for _ in range(3):
            k.spawn(thread)

    def order(*choices: int) -> list[int]:
        return [step.thread for step in run(build, choices).records]

    assert order() == [0, 0, 1, 1, 2, 2]
    # At the start nobody has the baton.
    assert order(2) == [2, 2, 0, 0, 1, 1]
    # Thread 1 has it: 0 is thread 1 itself, 1 is thread 0, 2 is thread 2.
    assert order(1, 1) == [1, 0, 0, 1, 2, 2]
    assert order(1, 2) == [1, 2, 2, 0, 0, 1]


def test_a_preemption_is_a_baton_taken_from_a_thread_that_could_have_gone_on() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            await k.yield_()
            await k.yield_()

        k.spawn(thread)
        k.spawn(thread)

    assert run(build, [1]).preemptions == 0
    preempted = run(build, [0, 1])
    assert preempted.preemptions == 1
    assert [step.preempted for step in preempted.records] == [False, True, False, False]


@pytest.mark.parametrize(
    ("choices", "arities", "message"),
    [
        ((0,), (3,), "step 0, decision 0: expected 3 alternatives, found threads"),
        ((), (), "step 0: expected the execution to be over after 0 decisions"),
    ],
)
def test_a_strict_replay_that_does_not_fit_says_where_and_what(
    choices: tuple[int, ...], arities: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ReplayDiverged, match=message):
        _record(_fewer, Strict(Schedule("s", choices, arities)))


def test_a_strict_replay_checks_data_choices_too() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            k.choose(4)

        k.spawn(thread)

    with pytest.raises(ReplayDiverged, match="expected 3 alternatives, found a data choice of 4"):
        _record(build, Strict(Schedule("s", (2,), (3,))))


@pytest.mark.parametrize("picks", [(), (2,), (0, 0, 0, 0, 0)])
def test_following_picks_of_another_world_says_that_it_is_not_deterministic(picks: tuple[int, ...]) -> None:
    with pytest.raises(ReplayDiverged, match="not deterministic: repeating an execution, at step"):
        _record(_more, Follow(picks))


def test_following_a_data_pick_that_is_too_large_says_so() -> None:
    def build(k: Kernel) -> None:
        async def thread() -> None:
            k.choose(2)

        k.spawn(thread)

    with pytest.raises(ReplayDiverged, match="5 was chosen before and there are 2 alternatives now"):
        _record(build, Follow((5,)))
