"""What earlier hunts have found is looked at first, and what is fixed is told; which checks look is a setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.e2e.command import stressvm

if TYPE_CHECKING:
    from pathlib import Path

OWN = '''
from stressvm import Mutex, scenario

@scenario()
def two(k):
    """Two threads, two locks."""
    a, b = Mutex(k, "a"), Mutex(k, "b")

    async def thread(first, second):
        await first.lock()
        await second.lock()
        await second.unlock()
        await first.unlock()

    k.spawn(thread, a, b)
    k.spawn(thread, *SECOND)

@scenario(expect="assertion")
def declared(k):
    """A finding that is declared."""
    async def thread():
        await k.yield_()
        assert k.choose(1)

    k.spawn(thread)
'''

BROKEN, FIXED, ELSEWISE = "b, a", "a, b", "a, b"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, BROKEN)
    return tmp_path


def write(folder: Path, second: str) -> None:
    (folder / "own.py").write_text(OWN.replace("*SECOND", second), encoding="utf-8")


def hunt(folder: Path, *words: str, status: int) -> dict[str, Any]:
    """The summary, by name of the scenario."""
    lines = stressvm(folder, "hunt", "own.py", "--format", "json", *words, status=status).lines()
    return {one["name"]: one for one in lines[-1]["scenarios"]}


def test_a_bug_is_found_again_by_its_schedule_and_told_when_it_is_fixed(folder: Path) -> None:
    first = hunt(folder, status=1)["two"]
    assert first["executions"] == first["findings"][0]["executions_to_find"] == 1
    assert first["fixed"] == []
    again = hunt(folder, status=1)
    assert again["two"]["executions"] == again["two"]["findings"][0]["executions_to_find"] == 0
    for key in ("kind", "fingerprint", "text", "schedule", "preemptions", "fewest_preemptions", "note"):
        assert again["two"]["findings"][0][key] == first["findings"][0][key]
    # What is declared is hunted for.
    assert again["declared"]["findings"][0]["executions_to_find"] == 1

    write(folder, FIXED)
    fixed = hunt(folder, status=0)["two"]
    assert fixed["status"] == "exhausted"
    assert [one["fingerprint"] for one in fixed["fixed"]] == [first["findings"][0]["fingerprint"]]
    assert fixed["fixed"][0]["kind"] == "deadlock"
    assert fixed["fixed"][0]["fits"] is False
    # It is said once.
    assert hunt(folder, status=0)["two"]["fixed"] == []

    write(folder, BROKEN)
    back = hunt(folder, status=1)["two"]["findings"][0]
    assert (back["executions_to_find"], back["note"]) == (0, "fixed once, and back")


def test_people_are_told_the_same(folder: Path) -> None:
    stressvm(folder, "hunt", "own.py", status=1)
    text = stressvm(folder, "hunt", "own.py", status=1).out
    assert "by its schedule from an earlier hunt; shrunk from" in text
    write(folder, FIXED)
    text = stressvm(folder, "hunt", "own.py", status=0).out
    assert "    fixed: deadlock  [" in text
    assert "and the hunt has not met it again)" in text
    assert "fixed" not in stressvm(folder, "hunt", "own.py", status=0).out


def test_workers_and_a_resumed_hunt_know_as_much(folder: Path) -> None:
    hunt(folder, status=1)
    with_workers = hunt(folder, "-j", "2", status=1)["two"]
    assert with_workers["findings"][0]["executions_to_find"] == 0
    newest = max((folder / "logs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    lines = stressvm(folder, "hunt", "--resume", str(newest), "--format", "json", status=1).lines()
    (two,) = (one for one in lines[-1]["scenarios"] if one["name"] == "two")
    assert two["findings"] == with_workers["findings"]


def test_it_can_be_left_out(folder: Path) -> None:
    first = hunt(folder, status=1)["two"]["findings"]
    assert hunt(folder, "--afresh", status=1)["two"]["findings"] == first
    assert hunt(folder, "--logs", "others", status=1)["two"]["findings"] == first
    # A shard's results are to be put together with those of others.
    assert hunt(folder, "--shard", "1/2", status=1)["two"]["findings"] == first


def test_a_bug_is_not_called_fixed_by_a_hunt_that_does_not_look_for_it(folder: Path) -> None:
    found = hunt(folder, "--checks", "lock-order", status=1)["two"]["findings"]
    assert [one["kind"] for one in found] == ["lock-order"]
    none = hunt(folder, "--checks", "none", "--strategy", "random", "--executions", "1", status=0)["two"]
    assert (none["status"], none["fixed"]) == ("clean", [])
    again = hunt(folder, "--checks", "lock-order,witness", status=1)["two"]["findings"]
    assert [one["executions_to_find"] for one in again] == [0]


def test_a_damaged_file_is_named_and_left_out(folder: Path) -> None:
    first = hunt(folder, status=1)["two"]["findings"]
    (path,) = (folder / "logs").glob("*/findings/two-*.json")
    path.write_bytes(path.read_bytes()[:100])
    done = stressvm(folder, "hunt", "own.py", "--format", "json", status=1)
    assert f"{path.relative_to(folder)}: no finding of an earlier hunt, left out" in done.err
    (two,) = (one for one in done.lines()[-1]["scenarios"] if one["name"] == "two")
    assert two["findings"] == first


def test_a_finding_of_a_detector_replays_shrinks_and_explains_with_its_stacks(folder: Path) -> None:
    hunt(folder, "--checks", "lock-order", status=1)
    (path,) = (folder / "logs").glob("*/findings/two-*.json")
    facts = orjson.loads(path.read_bytes())
    assert [(place["step"], place["thread"], place["what"]) for place in facts["places"]] == [
        (0, "thread0", "lock a"),
        (1, "thread0", "lock b"),
        (4, "thread1", "lock b"),
        (5, "thread1", "lock a"),
    ]
    assert all("own.py" in place["stack"][-1] for place in facts["places"])
    for word in (str(path), facts["schedule"]):
        lines = stressvm(folder, "replay", word, "--scenario", "own.py", "--format", "json", status=1).lines()
        assert (lines[-1]["verdict"], lines[-1]["fingerprint"]) == ("lock-order", facts["fingerprint"])
        assert lines[-1]["places"] == facts["places"]
    (shrunk,) = stressvm(folder, "shrink", str(path), "--format", "json", status=1).lines()
    assert shrunk["fingerprint"] == facts["fingerprint"]
    text = stressvm(folder, "explain", str(path), status=1).out
    assert "Where it is:\n  step 0: thread0, lock a\n    own.py:" in text
    (said,) = stressvm(folder, "explain", str(path), "--format", "json", status=1).lines()
    assert said["places"] == facts["places"]


def test_checks_are_set_like_any_option(folder: Path) -> None:
    wrong = stressvm(folder, "hunt", "own.py", "--checks", "lock-orde", status=2)
    assert "--checks: 'lock-orde' is not names of checks: no such check: 'lock-orde'; there are: default" in wrong.err
    (folder / "pyproject.toml").write_text('[tool.stressvm]\nchecks = ["lock-order"]\n', encoding="utf-8")
    assert hunt(folder, "--afresh", status=1)["two"]["findings"][0]["kind"] == "lock-order"
    assert hunt(folder, "--afresh", "--checks", "all", status=1)["two"]["findings"][0]["kind"] == "deadlock"
