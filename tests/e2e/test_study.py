"""`stressvm study`: the page's own study, run, killed, gone on with, and got wrong."""

from __future__ import annotations

import hashlib
import re
import subprocess
import time
from pathlib import Path
from typing import Final

import orjson
import pytest

from stressvm.study.sample import MEASURES
from tests.e2e.command import COMMAND, environment, stressvm

PAGE: Final = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
OWN: Final = "\n\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))

#: Of the raw data of the page's study with seed 1: the same with any number of processes, machine and version of Python.
DIGEST: Final = "d8269d78ae85fbfc"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "largest.py").write_text(OWN, encoding="utf-8")
    return tmp_path


def raw(folder: Path, *words: str) -> tuple[Path, bytes]:
    facts = orjson.loads(stressvm(folder, "study", "largest.py", "--format", "json", *words).out)
    file = folder / facts["file"]
    return file, file.read_bytes()


def test_the_same_numbers_whatever_runs_them(folder: Path) -> None:
    _, alone = raw(folder, "-j", "1")
    assert raw(folder, "-j", "2")[1] == alone
    assert len(alone.splitlines()) == 1 + 4 * 4
    assert hashlib.blake2b(alone, digest_size=8).hexdigest() == DIGEST
    assert raw(folder, "-j", "2", "--seed", "2")[1] != alone


def test_what_was_cut_off_is_run_again(folder: Path) -> None:
    file, whole = raw(folder, "-j", "2")
    for kept in (whole[:-1], whole[: len(whole) // 2], whole[:20], b""):
        file.write_bytes(kept)
        assert raw(folder, "-j", "2", "--resume", str(file.parent)) == (file, whole)


def test_killed_it_leaves_nobody_behind_and_is_gone_on_with(folder: Path) -> None:
    words = ("study", "largest.py", "-j", "2", "--replications", "40", "--logs", "killed")
    with subprocess.Popen([*COMMAND, *words], cwd=folder, env=environment(), stdout=subprocess.PIPE) as process:
        while not [line for file in folder.glob("killed/*/samples.jsonl") for line in file.read_bytes().splitlines()][
            4:
        ]:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        # Its standard output is at its end when the last of its processes has gone.
        process.communicate(timeout=60)
    (file,) = folder.glob("killed/*/samples.jsonl")
    before = file.read_bytes()
    _, whole = raw(folder, "-j", "2", "--replications", "40", "--resume", str(file.parent))
    assert whole.startswith(before[: before.rfind(b"\n") + 1])
    assert len(whole.splitlines()) == 1 + 40 * 4
    assert raw(folder, "-j", "1", "--replications", "40")[1] == whole


def test_the_answer_comes_first(folder: Path) -> None:
    text = stressvm(folder, "study", "largest.py", "-j", "2").out
    question, answer, table = text.split("\n\n")[:3]
    assert question == "Is the largest sleeper a better one to wake than all of them?"
    assert "Against wake all, largest beats it on wakeups_per_success" in " ".join(answer.split())
    assert table.splitlines()[0].split() == ["wake", "clients", "wakeups_per_success", "wait_p99"]
    assert len(table.splitlines()) == 5


def test_the_execution_behind_a_number(folder: Path) -> None:
    file, _ = raw(folder, "-j", "2")
    samples = [orjson.loads(line) for line in file.read_bytes().splitlines()[1:]]
    sample = next(one for one in samples if one["replication"] == 2 and one["point"] == {"wake": "all", "clients": 12})
    trace, written = raw(folder, "--trace", "wake=all,clients=12", "--replication", "2")
    header, *steps, summary = [orjson.loads(line) for line in written.splitlines()]
    assert header["point"] == sample["point"]
    assert summary["measures"] == sample["measures"]
    assert len(steps) == summary["steps"] == sample["measures"]["events"]
    assert [step["tick"] for step in steps] == sorted(step["tick"] for step in steps)
    woken = sum(
        len(step["arg"]) for step in steps if step["op"] in ("broadcast", "wakeup", "wakeup_one") and step["arg"]
    )
    assert woken == sample["measures"]["wakeups"]
    assert trace.name == "trace.jsonl"


@pytest.mark.parametrize(
    ("wrong", "right", "line", "fault"),
    [
        ("space.fit(", "space.fits(", "space.fit(", "AttributeError"),
        ('POLICIES[point["woke"]]', 'POLICIES[point["wake"]]', 'point["woke"]', "KeyError"),
        ("STUDY = Studie(", "STUDY = Study(", "Studie(", "NameError"),
    ],
)
def test_a_mistake_is_its_authors_with_file_and_line(
    folder: Path, wrong: str, right: str, line: str, fault: str
) -> None:
    file = folder / "largest.py"
    source = OWN.replace(right, wrong)
    file.write_text(source, encoding="utf-8")
    number = next(at for at, text in enumerate(source.splitlines(), 1) if line in text)
    err = stressvm(folder, "study", "largest.py", "-j", "2", status=2).err
    assert fault in err
    assert re.search(rf"largest\.py(:| at line |.* at line ){number}\b", err), err
    assert "Traceback" not in err


def test_wrong_usage(folder: Path) -> None:
    file, _ = raw(folder, "-j", "2", "--replications", "1")
    (folder / "none.py").write_text("", encoding="utf-8")
    for words, fault in (
        (("nothing",), "nothing: no such study; there are backoff, "),
        (("nothing.py",), "nothing.py: no such file"),
        (("none.py",), "none.py: 0 studies in it"),
        (("herd", "--replications", "0"), "--replications: '0' is not a whole number from 1"),
        (("herd", "--seed", "x"), "--seed: 'x' is neither a number from 0 nor `random`"),
        (("herd", "--trace", "wake"), "--trace: 'wake' is not FACTOR=LEVEL; factors are wake, waiters, cpus"),
        (("herd", "--trace", "wake=all,cpus=9"), "names 0 points, not one; there are wake=all,waiters=4,cpus=1;"),
        (("herd", "--trace", "wake=all"), "names 6 points, not one; there are wake=all,waiters=4,cpus=1;"),
        (("herd", "--replication", "1"), "--replication: says which one --trace is of"),
        (("herd", "--resume", "nowhere"), "nowhere: nothing to go on with"),
        (("largest.py", "--resume", str(file.parent)), "holds another study, or other factors, seed or replications"),
        (("herd", "--resume", str(file.parent)), "holds another study"),
    ):
        assert fault in stressvm(folder, "study", *words, status=2).err
    file.write_bytes(file.read_bytes().replace(b'"replication":0', b'"replication":7'))
    damaged = stressvm(folder, "study", "largest.py", "--replications", "1", "--resume", str(file.parent), status=2)
    assert "line 2 is damaged" in damaged.err


def test_the_shipped_studies_are_listed(folder: Path) -> None:
    listed = stressvm(folder, "study").out
    assert re.findall(r"^\w+", listed, re.MULTILINE) == [
        "backoff",
        "exec_storm",
        "herd",
        "recheck",
        "who_is_woken",
        "writers",
    ]


def test_the_page_names_every_measure() -> None:
    for name, measure in MEASURES.items():
        assert f"| `{name}` | {measure.unit or 'count'} | {measure.text} |" in PAGE
