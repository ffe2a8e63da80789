"""Predicting deadlocks and bringing them about says what exhaustive exploration says, on random lock-nesting programs.

The oracle is a search of all states of a program, which shares nothing with the kernel; that it agrees with the kernel's
own executions, all of them, is shown where there are few enough.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import pytest

from stressvm import Kernel, Mutex, Rw, RwLock
from stressvm.check.predict import Predictor
from stressvm.explore.dfs import DFS
from stressvm.explore.execution import execute
from stressvm.explore.steer import confirm, plan_of
from stressvm.explore.tape import Lenient
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.explore.execution import Subject

    Build = Callable[[Kernel], None]

PROGRAMS = 20


class Do(NamedTuple):
    """One operation of a thread: on which lock, whether it takes it, and whether it shares it."""

    lock: int
    takes: bool
    shared: bool = False


Program = tuple[tuple[Do, ...], ...]

#: Who waits for what, of all threads of one cycle.
Cycle = frozenset[tuple[int, int]]


def sections(rng: Random, free: list[int], depth: int, *, readers: bool) -> list[Do]:
    """A critical section, with others in it."""
    lock = rng.choice(free)
    left = [other for other in free if other != lock]
    shared = readers and rng.random() < 0.5
    inside: list[Do] = []
    if depth > 1 and left and rng.random() < 0.85:
        inside = sections(rng, left, depth - 1, readers=readers)
    # Locks are not always given back in the opposite order.
    first, last = Do(lock, takes=True, shared=shared), Do(lock, takes=False, shared=shared)
    return [first, last, *inside] if inside and rng.random() < 0.1 else [first, *inside, last]


def program(rng: Random, *, guards: bool = False, readers: bool = False) -> Program:
    """Threads that nest locks; with guards, some of their sections are inside of a lock that others have around theirs."""
    threads = rng.choice((2, 2, 3))
    locks = list(range(rng.choice((2, 3))))
    guard = len(locks)
    made = []
    for _ in range(threads):
        steps: list[Do] = []
        for _ in range(2 if threads == 2 else 1):
            inside = sections(rng, locks, 3, readers=readers)
            if guards and rng.random() < 0.6:
                inside = [Do(guard, takes=True), *inside, Do(guard, takes=False)]
            steps += inside
        made.append(tuple(steps))
    return tuple(made)


def build_of(program: Program, *, readers: bool) -> Build:
    """The program on kernel locks."""
    count = 1 + max(do.lock for steps in program for do in steps)

    def build(k: Kernel) -> None:
        locks = [RwLock(k, f"l{n}") if readers else Mutex(k, f"l{n}") for n in range(count)]

        async def thread(steps: tuple[Do, ...]) -> None:
            for do in steps:
                lock = locks[do.lock]
                if isinstance(lock, Mutex):
                    await (lock.lock() if do.takes else lock.unlock())
                elif do.takes:
                    await lock.enter(Rw.READER if do.shared else Rw.WRITER)
                else:
                    await lock.exit()

        for steps in program:
            k.spawn(thread, steps)

    return build


# ---------------------------------------------------------------- the oracle


def held(steps: tuple[Do, ...], at: int) -> dict[int, bool]:
    """What a thread holds before its step number `at`."""
    found: dict[int, bool] = {}
    for do in steps[:at]:
        if do.takes:
            found[do.lock] = do.shared
        else:
            del found[do.lock]
    return found


def in_the_way(program: Program, state: tuple[int, ...], t: int) -> list[int]:
    """The threads that keep a thread from its next step."""
    do = program[t][state[t]]
    if not do.takes:
        return []
    holds = [(other, held(steps, state[other])) for other, steps in enumerate(program) if other != t]
    return [other for other, locks in holds if do.lock in locks and not (locks[do.lock] and do.shared)]


def deadlocks(program: Program) -> tuple[bool, set[Cycle]]:
    """Is there a state that nothing leads out of? And all cycles in which each thread waits for the next."""
    todo = [(0,) * len(program)]
    known = set(todo)
    cycles: set[Cycle] = set()
    stuck = False
    while todo:
        state = todo.pop()
        waiting: dict[int, list[int]] = {}
        left = [t for t, steps in enumerate(program) if state[t] < len(steps)]
        for t in left:
            waiting[t] = in_the_way(program, state, t)
            if not waiting[t]:
                after = (*state[:t], state[t] + 1, *state[t + 1 :])
                if after not in known:
                    known.add(after)
                    todo.append(after)
        stuck = stuck or (bool(left) and all(waiting[t] for t in left))
        for t in left:
            for path in simple_cycles(waiting, t):
                cycles.add(frozenset((one, program[one][state[one]].lock) for one in path))
    return stuck, cycles


def simple_cycles(waiting: dict[int, list[int]], start: int) -> list[list[int]]:
    found, paths = [], [[start]]
    while paths:
        path = paths.pop()
        for other in waiting.get(path[-1], []):
            if other == start:
                found.append(path)
            elif other not in path:
                paths.append([*path, other])
    return found


# ---------------------------------------------------------------- prediction and confirmation


def confirmed(program: Program, *, readers: bool) -> tuple[set[Cycle], int]:
    """The cycles that one passing execution predicts and that were brought about; how many were not."""
    what = subject(build_of(program, readers=readers))

    async def main() -> tuple[set[Cycle], int]:
        found: set[Cycle] = set()
        refuted = 0
        async with opened(what.kernel(), "stepped") as driver:
            k = driver.k
            assert await execute(what, driver, Lenient(())) is None, "one thread after the other cannot deadlock"
            predictions = Predictor().observe(k.trace, k.threads)
            plans = [plan_of(prediction, k) for prediction in predictions]
            driver.unwind()
            for prediction, plan in zip(predictions, plans, strict=True):
                cycle = frozenset((link.thread, int(link.wanted.lock.name[1:])) for link in prediction.links)
                result = await confirm(what, driver, prediction, plan, attempts=60)
                if result.recording is None:
                    assert not plan.steps, "locks are all they share: a witness is a proof"
                    refuted += 1
                    continue
                assert result.recording.verdict is not None
                assert result.recording.verdict.kind == "deadlock"
                if plan.steps:
                    assert result.attempts == 1
                found.add(cycle)
        return found, refuted

    result: tuple[set[Cycle], int] = in_trio(main)
    return result


KINDS = pytest.mark.parametrize(
    ("guards", "readers"), [(False, False), (True, False), (False, True)], ids=["plain", "guards", "readers"]
)


@KINDS
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_confirmed_is_what_can_happen(*, seed: int, guards: bool, readers: bool) -> None:
    rng = Random(f"{seed} {guards} {readers}")
    seen = []
    for number in range(PROGRAMS):
        made = program(rng, guards=guards, readers=readers)
        stuck, cycles = deadlocks(made)
        found, refuted = confirmed(made, readers=readers)
        assert found == cycles, (number, made)
        assert stuck == bool(cycles)
        seen.append((stuck, bool(refuted)))
    # The programs show something: some deadlock and some do not.
    assert {stuck for stuck, _ in seen} == {True, False}


def test_a_guard_is_what_keeps_it_from_happening() -> None:
    inner = ((0, 1), (1, 0))
    bare = tuple((Do(a, True), Do(b, True), Do(b, False), Do(a, False)) for a, b in inner)
    guarded = tuple((Do(2, True), *steps, Do(2, False)) for steps in bare)
    assert confirmed(bare, readers=False) == ({frozenset({(0, 1), (1, 0)})}, 0)
    assert confirmed(guarded, readers=False) == (set(), 0)
    half = (bare[0], guarded[1])
    assert confirmed(half, readers=False) == ({frozenset({(0, 1), (1, 0)})}, 0)


@KINDS
def test_the_oracle_agrees_with_all_executions(*, guards: bool, readers: bool) -> None:
    rng = Random(f"small {guards} {readers}")
    done = 0
    kinds = set()
    while done < 6:
        made = program(rng, guards=guards, readers=readers)
        if len(made) > 2 or sum(map(len, made)) > 14:
            continue
        done += 1
        stuck, _ = deadlocks(made)
        assert stuck == in_trio(partial(any_deadlock, subject(build_of(made, readers=readers))))
        kinds.add(stuck)
    assert kinds == {True, False}


async def any_deadlock(what: Subject) -> bool:
    search = DFS()
    found = False
    number = 0
    async with opened(what.kernel(), "stepped") as driver:
        while not search.exhausted:
            verdict = await execute(what, driver, search, number)
            assert verdict is None or verdict.kind == "deadlock"
            found = found or verdict is not None
            driver.unwind()
            number += 1
            assert number < 20_000
    return found
