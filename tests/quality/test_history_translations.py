"""Historical bugs of gaps, translations and pages that are used too long, planted back: found, and clean without the defect?

Where there is room for a mapping, what processors remember of page tables, and use after free.
"""

from __future__ import annotations

from typing import Final

import pytest

from stressvm.explore.pct import PCT
from stressvm.explore.random_walk import RandomWalk
from tests import history

#: The families that this file is about; two bugs of locks are UF as well, and are with the locks.
FAMILIES: Final = ("gp_", "tl_", "uf_02", "uf_03", "uf_04", "uf_05", "uf_07")
DECLARED: Final = history.declared(FAMILIES)
CLEAN: Final = history.clean(FAMILIES)


def test_all_bugs_of_these_families_are_there() -> None:
    numbers = {history.number_of(name) for name in DECLARED}
    gaps = {f"GP-{number:02}" for number in (2, 3, 4, 5, 6, 8)}
    translations = {f"TL-{number:02}" for number in (2, 4, 5, 6, 7, 10, 11, 12)}
    freed = {f"UF-{number:02}" for number in (2, 3, 4, 5, 7)}
    assert numbers == gaps | translations | freed
    assert len(DECLARED) == len(CLEAN) == len(numbers)


@pytest.mark.parametrize("name", DECLARED)
def test_a_bug_is_found_by_the_random_walk(name: str) -> None:
    history.must_find(name, RandomWalk(1), 3_000)


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
