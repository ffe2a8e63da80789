"""The command line keeps its contract: verbs, exit status, JSON, and what bad input comes to."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import orjson
import pytest

import stressvm as package
from tests.e2e.command import COMMAND, ROOT, environment, stressvm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOST_WAKEUP = "netbsd5_intrsafe_waiters"

SCENARIOS = {
    "exception": """
@scenario()
def s(k):
    async def t():
        await k.yield_()
        raise ValueError("boom <&>")
    k.spawn(t)
""",
    "livelock": """
@scenario(max_steps=300)
def s(k):
    flag = Cell(k, 0, "flag")
    async def t():
        while not await flag.load():
            pass
    k.spawn(t)
    k.spawn(t)
""",
    "too-long": """
@scenario(max_steps=300)
def s(k):
    async def t():
        while True:
            await k.yield_()
            k.progress()
    k.spawn(t)
""",
}

UNUSABLE = {
    "raised while building its world": "@scenario()\ndef s(k):\n    1 / 0\n",
    "must be an async function": "@scenario()\ndef s(k):\n    k.spawn(lambda: 3)\n",
    "spawned no thread": "@scenario()\ndef s(k):\n    pass\n",
    "not a kernel operation": """
import trio
@scenario()
def s(k):
    async def t():
        await trio.sleep(1)
    k.spawn(t)
""",
    "not deterministic": """
import itertools
count = itertools.count()
@scenario()
def s(k):
    async def t():
        for _ in range(next(count)):
            await k.yield_()
    k.spawn(t)
""",
}


def written(folder: Path, body: str) -> str:
    (folder / "mine.py").write_text(f"from stressvm import Cell, Kernel, Mutex, scenario\n{body}", encoding="utf-8")
    return "mine.py"


def blob_of(folder: Path, *words: str) -> str:
    done = stressvm(folder, "hunt", *words, "--format", "json")
    (finding,) = [line for line in done.lines() if line["type"] == "finding"]
    return str(finding["schedule"])


# ---------------------------------------------------------------- the main job


def test_a_hunt_without_arguments_finds_what_is_declared_and_nothing_else(tmp_path: Path) -> None:
    done = stressvm(tmp_path, "hunt", "--executions", "400", "--format", "json")
    summary = done.summary
    assert summary["ok"] is True
    scenarios = {scenario["name"]: scenario for scenario in summary["scenarios"]}
    assert len(scenarios) >= 12
    for scenario in scenarios.values():
        assert scenario["status"] in (("clean", "exhausted") if scenario["expect"] is None else ("found",)), scenario
    found = scenarios[LOST_WAKEUP]["findings"][0]
    assert found["kind"] == "lost-wakeup"
    assert found["preemptions"] <= 3
    assert found["schedule"].startswith("stressvm:1:")


def test_the_first_line_tells_the_seed_and_the_seed_repeats_the_run(tmp_path: Path) -> None:
    first = stressvm(tmp_path, "hunt", LOST_WAKEUP, "--seed", "random", "--format", "json")
    header = first.lines()[0]
    assert header["type"] == "header"
    again = stressvm(tmp_path, "hunt", LOST_WAKEUP, "--seed", str(header["seed"]), "--format", "json")

    def facts(summary: dict[str, object]) -> str:
        return re.sub(rb'"seconds":[0-9.e-]+', b"", orjson.dumps(summary)).decode()

    assert facts(first.summary) == facts(again.summary)


def test_both_drivers_give_the_same_summary(tmp_path: Path) -> None:
    def facts(driver: str) -> str:
        done = stressvm(
            tmp_path,
            "hunt",
            LOST_WAKEUP,
            "locked_sections",
            "--driver",
            driver,
            "--format",
            "json",
            "--executions",
            "100",
        )
        return re.sub(rb'"seconds":[0-9.e-]+', b"", orjson.dumps(done.summary)).decode()

    assert facts("stepped") == facts("trio")


def test_the_log_folder_holds_a_journal_and_files_that_replay(tmp_path: Path) -> None:
    stressvm(tmp_path, "hunt", LOST_WAKEUP)
    (folder,) = (tmp_path / "logs").iterdir()
    journal = [orjson.loads(line) for line in (folder / "journal.jsonl").read_bytes().splitlines()]
    assert [line["type"] for line in journal] == ["header", "finding", "scenario", "summary"]
    execution, finding = sorted((folder / "findings").iterdir(), key=lambda path: path.suffix != ".jsonl")
    assert [line["type"] for line in map(orjson.loads, execution.read_bytes().splitlines())][:2] == ["header", "step"]
    command = orjson.loads(finding.read_bytes())["replay"]
    for words in (shlex.split(command)[1:], ["replay", str(finding)], ["replay", str(execution)]):
        assert "replayed as recorded" in stressvm(tmp_path, *words, status=1).out


def test_a_scenario_outside_the_project_is_hunted_by_path(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "buffer.py").write_text(code, encoding="utf-8")
    done = stressvm(tmp_path, "hunt", "buffer.py", status=1)
    assert "UNEXPECTED lost-wakeup" in done.out
    command = next(line.strip() for line in done.out.splitlines() if "stressvm replay stressvm:1:" in line)
    assert "bounded_buffer" in stressvm(tmp_path, *shlex.split(command)[1:], status=1).out
    single = stressvm(tmp_path, "hunt", "buffer.py", "--param", "producers=1", "--param", "consumers=1")
    assert "clean" in single.out


# ---------------------------------------------------------------- one schedule again


def test_replay_shrink_and_explain_one_blob(tmp_path: Path) -> None:
    blob = blob_of(tmp_path, LOST_WAKEUP)
    lines = stressvm(tmp_path, "replay", blob, "--format", "json", status=1).lines()
    assert lines[-1]["verdict"] == "lost-wakeup"
    other = stressvm(tmp_path, "replay", blob, "--format", "json", "--driver", "trio", status=1).lines()
    assert other == lines
    assert len(stressvm(tmp_path, "replay", blob, "--until", "4", "--format", "json", status=1).lines()) == 5 + 2
    shrunk = stressvm(tmp_path, "shrink", blob, "--format", "json", status=1).lines()[-1]
    assert shrunk["kind"] == "lost-wakeup"
    explained = stressvm(tmp_path, "explain", blob, status=1).out
    for part in ("What happened", "Who waits for whom", "has been there since step", "Which switches matter"):
        assert part in explained
    narrow = stressvm(tmp_path, "explain", blob, status=1, env={"COLUMNS": "40"}).out
    assert "sleep kmap.cv" in narrow


def test_a_replay_of_a_scenario_that_changed_says_where_it_diverges(tmp_path: Path) -> None:
    body = "@scenario()\ndef s(k):\n    m = Mutex(k, 'm')\n    async def t(n):\n        for _ in range(n):\n"
    body += "            await m.lock()\n            await m.unlock()\n        assert n != 2\n"
    body += "    k.spawn(t, 1)\n    k.spawn(t, 2)\n"
    path = written(tmp_path, body)
    os.utime(tmp_path / path, (1e9, 1e9))
    done = stressvm(tmp_path, "hunt", path, "--format", "json", status=1)
    blob = done.summary["scenarios"][0]["findings"][0]["schedule"]
    assert stressvm(tmp_path, "replay", blob, "--scenario", path, status=1).err == ""
    written(tmp_path, body.replace("spawn(t, 1)", "spawn(t, 3)"))
    os.utime(tmp_path / path, (1e9, 1e9))  # an edit of the same length in the same second is seen, too
    diverged = stressvm(tmp_path, "replay", blob, "--scenario", path, status=5)
    assert "has changed since" in diverged.err
    assert re.search(r"replay diverged .*step \d+", diverged.err)


@pytest.mark.parametrize("cut", [20, 60, 150, -1])
def test_a_truncated_blob_is_a_bad_file(tmp_path: Path, cut: int) -> None:
    blob = blob_of(tmp_path, LOST_WAKEUP)
    assert "copy the whole text" in stressvm(tmp_path, "replay", blob[:cut], status=2).err


@pytest.mark.parametrize("word", ["stressvm:9:abc", "nothing", "empty.json", "text.txt", "."])
def test_a_foreign_blob_is_a_bad_file(tmp_path: Path, word: str) -> None:
    (tmp_path / "empty.json").write_text("{}", encoding="utf-8")
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe\x00")
    for verb in ("replay", "shrink", "explain"):
        err = stressvm(tmp_path, verb, word, status=2).err
        assert err.startswith("stressvm: ")
        assert len(err.splitlines()) == 1


# ---------------------------------------------------------------- exit status and bad input


@pytest.mark.parametrize("kind", sorted(SCENARIOS))
def test_an_undeclared_finding_is_exit_1(tmp_path: Path, kind: str) -> None:
    done = stressvm(tmp_path, "hunt", written(tmp_path, SCENARIOS[kind]), "--format", "json", status=1)
    (scenario,) = done.summary["scenarios"]
    assert (scenario["status"], scenario["findings"][0]["kind"]) == ("unexpected", kind)


def test_a_declared_finding_that_is_not_found_is_exit_1(tmp_path: Path) -> None:
    body = "@scenario(expect='deadlock')\ndef s(k):\n    async def t():\n        await k.yield_()\n    k.spawn(t)\n"
    done = stressvm(tmp_path, "hunt", written(tmp_path, body), "--executions", "5", status=1)
    assert "MISSED deadlock" in done.out


@pytest.mark.parametrize("why", sorted(UNUSABLE))
def test_a_scenario_that_cannot_be_run_is_exit_2(tmp_path: Path, why: str) -> None:
    done = stressvm(tmp_path, "hunt", written(tmp_path, UNUSABLE[why]), status=2)
    assert "ERROR" in done.out
    assert why in done.out


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("@scenario()\ndef s(k):\n    while True:\n        pass\n", "building the world took more than"),
        (
            "@scenario()\ndef s(k):\n    async def t():\n        while True:\n            pass\n    k.spawn(t)\n",
            "without reaching a kernel operation",
        ),
    ],
)
def test_a_scenario_that_never_ends_is_stopped(tmp_path: Path, body: str, why: str) -> None:
    done = stressvm(tmp_path, "hunt", written(tmp_path, body), status=2, env={"STRESSVM_HANG": "300ms"})
    assert why in done.out


def test_files_that_are_no_scenarios(tmp_path: Path) -> None:
    for name, body, why in (
        ("none.py", "x = 1\n", "no scenario in it"),
        ("syntax.py", "def f(:\n", "line 1"),
        ("raises.py", "\nraise RuntimeError('boom')\n", "at line 2: RuntimeError: boom"),
    ):
        (tmp_path / name).write_text(body, encoding="utf-8")
        assert why in stressvm(tmp_path, "hunt", name, status=2).err
    assert "no such file" in stressvm(tmp_path, "hunt", "missing.py", status=2).err
    assert "no scenario of that name" in stressvm(tmp_path, "hunt", "no_such_scenario", status=2).err


def test_an_unreadable_scenario_is_a_bad_file(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "dir.py").mkdir()
        assert "no scenario" in stressvm(tmp_path, "hunt", "dir.py", status=4).err
        return
    path = tmp_path / "secret.py"
    path.write_text("x = 1\n", encoding="utf-8")
    path.chmod(0)
    assert "cannot be read" in stressvm(tmp_path, "hunt", "secret.py", status=2).err


def test_nothing_selected_is_exit_4(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "nothing was selected" in stressvm(tmp_path, "hunt", "empty", status=4).err
    assert "nothing was selected" in stressvm(tmp_path, "list", "empty", status=4).err


def test_a_log_folder_that_cannot_be_written_is_exit_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    err = stressvm(tmp_path, "hunt", LOST_WAKEUP, "--logs", "file", status=2).err
    assert "cannot be written" in err
    assert "--logs" in err


@pytest.mark.parametrize(
    ("words", "env", "why"),
    [
        (["--strategy", "best"], {}, "--strategy: 'best' is not one of auto, pct, random"),
        (["--time", "5x"], {}, "--time: '5x' is not a duration"),
        (["--executions", "0"], {}, "--executions: '0' is not a whole number from 1"),
        (["--executions", "many"], {}, "--executions: 'many' is not a whole number"),
        (["--param", "threads"], {}, "give NAME=VALUE"),
        (["--param", "threads=x"], {}, "is no int"),
        (["--param", "colour=red"], {}, "has no parameter 'colour'"),
        (["--report", "pdf=x"], {}, "give jsonl=FILE"),
        (["--frobnicate"], {}, "unrecognized arguments: --frobnicate"),
        ([], {"STRESSVM_DEPTH": "deep"}, "STRESSVM_DEPTH: 'deep' is not a whole number"),
    ],
)
def test_wrong_usage_names_the_value_and_the_remedy(
    tmp_path: Path, words: list[str], env: dict[str, str], why: str
) -> None:
    assert why in stressvm(tmp_path, "hunt", "locked_sections", *words, status=2, env=env).err


def test_settings_come_from_flag_then_variable_then_file_then_default(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.stressvm]\nexecutions = 7\nseed = 3\n", encoding="utf-8")

    def ran(*words: str, **env: str) -> tuple[int, int]:
        summary = stressvm(tmp_path, "hunt", "locked_sections", "--format", "json", *words, env=env).summary
        return summary["scenarios"][0]["executions"], summary["seed"]

    assert ran() == (7, 3)
    assert ran(STRESSVM_EXECUTIONS="8") == (8, 3)
    assert ran("--executions", "9", STRESSVM_EXECUTIONS="8") == (9, 3)
    (tmp_path / "pyproject.toml").write_text("[tool.stressvm]\nexecutons = 7\n", encoding="utf-8")
    assert "did you mean 'executions'?" in stressvm(tmp_path, "hunt", "locked_sections", status=2).err


def test_a_budget_of_time_ends_the_hunt(tmp_path: Path) -> None:
    summary = stressvm(tmp_path, "hunt", "locked_sections", "--time", "300ms", "--format", "json").summary
    assert summary["scenarios"][0]["executions"] > 1


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes started by the test can be interrupted, even if the tests themselves were started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_hunt_writes_what_it_has_and_is_exit_130(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "hunt", LOST_WAKEUP, "locked_sections", "--time", "10m", "--strategy", "random", "--format", "json"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(3)]
    assert orjson.loads(first[-1])["type"] == "finding"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    summary = orjson.loads(out.splitlines()[-1])
    assert summary["interrupted"] is True
    assert summary["scenarios"][0]["status"] == "found"
    (folder,) = (tmp_path / "logs").iterdir()
    assert orjson.loads((folder / "journal.jsonl").read_bytes().splitlines()[-1])["type"] == "summary"


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{shlex.join(COMMAND)} list | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert done.returncode in {0, 141}, "0 if it had written all before the pipe was closed, never another's failure"


# ---------------------------------------------------------------- the smaller verbs


def test_list_tells_names_expectations_and_parameters(tmp_path: Path) -> None:
    scenarios = {line["name"]: line for line in stressvm(tmp_path, "list", "--format", "json").lines()}
    assert scenarios[LOST_WAKEUP]["expect"] == "lost-wakeup"
    assert scenarios["locked_sections"]["params"] == {"threads": 3, "sections": 3}
    assert all(line["story"] and line["source"] for line in scenarios.values())
    text = stressvm(tmp_path, "list").out
    assert all(name in text for name in scenarios)


def test_the_scenarios_of_a_checkout_count_once(tmp_path: Path) -> None:
    del tmp_path
    names = [line["name"] for line in stressvm(ROOT, "list", "--format", "json").lines()]
    assert len(names) == len(set(names))


def test_version(tmp_path: Path) -> None:
    assert stressvm(tmp_path, "--version").out == f"stressvm {package.__version__}\n"


def test_bench_prints_floors_and_ratios(tmp_path: Path) -> None:
    (engine,) = stressvm(tmp_path, "bench", "engine", "--quick", "--format", "json").lines()
    assert engine["operations_per_execution"].items() >= {"p5": 18, "p5c": 36}.items()
    assert {(row["program"], row["driver"], row["checks"]) for row in engine["rows"]} == {
        (program, driver, checks)
        for program in ("p5", "p5c", "p3")
        for driver in ("stepped", "trio")
        for checks in ("end", "races", "default")
    }
    assert all(row["executions_per_s"] > 0 and row["to_peer"] is None for row in engine["rows"])
    assert all((row["to_floor"] is not None) == (row["program"] == "p5") for row in engine["rows"])
    (map_,) = stressvm(tmp_path, "bench", "map", "--quick", "--format", "json").lines()
    assert {row["entries"] for row in map_["rows"]} == {100, 1_000, 10_000, 100_000}
