"""The planted defects: every window is there once, each is found as what it is, and what has none is clean.

`bench defects` measures the same with many seeds, and docs/defects.md has its figures.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from stressvm.bench.defects import measure, render
from stressvm.bench.defects.defect import Defect, Label, Plant
from stressvm.bench.defects.measure import PLANTS, Cell, Plan, Shown
from stressvm.bench.defects.table import DEFECTS, FAMILIES
from stressvm.explore.running import run_trio
from stressvm.kernel.errors import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "defects.md"
#: So many executions must do, for one seed.
WITHIN = 5_000
#: As many must be clean where nothing is planted, or nothing that could be noticed.
CLEAN = 60

REAL = [name for name, plant in PLANTS.items() if plant.label is not Label.EQUIVALENT]
TWINS = list({plant.twin_key(): name for name, plant in reversed(PLANTS.items())}.values())


def hunt(name: str, *, twin: bool = False, cap: int = WITHIN) -> Shown:
    plant = PLANTS[name]
    subject = plant.twin_subject(name) if twin else plant.subject(name)
    shown: Shown = run_trio(measure.hunt, subject, plant, 1, cap)
    return shown


# ---------------------------------------------------------------- the table


def test_every_window_is_in_the_table_once() -> None:
    windows = [f"F{number}" for number in range(1, 48)] + [f"N{number}" for number in range(1, 36)]
    assert [defect.id for defect in DEFECTS] == windows
    assert sum(len(defects) for defects in FAMILIES.values()) == len(windows)


def test_names_are_unique_and_every_plant_has_one() -> None:
    names = [name for defect in DEFECTS for name, _ in defect.named()]
    assert len(names) == len(set(names)) == len(PLANTS) == sum(len(defect.plants) for defect in DEFECTS)


@pytest.mark.parametrize("defect", DEFECTS, ids=[defect.id for defect in DEFECTS])
def test_what_is_said_of_a_defect_goes_with_its_label(defect: Defect) -> None:
    assert defect.window
    # A window is open at least one way, and that can be seen.
    assert any(plant.label is not Label.EQUIVALENT for plant in defect.plants) or all(
        plant.note for plant in defect.plants
    )
    for plant in defect.plants:
        assert plant.what
        assert bool(plant.kind) == (plant.label is not Label.EQUIVALENT)
        assert plant.note or plant.label is not Label.EQUIVALENT, "why nobody can notice it has to be argued"
        assert plant.planted
        assert plant.planted != plant.twin


# ---------------------------------------------------------------- what is planted, and what is not


@pytest.mark.parametrize("name", REAL)
def test_what_is_planted_is_found_as_what_it_is(name: str) -> None:
    shown = hunt(name)
    assert shown.kind, f"not found in {shown.executions} executions"
    assert shown.declared, shown.says


@pytest.mark.parametrize("name", [name for name in PLANTS if name not in REAL])
def test_what_is_equivalent_is_noticed_by_nobody(name: str) -> None:
    shown = hunt(name, cap=4 * CLEAN)
    assert not shown.kind, shown.says


@pytest.mark.parametrize("name", TWINS)
def test_without_it_the_world_is_clean(name: str) -> None:
    shown = hunt(name, twin=True, cap=CLEAN)
    assert not shown.kind, shown.says


# ---------------------------------------------------------------- measuring


def shown(executions: int, kind: str = "", *, declared: bool = True, exhausted: bool = False) -> Shown:
    return Shown(
        executions, kind, kind, f"a {kind}" if kind else "", declared=declared and bool(kind), exhausted=exhausted
    )


def test_rows_count_seeds_and_checks_and_say_what_was_missed() -> None:
    what = Plan(("F1", "F2", "F35a", "F35b"), 3, 100)
    done = {
        **{Cell("F1", seed): shown(seed * 10, "invariant" if seed < 3 else "data-race") for seed in (1, 2, 3)},
        Cell("F2", 1): shown(7, "panic"),
        Cell("F2", 2): shown(100),
        Cell("F2", 3): shown(9, "exception", declared=False),
        **{Cell("F35a", seed): shown(1, "invariant") for seed in (1, 2, 3)},
        **{Cell("F35b", seed): shown(100) for seed in (1, 2)},
        Cell("F35b", 3): shown(4, "panic"),
        Cell("F1", 0): shown(60, exhausted=True),
        Cell("F35a", 0): shown(2, "invariant"),
    }
    assert set(what.cells()) == set(done), "F1 and F2 have one twin, F35a and F35b as well"
    table = {row["name"]: row for row in measure.rows(what, done)}
    first = table["F1"]
    assert (first["found"], first["median"], first["most"], first["twin"]) == (3, 20, 30, "exhausted")
    assert first["checks"] == {"invariant": 2, "data-race": 1}
    assert (table["F2"]["found"], table["F2"]["as_declared"], table["F2"]["median"]) == (2, 1, 8)
    assert {name: measure.passed(row) for name, row in table.items()} == {
        "F1": True,
        "F2": False,
        "F35a": True,
        "F35b": False,
    }
    facts = measure.summary(list(table.values()))
    assert facts == {
        "windows": 3,
        "defects_found": 2,
        "defects_missed": 1,
        "equivalent": 1,
        "equivalent_found": 1,
        "twins_unexpected": 1,
    }
    text = render.render(list(table.values()), 100)
    assert re.search(r"^F2 +mutant +2/3 .* !$", text, re.MULTILINE)
    assert "2 defects found by every seed, 1 not; 1 equivalent, 1 of them noticed; 1 worlds not clean" in text


@pytest.mark.parametrize(
    ("kind", "says", "check"),
    [
        ("invariant", "kmap: G13 busy: writes has the write lock", "invariant G13 busy"),
        ("invariant", "map: G1-G4 structure: the gap after", "invariant G1-G4 structure"),
        ("invariant", "vm_map_lookup: <VmMapEntry> is not what map has", "invariant"),
        ("deadlock", "G13 busy: a thread of that name waits", "deadlock"),
    ],
)
def test_an_invariant_is_told_by_its_name(kind: str, says: str, check: str) -> None:
    assert measure.check_of(kind, says) == check


def test_what_is_found_as_something_else_is_not_as_declared() -> None:
    plant = PLANTS["F1"]
    assert measure.is_declared(plant, "invariant", "<VmMapEntry> is not what map has at 0x0")
    assert not measure.is_declared(plant, "invariant", "G6 rights: something else")
    assert not measure.is_declared(plant, "exception", "is not what map has at 0x0")
    assert measure.is_declared(plant, "data-race", "a detector sees it before anything comes of it")
    assert not measure.is_declared(PLANTS["F35b"], "data-race", "nobody can notice it")


def test_a_plan_has_what_is_asked_for() -> None:
    assert measure.plan([], 1, 1).names == list(PLANTS)
    assert measure.plan(["F28", "F1"], 1, 1).names == ["F28a", "F28b", "F28c", "F1"]
    assert measure.plan(["F28b", "F28"], 1, 1).names == ["F28b", "F28a", "F28c"]
    with pytest.raises(UsageError, match="no defect 'F48'; there are: F1, F2"):
        measure.plan(["F48"], 1, 1)


# ---------------------------------------------------------------- the page


def lines_of(page: str) -> dict[str, list[str]]:
    """The lines of its tables by the names of defects."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    return {line[0]: line for line in cells if line[0] in PLANTS}


def test_the_page_has_every_planted_defect_as_it_is_in_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    lines = lines_of(page)
    assert list(lines) == list(PLANTS)
    for defect in DEFECTS:
        for number, (name, plant) in enumerate(defect.named()):
            _, window, what, label, found, by, *_, twin = lines[name]
            assert (window, what, label) == ("" if number else defect.window, plant.what, plant.label.value)
            seeds = found.partition("/")[2]
            assert found == f"{0 if plant.label is Label.EQUIVALENT else seeds}/{seeds}", (
                f"{name} is not found by all seeds"
            )
            assert (by == "-") == (plant.label is Label.EQUIVALENT)
            assert re.fullmatch(r"(clean|exhausted), [\d,]+", twin), f"{name}: {twin}"
            assert plant.note in page


def test_the_page_is_made_by_the_command() -> None:
    """Its words; the figures are those of a run with all seeds."""
    page = PAGE.read_text(encoding="utf-8")
    table: list[dict[str, Any]] = [
        {
            "name": name,
            "id": defect.id,
            "system": defect.system,
            "window": defect.window,
            "what": plant.what,
            "label": plant.label.value,
            "found": 0,
            "seeds": 1,
            "checks": {},
            "median": None,
            "most": None,
            "twin_of": name,
            "twin": "clean",
            "twin_executions": 1,
            "note": plant.note,
        }
        for defect in DEFECTS
        for name, plant in defect.named()
    ]
    made = [
        line for line in render.page(table, measure.CAP).splitlines() if not re.match(r"\| [FN]\d|\d+ windows", line)
    ]
    assert [line for line in page.splitlines() if not re.match(r"\| [FN]\d|\d+ windows", line)] == made


def test_a_plants_settings_are_made_anew_where_they_must_be() -> None:
    """Two executions of one world share nothing."""
    plant: Plant = PLANTS["F41a"]
    one, other = (run_trio(measure.hunt, plant.subject("again"), plant, 1, WITHIN) for _ in range(2))
    assert one == other
