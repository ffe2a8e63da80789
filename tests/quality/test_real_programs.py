"""Workloads of real programs on NetBSD's map: clean however they are interleaved, and not because nobody looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Result, Settings, hunt_subject
from stressvm.explore.loading import load
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from stressvm.vm.netbsd import MapEntry, VmMap

ROOT: Final = Path(__file__).parents[2]
SCENARIOS: Final = {scenario.name: scenario for scenario in load(ROOT / "scenarios" / "real_programs.py")}
PARAMS: Final[dict[str, dict[str, Any]]] = {
    "xz_workload": {"first": 31},
    "numpy_workload": {"first": 280, "count": 50, "threads": ""},
    "imported_workload": {},
}


def _hunt(name: str, settings: Settings, **params: Any) -> Result:
    scenario = SCENARIOS[name]
    return trio.run(hunt_subject, Subject(scenario, scenario.resolve(params)), settings)


@pytest.mark.parametrize("driver", ["stepped", "trio"])
@pytest.mark.parametrize("strategy", ["random", "pct"])
@pytest.mark.parametrize("name", list(PARAMS))
def test_a_window_of_every_workload_is_clean(name: str, strategy: str, driver: str) -> None:
    result = _hunt(name, Settings(executions=200, strategy=strategy, driver=driver), **PARAMS[name])
    assert (result.status, result.executions, result.error) == ("clean", 200, "")


@pytest.mark.parametrize("name", list(PARAMS))
def test_what_a_plain_hunt_runs_is_clean_and_within_its_budget_of_steps(name: str) -> None:
    result = _hunt(name, Settings(executions=20))
    assert (result.status, result.error) == ("clean", "")
    assert result.steps / result.executions < 1_000


def test_all_that_was_recorded_of_numpy_is_clean() -> None:
    result = _hunt("numpy_workload", Settings(executions=2), first=0, count=0, threads="")
    assert (result.status, result.error) == ("clean", "")


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_a_fixed_mapping_loses_its_place_between_unmap_and_map(strategy: str) -> None:
    result = _hunt("fixed_mapping_is_not_atomic", Settings(executions=100, strategy=strategy))
    assert result.status == "found"
    assert result.findings[0].recording.preemptions == 1


def test_a_map_that_unmaps_a_page_too_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = netbsd.VmMap.unlink_range

    async def generous(vm_map: VmMap, start: int, end: int) -> list[MapEntry]:
        return await exact(vm_map, start, end + netbsd.PAGE_SIZE)

    monkeypatch.setattr(netbsd.VmMap, "unlink_range", generous)
    result = _hunt("xz_workload", Settings(executions=20))
    assert [finding.kind for finding in result.findings] == ["assertion"]


def test_a_map_that_forgets_to_unmap_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgetful(_vm_map: VmMap, _start: int, _end: int) -> list[MapEntry]:
        return []

    monkeypatch.setattr(netbsd.VmMap, "unlink_range", forgetful)
    result = _hunt("xz_workload", Settings(executions=20), first=31)
    assert [finding.kind for finding in result.findings] == ["assertion"]


@pytest.mark.parametrize(("params", "fault"), [({"first": 99}, "none of 46"), ({"threads": "t0,tt"}, "no thread tt")])
def test_a_window_without_operations_is_refused(params: dict[str, Any], fault: str) -> None:
    result = _hunt("imported_workload", Settings(executions=1), **params)
    assert result.status == "error"
    assert fault in result.error
