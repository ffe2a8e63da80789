"""docs/findings/ shows what its commands print."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.findings import COMMAND, FOLDER, explanation

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_shows_what_its_commands_print(path: Path) -> None:
    """After a change: `python -m tests.findings`."""
    page = path.read_text(encoding="utf-8")
    found = list(COMMAND.finditer(page))
    assert found
    for one in found:
        assert one["text"] == explanation(one["scenario"]), "python -m tests.findings"


def test_the_index_has_every_page() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\(([a-z0-9-]+\.md)\)", index)) == [path.name for path in PAGES]
