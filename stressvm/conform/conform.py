"""Whole files of vectors: each line goes to those who know its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.conform import netbsd, netbsd_programs
from stressvm.conform.records import read
from stressvm.conform.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stressvm.conform.records import Record

#: Random executions of each concurrent program.
EXECUTIONS: int = 2_000


def conform(
    path: Path,
    *,
    executions: int = EXECUTIONS,
    seed: int = 1,
    progress: Callable[[Tally, int], None] = lambda _tally, _total: None,
) -> Tally:
    """Answer the vectors of a file and compare.

    Args:
        path: JSON lines, plain or compressed by gzip.
        executions: of each concurrent program.
        seed: of these.
        progress: called after each line, with the number of lines.

    Raises:
        UsageError: the file or a line of it is not what it should be; all of it is read before the first comparison.
    """
    records = read(path)
    for record in records:
        _known(record)
    tally = Tally(str(path))
    for record in records:
        if netbsd.is_case(record.fields):
            netbsd.answer(record, tally)
        else:
            netbsd_programs.answer(record, tally, executions, seed)
        progress(tally, len(records))
    return tally


def _known(record: Record) -> None:
    if netbsd.is_case(record.fields):
        netbsd.parse(record)
    elif netbsd_programs.is_program(record.fields):
        netbsd_programs.parse(record)
    else:
        system = record.fields.get("system")
        what = f"of the system {system!r}" if system is not None else "in this form"
        raise record.bad(
            f"vectors {what} are not known; known are NetBSD's map cases (with `topdown` and `ops`) and the programs of "
            f"{' and '.join(netbsd_programs.SYSTEMS)}"
        )
