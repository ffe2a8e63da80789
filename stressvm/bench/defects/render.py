"""What was measured of planted defects, as a table for a terminal and as the page of the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stressvm.bench.defects.measure import passed, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD = """# Planted defects

How good is stressvm at finding what it is for? Each line below is a window of an interleaving in the maps of FreeBSD or
NetBSD, or under them: a place where the kernels keep something shut, with a lock, a flag, a second look, an order of two
steps. What keeps it shut is taken away in one small step of the model, in a small world in which that matters, and a hunt
with the default strategy and the default checks looks for it. `stressvm bench defects` measures this page, and
`stressvm bench defects --id F6` a line of it.

- A **mutant** is a subclass that does one step of the model wrongly. An **analogue** does so with the lanes of gaps over the
  entry list, which stand in for the kernels' trees. Of what is **shipped** nothing is planted: a version of the kernel does
  it, and its twin is another version, or as noted. An **equivalent** does a step otherwise, and nobody can notice; why, is
  argued below the tables, and all its seeds together have had {cap:,} executions.
- **found** is by how many seeds, each with {cap:,} executions at most. **by** is the check that saw it first: the kind of
  finding, and an invariant by its name; several where seeds differ. **median** and **most** are executions up to and
  including the first that shows it.
- The **twin** is the same world without the defect. It must be clean, in as many executions as it says, or `exhausted`: then
  those were all that there are, but for the order of independent steps.
"""


def render(table: Sequence[dict[str, Any]], cap: int) -> str:
    """As a table: a line for each planted defect, and at the end what it comes to."""
    width = max(len(row["name"]) for row in table)
    lines = [f"planted defects, {table[0]['seeds']} seeds, at most {cap} executions"]
    lines.append(f"{'':<{width}}  {'label':<10} {'found':>7} {'median':>7} {'most':>6}  {'twin':<10} by")
    for row in table:
        found = f"{row['found']}/{row['seeds']}"
        mark = "" if passed(row) else "  !"
        lines.append(
            f"{row['name']:<{width}}  {row['label']:<10} {found:>7} {_number(row['median']):>7} {_number(row['most']):>6}"
            f"  {row['twin']:<10} {', '.join(row['checks']) or '-'}{mark}"
        )
    if len({row["id"] for row in table}) == 1:
        lines += _story(table)
    facts = summary(table)
    lines.append(
        f"{facts['windows']} windows: {facts['defects_found']} defects found by every seed, {facts['defects_missed']} not; "
        f"{facts['equivalent']} equivalent, {facts['equivalent_found']} of them noticed; "
        f"{facts['twins_unexpected']} worlds not clean without a defect"
    )
    return "\n".join(lines)


def _story(table: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["", table[0]["window"]]
    for row in table:
        lines.append(f"{row['name']}: {row['what']}")
        lines += [f"  {text}" for text in (row["says"].partition("\n")[0], row["note"]) if text]
    return [*lines, ""]


def page(table: Sequence[dict[str, Any]], cap: int) -> str:
    """As docs/defects.md."""
    lines = [_HEAD.format(cap=cap)]
    facts = summary(table)
    lines.append(
        f"{facts['windows']} windows, {len(table)} ways to open them: {facts['defects_found']} found by all of "
        f"{table[0]['seeds']} seeds, {facts['defects_missed']} not by all; {facts['equivalent']} equivalent, of which "
        f"{facts['equivalent_found']} were noticed. Of the worlds without a defect, {facts['twins_unexpected']} were not clean.\n"
    )
    for system in dict.fromkeys(row["system"] for row in table):
        lines += [f"## {system}\n", _COLUMNS, _RULE]
        window = ""
        for row in table:
            if row["system"] == system:
                lines.append(_line(row, row["window"] if row["id"] != window else ""))
                window = row["id"]
        lines.append("")
    notes = [row for row in table if row["note"]]
    if notes:
        lines.append("## Notes\n")
        lines += [f"- **{row['name']}** ({row['label']}; {row['what']}): {row['note']}" for row in notes]
        lines.append("")
    return "\n".join(lines)


_COLUMNS = "| | what keeps it shut | what is done wrongly | label | found | by | median | most | twin |"
_RULE = "|---|---|---|---|---|---|---|---|---|"


def _line(row: dict[str, Any], window: str) -> str:
    twin = row["twin"] if row["twin"] not in ("clean", "exhausted") else f"{row['twin']}, {row['twin_executions']:,}"
    cells = (
        row["name"],
        window,
        row["what"],
        row["label"],
        f"{row['found']}/{row['seeds']}",
        ", ".join(row["checks"]) or "-",
        _number(row["median"]) if row["checks"] else "-",
        _number(row["most"]) if row["checks"] else "-",
        twin,
    )
    return "| " + " | ".join(cells) + " |"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"
