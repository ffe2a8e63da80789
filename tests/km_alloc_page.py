"""docs/uvm_km_alloc.md: where uvm_km_alloc does not do what uvm_km(9) promises, counted over the rows of its truth table.

`python -m tests.km_alloc_page` writes it, from a run of all rows; a test compares it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stressvm.vm import netbsd
from tests.km_alloc_rows import FLAGS, ROWS, Case, run_of

if TYPE_CHECKING:
    from collections.abc import Callable

FILE: Final = Path(__file__).parents[1] / "docs" / "uvm_km_alloc.md"
#: How the page says what a call comes to, in turn.
WORDS: Final = {
    "map-lock": "sleeps for the map's lock",
    "va": "sleeps for addresses",
    "pages": "sleeps for pages",
    "unwind": "sleeps for the map's lock, to give back what it has",
    "addr": "an address",
    "0": "0",
    "panic": "a panic",
}


@dataclass(frozen=True, slots=True)
class Promise:
    """What uvm_km(9) says of a flag and the code does not keep.

    Attributes:
        name: in a few words.
        page: what the page says.
        code: what the code does.
        breaks: is it broken by what a case came to?
        diagnostic: it is about kernels with DIAGNOSTIC; else about those without.
        zero: it is about calls with UVM_KMF_ZERO.
    """

    name: str
    page: str
    code: str
    breaks: Callable[[Case, list[str]], bool]
    diagnostic: bool = True
    zero: bool = False


PROMISES: Final = (
    Promise(
        "CANFAIL with WAITVA",
        "with CANFAIL the call can fail, even if WAITVA is given",
        "for addresses CANFAIL is not looked at: it sleeps until there are some",
        lambda case, came: case.row["canfail"] and not case.row["nowait"] and "va" in came,
    ),
    Promise(
        "CANFAIL and pages",
        "with CANFAIL the call can fail",
        "for pages it fails only if nothing can be reclaimed; else it sleeps",
        lambda case, came: case.row["canfail"] and not case.row["nowait"] and "pages" in came,
    ),
    Promise(
        "WAITVA alone",
        "with WAITVA, without NOWAIT and CANFAIL, the call never fails",
        "with TRYLOCK it fails if the map is locked",
        lambda case, came: (
            case.row["waitva"] and not case.row["nowait"] and not case.row["canfail"] and came[-1] == "0"
        ),
    ),
    Promise(
        "NOWAIT and the lock",
        "with NOWAIT the call fails at once rather than waits",
        "it sleeps for the map's lock, unless TRYLOCK is given as well",
        lambda case, came: case.row["nowait"] and "map-lock" in came,
    ),
    Promise(
        "NOWAIT, giving back",
        "with NOWAIT the call fails at once rather than waits",
        "when pages run out, it sleeps for the map's lock to give back its addresses",
        lambda case, came: case.row["nowait"] and "unwind" in came,
    ),
    Promise(
        "TRYLOCK, giving back",
        "with TRYLOCK the call fails if the map is locked",
        "to give back its addresses it sleeps for the lock all the same",
        lambda case, came: case.row["trylock"] and "unwind" in came,
    ),
    Promise(
        "NOWAIT with WAITVA",
        "nothing is said of giving both",
        "they exclude each other: a panic, if the kernel is built with DIAGNOSTIC",
        lambda case, came: case.row["nowait"] and case.row["waitva"] and came == ["panic"],
    ),
    Promise(
        "NOWAIT with WAITVA, plain",
        "with NOWAIT the call fails at once rather than waits",
        "without DIAGNOSTIC WAITVA wins: it sleeps for addresses",
        lambda case, came: case.row["nowait"] and "va" in came,
        diagnostic=False,
    ),
    Promise(
        "ZERO without WIRED",
        "ZERO is supported for WIRED only",
        "nothing refuses it; it is ignored, and the call comes to what it comes to without",
        lambda case, came: case.zero and case.row["type"] != "WIRED" and came != ["panic"],
        zero=True,
    ),
)


def broken(promise: Promise, version: str) -> dict[int, tuple[Case, list[str]]]:
    """The numbers of the rows that break a promise, each with the first case that does."""
    numbers = {id(row): number for number, row in enumerate(ROWS)}
    rows: dict[int, tuple[Case, list[str]]] = {}
    for case, world, verdict in run_of(version, diagnostic=promise.diagnostic, zero=promise.zero):
        came = ["panic"] if verdict is not None else world.came
        if promise.breaks(case, came):
            rows.setdefault(numbers[id(case.row)], (case, came))
    return rows


def example(case: Case, came: list[str]) -> str:
    """A case in words."""
    row = case.row
    flags = [row["type"], *(name.upper() for name in FLAGS if row[name])] + ["ZERO"] * case.zero
    lacks = [what for what, there in (("addresses", "va_available"), ("pages", "pages_available")) if not row[there]]
    world = [f"no {what}" for what in lacks]
    if case.holder:
        world.append({"busy": "the map is busy"}.get(case.holder, f"a {case.holder} has the lock"))
    if case.intruder:
        world.append("somebody has the lock later")
    if "pages" in lacks and row["type"] == "WIRED" and not case.reclaimable:
        world.append("nothing to reclaim")
    return f"`{' '.join(flags)}`; {', '.join(world) or 'all there'}: {', then '.join(WORDS[word] for word in came)}"


def page() -> str:
    """The document."""
    lines = [
        "# Where uvm_km_alloc does not do what uvm_km(9) says",
        "",
        "Made by `python -m tests.km_alloc_page` from a run of uvm_km_alloc in each of the 384 rows of its truth table: four",
        "flags, three types, addresses and pages there or not, the map's lock free or held. Every row is run with the lock",
        "held by a reader, a writer, or a busy mark; with and without anything that the page daemon could reclaim; and with",
        "somebody else taking the lock when a failing call gives back what it has. Who sleeps is then given what he sleeps",
        "for. The manual page is that of 3 June 2011, which NetBSD 6.1.4 and 7 have; the code is NetBSD 6.99.16's. 5.2's",
        "maps that are not INTRSAFE come to the same, row for row.",
        "",
        "A row is counted if any of its runs does what the page does not say. The last column is the first such run.",
        "",
        "| | the page | the code | rows | for example |",
        "|---|---|---|---|---|",
    ]
    counted: set[int] = set()
    for promise in PROMISES:
        rows = broken(promise, netbsd.VERSIONS[-1])
        if not promise.zero:
            counted |= set(rows)
        first = example(*next(iter(rows.values())))
        lines.append(f"| {promise.name} | {promise.page} | {promise.code} | {len(rows)} | {first} |")
    some = len(counted)
    lines += [
        "",
        f"Of the {len(ROWS)} rows {some} break at least one of these, ZERO left aside, and {len(ROWS) - some} none.",
        "",
        "What else the page says and the code does not do, each with an operation that shows it, is in the",
        "[manual pages](man/README.md).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(page())
