"""`stressvm import` as people and pipelines run it: a log becomes a workload, and a hunt in that workload works."""

from __future__ import annotations

import gzip
import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from stressvm.vm.workload import read_strace, read_workload
from tests.e2e.command import ROOT, stressvm

DATA: Final = ROOT / "tests" / "data"
LOG: Final = "1 mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7000\n"


def _stressvm(folder: Path, *words: str, status: int = 0) -> tuple[str, str]:
    """Standard output and standard error of a run that must end with that status."""
    done = stressvm(folder, *words, status=status)
    return done.out, done.err


def _json(text: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in text.splitlines()]


def test_a_log_becomes_a_workload_beside_it_and_the_command_it_prints_hunts_there(tmp_path: Path) -> None:
    shutil.copy(DATA / "xz_t2.strace.gz", tmp_path)
    out, err = _stressvm(tmp_path, "import", "xz_t2.strace.gz")
    assert err == ""
    assert out.startswith("xz_t2.strace: 55 operations by 3 threads")
    assert read_workload(tmp_path / "xz_t2.json.gz") == read_strace(DATA / "xz_t2.strace.gz")
    command = next(line for line in out.splitlines() if line.startswith("hunt in")).partition(":")[2]
    assert shlex.split(command)[0] == "stressvm"
    out, _ = _stressvm(tmp_path, *shlex.split(command)[1:], "--executions", "10", "--format", "json")
    (scenario,) = _json(out)[-1]["scenarios"]
    assert (scenario["name"], scenario["status"], scenario["executions"]) == ("imported_workload", "clean", 10)
    assert scenario["params"]["workload"] == "xz_t2.json.gz"


def test_json_is_one_object_with_the_figures(tmp_path: Path) -> None:
    target = tmp_path / "w x.json"
    out, err = _stressvm(
        tmp_path, "import", str(DATA / "numpy_import.strace.gz"), "-o", str(target), "--format", "json"
    )
    (facts,) = _json(out)
    assert (err, facts["type"], facts["output"]) == ("", "workload", str(target))
    assert (facts["operations"], facts["dependencies"], facts["split"]) == (938, 4, 10)
    assert sum(facts["kinds"].values()) == sum(t["operations"] for t in facts["threads"]) == 938
    assert facts["counts"]["elsewhere"] == 1151
    assert shlex.split(facts["hunt"])[-1] == f"workload={target}"
    assert read_workload(target).operations_total == 938


def test_another_address_space(tmp_path: Path) -> None:
    log = str(DATA / "numpy_import.strace.gz")
    out, _ = _stressvm(tmp_path, "import", log, "-o", "w.json", "--space", "0", "--format", "json")
    assert _json(out)[0]["operations"] == 26
    _, err = _stressvm(tmp_path, "import", log, "-o", "none.json", "--space", "39", status=2)
    assert "no address space 39; it has 39" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.json"]


def test_a_torn_log_names_its_line_and_leaves_nothing_unless_lenient(tmp_path: Path) -> None:
    (tmp_path / "torn.strace").write_text(f"{LOG}1 munmap(0x70")
    _, err = _stressvm(tmp_path, "import", "torn.strace", status=2)
    assert err.startswith("stressvm: torn.strace: line 2: the log is cut off in this line")
    assert [path.name for path in tmp_path.iterdir()] == ["torn.strace"]
    out, _ = _stressvm(tmp_path, "import", "torn.strace", "--lenient")
    assert "1 torn" in out
    assert read_workload(tmp_path / "torn.json.gz").operations_total == 1


@pytest.mark.parametrize(
    ("log", "fault"),
    [
        ("none.strace", "none.strace: cannot read this log after line 0"),
        ("empty.strace", "empty.strace: none of its 0 lines changes a map"),
        ("half.strace.gz", "half.strace.gz: cannot read this log after line"),
        ("text.strace", "text.strace: line 1: no line of strace"),
    ],
)
def test_what_is_no_log_is_wrong_usage(tmp_path: Path, log: str, fault: str) -> None:
    (tmp_path / "empty.strace").touch()
    (tmp_path / "half.strace.gz").write_bytes(gzip.compress(LOG.encode() * 9)[:-9])
    (tmp_path / "text.strace").write_text("to be or not to be\n")
    before = sorted(tmp_path.iterdir())
    out, err = _stressvm(tmp_path, "import", log, status=2)
    assert (out, err.count("\n")) == ("", 1)
    assert fault in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_workload_that_cannot_be_written_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "a.strace").write_text(LOG)
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for output in ("none/w.json", "folder", "a.strace/w.json", "a.strace", "/dev/full"):
        if output == "/dev/full" and not Path(output).exists():
            continue
        _, err = _stressvm(tmp_path, "import", "a.strace", "-o", output, status=2)
        assert output in err
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "a.strace").read_text() == LOG


def test_what_is_no_ordinary_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.strace").write_text(LOG)
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    _stressvm(tmp_path, "import", "a.strace", "-o", "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert read_workload(tmp_path / "real.json").operations_total == 1
    _stressvm(tmp_path, "import", "a.strace", "-o", os.devnull)
    assert Path(os.devnull).is_char_device()


def test_a_hunt_in_a_file_that_is_no_workload_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text("{}")
    for path, fault in (("w.json", "not a workload of this version"), ("none.json", "cannot read this workload")):
        out, err = _stressvm(tmp_path, "hunt", "imported_workload", "--param", f"workload={path}", status=2)
        assert f"{path}: {fault}" in out + err


def test_a_name_that_is_no_text_is_written_to_and_shown_escaped(tmp_path: Path) -> None:
    (tmp_path / "a.strace").write_text(LOG)
    name = os.fsdecode(b"w\xff.json")
    out, _ = _stressvm(tmp_path, "import", "a.strace", "-o", name)
    assert "written to w\\udcff.json\n" in out
    out, _ = _stressvm(tmp_path, "import", "a.strace", "-o", name, "--format", "json")
    assert _json(out)[0]["output"] == "w\\udcff.json"
    assert read_workload(tmp_path / name).operations_total == 1
