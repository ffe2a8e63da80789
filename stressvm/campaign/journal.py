"""The log folder of a campaign: a journal that is readable at any moment, and a file for every finding.

Lines are written and flushed as things happen; a journal without its summary was cut short.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson

from stressvm._version import __version__
from stressvm.campaign.corpus import FINDINGS, FIXED
from stressvm.campaign.facts import finding_file, fixed_facts, replay_command, result_facts
from stressvm.kernel.errors import UsageError
from stressvm.report.jsonl import created, logger_to, write_execution

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from stressvm.explore.result import Finding, Result

#: What is in the file of a finding, and too long for a line of the journal.
_LONG: Final = frozenset(
    {"type", "threads", "processes", "missed_wakeups", "led_to", "channels", "blame", "turning_point"}
)


class Journal:
    """The open journal of one campaign; made by `open_journal`."""

    def __init__(self, folder: Path, file: BinaryIO) -> None:
        self.folder = folder
        self.file = file
        self.log = logger_to(file)
        #: Files of findings written so far.
        self.written: set[Path] = set()

    def header(self, verb: str, seed: int, settings: Mapping[str, Any], scenarios: list[str]) -> None:
        """What is about to be done."""
        self._write("header", verb=verb, version=__version__, seed=seed, settings=dict(settings), scenarios=scenarios)

    def resumed(self) -> None:
        """What was begun is gone on with: what follows tells all of it again."""
        self._write("resumed", version=__version__)

    def result(self, result: Result) -> None:
        """A scenario is finished."""
        self._write("scenario", **result_facts(result))
        for quiet in result.fixed:
            if not quiet.known.told:
                name = f"{result.subject.scenario.name}-{quiet.known.fingerprint}.json"
                with created(self.folder / FIXED / name) as file:
                    file.write(orjson.dumps(fixed_facts(quiet), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    def finding(self, finding: Finding) -> str:
        """A finding: a line here, and two files of its own. Returns the command that replays it."""
        name = f"{finding.recording.subject.scenario.name}-{finding.fingerprint}"
        path = self.folder / FINDINGS / f"{name}.json"
        number = 1
        while path in self.written:
            # Scenarios in different files may share a name.
            number += 1
            path = path.with_name(f"{name}-{number}.json")
        self.written.add(path)
        command = replay_command(finding, path)
        facts = finding_file(finding, command)
        with created(path) as file:
            file.write(orjson.dumps(facts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        with created(path.with_suffix(".jsonl")) as file:
            write_execution(file, finding.recording, finding.schedule.blob())
        self._write("finding", **{key: value for key, value in facts.items() if key not in _LONG})
        return command

    def summary(self, facts: Mapping[str, Any]) -> None:
        """The campaign is over."""
        self._write("summary", **{key: value for key, value in facts.items() if key != "type"})

    def _write(self, record: str, /, **facts: Any) -> None:
        try:
            self.log.info(record, **facts)
            self.file.flush()
        except OSError as exc:
            raise UsageError(f"{self.folder}: cannot be written: {exc.strerror or exc}") from None


@contextmanager
def open_journal(logs: Path, verb: str, seed: int) -> Iterator[Journal]:
    """A new folder below `logs` for one campaign, named after verb, time and seed.

    Raises:
        UsageError: the folder cannot be made or written.
    """
    stem = f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}-seed{seed}"
    folder = logs / stem
    number = 1
    while folder.exists():
        number += 1
        folder = logs / f"{stem}-{number}"
    with created(folder / "journal.jsonl") as file:
        yield Journal(folder, file)


@contextmanager
def reopened_journal(folder: Path) -> Iterator[Journal]:
    """The journal of a campaign that was killed or interrupted, to go on with.

    Raises:
        UsageError: it cannot be written.
    """
    path = folder / "journal.jsonl"
    try:
        file = path.open("r+b")
    except OSError as exc:
        raise UsageError(f"{path}: cannot be written: {exc.strerror or exc}") from None
    with file:
        # Whoever was killed in the middle of a line has left the beginning of it.
        whole = file.read().rfind(b"\n") + 1
        file.seek(whole)
        file.truncate()
        journal = Journal(folder, file)
        journal.resumed()
        yield journal
