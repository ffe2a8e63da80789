"""Whole files of vectors: each line goes to those who know its kind."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from stressvm.conform import (
    freebsd,
    freebsd_case,
    freebsd_program,
    freebsd_programs,
    netbsd,
    netbsd_programs,
    small_program,
    small_programs,
)
from stressvm.conform.records import read
from stressvm.conform.tally import Tally
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from stressvm.conform.records import Record

    #: Answers a line: the line, where to note what comes of it, executions of each program, their seed.
    Answers = Callable[[Record, Tally, int, int], None]

#: Executions of each search of a concurrent program, at most.
EXECUTIONS: int = 2_000


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of lines.

    Attributes:
        what: they are, in words.
        ours: is a line one of these?
        parse: reads it, or raises UsageError.
        models: who answers it, by name; a single one needs none.
    """

    what: str
    ours: Callable[[Mapping[str, Any]], bool]
    parse: Callable[[Record], object]
    models: Mapping[str, Answers]


def _netbsd(record: Record, tally: Tally, _executions: int, _seed: int) -> None:
    netbsd.answer(record, tally)


def _freebsd(personality: freebsd_case.Personality, record: Record, tally: Tally, _executions: int, _seed: int) -> None:
    freebsd.answer(record, tally, personality)


def _freebsd_programs(
    personality: freebsd_case.Personality, record: Record, tally: Tally, executions: int, seed: int
) -> None:
    freebsd_programs.answer(record, tally, personality, executions, seed)


KINDS: Final = (
    Kind("NetBSD's map cases (with `topdown` and `ops`)", netbsd.is_case, netbsd.parse, {"": _netbsd}),
    Kind(
        f"programs of {' and '.join(netbsd_programs.SYSTEMS)}",
        netbsd_programs.is_program,
        netbsd_programs.parse,
        {"": netbsd_programs.answer},
    ),
    Kind(
        "FreeBSD's map cases (with `coalesce` and `ops`)",
        freebsd_case.is_case,
        freebsd_case.parse,
        {one.name: partial(_freebsd, one) for one in freebsd_case.PERSONALITIES},
    ),
    Kind(
        f"programs of {freebsd_program.SYSTEM}",
        freebsd_program.is_program,
        freebsd_program.parse,
        {one.name: partial(_freebsd_programs, one) for one in freebsd_programs.PERSONALITIES},
    ),
    Kind(
        "small programs with exact figures (with `threads`, `vars`, `mutexes`, ...)",
        small_program.is_program,
        small_program.parse,
        {"": small_programs.answer},
    ),
)


def conform(
    path: Path,
    *,
    executions: int = EXECUTIONS,
    seed: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Tally]:
    """Answer the vectors of a file and compare.

    Args:
        path: JSON lines, plain or compressed by gzip.
        executions: of each search of a concurrent program, at most.
        seed: of random ones.
        progress: called after each line, with the number of lines done and that of all lines.

    Returns:
        The figures of each kind of lines that the file has, by each who answers them.

    Raises:
        UsageError: the file or a line of it is not what it should be; all of it is read before the first comparison.
            Or nothing in it can be compared.
    """
    records = [(record, _known(record)) for record in read(path)]
    tallies: dict[tuple[str, str], Tally] = {}
    for done, (record, kind) in enumerate(records, 1):
        for model, answer in kind.models.items():
            tally = tallies.setdefault((kind.what, model), Tally(str(path), model))
            answer(record, tally, executions, seed)
        progress(done, len(records))
    if not any(tally.cases for tally in tallies.values()):
        reasons = {reason for tally in tallies.values() for reason in tally.left_out}
        raise UsageError(f"{path}: nothing in it can be compared; left out were {', '.join(sorted(reasons))}")
    return list(tallies.values())


def _known(record: Record) -> Kind:
    """What kind of line it is, having read it."""
    for kind in KINDS:
        if kind.ours(record.fields):
            kind.parse(record)
            return kind
    system = record.fields.get("system")
    what = f"of the system {system!r}" if system is not None else "in this form"
    raise record.bad(f"vectors {what} are not known; known are {', '.join(kind.what for kind in KINDS)}")
