"""The workload file: JSON, compressed if its name ends in `.gz`; read with a check of everything, written all at once.

The same workload gives the same bytes, compressed too: no time and no name inside. What is read is held to the format
and to itself, because a workload that contradicts itself would make a replay fail where no bug is.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from stressvm.kernel.errors import UsageError
from stressvm.vm.workload.ledger import Ledger
from stressvm.vm.workload.operations import OPERATIONS_MAX, PAGE_BYTES, Operation, Piece
from stressvm.vm.workload.workload import Thread, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT: Final = "stressvm-workload:1"
FILE_BYTES_MAX: Final = 1 << 28
_GZIP_MAGIC: Final = b"\x1f\x8b"
_KINDS: Final[dict[str, type[Operation]]] = {kind.__name__.lower(): kind for kind in Operation.__args__}

T = TypeVar("T")


def read_workload(path: str | os.PathLike[str]) -> Workload:
    """Read a workload file and check all of it.

    Raises:
        UsageError: the file cannot be read, is not a workload, or contradicts itself; the message says where.
    """
    try:
        with open_plain_or_gzip(path) as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"{path}: cannot read this workload: {error}") from error
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"{path}: larger than {FILE_BYTES_MAX} bytes; a workload for replay is made with window()")
    try:
        return _workload(orjson.loads(data))
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{path}: not a workload, which is JSON: {error}") from error
    except _Malformed as error:
        raise UsageError(f"{path}: {error}") from error


def write_workload(workload: Workload, path: str | os.PathLike[str]) -> None:
    """Write a workload; whatever goes wrong, the file is whole, or as it was before.

    Raises:
        UsageError: the file cannot be written.
    """
    threads = [
        {"name": t.name, "pid": t.pid, "operations": [_plain(op) for op in t.operations]} for t in workload.threads
    ]
    header = {"format": FORMAT, "page_bytes": PAGE_BYTES, "source": workload.source, "counts": dict(workload.counts)}
    data = orjson.dumps({**header, "threads": threads}, option=orjson.OPT_APPEND_NEWLINE)
    if str(path).endswith(".gz"):
        packed = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
            stream.write(data)
        data = packed.getvalue()
    try:
        _put(Path(path), data)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot write this workload: {error}") from error


def _put(path: Path, data: bytes) -> None:
    """Write beside the target, then put it in its place. What is no ordinary file (a pipe, /dev/null) is written to."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        target.write_bytes(data)
        return
    part = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def open_plain_or_gzip(path: str | os.PathLike[str]) -> io.BufferedIOBase:
    """Open a file for reading bytes; what begins like gzip is unpacked on the way, whatever its name."""
    with Path(path).open("rb") as stream:
        packed = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return gzip.open(path, "rb") if packed else Path(path).open("rb")


class _Malformed(Exception):  # noqa: N818 -- never leaves this module: load() turns it into a UsageError with the path
    """Something in the file is not as it should be; the message says where."""


def _plain(op: Operation) -> dict[str, object]:
    """An operation as JSON has it: its kind, its fields by name, a piece as [id, page, pages]."""
    plain: dict[str, object] = {"op": type(op).__name__.lower()}
    for field in fields(op):
        value = getattr(op, field.name)
        if isinstance(value, Piece):
            value = [value.id, value.page, value.pages]
        elif isinstance(value, tuple):
            value = [[piece.id, piece.page, piece.pages] for piece in value]
        plain[field.name] = value
    return plain


def _workload(raw: object) -> Workload:
    version = raw.get("format") if isinstance(raw, dict) else None
    if version != FORMAT:
        raise _Malformed(f"not a workload of this version: its format is {version!r}, understood is {FORMAT!r}")
    top = _object(raw, "the file", ("format", "page_bytes", "source", "counts", "threads"))
    if top["page_bytes"] != PAGE_BYTES:
        raise _Malformed(f"page_bytes is {top['page_bytes']!r}; only pages of {PAGE_BYTES} bytes are understood")
    counts = _typed(dict, top["counts"], "counts")
    pairs = sorted((what, _number(n, f"counts, {what}")) for what, n in counts.items())
    threads = tuple(_thread(t, f"thread {i}") for i, t in enumerate(_typed(list, top["threads"], "threads")))
    workload = Workload(_typed(str, top["source"], "source"), tuple(pairs), threads)
    _check(workload)
    return workload


def _thread(raw: object, where: str) -> Thread:
    thread = _object(raw, where, ("name", "pid", "operations"))
    operations = _typed(list, thread["operations"], f"{where}, operations")
    if len(operations) > OPERATIONS_MAX:
        raise _Malformed(f"{where} has {len(operations)} operations; at most {OPERATIONS_MAX} are read")
    return Thread(
        _typed(str, thread["name"], f"{where}, name"),
        _number(thread["pid"], f"{where}, pid"),
        tuple(_operation(op, f"{where}, operation {i}") for i, op in enumerate(operations)),
    )


def _operation(raw: object, where: str) -> Operation:
    kind = raw.get("op") if isinstance(raw, dict) else None
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise _Malformed(f"{where}: {_short(raw)} is no operation; known are {', '.join(_KINDS)}")
    names = tuple(field.name for field in fields(cls))
    plain = _object(raw, where, ("op", *names))
    values: dict[str, Any] = {name: _FIELDS[name](plain[name], f"{where}, {name}") for name in names}
    return cls(**values)


def _check(workload: Workload) -> None:
    """The file must not contradict itself, or a replay would fail where no bug is."""
    names = [thread.name for thread in workload.threads]
    if len(set(names)) != len(names):
        raise _Malformed(f"two threads have one name: {', '.join(names)}")
    for thread in workload.threads:
        orders = [op.order for op in thread.operations]
        if orders != sorted(orders):
            raise _Malformed(f"the operations of {thread.name} are not in their own order")
    ledger = Ledger()
    for expected, (thread, op) in enumerate(workload.in_order()):
        if op.order != expected:
            raise _Malformed(f"{thread.name} has an operation with order {op.order} where {expected} comes next")
        if op.begin > op.end:
            raise _Malformed(f"operation {op.order} begins at line {op.begin} and ends at line {op.end}")
        try:
            ledger.apply(op)
        except ValueError as error:
            raise _Malformed(f"operation {op.order} of {thread.name}: {error}") from error


def _object(raw: object, where: str, keys: tuple[str, ...]) -> dict[str, object]:
    found = _typed(dict, raw, where)
    missing, unknown = [key for key in keys if key not in found], [key for key in found if key not in keys]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has the unknown key {_short(unknown[0])}"
        raise _Malformed(f"{where} {what}; its keys are {', '.join(keys)}")
    return found


def _typed(kind: type[T], raw: object, where: str) -> T:
    """The value, if JSON had exactly this kind of value there (true is no number)."""
    if type(raw) is not kind:
        raise _Malformed(f"{where} is {_short(raw)}, expected {_JSON_NAMES[kind]}")
    return raw


def _number(raw: object, where: str, least: int = 0) -> int:
    number = _typed(int, raw, where)
    if number < least:
        raise _Malformed(f"{where} is {number}, expected at least {least}")
    return number


def _protection(raw: object, where: str) -> str:
    text = _typed(str, raw, where)
    if not re.fullmatch("[r-][w-][x-]", text):
        raise _Malformed(f"{where} is {_short(text)}, expected three characters such as 'rw-'")
    return text


def _piece(raw: object, where: str) -> Piece:
    parts = _typed(list, raw, where)
    if len(parts) != len(fields(Piece)):
        raise _Malformed(f"{where} is {_short(raw)}, expected [id, page, pages]")
    name = None if parts[0] is None else _number(parts[0], where)
    return Piece(name, _number(parts[1], where), _number(parts[2], where, 1))


def _pieces(raw: object, where: str) -> tuple[Piece, ...]:
    pieces = tuple(_piece(part, where) for part in _typed(list, raw, where))
    if not pieces:
        raise _Malformed(f"{where} is empty, expected at least one piece")
    return pieces


def _short(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."


_JSON_NAMES: Final[dict[type, str]] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number below 2**64",
    bool: "true or false",
}
_FIELDS: Final[dict[str, Callable[[object, str], object]]] = {
    "order": _number,
    "begin": _number,
    "end": _number,
    "id": _number,
    "page": _number,
    "pages": partial(_number, least=1),
    "address": _number,
    "fixed": partial(_typed, bool),
    "protection": _protection,
    "piece": _piece,
    "pieces": _pieces,
}
