"""The command line as people and pipelines run it: in a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parents[2]

#: The installed command where there is one (it is the wheel that is tested then), else the checkout's.
_INSTALLED: Final = Path(sys.executable).with_name("stressvm")
COMMAND: Final = [str(_INSTALLED)] if _INSTALLED.exists() else [sys.executable, "-m", "stressvm"]


@dataclass(frozen=True, slots=True)
class Done:
    """What a run printed."""

    out: str
    err: str

    def lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [orjson.loads(line) for line in self.out.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        """The last line of JSON output, which must be the summary."""
        last = self.lines()[-1]
        assert last["type"] == "summary"
        return last


_NOT_OURS: Final = ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "CI")


def environment(**more: str) -> dict[str, str]:
    """Ours, less what would colour or configure (`CI` changes how Hypothesis draws), and so that any warning is an error."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STRESSVM_", "COV_", "COVERAGE")) and name not in _NOT_OURS
    }
    path = {} if _INSTALLED.exists() else {"PYTHONPATH": str(ROOT)}
    return {**kept, **path, "PYTHONWARNINGS": "error", **more}


def stressvm(folder: Path, *words: str, status: int = 0, env: Mapping[str, str] | None = None) -> Done:
    """Run it to its end; the exit status must be that."""
    done = subprocess.run(
        [*COMMAND, *words],
        cwd=folder,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.stdout, done.stderr)
