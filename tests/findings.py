"""docs/findings/: what the commands on those pages print. `python -m tests.findings` writes it; a test compares."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Final

import pytest

from stressvm import cli
from stressvm.explore.hunt import hunt_subject
from stressvm.explore.loading import select
from stressvm.explore.settings import Settings
from stressvm.explore.subject import Subject
from tests.support import in_trio

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "docs" / "findings"

#: A command and the block of text that follows it.
COMMAND: Final = re.compile(
    r"```sh\nstressvm hunt (?P<scenario>\S+)\n```\n(?P<between>[^`]*)```text\n(?P<text>.*?)```\n", re.DOTALL
)


def explanation(name: str) -> str:
    """What is explained of the first bug that a hunt finds, without line numbers."""
    (scenario,) = select([str(ROOT / name)])
    blobs: list[str] = []

    async def main() -> None:
        result = await hunt_subject(Subject(scenario, scenario.resolve({})), Settings(seed=1))
        assert result.status == "found", (name, result.status)
        blobs.append(result.findings[0].schedule.blob())

    in_trio(main)
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("COLUMNS", "100")
        status = cli.main(["explain", blobs[0]])
    assert status == 1, (name, status)
    return re.sub(r"\.py:\d+", ".py", out.getvalue())


def made(page: str) -> str:
    """A page with what its commands print now."""
    return COMMAND.sub(
        lambda found: (
            f"```sh\nstressvm hunt {found['scenario']}\n```\n{found['between']}```text\n{explanation(found['scenario'])}```\n"
        ),
        page,
    )


def main() -> None:
    """Write all pages."""
    os.chdir(ROOT)
    for path in sorted(FOLDER.glob("*.md")):
        path.write_text(made(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
