"""Workers, shards and resumption: whatever a campaign is spread over, and whatever is killed, the result is the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from tests.e2e.command import COMMAND, environment, stressvm

LONG: Final = bool(os.environ.get("STRESSVM_LONG"))

#: A few shipped scenarios and one of their own: clean, found at once, found late, several bugs in one.
OWN: Final = '''
"""Three bugs, one of them rare, and a space that is soon exhausted in practice."""
from stressvm import Cell, Kernel, Mutex, scenario


@scenario()
def three(k: Kernel) -> None:
    """Which of three things goes wrong depends on who is last."""
    cell = Cell(k, 0, "cell")
    order = []

    async def member(number: int) -> None:
        for _ in range(3):
            await cell.store(await cell.load() + 1)
        order.append(number)
        assert order != [4, 3, 2, 1, 0], "backwards"
        assert order != [1, 0], "the first two in the wrong order"
        if await cell.load() == 5 and number == 2:
            raise ValueError("five")

    for number in range(5):
        k.spawn(member, number)


@scenario(expect="assertion")
def rare(k: Kernel) -> None:
    """Found after some hundreds of executions."""
    cell = Cell(k, 0, "cell")

    async def member(number: int) -> None:
        for _ in range(2):
            await cell.store(await cell.load() * 6 + number)
        assert cell.peek() != 3 * 36 + 4 * 6 + 5, "345"

    for number in range(6):
        k.spawn(member, number)


@scenario(executions=6000)
def calm(k: Kernel) -> None:
    """Nothing goes wrong."""
    lock = Mutex(k, "lock")

    async def member() -> None:
        for _ in range(2):
            await lock.lock()
            await lock.unlock()

    for _ in range(3):
        k.spawn(member)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    return tmp_path


def told(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a campaign found, less the seconds it took."""
    scenarios: list[dict[str, Any]] = lines[-1]["scenarios"]
    return [{key: value for key, value in one.items() if key != "seconds"} for one in scenarios]


def hunt(folder: Path, *words: str, status: int = 1) -> list[dict[str, Any]]:
    return told(stressvm(folder, "hunt", "own.py", "--format", "json", "--afresh", *words, status=status).lines())


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--strategy", "random"),
        ("--keep-going", "--executions", "3000"),
        ("--strategy", "pct", "--seed", "7"),
    ],
)
def test_the_result_is_the_same_with_workers_and_in_shards(folder: Path, more: tuple[str, ...]) -> None:
    alone = hunt(folder, *more)
    assert hunt(folder, "-j", "2", *more) == alone
    assert hunt(folder, "-j", "3", *more) == alone
    if "random" in more:
        assert sum(one["executions"] for one in alone) > 6_000
    assert any(one["findings"] for one in alone)
    for shard in ("2/3", "1/3", "3/3"):
        words = ["own.py", "--format", "json", "--shard", shard, "--logs", "shards", "-j", "2", *more]
        done = subprocess.run(
            [*COMMAND, "hunt", *words], cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 1), done.stderr
    folders = sorted(str(path) for path in (folder / "shards").iterdir())
    assert told(stressvm(folder, "merge", *folders, "--format", "json", status=1).lines()) == alone


#: A tree that falls into pieces, and a bug deep in it.
DEEP: Final = '''
from stressvm import Cell, Kernel, Mutex, scenario


def world(k: Kernel, last: int) -> None:
    lock = Mutex(k, "lock")
    order = []

    async def member(number: int) -> None:
        for _ in range(4):
            await lock.lock()
            order.append(number)
            await lock.unlock()
        assert order[-last:] != [0] * last, "all of the first one's are last"
        assert order[:8] != [2, 1, 2, 1, 2, 1, 2, 1], "in turns"

    for number in range(3):
        k.spawn(member, number)


@scenario(executions=12_000)
def deep(k: Kernel) -> None:
    """Two bugs."""
    world(k, 4)


@scenario(executions=2_000)
def calm(k: Kernel) -> None:
    """Exhausted, in more than one piece."""
    lock = Mutex(k, "lock")

    async def member() -> None:
        for _ in range(3):
            await lock.lock()
            await lock.unlock()

    for _ in range(3):
        k.spawn(member)
'''


@pytest.mark.parametrize(
    "more", [(), ("--keep-going",), ("--keep-going", "--until", "saturated", "--executions", "1700")]
)
def test_the_pieces_of_a_search_are_explored_by_workers(tmp_path: Path, more: tuple[str, ...]) -> None:
    (tmp_path / "own.py").write_text(DEEP, encoding="utf-8")
    alone = hunt(tmp_path, "--strategy", "dpor", *more)
    assert hunt(tmp_path, "--strategy", "dpor", "-j", "2", *more) == alone
    assert hunt(tmp_path, "--strategy", "dpor", "-j", "3", *more) == alone
    assert [one["executions"] for one in alone if one["name"] == "calm"] == [1680]


def started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """A hunt with two workers under way, with no terminal."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*COMMAND, *words], cwd=folder, env=environment(), **quiet)  # type: ignore[call-overload,no-any-return]


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        return [int(word) for word in children.read_text(encoding="ascii").split()]
    except OSError:
        return []


#: Campaigns, each killed up to five times.
CAMPAIGNS: Final = 12 if LONG else 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers as Linux shows them")
@pytest.mark.parametrize("strategy", ["auto", "dpor"])
@pytest.mark.parametrize("whom", ["coordinator", "worker"])
def test_killed_at_any_moment_nothing_recorded_is_lost(tmp_path: Path, whom: str, strategy: str) -> None:
    folder = tmp_path
    (folder / "own.py").write_text(DEEP if strategy == "dpor" else OWN, encoding="utf-8")
    more = ("--keep-going", "--executions", "6000", "--strategy", strategy)
    began = time.monotonic()
    alone = hunt(folder, *more)
    takes = time.monotonic() - began
    moments = random.Random(f"{whom} is killed in {strategy}")
    kills = 0
    for number in range(CAMPAIGNS):
        logs = folder / f"killed-{number}"
        first = ("hunt", "own.py", "-j", "2", *more, "--logs", str(logs))
        process = started(folder, *first)
        for _ in range(5):
            time.sleep(moments.uniform(0.1, 0.5 * takes))
            victims = [process.pid] if whom == "coordinator" else workers_of(process)
            if process.poll() is not None:
                break
            for victim in victims[:1]:
                os.kill(victim, signal.SIGKILL)
                kills += 1
            if whom == "coordinator":
                process.wait(timeout=120)
                log = next(logs.iterdir()) if logs.exists() else None
                if log is None or not _begun(log):
                    shutil.rmtree(logs, ignore_errors=True)
                    process = started(folder, *first)
                else:
                    process = started(folder, "hunt", "--resume", str(log))
        process.wait(timeout=600)
        (log,) = logs.iterdir()
        assert told(stressvm(folder, "hunt", "--resume", str(log), "--format", "json", status=1).lines()) == alone
        for line in (log / "journal.jsonl").read_bytes().splitlines():
            assert orjson.loads(line)["type"]
    assert kills >= CAMPAIGNS


def _begun(log: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"file:{log / 'campaign.sqlite'}?mode=rw", uri=True)) as db:
            return bool(db.execute("SELECT 1 FROM campaign WHERE key = 'complete'").fetchall())
    except sqlite3.OperationalError:
        return False


def test_an_execution_that_ends_its_process_costs_that_execution(tmp_path: Path) -> None:
    (tmp_path / "fatal.py").write_text(
        OWN.replace("assert cell.peek() != 3 * 36", "if cell.peek() == 3 * 36").replace(
            '+ 4 * 6 + 5, "345"', "+ 4 * 6 + 5:\n            import os\n            os._exit(7)"
        ),
        encoding="utf-8",
    )
    words = ("hunt", "fatal.py::rare", "--executions", "1500", "-j", "2", "--format", "json")
    done = stressvm(tmp_path, *words, status=2)
    (one,) = done.summary["scenarios"]
    assert one["status"] == "error"
    assert one["error"].endswith("ended the process that it ran in: exit status 7")
    assert one["executions"] == 1500
    (log,) = (tmp_path / "logs").iterdir()
    again = stressvm(tmp_path, "hunt", "--resume", str(log), "--format", "json", status=2)
    assert told(again.lines()) == told(done.lines())


def test_a_campaign_is_gone_on_with_as_it_was_begun(folder: Path) -> None:
    hunt(folder, "--executions", "300")
    (log,) = (folder / "logs").iterdir()
    begun = hunt(folder, "--executions", "300", "--logs", "again")
    assert told(stressvm(folder, "hunt", "--resume", str(log), "--format", "json", status=1).lines()) == begun
    for words, fault in [
        (("--resume", str(log), "--seed", "2"), "leave out --seed"),
        (("--resume", str(log), "own.py"), "leave out own.py"),
        (("--resume", "nowhere"), "no campaign there"),
    ]:
        assert fault in stressvm(folder, "hunt", *words, status=2).err
    store = log / "campaign.sqlite"
    with closing(sqlite3.connect(store)) as db:
        db.execute("BEGIN IMMEDIATE")
        assert "database is locked" in stressvm(folder, "hunt", "--resume", str(log), status=2).err
    with closing(sqlite3.connect(store, isolation_level=None)) as db:
        db.execute("UPDATE batch SET classes = x'0102'")
    assert "is damaged" in stressvm(folder, "hunt", "--resume", str(log), status=2).out
    store.write_bytes(b"not a database at all, and long enough to be looked at" * 40)
    assert "campaign.sqlite: cannot be read" in stressvm(folder, "hunt", "--resume", str(log), status=2).err
    (log,) = (folder / "again").iterdir()
    (folder / "own.py").write_text(OWN + "\n", encoding="utf-8")
    assert "is not what it was" in stressvm(folder, "hunt", "--resume", str(log), status=2).err


def test_a_hunt_ends_by_saturation_at_the_same_execution(folder: Path) -> None:
    words = ("--until", "saturated", "--executions", "5000", "--strategy", "random")
    alone = hunt(folder, *words)
    (one,) = (one for one in alone if one["name"] == "calm")
    assert one["saturated"] is True
    assert one["evidence"].startswith("saturated: ")
    assert one["executions"] in (1024, 1536, 2048, 3072, 4096)
    assert hunt(folder, *words, "-j", "2") == alone
    assert "cannot know" in stressvm(folder, "hunt", *words, "--shard", "1/2", status=2).err


def test_what_is_no_set_of_shards_is_not_merged(folder: Path) -> None:
    for number, words in enumerate([("1/2",), ("1/2",), ("2/2", "--seed", "2"), ("2/3",)]):
        shard, *more = words
        stressvm(folder, "hunt", "own.py::calm", "--executions", "600", "--shard", shard, *more, "--logs", f"{number}")
    one, same, other, third = (str(next((folder / f"{number}").iterdir())) for number in range(4))
    for folders, fault in [
        ((one,), "shard 2/2 is missing"),
        ((one, same), "is there more than once"),
        ((one, other), "another campaign"),
        ((one, third), "different cuts"),
        ((one, "nowhere"), "no campaign there"),
    ]:
        assert fault in stressvm(folder, "merge", *folders, status=2).err
    assert "is not i/n" in stressvm(folder, "hunt", "--shard", "3/2", status=2).err
    assert "is not a whole number from 1" in stressvm(folder, "hunt", "-j", "0", status=2).err
