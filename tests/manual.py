"""The manual pages of docs/man/, made from the docstrings of the calls and from what the code does unlike the kernels' pages.

One source for each fact: the docstring has the arguments, locks, sleeping, results and the source modelled, the
signature has the synopsis, and `docs/man/disagreements.toml` has what a kernel's own manual page promises and its code
does not do, each with an operation that shows it (`tests/fidelity/test_man_pages.py` runs those).
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stressvm.vm import freebsd, netbsd

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

FOLDER: Final = Path(__file__).parents[1] / "docs" / "man"
FACES: Final = {"freebsd": freebsd, "netbsd": netbsd}
#: A call says which of a kernel's it models; other functions of a face build worlds, or are macros.
SOURCE: Final = "Source: "
#: A signature longer than this is broken into lines.
LONG: Final = 80
HEADINGS: Final = ("Args", "Returns", "Raises")
MARKS: Final = re.compile(r"\b(Locks|Sleeps|Returns|Source): ")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A promise of a kernel's manual page that its code breaks.

    Attributes:
        call: of which call.
        versions: whose code.
        promise: what the page says.
        code: what the code does.
        shows: Python that shows it, the body of an async function; its last line is an expression.
        gives: what that is, as `repr` writes it.
    """

    call: str
    versions: tuple[str, ...]
    promise: str
    code: str
    shows: str
    gives: str


def disagreements() -> list[Disagreement]:
    """All of them, in the order of the file."""
    data = tomllib.loads((FOLDER / "disagreements.toml").read_text())
    return [
        Disagreement(call, tuple(one["versions"]), one["promise"], one["code"], one["shows"].strip(), one["gives"])
        for call, several in data.items()
        for one in several
    ]


def calls(face: ModuleType) -> dict[str, Callable[..., Any]]:
    """The modelled calls of a face, by name."""
    found = {name: getattr(face, name) for name in face.__all__}
    return {
        name: call
        for name, call in sorted(found.items())
        if inspect.isfunction(call) and SOURCE in (call.__doc__ or "")
    }


@dataclass(slots=True)
class _Parts:
    """A docstring, taken apart."""

    name: str
    description: list[str]
    marks: dict[str, str]
    lists: dict[str, str]


def _parts(doc: str) -> _Parts:
    paragraphs = inspect.cleandoc(doc).split("\n\n")
    parts = _Parts(" ".join(paragraphs[0].split()), [], {}, {})
    for number, paragraph in enumerate(paragraphs):
        heading, _, rest = paragraph.partition(":\n")
        if heading in HEADINGS:
            parts.lists[heading] = inspect.cleandoc("\n" + rest)
            continue
        pieces = MARKS.split(" ".join(paragraph.split()))
        text = pieces[0].strip()
        if number and text:
            parts.description.append(text)
        elif not number:
            parts.name = text
        for mark, value in zip(pieces[1::2], pieces[2::2], strict=True):
            said, panics, what = value.strip().partition(" Panics ")
            parts.marks[mark] = said
            if panics:
                parts.marks["Panics"] = f"Panics {what}"
    return parts


def _items(text: str) -> str:
    """`name: meaning` lines as a definition list."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and lines:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line.strip())
    return "\n".join(
        f"- `{name}`: {meaning}" if meaning else f"- {name}"
        for name, _, meaning in (line.partition(": ") for line in lines)
    )


def _signature(call: Callable[..., Any]) -> str:
    """As it is written in Python, constants by their names; a parameter a line if it is long."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(call))).body
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef), f"{call.__name__} is a function"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    args = ast.unparse(node.args).replace("F.", "")
    line = f"({args}){returns}"
    if len(line) < LONG:
        return line
    plain = node.args
    text = [ast.unparse(arg) for arg in plain.args]
    defaults = [f" = {ast.unparse(value)}" for value in plain.defaults]
    text = [arg + value for arg, value in zip(text, [""] * (len(text) - len(defaults)) + defaults, strict=True)]
    if plain.kwonlyargs:
        text.append("*")
    for arg, value in zip(plain.kwonlyargs, plain.kw_defaults, strict=True):
        text.append(ast.unparse(arg) + (f" = {ast.unparse(value)}" if value is not None else ""))
    inner = "".join(f"    {one},\n" for one in text).replace("F.", "")
    return f"(\n{inner}){returns}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def page(face: str, name: str, call: Callable[..., Any]) -> str:
    """The page of one call, in Markdown."""
    doc = call.__doc__
    assert doc, f"{face}.{name} has no docstring"
    parts = _parts(doc)
    word = "await " if inspect.iscoroutinefunction(call) else ""
    out = [f"# {name}(9), {face}", "## NAME", f"**{name}**: {parts.name}", "## SYNOPSIS"]
    out.append(f"```python\nfrom stressvm.vm import {face}\n\n{word}{face}.{name}{_signature(call)}\n```")
    if parts.description or "Args" in parts.lists:
        out.append("## DESCRIPTION")
    out += parts.description
    if "Args" in parts.lists:
        out.append(_items(parts.lists["Args"]))
    out.append("## LOCKS")
    out.append(_sentence(parts.marks.get("Locks", "None are needed and none are taken.")))
    out.append("## SLEEPS")
    out.append(_sentence(parts.marks.get("Sleeps", "No.")))
    returns = parts.lists.get("Returns") or parts.marks.get("Returns")
    out += ["## RETURN VALUES", _sentence(" ".join(returns.split())) if returns else "Nothing."]
    errors = [parts.marks["Panics"]] if "Panics" in parts.marks else []
    if "Raises" in parts.lists:
        errors.append(_items(parts.lists["Raises"]))
    if errors:
        out += ["## ERRORS", *errors]
    broken = [one for one in disagreements() if one.call == f"{face}.{name}"]
    if broken:
        out.append("## WHERE THE CODE AND THE KERNEL'S MANUAL PAGE DISAGREE")
        for one in broken:
            shows = f"```python\n{one.shows}  # {one.gives}\n```"
            out.append(
                f"Versions {' and '.join(one.versions)}. The page: {one.promise} The code: {one.code}\n\n{shows}"
            )
    out += ["## SOURCE", parts.marks.get("Source", "")]
    return "\n\n".join(out).rstrip() + "\n"


def pages() -> dict[str, str]:
    """Every page by its file's name, and the index."""
    made: dict[str, str] = {}
    index = ["# Manual pages", "One page for each modelled call, made from the docstrings by `python -m tests.manual`."]
    for face, module in FACES.items():
        lines = []
        for name, call in calls(module).items():
            file = f"{face}.{name}.9.md"
            made[file] = page(face, name, call)
            lines.append(f"- [{name}]({file}): {_parts(call.__doc__ or '').name}")
        index.append(f"## {face}\n\n" + "\n".join(lines))
    made["README.md"] = "\n\n".join(index) + "\n"
    return made


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.md"):
        old.unlink()
    for file, text in pages().items():
        (FOLDER / file).write_text(text)


if __name__ == "__main__":
    main()
