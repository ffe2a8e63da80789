"""Historical bugs of entries and what stands behind them, planted back: is each found, and is each clean without its defect?

Stale entries, entries in transition, and what is never given back.
"""

from __future__ import annotations

from typing import Final

import pytest

from stressvm.explore.pct import PCT
from stressvm.explore.random_walk import RandomWalk
from tests import history

#: The families that this file is about.
FAMILIES: Final = ("se_", "it_", "lk_")
DECLARED: Final = history.declared(FAMILIES)
CLEAN: Final = history.clean(FAMILIES)


def test_all_bugs_of_these_families_are_there() -> None:
    numbers = {history.number_of(name) for name in DECLARED}
    stale = {f"SE-{number:02}" for number in (2, 3, 4, 5, 7, 8)}
    moving = {f"IT-{number:02}" for number in (1, 2, 3, 6, 7)}
    assert numbers == stale | moving | {"LK-01", "LK-02", "LK-03"}
    assert len(DECLARED) == len(CLEAN) == len(numbers)


@pytest.mark.parametrize("name", DECLARED)
def test_a_bug_is_found_by_the_random_walk(name: str) -> None:
    history.must_find(name, RandomWalk(1), 1_000)


@pytest.mark.parametrize("name", DECLARED)
def test_pct_finds_it(name: str) -> None:
    history.must_find(name, PCT(1, 3), 1_000)


@pytest.mark.parametrize("name", CLEAN)
def test_without_the_defect_it_is_clean(name: str) -> None:
    history.must_stay_clean(name, RandomWalk(1), 300)
    history.must_stay_clean(name, PCT(1, 3), 300)


@pytest.mark.parametrize("name", [*DECLARED, *CLEAN])
def test_a_scenario_has_its_source_and_its_twin(name: str) -> None:
    history.must_have_source_and_twin(name)
