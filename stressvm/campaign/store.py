"""The store of a campaign: an SQLite file in its log folder, from which a killed campaign is resumed.

What is in it at any moment is whole: a batch or a finding is one row, written in one transaction (journal mode WAL).
Whoever is killed loses the batches that were under way, and those are run again by number. What comes out of a store
is data: numbers, texts and schedules, and nothing in it is executed.
"""

from __future__ import annotations

import sqlite3
import sys
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from stressvm.campaign.corpus import facts_of, known_of
from stressvm.explore.batch import Batch, Failure
from stressvm.explore.coverage import covered_of
from stressvm.explore.result import Kept
from stressvm.explore.schedule import parse
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from stressvm.explore.known import Known
    from stressvm.explore.result import Finding
    from stressvm.explore.seen import Seen

FILE: Final = "campaign.sqlite"
FORMAT: Final = "stressvm-campaign:2"

_SCHEMA: Final = """
CREATE TABLE campaign (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE subject (number INTEGER PRIMARY KEY, facts BLOB NOT NULL);
CREATE TABLE batch (
    subject INTEGER NOT NULL, first INTEGER NOT NULL, executions INTEGER NOT NULL, steps INTEGER NOT NULL,
    elapsed REAL NOT NULL, exhausted TEXT, provided TEXT NOT NULL, cut INTEGER NOT NULL, lost BLOB NOT NULL, classes BLOB NOT NULL, failures BLOB NOT NULL,
    covered BLOB NOT NULL,
    PRIMARY KEY (subject, first)
) WITHOUT ROWID;
CREATE TABLE finding (
    subject INTEGER NOT NULL, fingerprint TEXT NOT NULL, facts BLOB NOT NULL, PRIMARY KEY (subject, fingerprint)
) WITHOUT ROWID;
"""


class StoredSubject(NamedTuple):
    """A scenario of a stored campaign: where it was, its parameters, and the digest of its file."""

    name: str
    file: str
    params: dict[str, Any]
    digest: str


class Database:
    """An SQLite file whose errors are told as the user's."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self.db = db

    def write(self, statement: str, *values: object) -> None:
        """Run a statement; UsageError where the disk is full or the file read-only."""
        try:
            self.db.execute(statement, values)
        except sqlite3.Error as exc:
            raise UsageError(f"{self.path}: cannot be written: {exc}; choose another place with --logs") from None

    def all(self, statement: str, *values: object) -> list[Any]:
        """All rows of a query; UsageError where the file is no database."""
        try:
            return self.db.execute(statement, values).fetchall()
        except sqlite3.Error as exc:
            raise UsageError(f"{self.path}: cannot be read: {exc}") from None

    def one(self, statement: str, *values: object) -> Any:
        """Its first row, or None."""
        return next(iter(self.all(statement, *values)), None)

    def json(self, value: object, what: str) -> Any:
        """A stored value; UsageError where it is damaged."""
        try:
            return orjson.loads(value)  # type: ignore[arg-type]  # another type raises the same error
        except orjson.JSONDecodeError:
            raise self.damaged(what) from None

    def damaged(self, what: str) -> UsageError:
        """The error for what cannot have been written by us."""
        return UsageError(f"{self.path}: {what} is damaged: it is no store of this format, or was changed")


class Store(Database):
    """An open store; made by `create` or `opened`."""

    def put(self, key: str, value: object) -> None:
        """Keep a fact about the campaign."""
        self.write("INSERT OR REPLACE INTO campaign VALUES (?, ?)", key, orjson.dumps(value))

    def get(self, key: str) -> Any:
        """A fact about the campaign; None if there is none."""
        row = self.one("SELECT value FROM campaign WHERE key = ?", key)
        return None if row is None else self.json(row[0], f"campaign.{key}")

    def put_subject(self, number: int, subject: StoredSubject) -> None:
        """Keep what the subject of that number is."""
        self.write("INSERT INTO subject VALUES (?, ?)", number, orjson.dumps(subject._asdict()))

    def subjects(self) -> list[StoredSubject]:
        """All of them, in order."""
        found = []
        for number, facts in self.all("SELECT number, facts FROM subject ORDER BY number"):
            value = self.json(facts, f"subject {number}")
            try:
                name, file, params, digest = (value[key] for key in StoredSubject._fields)
            except (KeyError, TypeError):
                raise self.damaged(f"subject {number}") from None
            if not (isinstance(name, str) and isinstance(file, str) and isinstance(params, dict)):
                raise self.damaged(f"subject {number}")
            found.append(StoredSubject(name, file, params, str(digest)))
        return found

    def ledger(self, number: int) -> Ledger:
        """The part of one subject."""
        return Ledger(self, number)


class Ledger:
    """What a store holds of one subject, and where its hunt goes on being written; see explore/hunt.py."""

    def __init__(self, store: Store, number: int) -> None:
        self.store = store
        self.number = number

    def batch(self, first: int) -> Batch | None:
        """The stored batch that begins there."""
        row = self.store.one(
            "SELECT executions, steps, exhausted, provided, cut, lost, classes, failures, covered FROM batch "
            "WHERE subject = ? AND first = ?",
            self.number,
            first,
        )
        if row is None:
            return None
        executions, steps, exhausted, provided, cut, lost, classes, failures, covered = row
        what = f"the batch of execution {first} of subject {self.number}"
        if not (isinstance(executions, int) and isinstance(steps, int) and isinstance(classes, bytes)):
            raise self.store.damaged(what)
        if executions < 1 or len(classes) % 8 or len(classes) > 8 * executions:
            raise self.store.damaged(what)
        try:
            found = [
                Failure(int(number), tuple(map(int, picks)), str(kind), str(fingerprint))
                for number, picks, kind, fingerprint in self.store.json(failures, what)
            ]
            gone = tuple((int(number), str(how)) for number, how in self.store.json(lost, what))
            met = covered_of(self.store.json(covered, what))
        except (TypeError, ValueError):
            raise self.store.damaged(what) from None
        return Batch(
            first,
            executions,
            _from_bytes(classes),
            steps,
            failures=found,
            exhausted=exhausted is not None,
            bounds=str(exhausted or ""),
            provided=str(provided),
            cut=bool(cut),
            lost=gone,
            covered=met,
        )

    def next_first(self, number: int) -> int | None:
        """Where the first stored batch after that execution begins."""
        row = self.store.one("SELECT MIN(first) FROM batch WHERE subject = ? AND first > ?", self.number, number)
        return None if row is None else row[0]

    def keep_batch(self, batch: Batch, seen: Seen, elapsed: float) -> None:
        """Store a batch; of its classes, those that are still counted."""
        self.store.write(
            "INSERT OR REPLACE INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self.number,
            batch.first,
            batch.executions,
            batch.steps,
            elapsed,
            batch.bounds if batch.exhausted else None,
            batch.provided,
            int(batch.cut),
            orjson.dumps(batch.lost),
            _to_bytes(seen.kept(batch.classes)),
            orjson.dumps([list(failure) for failure in batch.failures]),
            orjson.dumps(batch.covered.plain()),
        )

    def known(self) -> list[Known]:
        """See explore.result.Ledger."""
        what = f"campaign.known.{self.number}"
        stored = self.store.get(f"known.{self.number}")
        try:
            return [known_of(facts) for facts in stored or ()]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self.store.damaged(what) from None

    def keep_known(self, known: Iterable[Known]) -> None:
        """Store what earlier hunts have found."""
        self.store.put(f"known.{self.number}", [facts_of(one) for one in known])

    def spent(self) -> float:
        """See explore.result.Ledger."""
        row = self.store.one("SELECT IFNULL(MAX(elapsed), 0.0) FROM batch WHERE subject = ?", self.number)
        return float(row[0])

    def ended(self) -> int | None:
        """See explore.result.Ledger."""
        executions = self.store.get(f"ended.{self.number}")
        return executions if isinstance(executions, int) else None

    def keep_end(self, executions: int) -> None:
        """See explore.result.Ledger."""
        self.store.put(f"ended.{self.number}", executions)

    def finding(self, fingerprint: str) -> Kept | None:
        """The stored form of a finding."""
        row = self.store.one(
            "SELECT facts FROM finding WHERE subject = ? AND fingerprint = ?", self.number, fingerprint
        )
        if row is None:
            return None
        what = f"finding {fingerprint} of subject {self.number}"
        value = self.store.json(row[0], what)
        try:
            return Kept(
                parse(value["schedule"]),
                int(value["preemptions_before"]),
                int(value["switches_before"]),
                int(value["executions"]),
                bool(value["cut"]),
                bool(value["fewest"]),
                str(value.get("note", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self.store.damaged(what) from None

    def keep_finding(self, finding: Finding) -> None:
        """Store a finding: its schedule, from which all else follows."""
        shrunk = finding.shrunk
        facts: Mapping[str, object] = {
            "schedule": finding.schedule.blob(),
            "preemptions_before": shrunk.preemptions_before,
            "switches_before": shrunk.switches_before,
            "executions": shrunk.executions,
            "cut": shrunk.cut,
            "fewest": shrunk.fewest,
            "note": finding.note,
        }
        self.store.write(
            "INSERT OR REPLACE INTO finding VALUES (?, ?, ?)", self.number, finding.fingerprint, orjson.dumps(facts)
        )


def _to_bytes(classes: Iterable[int]) -> bytes:
    """Eight bytes each, the lowest first on every machine."""
    numbers = array("Q", classes)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _from_bytes(classes: bytes) -> array[int]:
    numbers = array("Q", classes)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


@contextmanager
def create(folder: Path) -> Iterator[Store]:
    """A new store in a log folder.

    Raises:
        UsageError: it cannot be made.
    """
    path = folder / FILE
    try:
        db = sqlite3.connect(path, isolation_level=None)
    except sqlite3.Error as exc:
        raise UsageError(f"{path}: cannot be made: {exc}; choose another place with --logs") from None
    try:
        store = Store(path, db)
        try:
            _prepare(db)
            db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        except sqlite3.Error as exc:
            raise UsageError(f"{path}: cannot be made: {exc}; choose another place with --logs") from None
        store.put("format", FORMAT)
        yield store
    finally:
        db.close()


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """The store of a log folder, to go on with.

    Raises:
        UsageError: there is none, or it is not of this format.
    """
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{folder}: no campaign there: it has no {FILE}; give the log folder of a hunt")
    try:
        db = sqlite3.connect(path, isolation_level=None)
    except sqlite3.Error as exc:
        raise UsageError(f"{path}: cannot be opened: {exc}") from None
    try:
        store = Store(path, db)
        try:
            _prepare(db)
        except sqlite3.Error as exc:
            raise UsageError(f"{path}: cannot be read: {exc}") from None
        if store.get("format") != FORMAT:
            raise UsageError(f"{path}: not a campaign of the format {FORMAT}")
        yield store
    finally:
        db.close()


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    # A kill of the process loses nothing under NORMAL; a power cut may lose the last batches, which are run again.
    db.execute("PRAGMA synchronous = NORMAL")
    # Only one process may go on with a campaign at a time: the lock is held until the store is closed.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("BEGIN IMMEDIATE")
    db.execute("COMMIT")
