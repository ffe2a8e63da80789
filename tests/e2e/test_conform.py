"""`stressvm conform` as people and pipelines run it: recorded answers, right and wrong, and files that are no vectors."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from stressvm.conform.freebsd import NO_END, NOT_ASKED
from tests.e2e.command import COMMAND, ROOT, environment, stressvm

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


def test_freebsds_answers_agree_by_all_three_personalities(tmp_path: Path) -> None:
    path = DATA / "freebsd.jsonl.gz"
    done = stressvm(tmp_path, "conform", str(path))
    assert done.err == ""
    assert done.out.splitlines()[1:] == [
        f"{path} (FreeBSD 13, first fit): 412 of 412 cases agree, 11969 of 11969 operations",
        "  left out: 15 (answers that missed the last gap: first fit's were compared in their place)",
        f"{path} (FreeBSD 13, splay tree): 412 of 412 cases agree, 11969 of 11969 operations",
        "  left out: nothing",
        f"{path} (FreeBSD 2013): 412 of 412 cases agree, 11924 of 11924 operations",
        f"  left out: 4 ({NO_END}), 45 ({NOT_ASKED})",
    ]


def test_freebsds_programs_agree_by_both_searches(tmp_path: Path) -> None:
    records = _lines("freebsd_mt.jsonl.gz")
    programs = [next(r for r in records if r["kind"] == kind) for kind in ("tailgap", "wire", "wirelk", "upgrade")]
    _write(tmp_path / "programs.jsonl", *programs)
    done = stressvm(tmp_path, "conform", "programs.jsonl", "--executions", "50", "--format", "json")
    files = done.summary["files"]
    assert [one["model"] for one in files] == ["FreeBSD 13, first fit", "FreeBSD 13, splay tree"]
    for one in files:
        assert (one["path"], one["kind"], one["ok"], one["cases"]) == ("programs.jsonl", "programs", True, 4)
        # All their states are met in fewer executions than were allowed, and so all outcomes.
        assert (one["executions"] < 200, one["left_out"]) == (True, {})
        assert 0 < one["outcomes_met"] == one["outcomes"]


def test_one_file_may_have_lines_of_every_kind(tmp_path: Path) -> None:
    names = ("netbsd", "freebsd_mt", "freebsd", "netbsd_mt", "freebsd")
    _write(tmp_path / "mixed.jsonl", *[_lines(f"{name}.jsonl.gz")[0] for name in names])
    done = stressvm(tmp_path, "conform", "mixed.jsonl", "--executions", "5", "--format", "json")
    assert [(one["model"], one["kind"], one["cases"]) for one in done.summary["files"]] == [
        ("", "cases", 1),
        ("FreeBSD 13, first fit", "programs", 1),
        ("FreeBSD 13, splay tree", "programs", 1),
        ("FreeBSD 13, first fit", "cases", 2),
        ("FreeBSD 13, splay tree", "cases", 2),
        ("FreeBSD 2013", "cases", 2),
        ("", "programs", 1),
    ]


def test_a_program_that_cannot_be_run_is_left_out_and_a_file_of_those_alone_is_refused(tmp_path: Path) -> None:
    program = next(record for record in _lines("freebsd_mt.jsonl.gz") if record["kind"] == "wait")
    foreign = {**program, "threads": [*program["threads"], [{"op": "fork"}]]}
    _write(tmp_path / "some.jsonl", program, foreign, foreign)
    done = stressvm(tmp_path, "conform", "some.jsonl", "--executions", "50")
    head, left_out = done.out.splitlines()[1:3]
    assert head.startswith("some.jsonl (FreeBSD 13, first fit): 1 of 1 programs agree in 10 executions")
    assert left_out == "  left out: 2 (programs with the operation fork, which is not modelled)"
    _write(tmp_path / "none.jsonl", foreign)
    done = stressvm(tmp_path, "conform", "none.jsonl", status=2)
    assert "none.jsonl: nothing in it can be compared; left out were programs with the operation fork" in done.err


def test_a_wrong_answer_of_freebsds_is_shown_by_whom_it_was_asked(tmp_path: Path) -> None:
    record = _lines("freebsd.jsonl.gz")[0]
    at, op = next((at, op) for at, op in enumerate(record["ops"]) if op["op"] == "findspace" and op["addr"])
    right, op["addr"] = op["addr"], "0xabc000"
    _write(tmp_path / "wrong.jsonl", record)
    done = stressvm(tmp_path, "conform", "wrong.jsonl", status=1)
    assert done.out.count("0 of 1 cases agree") == 3
    lines = done.out.splitlines()
    assert lines[3:7] == [
        f"  DIFFERS: dev-0000 (line 1), operation {at}: findspace(start={op['start']}, length={op['length']})",
        '    expected {"addr":"0xabc000"}',
        f'    actual   {{"addr":"{right}"}}',
        "      <EntryList 0x10000-0x13000, 0 entries, largest gap 0x3000>",
    ]
    done = stressvm(tmp_path, "conform", "wrong.jsonl", "--format", "json", status=1)
    models = [line["model"] for line in done.lines() if line["type"] == "difference"]
    assert models == ["FreeBSD 13, first fit", "FreeBSD 13, splay tree", "FreeBSD 2013"]


def test_an_outcome_that_is_not_recorded_is_shown_with_its_steps(tmp_path: Path) -> None:
    program = next(record for record in _lines("freebsd_mt.jsonl.gz") if record["id"] == "mt-h27-upgrade")
    _write(tmp_path / "programs.jsonl", {**program, "outcomes": program["outcomes"][:1]})
    done = stressvm(tmp_path, "conform", "programs.jsonl", "--executions", "100", status=1)
    assert done.out.count("DIFFERS: mt-h27-upgrade (line 1), execution ") == 2
    assert done.out.count("      it came about so\n") == 2
    assert "      t1: read-lock map.lock" in done.out


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
    assert (other["kind"], other["cases"], other["executions"], other["left_out"]) == ("programs", 3, 9, {})
    assert 0 < other["outcomes_met"] == other["outcomes"]


def test_small_programs_are_held_to_their_exact_figures(tmp_path: Path) -> None:
    records = _lines("programs.jsonl.gz")
    chosen = [record for record in records if record["executions"] <= 30][:9]
    _write(tmp_path / "small.jsonl", *chosen, next(r for r in records if r["executions"] > 500 and r["traces"] < 20))
    done = stressvm(tmp_path, "conform", "small.jsonl", "--executions", "40")
    head, left_out = done.out.splitlines()[1:3]
    assert head.startswith("small.jsonl: 10 of 10 programs agree in ")
    assert left_out == (
        "  left out: 1 (programs with more than 40 executions: their classes and final states were compared, not their numbers)"
    )
    wrong = {**chosen[0], "bounded_executions": [1, 2, 3]}
    _write(tmp_path / "wrong.jsonl", wrong)
    done = stressvm(tmp_path, "conform", "wrong.jsonl", status=1)
    assert done.out.splitlines()[3:6] == [
        f"  DIFFERS: {wrong['name']} (line 1), all executions, depth first",
        '    expected {"bounded_executions":[1,2,3]}',
        f'    actual   {{"bounded_executions":{json.dumps(chosen[0]["bounded_executions"], separators=(",", ":"))}}}',
    ]
    _write(tmp_path / "torn.jsonl", {**chosen[0], "length": [1]})
    done = stressvm(tmp_path, "conform", "torn.jsonl", status=2)
    assert "torn.jsonl: line 1: length: a list of 2 numbers is needed, not [1]" in done.err


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
        (b'{"coalesce": false, "ops": []}\n', "line 1: the field 'case' is missing; record the case again"),
        (b'{"system": "freebsd13", "threads": []}\n', "line 1: the field 'entry_fields' is missing, or not known"),
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


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        (
            "netbsd_mt.jsonl.gz",
            b'"lost_wakeup":',
            b'"lost_wakeup": {}, "was":',
            "lost_wakeup must be true or false, not {}",
        ),
        ("netbsd_mt.jsonl.gz", b'"threads":', b'"threads": [], "were":', "there must be a thread"),
        ("freebsd.jsonl.gz", b'"length":"0x', b'"length":"-0x', "is no number of 64 bits without sign"),
        ("freebsd_mt.jsonl.gz", b'"system":', b'"system": [], "was":', "bad.jsonl: line 1: "),
    ],
)
def test_a_field_of_another_kind_is_named(tmp_path: Path, file: str, old: bytes, new: bytes, fault: str) -> None:
    lines = gzip.decompress((DATA / file).read_bytes()).splitlines()
    changed = next(line.replace(old, new, 1) for line in lines if old in line)
    (tmp_path / "bad.jsonl").write_bytes(changed + b"\n")
    done = stressvm(tmp_path, "conform", "bad.jsonl", status=2)
    assert fault in done.err
    assert "internal error" not in done.err


def test_an_interrupt_ends_with_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "conform", str(DATA / "netbsd_mt.jsonl.gz")],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "stressvm: interrupted\n")
