"""Historical bugs of locks, wakeups and waiting, planted back: is each found, and is each clean without its defect?"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import pytest

from stressvm.explore.pct import PCT
from stressvm.explore.random_walk import RandomWalk
from tests import history

#: The families that this file is about.
FAMILIES: Final = ("lw_", "ws_", "dl_", "st_", "uf_08", "uf_10")
DECLARED: Final = history.declared(FAMILIES)
CLEAN: Final = history.clean(FAMILIES)

#: The random walk needs more for these: many steps of one thread have to fall between two of another.
BOUNDS: Final = defaultdict(lambda: 1_000, lw_04_release_in_two_steps=10_000, uf_08_wakes_too_early=3_000)
#: So many orderings between threads, or so long a stretch without any other thread, that PCT with two change points is the
#: wrong tool.
NOT_FOR_PCT: Final = {"lw_04_release_in_two_steps", "st_04_handoff_left_behind"}


def test_all_bugs_of_these_families_are_there() -> None:
    assert len(DECLARED) == len(CLEAN) == 29


@pytest.mark.parametrize("name", DECLARED)
def test_a_bug_is_found_by_the_random_walk_for_every_seed(name: str) -> None:
    for seed in (1, 2, 3):
        history.must_find(name, RandomWalk(seed), BOUNDS[name])


@pytest.mark.parametrize("name", [name for name in DECLARED if name not in NOT_FOR_PCT])
def test_pct_finds_it_for_every_seed(name: str) -> None:
    for seed in (1, 2, 3):
        history.must_find(name, PCT(seed, 3), 1_000)


@pytest.mark.parametrize("name", CLEAN)
def test_without_the_defect_it_is_clean(name: str) -> None:
    history.must_stay_clean(name, RandomWalk(1), 300)
    history.must_stay_clean(name, PCT(1, 3), 300)


@pytest.mark.parametrize("name", [*DECLARED, *CLEAN])
def test_a_scenario_has_its_source_and_its_twin(name: str) -> None:
    history.must_have_source_and_twin(name)


def test_the_document_lists_every_bug_with_its_scenario_its_finding_and_its_twin() -> None:
    table = history.rows()
    for name, scenario in history.HISTORY.items():
        row = table[history.number_of(name)]
        assert any(f"`{name}`" in cell for cell in row), name
        if scenario.expect is not None:
            assert scenario.expect in row, f"{name}: the table does not say that it is a {scenario.expect}"
    assert set(table) == {history.number_of(name) for name in history.HISTORY}
