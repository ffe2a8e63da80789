"""`stressvm bench strategies`: what it measures, what it goes on with, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.e2e.command import stressvm

if TYPE_CHECKING:
    from pathlib import Path

WHAT = (
    "bench",
    "strategies",
    "--program",
    "CS/account",
    "--program",
    "CS/lazy01",
    "--strategy",
    "surw",
    "--strategy",
    "pct2",
)


def rows(folder: Path, *words: str) -> list[dict[str, Any]]:
    (facts,) = stressvm(folder, *WHAT, "--seeds", "3", "--cap", "200", "--format", "json", *words).lines()
    found: list[dict[str, Any]] = facts["rows"]
    return found


def test_every_cell_is_measured_once_and_a_cut_off_line_again(tmp_path: Path) -> None:
    table = rows(tmp_path, "-j", "2")
    assert [(row["program"], row["strategy"]) for row in table] == [
        ("CS/account", "surw"),
        ("CS/account", "pct2"),
        ("CS/lazy01", "surw"),
        ("CS/lazy01", "pct2"),
    ]
    assert all(row["found"] == row["seeds"] == 3 for row in table)
    assert all(1 <= row["mean"] <= 200 for row in table)
    assert table[0]["published"] == {"mean": 6, "found": 20}
    assert table[1]["published"] is None
    assert table[0]["published_best"] == {"strategy": "urw", "mean": 3, "found": 20}
    (log,) = (tmp_path / "logs").iterdir()
    file = log / "strategies.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 12
    file.write_bytes(b"".join(lines[:7]) + lines[7][:20])
    for _ in range(2):
        assert rows(tmp_path, "-j", "1", "--resume", str(log)) == table
    assert len(file.read_bytes().splitlines()) == 12


def test_the_table_names_programs_strategies_and_the_best_published_figure(tmp_path: Path) -> None:
    text = stressvm(tmp_path, *WHAT, "--seeds", "2", "--cap", "100").out
    assert "mean executions to the first bug, 2 seeds, at most 100 executions" in text
    assert "CS/account" in text
    assert "3 (urw, 20/20)" in text


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("strategies", "--program", "CS/acount"), "no program 'CS/acount'; there are: "),
        (("strategies", "--strategy", "best"), "strategy 'best': there are auto, pct, "),
        (("strategies", "--seeds", "0"), "--seeds: '0' is not a whole number from 1"),
        (("strategies", "--jobs", "none"), "--jobs: 'none' is not a whole number from 1, or auto"),
        (("strategies", "--resume", "nowhere"), "nowhere: nothing to go on with"),
        (("defects", "--program", "CS/account"), "--program: an option of bench strategies only"),
        (("engine", "--seeds", "3"), "--seeds: an option of bench strategies and bench defects only"),
    ],
)
def test_wrong_usage(tmp_path: Path, words: tuple[str, ...], fault: str) -> None:
    assert fault in stressvm(tmp_path, "bench", *words, status=2).err


def test_a_log_of_another_cap_or_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    cell = {"program": "CS/account", "strategy": "surw", "seed": 1, "cap": 500, "executions": 4}
    for line, fault in [
        (orjson.dumps(cell), "measured with a cap of 500, not 200"),
        (b"{}", "line 1: not a measured cell"),
    ]:
        (folder / "strategies.jsonl").write_bytes(line + b"\n")
        words = (*WHAT, "--seeds", "1", "--cap", "200", "--resume", "log")
        assert fault in stressvm(tmp_path, *words, status=2).err
