"""The example in the docs finds its bug, the command that it prints replays it, and the remedy it names is one."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.command import ROOT, environment, stressvm

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def example(tmp_path: Path) -> Path:
    text = (ROOT / "docs" / "stateful.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    file = tmp_path / "test_pool.py"
    file.write_text(blocks[0], encoding="utf-8")
    return file


def run_pytest(file: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=1", file.name]
    return subprocess.run(
        words, cwd=file.parent, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def test_the_example_fails_and_what_it_prints_replays_the_failure(example: Path) -> None:
    done = run_pytest(example)
    assert done.returncode == 1, done.stdout + done.stderr
    shown = [re.sub(r"^E? {0,7}", "", line) for line in done.stdout.splitlines()]
    assert "IndexError: pop from empty list (in Pool.take)" in done.stdout
    steps = [re.sub(r".*#\d ", "", line) for line in shown if re.match(r" *(t\d +)?#\d+ ", line)]
    # It takes three who take and one who gives, whatever the threads; some worlds need one more to begin with.
    assert 4 <= len(steps) <= 6
    assert steps.count("take()") >= 3
    command = next(line.strip() for line in shown if line.strip().startswith("stressvm replay "))
    words = shlex.split(command)[1:]
    replayed = stressvm(example.parent, *words, status=1)
    assert "IndexError: pop from empty list (in Pool.take)" in replayed.out
    assert "replayed as recorded" in replayed.out
    explained = stressvm(example.parent, "explain", *words[1:], status=1)
    assert "Without: the bug is gone" in explained.out


def test_with_the_remedy_it_passes(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    example.write_text(text.replace("if not self.free:", "while not self.free:"), encoding="utf-8")
    done = run_pytest(example)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_program_can_be_hunted_in(example: Path) -> None:
    program = (
        '{"world":{"buffers":1},"threads":[[["take",{}],["give",{"buffer":{"ref":[0,0]}}],["take",{}]],[["take",{}]]]}'
    )
    done = stressvm(example.parent, "hunt", example.name, "--param", f"program={program}", "--logs", "logs", status=1)
    assert "IndexError" in done.out
    clean = stressvm(example.parent, "hunt", example.name, "--logs", "logs")
    assert "clean" in clean.out


def test_a_machine_in_a_package_is_found_from_anywhere(tmp_path: Path) -> None:
    """It imports its neighbours by the package's name, as it does in the tests."""
    machine = f"{ROOT / 'tests' / 'model' / 'netbsd_machine.py'}::intrsafe_machine"
    one, two, free = ["alloc", {"pages": 1}], ["alloc", {"pages": 2}], ["free", {"what": {"ref": [0, 1]}}]
    program = json.dumps({"world": {"version": "5.2", "pages": 2}, "threads": [[one, one, free, two], [one]]})
    done = stressvm(tmp_path, "hunt", machine, "--param", f"program={program}", "--logs", "logs", status=1)
    assert "lost-wakeup in intrsafe_machine" in done.out


def test_without_hypothesis_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import stressvm.stateful"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError: stressvm.stateful needs Hypothesis" in done.stderr
    assert "pip install 'stressvm[hypothesis]'" in done.stderr
