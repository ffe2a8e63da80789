"""The page on detectors does what it says; what they cost can be measured."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stressvm.check.detectors import DETECTORS
from stressvm.check.locks import Ways
from tests.e2e.command import ROOT, stressvm

if TYPE_CHECKING:
    from pathlib import Path


def test_the_examples_on_the_page_run(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    whole = [block for block in blocks if "import" in block]
    assert len(whole) == 4
    (tmp_path / "page.py").write_text(
        "\n\n".join(block.replace(": ...", ":\n    k.spawn(k.yield_)") for block in whole)
    )
    done = stressvm(tmp_path, "hunt", "page.py", "--format", "json", "--executions", "200", status=1)
    found = {one["name"]: [finding["kind"] for finding in one["findings"]] for one in done.summary["scenarios"]}
    assert found == {"protects": [], "allocators": [], "two_step_get": ["not-linearizable"]}


def test_the_page_and_the_help_name_what_there_is(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| (yes|no) \|$", page, re.MULTILINE))
    assert rows == {name: "yes" if entry.make(Ways()).per_class else "no" for name, entry in DETECTORS.items()}
    said = stressvm(tmp_path, "hunt", "--help").out.replace("\n", " ")
    assert all(name in re.sub(r"- +", "-", re.sub(r" +", " ", said)) for name in DETECTORS)


def test_what_checks_cost_can_be_measured(tmp_path: Path) -> None:
    (facts,) = stressvm(tmp_path, "bench", "checks", "--quick", "--format", "json").lines()
    assert (facts["type"], facts["what"]) == ("bench", "checks")
    assert len({(row["program"], str(row["params"])) for row in facts["rows"]}) >= 6
    assert all(0 < row["default"] <= row["default_max"] and 0 < row["all"] <= row["all_max"] for row in facts["rows"])
