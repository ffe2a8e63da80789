"""A search that falls into pieces does what it would do in one: every class of executions once, each with the same outcome."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest

from stressvm import Kernel, Mutex, Timers
from stressvm.explore.dpor import DPOR
from stressvm.explore.split import Piece, SplitDPOR
from tests.model.test_dpor_equals_dfs import MIXES, building
from tests.partial_orders import explored

if TYPE_CHECKING:
    from collections.abc import Callable

#: Programs with more executions are left out.
EXECUTIONS: Final = 400


@pytest.mark.parametrize("mix", MIXES)
def test_random_programs(mix: str) -> None:
    draw = random.Random(f"split {mix}")
    split_up = 0
    while split_up < 12:
        threads = draw.choice((2, 3, 3))
        program = tuple(
            tuple((draw.choice(MIXES[mix]), draw.randrange(8)) for _ in range(draw.choice((1, 1, 2))))
            for _ in range(threads)
        )
        build = building(program)
        timers = draw.choice(list(Timers))
        dpor = DPOR()
        whole = explored(build, dpor, timers=timers, limit=EXECUTIONS)
        if not whole.exhausted:
            continue
        search = SplitDPOR(draw.choice((1, 2, 3, 7, 20)))
        split = explored(build, search, timers=timers, limit=2 * EXECUTIONS)
        assert split.exhausted
        assert split.outcomes == whole.outcomes, (mix, timers, program)
        assert set(split.classes) == set(whole.classes)
        # Where steps vary, each piece learns by itself what they access.
        assert split.executions <= whole.executions or dpor.accesses.vary
        split_up += search.pieces > 1


def sections(threads: int, number: int) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        lock = Mutex(k, "lock")

        async def member() -> None:
            for _ in range(number):
                await lock.lock()
                await lock.unlock()

        for _ in range(threads):
            k.spawn(member)

    return build


@pytest.mark.parametrize("size", [1, 10, 100, 1000])
def test_three_threads_of_three_sections(size: int) -> None:
    found = explored(sections(3, 3), SplitDPOR(size), repeat=False)
    assert (found.exhausted, found.executions, len(found.classes)) == (True, 1680, 1680)


def test_pieces_one_by_one_are_the_whole() -> None:
    """What workers do: each piece by a search of its own that knows nothing of the others."""
    build = sections(3, 3)
    whole = explored(build, SplitDPOR(50), repeat=False)
    left = [None]
    classes: list[object] = []
    while left:
        piece = Piece(left.pop(), 50)
        found = explored(build, piece, repeat=False)
        assert piece.exhausted
        assert found.executions <= 50 or not piece.children
        classes += found.classes.elements()
        left += reversed(piece.children)  # type: ignore[arg-type]  # the first is the whole tree
    assert classes == list(whole.classes.elements()), "in the same order"


def test_independent_threads_are_left_in_one_piece() -> None:
    """What begins with one of them is equivalent to what begins with the other."""

    def build(k: Kernel) -> None:
        for name in "ab":
            lock = Mutex(k, name)

            async def member(lock: Mutex = lock) -> None:
                for _ in range(2):
                    await lock.lock()
                    await lock.unlock()

            k.spawn(member)
            k.spawn(member)

    piece = Piece(None, 4)
    found = explored(build, piece, repeat=False)
    assert (found.exhausted, found.executions, piece.children) == (True, 36, [])
