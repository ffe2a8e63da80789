"""Files of vectors: one JSON object a line, plain or compressed by gzip.

Fields that are not asked for may be there, and mean nothing: files may say more than is compared.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stressvm.kernel.errors import UsageError
from stressvm.vm.workload.file import open_plain_or_gzip

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a file.

    Attributes:
        path: the file.
        line: counted from 1.
        fields: the object.
    """

    path: Path
    line: int
    fields: dict[str, Any]

    def bad(self, what: object) -> UsageError:
        """The exception for `raise record.bad(...)`: what is wrong with it, and where it is."""
        return UsageError(f"{self.path}: line {self.line}: {what}")


def read(path: Path) -> list[Record]:
    """All lines of a file.

    Raises:
        UsageError: it cannot be read, a line is no JSON object (the last may be cut off), or there are none.
    """
    try:
        with open_plain_or_gzip(path) as stream:
            text = stream.read().decode()
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror or exc}") from None
    except (EOFError, zlib.error, UnicodeDecodeError) as exc:
        raise UsageError(f"{path}: the file is damaged: {exc}; copy it again") from None
    records = [Record(path, number, _object(path, number, line)) for number, line in _lines(text)]
    if not records:
        raise UsageError(f"{path}: the file has no vectors in it")
    return records


def _lines(text: str) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise UsageError(
            f"{path}: line {number}: no JSON, or cut off: {exc}; copy the file again, or leave the line out"
        ) from None
    if not isinstance(fields, dict):
        raise UsageError(f"{path}: line {number}: a JSON object is needed, not {line.strip()[:40]!r}")
    return fields


def address(text: str) -> int:
    """An address or a length as the files write it: hexadecimal, 64 bits without sign.

    Raises:
        ValueError: it is none.
    """
    value = int(text, 16)
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{text!r} is no number of 64 bits without sign")
    return value
