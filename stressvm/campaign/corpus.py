"""What earlier campaigns have left in the folder of logs: the bugs they found, and those that were found fixed since.

Every campaign writes a file for each of its findings, and one for each bug that it has found fixed. The newest file about a
bug says how things stand. Bugs that are fixed are kept as well: their schedules are run in every hunt, for they may come back.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from stressvm.explore.known import Known
from stressvm.explore.schedule import parse
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stressvm.explore.execution import Subject

#: Folders in the log folder of a campaign.
FINDINGS: Final = "findings"
FIXED: Final = "fixed"

#: Bugs of one scenario that are looked for again, the newest ones.
KNOWN_MAX: Final = 100

#: What is larger is cut off, and so found to be something else.
FILE_BYTES_MAX: Final = 64 << 20


def facts_of(known: Known) -> dict[str, Any]:
    """A known bug in plain values; what `known_of` reads."""
    return {
        "kind": known.kind,
        "fingerprint": known.fingerprint,
        "text": known.text,
        "schedule": known.schedule.blob(),
        "fewest_preemptions": known.fewest,
        "note": known.note,
        "told": known.told,
    }


def known_of(facts: Mapping[str, Any], *, told: bool = False) -> Known:
    """A known bug, of its plain values or those of a finding file.

    Args:
        facts: the values.
        told: that it is fixed has been said.

    Raises:
        KeyError, TypeError, ValueError, UsageError: they are none.
    """
    return Known(
        str(facts["kind"]),
        str(facts["fingerprint"]),
        str(facts["text"]),
        parse(facts["schedule"]),
        bool(facts["fewest_preemptions"]),
        str(facts.get("note", "")),
        told or bool(facts.get("told", False)),
    )


def known_bugs(logs: Path, subjects: Sequence[Subject]) -> list[list[Known]]:
    """For each subject, what earlier campaigns have found in it, the newest first.

    Files that cannot be read are named on standard error and left out.

    Args:
        logs: the folder of the campaigns' log folders; it need not exist.
        subjects: what is to be hunted in.
    """
    names = {subject.scenario.name for subject in subjects}
    paths = [path for kind in (FINDINGS, FIXED) for path in logs.glob(f"*/{kind}/*.json")]
    # The files of a scenario are named after it, so most need not be read.
    paths = [path for path in paths if any(path.name.startswith(f"{name}-") for name in names)]
    newest: list[dict[str, Known]] = [{} for _ in subjects]
    for path in sorted(paths, key=_age, reverse=True):
        known = _read(path)
        if known is None:
            continue
        for subject, found in zip(subjects, newest, strict=True):
            if _is_of(known, subject) and len(found) < KNOWN_MAX:
                found.setdefault(known.fingerprint, known)
    return [list(found.values()) for found in newest]


def _age(path: Path) -> tuple[str, int, bool]:
    """Campaigns are named after when they began; of two that began within a second, the times of the files tell."""
    began = path.parent.parent.name.partition("-")[2][:15]
    try:
        return began, path.stat().st_mtime_ns, path.parent.name == FINDINGS
    except OSError:
        return began, 0, False


def _read(path: Path) -> Known | None:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX)
        return known_of(orjson.loads(text), told=path.parent.name == FIXED)
    except (OSError, KeyError, TypeError, ValueError, UsageError) as exc:
        sys.stderr.write(f"stressvm: {path}: no finding of an earlier hunt, left out: {exc}\n")
        return None


def _is_of(known: Known, subject: Subject) -> bool:
    schedule, scenario = known.schedule, subject.scenario
    same = schedule.scenario == scenario.name and schedule.params == dict(subject.params)
    return same and Path(schedule.file) == Path(scenario.file)
