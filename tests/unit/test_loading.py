"""Finding scenarios: by file, folder, name, and FILE::NAME; and what is said when there are none."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from stressvm import UsageError
from stressvm.explore.loading import by_name, digest_of, load, select

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "from stressvm import Kernel, scenario\n"
TWO = (
    HEAD
    + """
@scenario()
def second(k: Kernel) -> None: ...

@scenario()
def first(k: Kernel, n: int = 1) -> None: ...

same = first
"""
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def _names(*words: str) -> list[str]:
    return [scenario.name for scenario in select(words)]


def test_a_file_gives_its_scenarios_in_order_of_definition_each_once(folder: Path) -> None:
    (folder / "two.py").write_text(TWO)
    assert _names("two.py") == ["second", "first"]
    assert _names("two.py", "two.py", str(folder / "two.py")) == ["second", "first"]


def test_file_and_name_give_one(folder: Path) -> None:
    (folder / "two.py").write_text(TWO)
    assert _names("two.py::first") == ["first"]
    assert _names("two.py::first", "two.py") == ["first", "second"]
    with pytest.raises(UsageError, match=r"two\.py: no scenario 'third' in it"):
        select(["two.py::third"])


def test_a_folder_gives_all_files_below_it_but_helpers(folder: Path) -> None:
    for name in ("b.py", "sub/a.py", "_helper.py", "sub/_more/c.py", ".hidden/d.py", "notes.txt"):
        path = folder / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        stem = path.stem.strip("_")
        path.write_text(f"{HEAD}\n@scenario()\ndef in_{stem}(k: Kernel) -> None: ...\n")
    assert _names("all") == ["in_b", "in_a"]
    assert _names("all::in_a") == ["in_a"]


def test_a_bare_name_is_looked_up_in_the_shipped_scenarios_and_in_the_folder_scenarios(folder: Path) -> None:
    (folder / "scenarios").mkdir()
    (folder / "scenarios" / "mine.py").write_text(TWO)
    assert _names("first") == ["first"]
    assert _names("netbsd5_intrsafe_waiters") == ["netbsd5_intrsafe_waiters"]
    assert {"first", "second", "netbsd5_intrsafe_nowait"} <= set(_names())
    with pytest.raises(UsageError, match="third: no such file or folder, and no scenario of that name"):
        select(["third"])


def test_a_file_below_the_current_folder_stands_for_the_shipped_one_of_the_same_path(folder: Path) -> None:
    (folder / "scenarios").mkdir()
    (folder / "scenarios" / "netbsd5_intrsafe.py").write_text(TWO)
    names = _names()
    assert {"first", "second"} <= set(names)
    assert "netbsd5_intrsafe_nowait" not in names


def test_a_name_can_be_looked_up_in_a_file_of_ones_own(folder: Path) -> None:
    (folder / "two.py").write_text(TWO)
    assert by_name("second", "two.py").name == "second"
    with pytest.raises(UsageError, match=r"no scenario 'third' in two\.py$"):
        by_name("third", "two.py")


@pytest.mark.parametrize("word", ["missing.py", "missing/", "missing/deep", "missing.py::name", "./missing"])
def test_what_is_not_there_is_said_to_be_missing(folder: Path, word: str) -> None:
    with pytest.raises(UsageError, match="no such file"):
        select([word])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", r"bad.py: line 1: "),
        ("x = 1\nraise RuntimeError('at import')\n", "bad.py: raises when imported at line 2: RuntimeError: at import"),
        ("import sys\nsys.exit(3)\n", "bad.py: raises when imported at line 2: SystemExit: 3"),
        (
            "import no_such_module_anywhere\n",
            "at line 1: ModuleNotFoundError: No module named 'no_such_module_anywhere'",
        ),
        (HEAD + "@scenario(expect='x')\ndef f(k): ...\n", "bad.py: @scenario: no such kind of finding: 'x'"),
        (HEAD + "@scenario()\ndef f(k, n): ...\n", "bad.py: scenario f: parameter n needs a default"),
        ("x = '\0'\n", "bad.py: "),
        ("def helper(): ...\n", "bad.py: no scenario in it; decorate a function"),
        ("from two import first\n", "bad.py: no scenario in it"),
        ("", "bad.py: no scenario in it"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(folder: Path, text: str, message: str) -> None:
    (folder / "two.py").write_text(TWO)
    (folder / "bad.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        select(["bad.py"])


def test_a_file_that_is_no_text_is_named_with_the_reason(folder: Path) -> None:
    (folder / "bad.py").write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(UsageError, match=r"bad\.py: "):
        select(["bad.py"])


def test_a_file_that_is_no_python_file_is_refused(folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"notes\.txt: not a Python file"):
        select(["notes.txt"])


def test_an_empty_folder_gives_nothing(folder: Path) -> None:
    (folder / "none").mkdir()
    assert select(["none"]) == []


def test_files_of_the_same_name_in_two_folders_are_two_files(folder: Path) -> None:
    for where in ("a", "b"):
        (folder / where).mkdir()
        (folder / where / "same.py").write_text(f"{HEAD}\n@scenario()\ndef in_{where}(k: Kernel) -> None: ...\n")
    assert _names("a/same.py", "b/same.py") == ["in_a", "in_b"]


def test_a_scenario_file_may_import_a_helper_beside_it(folder: Path) -> None:
    (folder / "_beside_it.py").write_text("NAME = 'x'\n")
    (folder / "uses.py").write_text(
        f"{HEAD}from _beside_it import NAME\n@scenario()\ndef f(k: Kernel, n: str = NAME) -> None: ...\n"
    )
    (loaded,) = load(folder / "uses.py")
    assert dict(loaded.params) == {"n": "x"}


def test_the_digest_of_a_scenario_is_that_of_its_files_content(folder: Path) -> None:
    for name, text in (("a.py", TWO), ("b.py", TWO), ("c.py", TWO + "# more\n")):
        (folder / name).write_text(text)
    a, b, c = (digest_of(load(folder / name)[0]) for name in ("a.py", "b.py", "c.py"))
    assert a == b != c
    assert len(a) == 16
