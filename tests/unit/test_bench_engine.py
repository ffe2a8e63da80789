"""What the engine's speed is measured with: the programs are what they are said to be, and a peer has to be there."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from stressvm import UsageError
from stressvm.bench.engine import render
from stressvm.bench.engine_programs import PEER, check_peer, programs
from stressvm.explore.hunt import hunt_subject
from stressvm.explore.settings import Settings
from tests.support import in_trio

if TYPE_CHECKING:
    from stressvm.explore.result import Result


@pytest.mark.parametrize(("program", "steps", "classes"), [("p5", 18, 1680), ("p5c", 36, 1680)])
def test_sections_have_as_many_classes_as_orders(program: str, steps: int, classes: int) -> None:
    what = programs(("none",))[program]
    result: Result = in_trio(lambda: hunt_subject(what, Settings(executions=2_000, strategy="dpor", checks=("none",))))
    assert (result.status, result.executions, result.seen.distinct) == ("exhausted", classes, classes)
    assert result.steps == steps * classes


@pytest.mark.parametrize("program", ["p5", "p5c", "p3"])
def test_the_programs_are_clean(program: str) -> None:
    what = programs(("default",))[program]
    result: Result = in_trio(lambda: hunt_subject(what, Settings(executions=100, strategy="random")))
    assert result.status == "clean"
    assert result.seen.distinct > 50


def test_a_peer_that_is_not_there_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="the one that is known is detangle"):
        check_peer("loom")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == PEER else find(name))
    with pytest.raises(UsageError, match=r"not installed; `pip install detangle==0\.1\.0`"):
        check_peer(PEER)


def test_the_table_has_a_line_for_every_row() -> None:
    row = {
        "program": "p5",
        "driver": "stepped",
        "checks": "races",
        "executions_per_s": 26000,
        "time_to_end_checks": 1.6,
        "to_floor": 0.3,
        "to_peer": 8.0,
        "to_peer_p5": None,
    }
    text = render(
        {
            "python": "3.11",
            "trio": "0.35",
            "rounds": 3,
            "peer": "detangle 0.1.0",
            "operations_per_execution": {"p5": 18.0},
            "others_per_s": {"p5 peer": 3300},
            "rows": [row],
        }
    )
    last = text.splitlines()[-1]
    assert last.split() == ["p5", "stepped", "classes", "and", "races", "26,000", "1.60x", "0.30x", "8.00x"]
