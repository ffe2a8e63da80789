"""What the project's files promise each other: lower bounds, changelog, README commands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import stressvm

ROOT = Path(__file__).resolve().parents[2]


def test_the_lowest_environment_installs_exactly_the_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {word.replace(">=", "==") for word in project["dependencies"]}
    installed = re.search(r"pip install --quiet (.*)", (ROOT / "tox.ini").read_text(encoding="utf-8"))
    assert installed is not None
    assert set(installed[1].split()) == bounds


def test_the_changelog_has_the_version() -> None:
    assert f"## {stressvm.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_readmes_scenario_is_at_most_25_lines() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    code = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(code) <= 25
