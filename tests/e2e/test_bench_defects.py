"""`stressvm bench defects`: what it measures, what it goes on with, what it says, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.e2e.command import stressvm

if TYPE_CHECKING:
    from pathlib import Path

WHAT = ("bench", "defects", "--id", "F28", "--id", "F20b", "--seeds", "2", "--cap", "100")


def facts_of(folder: Path, *words: str, status: int = 0) -> dict[str, Any]:
    (facts,) = stressvm(folder, *words, "--format", "json", status=status).lines()
    return facts


def test_every_cell_is_measured_once_and_a_cut_off_line_again(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, *WHAT, "-j", "2")
    assert [row["name"] for row in facts["rows"]] == ["F20b", "F28a", "F28b", "F28c"]
    assert {key: value for key, value in facts.items() if key != "rows"} == {
        "type": "summary",
        "what": "defects",
        "seeds": 2,
        "cap": 100,
        "windows": 2,
        "defects_found": 3,
        "defects_missed": 0,
        "equivalent": 1,
        "equivalent_found": 0,
        "twins_unexpected": 0,
    }
    row = facts["rows"][1]
    assert (row["found"], row["as_declared"], row["checks"]) == (2, 2, {"lost-wakeup": 2})
    assert "although what it waits for is there" in row["says"]
    (log,) = (tmp_path / "logs").iterdir()
    file = log / "defects.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4 * 2 + 2, "four planted defects, and two worlds without them"
    file.write_bytes(b"".join(lines[:6]) + lines[6][:20])
    assert facts_of(tmp_path, *WHAT, "-j", "1", "--resume", str(log)) == facts
    assert len(file.read_bytes().splitlines()) == len(lines)


def test_what_is_missed_is_marked_and_is_its_status(tmp_path: Path) -> None:
    words = ("bench", "defects", "--id", "F6", "--seeds", "1", "--cap", "1")
    text = stressvm(tmp_path, *words, status=1).out
    assert "F6  mutant         0/1" in text
    assert "1 windows: 0 defects found by every seed, 1 not" in text
    assert "To sleep on a map, the global sleep mutex is taken before the map is unlocked." in text
    assert facts_of(tmp_path, *words, status=1)["defects_missed"] == 1


def test_as_a_page(tmp_path: Path) -> None:
    page = stressvm(tmp_path, *WHAT, "--markdown").out
    assert page.startswith("# Planted defects\n")
    assert "## FreeBSD\n" in page
    assert "## NetBSD\n" not in page
    assert "| F28b | | it asks before the loop only | mutant | 2/2 | lost-wakeup |" in page.replace("|  |", "| |")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("defects", "--id", "F48"), "no defect 'F48'; there are: F1, F2,"),
        (("defects", "--strategy", "pct"), "--strategy: an option of bench strategies only"),
        (("strategies", "--markdown"), "--markdown: an option of bench defects only"),
        (("map", "--id", "F1"), "--id: an option of bench defects only"),
        (("defects", "--resume", "nowhere"), "nowhere: nothing to go on with: it has no defects.jsonl"),
    ],
)
def test_wrong_usage(tmp_path: Path, words: tuple[str, ...], fault: str) -> None:
    assert fault in stressvm(tmp_path, "bench", *words, status=2).err


def test_a_log_of_another_cap_or_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    cell = {
        "name": "F6",
        "seed": 1,
        "cap": 500,
        "executions": 4,
        "kind": "lost-wakeup",
        "check": "lost-wakeup",
        "says": "",
        "declared": True,
        "exhausted": False,
    }
    for line, fault in [
        (orjson.dumps(cell), "measured with a cap of 500, not 100"),
        (b"{}", "line 1: not a measured cell"),
    ]:
        (folder / "defects.jsonl").write_bytes(line + b"\n")
        assert fault in stressvm(tmp_path, *WHAT, "--resume", "log", status=2).err
