"""`stressvm conform` as people and pipelines run it: recorded answers, right and wrong, and files that are no vectors."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.command import ROOT, stressvm

if TYPE_CHECKING:
    from pathlib import Path

DATA: Final = ROOT / "tests" / "data"
CASES: Final = DATA / "netbsd.jsonl.gz"


def _lines(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _write(path: Path, *records: dict[str, Any]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def test_the_recorded_answers_agree(tmp_path: Path) -> None:
    done = stressvm(tmp_path, "conform", str(CASES))
    assert done.err == ""
    first, head, *more = done.out.splitlines()
    assert first.startswith("stressvm ")
    assert first.endswith(", seed 1")
    assert head == f"{CASES}: 400 of 400 cases agree, 14364 of 14364 operations"
    assert more == [
        "  at 360 an assertion fails: they panic with DIAGNOSTIC, and are answered without it",
        "  left out: nothing",
    ]


def test_several_files_as_json(tmp_path: Path) -> None:
    programs = [record for record in _lines("netbsd_mt.jsonl.gz") if record["kind"] == "free"][:3]
    _write(tmp_path / "programs.jsonl", *programs)
    words = ["--executions", "40", "--seed", "7", "--format", "json"]
    done = stressvm(tmp_path, "conform", str(CASES), "programs.jsonl", *words)
    assert [line["type"] for line in done.lines()] == ["header", "summary"]
    assert (done.summary["ok"], done.summary["seed"], done.lines()[0]["seed"]) == (True, 7, 7)
    cases, other = done.summary["files"]
    assert (cases["path"], cases["kind"], cases["cases"], cases["cases_passed"]) == (str(CASES), "cases", 400, 400)
    assert (cases["operations"], cases["operations_passed"], cases["words"]["kassert"]) == (14364, 14364, 360)
    assert (other["kind"], other["cases"], other["executions"], other["left_out"]) == ("programs", 3, 120, {})
    assert 0 < other["outcomes_met"] <= other["outcomes"]


def test_a_wrong_answer_is_shown_with_the_map_around_it(tmp_path: Path) -> None:
    record = _lines("netbsd.jsonl.gz")[0]
    record["ops"][2][2]["addr"] = "0x2a000"
    _write(tmp_path / "wrong.jsonl", *[record] * 7)
    done = stressvm(tmp_path, "conform", "wrong.jsonl", status=1)
    lines = done.out.splitlines()
    assert lines[1] == "wrong.jsonl: 0 of 7 cases agree, 14 of 21 operations"
    assert lines[3:8] == [
        "  DIFFERS: dev-d001 (line 1), operation 2: map(hint=0x27000, size=0x1000, align=0x0, fixed=False, adv=0x1)",
        '    expected {"rc":0,"addr":"0x2a000"}',
        '    actual   {"rc":0,"addr":"0x29000"}',
        "      <EntryList 0x27000-0x34000, 3 entries, largest gap 0xa000>",
        "        0x27000-0x28000 MapEntry",
    ]
    assert done.out.count("DIFFERS") == 5
    assert lines[-1] == "  and 2 more cases differ"
    _write(tmp_path / "right.jsonl", *_lines("netbsd.jsonl.gz")[:2])
    done = stressvm(tmp_path, "conform", "wrong.jsonl", "right.jsonl", "--format", "json", status=1)
    (*differences, summary) = done.lines()[1:]
    assert [difference["line"] for difference in differences] == [1, 2, 3, 4, 5]
    assert differences[0]["type"] == "difference"
    assert (differences[0]["case"], differences[0]["actual"]["addr"]) == ("dev-d001", "0x29000")
    assert (summary["ok"], [one["ok"] for one in summary["files"]]) == (False, [False, True])


def test_a_program_that_comes_to_something_else_is_shown(tmp_path: Path) -> None:
    program = next(record for record in _lines("netbsd_mt.jsonl.gz") if record["id"] == "lw-big-small-free-52")
    short = {**program, "outcomes": program["outcomes"][:1]}
    never = {**program, "lost_wakeup": False}
    _write(tmp_path / "programs.jsonl", short, never)
    done = stressvm(tmp_path, "conform", "programs.jsonl", "--executions", "300", status=1)
    assert "0 of 2 programs agree" in done.out
    assert "one of the 1 recorded outcomes" in done.out
    assert "expected no lost wakeup\n    actual   a lost wakeup" in done.out


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "the file has no vectors in it"),
        (b'{"case": "x"}\n', "line 1: vectors in this form are not known"),
        (b'{"system": "plan9", "threads": []}\n', "line 1: vectors of the system 'plan9' are not known"),
        (b"[1]\n", "line 1: a JSON object is needed"),
        (b"\n\nnull\n", "line 3: a JSON object is needed"),
        (b"\xff\n", "the file is damaged"),
        (b"\x1f\x8b\x08\x00", "the file is damaged"),
        (b'{"topdown": false, "ops": []}\n', "line 1: the field 'size' is missing"),
    ],
)
def test_a_file_that_is_no_vectors_is_refused(tmp_path: Path, text: bytes, fault: str) -> None:
    (tmp_path / "bad.jsonl").write_bytes(text)
    done = stressvm(tmp_path, "conform", "bad.jsonl", status=2)
    assert done.err.startswith("stressvm: bad.jsonl: ")
    if "'size'" not in fault:
        assert fault in done.err
    else:
        assert "is missing" in done.err


def test_a_torn_line_is_named_before_anything_is_compared(tmp_path: Path) -> None:
    records = _lines("netbsd.jsonl.gz")[:3]
    _write(tmp_path / "torn.jsonl", *records)
    whole = (tmp_path / "torn.jsonl").read_bytes()
    (tmp_path / "torn.jsonl").write_bytes(whole[:-200])
    done = stressvm(tmp_path, "conform", "torn.jsonl", status=2)
    assert done.err.startswith("stressvm: torn.jsonl: line 3: no JSON, or cut off: ")
    assert done.out.count("\n") == 1
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(whole)[:-20])
    assert "the file is damaged" in stressvm(tmp_path, "conform", "torn.jsonl.gz", status=2).err


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "the following arguments are required: FILE.jsonl"),
        (["none.jsonl"], "none.jsonl: No such file"),
        (["."], "Is a directory"),
        ([str(CASES), "--executions", "0"], "--executions '0': a whole number from 1"),
        ([str(CASES), "--executions", "few"], "--executions 'few'"),
        ([str(CASES), "--seed", "x"], "--seed 'x'"),
    ],
)
def test_wrong_usage(tmp_path: Path, words: list[str], fault: str) -> None:
    assert fault in stressvm(tmp_path, "conform", *words, status=2).err
