"""A workload: what the threads of one process asked of one address map, ready to be replayed on another map.

The idea: a recorded program got its addresses from its own kernel, spread over 47 bits; a model map is small and gives
other addresses. So an operation names the *allocation* it works on (an id, and pages within it), and a recorded address
is kept only as information. A replay that got other addresses can then follow: "free pages 3 to 5 of allocation 7".
Memory that existed before the recording began has no id; a piece of it is named by its recorded page number, and a
replay on another map leaves it alone.

Order: `order` numbers the operations of all threads in one sequence in which every operation finds the memory that it
works on. `begin` and `end` are the lines of the log where the call was made and where it returned; two calls of
different threads overlapped in reality when their intervals do. A replay that explores interleavings keeps each
thread's own order and waits only where `dependencies` says so; one that wants the recorded order follows `order`.

The alternative rejected: keeping raw system calls, and letting each replayer find out what an address belongs to.
Every replayer would need the whole bookkeeping of holes, and cross-thread dependencies would stay hidden.

The file is JSON, compressed if its name ends in `.gz`. Sizes are in pages of 4096 bytes everywhere.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

FORMAT: Final = "stressvm-workload:1"
PAGE_BYTES: Final = 4096
OPERATIONS_MAX: Final = 1_000_000
FILE_BYTES_MAX: Final = 1 << 28
_GZIP_MAGIC: Final = b"\x1f\x8b"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of pages: of the allocation `id`, or, where `id` is None, of memory older than the recording.

    `page` counts from the start of the allocation (without an id: it is the recorded address in pages); `pages` >= 1.
    """

    id: int | None
    page: int
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What every operation has: its place in the sequence, and the log lines of call and return (`begin` <= `end`)."""

    order: int
    begin: int
    end: int

    @property
    def ids(self) -> tuple[int, ...]:
        """The allocations named, each once, a new one last."""
        match self:
            case Free(pieces=pieces) | Protect(pieces=pieces) | Move(pieces=pieces):
                named = [piece.id for piece in pieces if piece.id is not None]
            case Remap(piece=Piece(id=int(name))):
                named = [name]
            case _:
                named = []
        if isinstance(self, Alloc | Grow | Move):
            named.append(self.id)
        return tuple(dict.fromkeys(named))


@dataclass(frozen=True, slots=True, kw_only=True)
class Alloc(_Step):
    """A new allocation `id` of `pages`, which got `address` (bytes). `fixed`: the program insisted on that address."""

    id: int
    pages: int
    address: int
    fixed: bool
    protection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Free(_Step):
    """The pieces are unmapped, in one call; they may belong to several allocations."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remap(_Step):
    """A fixed mapping over a part of one allocation: the part is replaced in place and keeps its id."""

    piece: Piece
    protection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Protect(_Step):
    """The pieces get the protection, three characters as in `rw-`."""

    pieces: tuple[Piece, ...]
    protection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grow(_Step):
    """Allocation `id` grows in place: its pages from `page` on, `pages` of them, were not mapped and now are."""

    id: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Move(_Step):
    """The pieces go elsewhere, to a new allocation `id` of `pages` (more or fewer than before) at `address` (bytes)."""

    pieces: tuple[Piece, ...]
    id: int
    pages: int
    address: int


Operation = Alloc | Free | Remap | Protect | Grow | Move
_KINDS: Final[dict[str, type[Operation]]] = {kind.__name__.lower(): kind for kind in Operation.__args__}


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread: its name (`t0` is the first to appear), the recorded thread id, its operations in program order."""

    name: str
    pid: int
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """The operations of several threads on one address space.

    `source` is the name of the log without its folder; `counts` are sorted pairs (what, how many) about what was read,
    and what was left out of it.
    """

    source: str
    counts: tuple[tuple[str, int], ...]
    threads: tuple[Thread, ...]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Workload:
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the workload; the same workload gives the same bytes, compressed too (no time, no name inside).

        Raises:
            UsageError: the file cannot be written.
        """
        threads = [
            {"name": t.name, "pid": t.pid, "operations": [_plain(op) for op in t.operations]} for t in self.threads
        ]
        header = {"format": FORMAT, "page_bytes": PAGE_BYTES, "source": self.source, "counts": dict(self.counts)}
        data = orjson.dumps({**header, "threads": threads}, option=orjson.OPT_APPEND_NEWLINE)
        if str(path).endswith(".gz"):
            packed = io.BytesIO()
            with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
                stream.write(data)
            data = packed.getvalue()
        try:
            Path(path).write_bytes(data)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot write this workload: {error}") from error

    def in_order(self) -> Iterator[tuple[Thread, Operation]]:
        """All operations with their threads, by `order`."""
        pairs = [(thread, op) for thread in self.threads for op in thread.operations]
        yield from sorted(pairs, key=lambda pair: pair[1].order)

    def count(self, what: str) -> int:
        """One of the counts; 0 if there is none of that name."""
        return dict(self.counts).get(what, 0)

    def dependencies(self) -> dict[int, tuple[int, ...]]:
        """For each `order` that must wait for another thread: the orders that have to be done before.

        An operation waits for the last earlier one on each allocation it names, if that was another thread's; the rest
        follows from each thread's own order. A replay that waits so always finds the memory it works on.
        """
        last: dict[int, tuple[Thread, int]] = {}
        waits: dict[int, tuple[int, ...]] = {}
        for thread, op in self.in_order():
            before = {last[name][1] for name in op.ids if name in last and last[name][0] is not thread}
            if before:
                waits[op.order] = tuple(sorted(before))
            last.update((name, (thread, op.order)) for name in op.ids)
        return waits

    @property
    def operations_total(self) -> int:
        """How many operations all threads have together."""
        return sum(len(thread.operations) for thread in self.threads)

    @property
    def largest_pages(self) -> int:
        """The largest single request for new address space, in pages; 0 if there is none."""
        return max((op.pages for _, op in self.in_order() if isinstance(op, Alloc | Move)), default=0)

    @property
    def peak_pages(self) -> int:
        """The most pages mapped at any time in recorded order; reservations without access count as well."""
        ledger = Ledger()
        peak = 0
        for _, op in self.in_order():
            ledger.apply(op)
            peak = max(peak, ledger.pages)
        return peak

    def window(self, *, first: int = 0, count: int | None = None, threads: Iterable[str] | None = None) -> Workload:
        """A smaller workload: the operations numbered from `first` on, `count` of them, of the named threads only.

        What works on memory allocated outside is left out, in part or whole, and counted as `window-pieces-dropped`; a
        move from such memory becomes an allocation (`window-moves-allocated`). Operations are numbered anew; names of
        threads, ids and log lines stay.

        Raises:
            UsageError: a negative number, or a thread that the workload does not have.
        """
        if first < 0 or (count is not None and count < 0):
            raise UsageError(f"window(first={first}, count={count}): both count operations, so neither is negative")
        known = [thread.name for thread in self.threads]
        chosen = set(known if threads is None else threads)
        if strangers := sorted(chosen.difference(known)):
            raise UsageError(f"no thread {', '.join(strangers)} in {self.source}; it has {', '.join(known)}")
        stop = self.operations_total if count is None else first + count
        counts = Counter(dict(self.counts))
        kept: dict[str, list[Operation]] = {}
        order, ledger = 0, Ledger()
        for thread, op in self.in_order():
            if not (first <= op.order < stop and thread.name in chosen):
                continue
            reduced = _reduced(op, ledger, counts)
            if reduced is not None:
                kept.setdefault(thread.name, []).append(replace(reduced, order=order))
                order += 1
        remaining = tuple(replace(t, operations=tuple(kept[t.name])) for t in self.threads if t.name in kept)
        return Workload(self.source, tuple(sorted((+counts).items())), remaining)

    def summary(self) -> str:
        """One paragraph for people: how much of what, how large, how entangled, and what was left out."""
        kinds = Counter(type(op).__name__.lower() for _, op in self.in_order())
        split = sum(op.begin < op.end for _, op in self.in_order())
        left_out = ", ".join(f"{n} {what}" for what, n in self.counts if n and what not in {"lines", "calls"})
        return (
            f"{self.source}: {self.operations_total} operations by {len(self.threads)} threads "
            f"({', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))}); "
            f"the largest allocation has {self.largest_pages} pages, at most {self.peak_pages} pages are mapped at once; "
            f"{len(self.dependencies())} operations wait for another thread, {split} were under way while another "
            f"thread ran. Read from {self.count('lines')} lines with {self.count('calls')} calls; "
            f"besides: {left_out or 'nothing'}."
        )


class Ledger:
    """Which pages of which allocation are mapped. `pages` is their number; pieces without an id are not its business.

    The ranges of an allocation are kept disjoint and in order.
    """

    def __init__(self) -> None:
        self.pages = 0
        self._live: dict[int, list[tuple[int, int]]] = {}

    def apply(self, op: Operation) -> None:
        """Do to the ledger what the operation does to a map.

        Raises:
            ValueError: it works on pages that are not mapped, or maps pages that are.
        """
        match op:
            case Alloc() | Move() if op.id in self._live:
                raise ValueError(f"allocation {op.id} exists already")
            case Alloc():
                self._add(op.id, 0, op.pages)
            case Grow() if op.id not in self._live:
                raise ValueError(f"there is no allocation {op.id}")
            case Grow():
                self._add(op.id, op.page, op.pages)
            case Free():
                self._remove(op.pieces)
            case Move():
                self._remove(op.pieces)
                self._add(op.id, 0, op.pages)
            case Protect():
                self._expect(op.pieces)
            case Remap():
                self._expect((op.piece,))

    def live(self, piece: Piece) -> list[Piece]:
        """The mapped parts of a piece; a piece without an id counts as mapped."""
        if piece.id is None:
            return [piece]
        ranges = self._live.get(piece.id, [])
        stop = piece.page + piece.pages
        found = []
        for start, end in ranges[max(bisect_right(ranges, piece.page, key=_first) - 1, 0) :]:
            if start >= stop:
                break
            low, high = max(start, piece.page), min(end, stop)
            if low < high:
                found.append(Piece(piece.id, low, high - low))
        return found

    def _expect(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if sum(part.pages for part in self.live(piece)) != piece.pages:
                raise ValueError(f"{piece.pages} pages from page {piece.page} of allocation {piece.id} are not mapped")

    def _add(self, name: int, page: int, pages: int) -> None:
        if self.live(Piece(name, page, pages)):
            raise ValueError(f"some of {pages} pages from page {page} of allocation {name} are mapped already")
        ranges = self._live.setdefault(name, [])
        index = bisect_right(ranges, page, key=_first)
        low, high = page, page + pages
        if index < len(ranges) and ranges[index][0] == high:
            high = ranges.pop(index)[1]
        if index and ranges[index - 1][1] == low:
            index -= 1
            low = ranges.pop(index)[0]
        ranges.insert(index, (low, high))
        self.pages += pages

    def _remove(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            self._expect((piece,))
            if piece.id is None:
                continue
            ranges = self._live[piece.id]
            index = bisect_right(ranges, piece.page, key=_first) - 1
            start, end = ranges.pop(index)
            stop = piece.page + piece.pages
            ranges[index:index] = [(a, b) for a, b in ((start, piece.page), (stop, end)) if a < b]
            self.pages -= piece.pages


def open_plain_or_gzip(path: str | os.PathLike[str]) -> io.BufferedIOBase:
    """Open a file for reading bytes; what begins like gzip is unpacked on the way, whatever its name."""
    with Path(path).open("rb") as stream:
        packed = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return gzip.open(path, "rb") if packed else Path(path).open("rb")


def _first(pages: tuple[int, int]) -> int:
    return pages[0]


def _reduced(op: Operation, ledger: Ledger, counts: Counter[str]) -> Operation | None:
    """The operation as far as the memory it works on exists in the window, applied; None if nothing is left of it."""
    if isinstance(op, Free | Protect | Move):
        parts = tuple(part for piece in op.pieces for part in ledger.live(piece))
        counts["window-pieces-dropped"] += sum(not ledger.live(piece) for piece in op.pieces)
        if parts:
            op = replace(op, pieces=parts)
        elif isinstance(op, Move):
            counts["window-moves-allocated"] += 1
            op = _allocated(op)
        else:
            return None
    try:
        ledger.apply(op)
    except ValueError:  # only Remap and Grow get here: of their memory all is needed, or nothing can be done
        counts["window-pieces-dropped"] += 1
        return None
    return op


def _allocated(move: Move) -> Alloc:
    """What a move looks like to a map that never had its source; the protection is the usual one, the log has none."""
    return Alloc(
        order=move.order,
        begin=move.begin,
        end=move.end,
        id=move.id,
        pages=move.pages,
        address=move.address,
        fixed=False,
        protection="rw-",
    )


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
