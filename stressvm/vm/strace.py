"""Logs of strace become workloads: lines, calls, address spaces, operations.

Recorded best with `strace -f -ttt -o LOG -e trace=memory,execve,clone,clone3,fork,vfork PROGRAM`; `-e trace=memory`
alone is enough for most logs. Understood are mmap, munmap, mremap, brk and mprotect; other calls are counted as
`skipped:NAME`. Any of -t, -tt, -ttt, -r, -T, -i, -n, -y and -X raw may have been given.

Calls that were split (`<unfinished ...>`, `<... resumed>`) are joined; `begin` and `end` of a call are the numbers of
its first and its last line, so two calls overlapped exactly if their intervals do. What gives memory back takes effect
where the call begins, and what takes memory where it ends: nobody else can get pages before a munmap has begun, and
nobody can know what mmap gave before it returned. With this rule every log finds its memory in order.

A log has the calls of several processes, but does not say which share a map. Where it has clone, fork and execve, they
are believed. Otherwise: a child named by SIGCHLD is a process of its own; `brk(NULL)` with an answer that is not the
known break is a program just started; a mapping placed, unasked, on top of a live one is proof of another address space;
and any other newcomer is a thread of the process whose mappings are nearest (address layouts are randomised, so two
processes lie gigabytes apart). A workload is one address space, by default the one with most operations. A forked child
begins without the mappings that it inherited: they are memory older than its recording.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError
from stressvm.vm.workload import (
    OPERATIONS_MAX,
    PAGE_BYTES,
    Alloc,
    Free,
    Grow,
    Move,
    Operation,
    Piece,
    Protect,
    Remap,
    Thread,
    Workload,
    open_plain_or_gzip,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

LINE_BYTES_MAX: Final = 1 << 20
LOG_BYTES_MAX: Final = 1 << 32
_ADDRESS_END: Final = 1 << 64

_MAP_FIXED: Final = 0x10
_MAP_NOREPLACE: Final = 0x100000
_MREMAP_DONTUNMAP: Final = 4
_CLONE_VM: Final = 0x100
_FLAGS: Final = {
    "CLONE_VM": _CLONE_VM,
    "MAP_FIXED": _MAP_FIXED,
    "MAP_FIXED_NOREPLACE": _MAP_NOREPLACE,
    "MREMAP_DONTUNMAP": _MREMAP_DONTUNMAP,
    "PROT_READ": 1,
    "PROT_WRITE": 2,
    "PROT_EXEC": 4,
}
_SYNONYMS: Final = {"mmap2": "mmap", "pkey_mprotect": "mprotect"}
_FAMILY: Final = frozenset({"clone", "clone2", "clone3", "fork", "vfork", "execve", "execveat"})

_PREFIX: Final = re.compile(
    r"""\s*(?: \[pid\s+(?P<bracket>\d{1,10})\]\s+ | (?P<column>\d{1,10})\s+ )?
    (?: (?: \d\d?:\d\d:\d\d(?:\.\d{1,9})? | \d{1,12}\.\d{1,9} | \d{9,12} ) \s+ (?: \(\+\s+\d{1,12}\.\d{1,9}\)\s+ )? ){0,2}
    (?: \[\s*[0-9a-f?]{1,16}\]\s+ ){0,2}""",
    re.VERBOSE,
)
_NAME: Final = re.compile(r"([a-z_][a-z0-9_]{0,40})\(")
_RESUMED: Final = re.compile(r"<\.\.\. ([a-z_][a-z0-9_]{0,40}) resumed>")
_UNFINISHED: Final = "<unfinished ...>"
_DETACHED: Final = "<detached ...>"
_RETURNED: Final = re.compile(
    r"\)\s*=\s(?P<result>0x[0-9a-f]{1,16}|-?\d{1,20}|\?)(?P<error>\sE[A-Z0-9_]{1,30})?"
    r"(?:\s\([^()]{0,200}\)|\s/\*[^*]{0,200}\*/){0,3}(?:\s<\d{1,12}\.\d{1,9}>)?$"
)
_GONE: Final = re.compile(r"\+\+\+ (?:exited with \d+|killed by .+|superseded by execve in pid \d+) \+\+\+$")
_SIGNAL: Final = re.compile(r"--- (?:SIG[^{]* \{.*\}|stopped by SIG\S+) ---$")
_CHILD: Final = re.compile(r"--- SIGCHLD .*si_pid=(\d{1,10})")
_CLONE_FLAGS: Final = re.compile(r"flags=([A-Za-z0-9_|]+)")
_NOTICE: Final = re.compile(r"(?:strace: )?Process (\d{1,10}) |strace: |\[ Process PID=")
_ATTACHED: Final = re.compile(r"(.+)strace: Process (\d{1,10}) attached$")
_BITS: Final = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)|(?P<number>0x[0-9a-f]{1,16}|0|[1-9]\d{0,18})|\d{1,2}<<[A-Z_]+")

_A: Final = r"(?:NULL|0x[0-9a-f]{1,16}|\d{1,20})"
_S: Final = r"(?:0x[0-9a-f]{1,16}|\d{1,20})"
_ARGUMENTS: Final = {
    "mmap": re.compile(rf"(?P<address>{_A}), (?P<length>{_S}), (?P<prot>[^,]+), (?P<flags>[^,]+), .+, .+"),
    "munmap": re.compile(rf"(?P<address>{_A}), (?P<length>{_S})"),
    "mprotect": re.compile(rf"(?P<address>{_A}), (?P<length>{_S}), (?P<prot>[^,]+)(?:, .+)?"),
    "mremap": re.compile(rf"(?P<address>{_A}), (?P<length>{_S}), (?P<wanted>{_S}), (?P<flags>[^,]+)(?:, {_A})?"),
    "brk": re.compile(rf"(?P<address>{_A})"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One successful memory call: `name` as in `_ARGUMENTS`, thread, first and last line, arguments, result.

    Addresses and lengths are in bytes, as logged; `wanted` is the new length of mremap; what a call has not is 0.
    """

    name: str
    pid: int
    begin: int
    end: int
    address: int
    length: int
    wanted: int
    protection: str
    flags: int
    result: int


class Turn(Enum):
    """What happens to a thread besides its calls."""

    GONE = "gone"
    EXEC = "exec"


@dataclass(slots=True)
class Log:
    """What a log says: calls by their last line; (line, pid, turn); child -> (parent, shares its map); counts."""

    name: str
    calls: list[Call] = field(default_factory=list)
    turns: list[tuple[int, int, Turn]] = field(default_factory=list)
    parents: dict[int, tuple[int, bool]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def read_strace(path: str | os.PathLike[str], *, lenient: bool = False, space: int | None = None) -> Workload:
    """The workload of one address space of a log, plain or gzip.

    `space` is its number in order of first appearance; by default it is the one with most operations. `lenient` drops
    a last line that was cut off, and calls that had not returned when the log ends, and counts them as `torn`.

    The counts: `lines`; `calls` that succeeded, of which `elsewhere` belong to other address spaces and `idle` changed
    nothing; `failed`, `unreturned` (the thread died first), `skipped:NAME`, `signals`, `exits`, `notices`, `spaces`.

    Raises:
        UsageError: the log cannot be read or understood (the message names file, line and fault), or has no such space.
    """
    log = parse_log(path, lenient=lenient)
    spaces = _Spaces(log).run()
    if not spaces:
        raise UsageError(f"{path}: none of its {log.counts['lines']} lines changes a map; record with -e trace=memory")
    if space is None:
        space = max(range(len(spaces)), key=lambda number: (spaces[number].operations, -number))
    if not 0 <= space < len(spaces):
        sizes = ", ".join(f"{number}: {found.operations} operations" for number, found in enumerate(spaces[:20]))
        raise UsageError(f"{path}: no address space {space}; it has {len(spaces)} ({sizes})")
    chosen = spaces[space]
    counts = log.counts.copy()
    counts.update({"spaces": len(spaces), "elsewhere": counts["calls"] - chosen.calls, "idle": chosen.idle})
    return Workload(log.name, tuple(sorted((+counts).items())), chosen.threads())


def parse_log(path: str | os.PathLike[str], *, lenient: bool = False) -> Log:
    """The calls of a log, joined and decoded, without asking which addresses belong together.

    Raises:
        UsageError: the log cannot be read or understood; the message names file, line and fault.
    """
    parser = _Parser(path, lenient=lenient)
    try:
        for number, text, whole in _lines(path):
            parser.line(number, text, whole=whole)
    except _Fault as fault:
        raise UsageError(f"{path}: line {parser.number}: {fault}") from fault
    return parser.finish()


class _Fault(Exception):  # noqa: N818 -- never leaves this module: parse_log turns it into a UsageError with the place
    """What is wrong with a line."""


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, bool]]:
    """Line number from 1, text, and whether the line has its end. Bytes that are not UTF-8 are shown escaped."""
    number = total = 0
    try:
        with open_plain_or_gzip(path) as stream:
            while raw := stream.readline(LINE_BYTES_MAX + 1):
                number, total = number + 1, total + len(raw)
                if len(raw) > LINE_BYTES_MAX:
                    raise UsageError(
                        f"{path}: line {number}: longer than {LINE_BYTES_MAX} bytes; is it a log of strace?"
                    )
                if total > LOG_BYTES_MAX:
                    raise UsageError(
                        f"{path}: line {number}: more than {LOG_BYTES_MAX} bytes; replay a part of the log"
                    )
                yield number, raw.rstrip(b"\r\n").decode("utf-8", "backslashreplace"), raw.endswith(b"\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"{path}: cannot read this log after line {number}: {error}") from error


class _Parser:
    """Lines in, a Log out. `pending` has the calls that have begun: pid -> (name, arguments so far, line)."""

    def __init__(self, path: str | os.PathLike[str], *, lenient: bool) -> None:
        self.path = path
        self.lenient = lenient
        self.number = 0
        self.log = Log(Path(path).name.removesuffix(".gz").encode("utf-8", "backslashreplace").decode())
        self.pending: dict[int, tuple[str, str, int]] = {}
        self.announced: set[int] = set()
        self.alive: dict[int, None] = {}
        self.held = ""  # the head of a line into which strace wrote "Process N attached"; its rest is the next line
        self.nameless = 0  # the thread id behind lines without one, once it is known

    def line(self, number: int, text: str, *, whole: bool) -> None:
        """Take one line; without `whole` it is the last and may be torn, even where it still reads well (`= 0x7f3`)."""
        self.number = number
        self.log.counts["lines"] = number
        text, self.held = self.held + text, ""
        if (torn := _ATTACHED.match(text)) and not text.startswith("strace: "):
            self.held = torn[1]
            if len(self.held) > LINE_BYTES_MAX:
                raise _Fault(f"longer than {LINE_BYTES_MAX} characters, joined with the lines before")
            self.announced.add(int(torn[2]))
            return
        prefix = _PREFIX.match(text)
        body = text[prefix.end() if prefix else 0 :].rstrip()
        if not whole and not body.endswith(("+++", "---")):
            if not self.lenient:
                raise _Fault(f"the log is cut off in this line, {_short(text)}; reading it as lenient drops the line")
            self.log.counts["torn"] += 1
        elif notice := _NOTICE.match(body):
            self.log.counts["notices"] += 1
            if notice[1]:
                self.announced.add(int(notice[1]))
        elif body:
            self._event(self._pid(prefix), body)

    def _pid(self, prefix: re.Match[str] | None) -> int:
        """The thread of a line. strace leaves the id out while there is only one thread: 0, until a line tells."""
        if prefix and prefix["column"]:
            pid = int(prefix["column"])
        elif prefix and prefix["bracket"]:
            pid = int(prefix["bracket"])
            if 0 in self.alive and not self.nameless and pid not in self.announced:
                self.nameless = pid
            pid = 0 if pid == self.nameless else pid
        else:
            pid = next(iter(self.alive)) if len(self.alive) == 1 else 0
        self.alive[pid] = None
        return pid

    def _event(self, pid: int, body: str) -> None:
        if _GONE.match(body):
            self.log.counts["exits"] += 1
            self.log.turns.append((self.number, pid, Turn.GONE))
            self.alive.pop(pid)
            if self.pending.pop(pid, ("",))[0] in _ARGUMENTS:
                self.log.counts["unreturned"] += 1
        elif _SIGNAL.match(body):
            self.log.counts["signals"] += 1
            if child := _CHILD.match(body):
                self.log.parents.setdefault(int(child[1]), (pid, False))
        elif resumed := _RESUMED.match(body):
            self._resumed(pid, _SYNONYMS.get(resumed[1], resumed[1]), body[resumed.end() :])
        elif named := _NAME.match(body):
            self._call(pid, _SYNONYMS.get(named[1], named[1]), body[named.end() :])
        else:
            raise _Fault(f"no line of strace: {_short(body)}; record with -o, so that the program's output stays apart")

    def _call(self, pid: int, name: str, rest: str) -> None:
        split = rest.endswith((_UNFINISHED, _DETACHED))
        if not split and not re.search(r"\)\s*= ", rest):
            raise _Fault(f"{name} neither returns nor is unfinished: {_short(rest)}")
        if name not in _ARGUMENTS:
            self.log.counts[f"skipped:{name}"] += 1
        if name in _ARGUMENTS or name in _FAMILY:
            if pid in self.pending:
                was, _, line = self.pending[pid]
                raise _Fault(f"{name} begins although {was} of line {line} has not returned in thread {pid}")
            if not split:
                self._returned(pid, name, rest, self.number)
            elif rest.endswith(_UNFINISHED):
                self.pending[pid] = (name, rest.removesuffix(_UNFINISHED).rstrip(), self.number)
            elif name in _ARGUMENTS:
                self.log.counts["unreturned"] += 1

    def _resumed(self, pid: int, name: str, rest: str) -> None:
        if name not in _ARGUMENTS and name not in _FAMILY:
            return
        begun, text, line = self.pending.pop(pid, (name, "", 0))
        if begun != name:
            raise _Fault(f"{name} is resumed, but what thread {pid} had begun in line {line} is {begun}")
        if line:
            self._returned(pid, name, text + rest, line)
        elif name in _ARGUMENTS:
            raise _Fault(f"{name} is resumed, but thread {pid} had not begun it; the head of the log is missing")
        elif rest.startswith(") = 0"):  # an execve that takes over the id of the process's first thread
            self.log.turns.append((self.number, pid, Turn.EXEC))

    def _returned(self, pid: int, name: str, text: str, begin: int) -> None:
        """A whole call: its arguments, the closing parenthesis, its result."""
        end = _RETURNED.search(text)
        if not end:
            if name in _FAMILY:  # its strings may hold anything; what cannot be read is not needed
                return
            raise _Fault(f"{name} has no result that can be read: {_short(text)}")
        arguments, result = text[: end.start()].strip(), end["result"]
        if name in _FAMILY:
            self._family(pid, name, arguments, result)
        elif result == "?":
            self.log.counts["unreturned"] += 1
        elif end["error"]:
            self.log.counts["failed"] += 1
        else:
            self._decoded(pid, name, arguments, _number(result), begin)

    def _family(self, pid: int, name: str, arguments: str, result: str) -> None:
        if name.startswith("execve"):
            if result == "0":
                self.log.turns.append((self.number, pid, Turn.EXEC))
        elif result.isdecimal() and result != "0":
            flags = _CLONE_FLAGS.search(arguments)
            if flags:
                self.log.parents[int(result)] = (pid, bool(_bits(flags[1]) & _CLONE_VM))
            elif name.endswith("fork"):
                self.log.parents[int(result)] = (pid, name == "vfork")

    def _decoded(self, pid: int, name: str, arguments: str, result: int, begin: int) -> None:
        found = _ARGUMENTS[name].fullmatch(arguments)
        if not found:
            raise _Fault(f"the arguments of {name} cannot be read: {_short(arguments)}")
        got = found.groupdict()
        address, length, wanted = (_number(got.get(key, "0")) for key in ("address", "length", "wanted"))
        bits = _bits(got.get("prot", "0"))
        protection = "".join(letter if bits >> place & 1 else "-" for place, letter in enumerate("rwx"))
        call = Call(
            name, pid, begin, self.number, address, length, wanted, protection, _bits(got.get("flags", "0")), result
        )
        if fault := _impossible(call):
            raise _Fault(f"{name}({_short(arguments)}) = {result:#x}: {fault}")
        if len(self.log.calls) >= OPERATIONS_MAX:
            raise _Fault(f"more than {OPERATIONS_MAX} calls; replay a part of the log")
        if name == "brk" and address not in {0, result}:  # it has no error: it answers with the break as it was
            self.log.counts["failed"] += 1
            return
        self.log.counts["calls"] += 1
        self.log.calls.append(call)

    def finish(self) -> Log:
        """The log, once all lines have been taken. Calls still under way are a sign that it was cut off."""
        waiting = {pid: begun for pid, begun in self.pending.items() if begun[0] in _ARGUMENTS}
        if self.held:
            waiting[0] = (_short(self.held), "", self.number)
        if waiting and not self.lenient:
            pid, (name, _, line) = min(waiting.items(), key=lambda item: item[1][2])
            raise UsageError(
                f"{self.path}: line {line}: {name} of thread {pid} never returns: the log ends before; "
                "reading it as lenient drops such calls"
            )
        self.log.counts["torn"] += len(waiting)
        if self.nameless:
            self._rename()
        return self.log

    def _rename(self) -> None:
        """The lines without a thread id turned out to be those of thread `nameless`."""
        names = {0: self.nameless}
        log = self.log
        log.calls = [replace(call, pid=names.get(call.pid, call.pid)) for call in log.calls]
        log.turns = [(line, names.get(pid, pid), turn) for line, pid, turn in log.turns]
        log.parents = {child: (names.get(pid, pid), shares) for child, (pid, shares) in log.parents.items()}


def _number(text: str) -> int:
    if text == "NULL":
        return 0
    return int(text, 16 if text.startswith("0x") else 10)


def _bits(text: str) -> int:
    """Flags, decoded or not (`MAP_PRIVATE|0x20`, `0x22 /* ... */`); names that do not matter here are 0."""
    bits = 0
    for token in text.partition("/*")[0].strip().split("|"):
        found = _BITS.fullmatch(token)
        if not found:
            raise _Fault(f"flags that cannot be read: {_short(text)}")
        bits |= _FLAGS.get(found["name"], 0) if found["name"] else _number(found["number"] or "0")
    return bits


def _impossible(call: Call) -> str | None:
    """What is wrong with a call that no kernel would have answered so; None if nothing is."""
    gives_address = call.name in {"mmap", "mremap"}
    reach = max(call.address + call.length, call.result + max(call.length if gives_address else 0, call.wanted))
    if call.result < 0 or (not gives_address and call.name != "brk" and call.result != 0):
        return "a result that this call does not have"
    if reach > _ADDRESS_END:
        return "beyond the end of 64-bit addresses"
    if gives_address and not (call.wanted if call.name == "mremap" else call.length):
        return "an empty mapping"
    if call.name != "brk" and not (call.name == "mmap" and not _is_fixed(call)) and call.address % PAGE_BYTES:
        return f"an address that is no multiple of {PAGE_BYTES}"
    if gives_address and call.result % PAGE_BYTES:
        return f"a result that is no multiple of {PAGE_BYTES}"
    if call.name == "mmap" and _is_fixed(call) and call.result != call.address:
        return "a fixed mapping that went elsewhere"
    return None


def _is_fixed(call: Call) -> bool:
    return call.name == "mmap" and bool(call.flags & (_MAP_FIXED | _MAP_NOREPLACE))


def _pages(length: int) -> int:
    return -(-length // PAGE_BYTES)


def _short(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")


class _Space:
    """One address space as far as the log shows it.

    `spans` are the known mappings, sorted and disjoint: (first page, page after the last, id, page where the allocation
    begins). `leaving` has what a moving mremap has taken away and not yet put down, by the line where it began.
    """

    def __init__(self, break_bytes: int | None = None) -> None:
        self.break_bytes = break_bytes
        self.calls = self.idle = self.operations = self.ids = 0
        self.spans: list[tuple[int, int, int, int]] = []
        self.leaving: dict[int, tuple[Piece, ...]] = {}
        self.by_pid: dict[int, list[Operation]] = {}

    def threads(self) -> tuple[Thread, ...]:
        """The threads that did anything, named in order of first appearance."""
        return tuple(Thread(f"t{i}", pid, tuple(ops)) for i, (pid, ops) in enumerate(self.by_pid.items()))

    def known(self, start: int, stop: int) -> list[Piece]:
        """The known parts of a page range."""
        return [Piece(name, first - base, last - first) for first, last, name, base in self._within(start, stop)]

    def distance(self, page: int) -> int:
        """Pages between a page and the nearest known mapping."""
        if not self.spans:
            return _ADDRESS_END
        index = bisect_right(self.spans, page, key=lambda span: span[0])
        near = self.spans[max(index - 1, 0) : index + 1]
        return min(max(first - page, page - last + 1, 0) for first, last, _, _ in near)

    def leave(self, call: Call) -> None:
        """A moving mremap begins: its old pages can be had by others from here on."""
        first = call.address // PAGE_BYTES
        self.leaving[call.begin] = self._all(first, first + _pages(call.length))
        self._cut(first, first + _pages(call.length))

    def take(self, call: Call) -> None:
        """The call takes effect."""
        before = self.operations
        match call.name:
            case "mmap":
                self._mmap(call)
            case "munmap":
                self._unmap(call, call.address // PAGE_BYTES, _pages(call.length))
            case "mprotect":
                first = call.address // PAGE_BYTES
                if pieces := self._all(first, first + _pages(call.length)):
                    self._emit(call, Protect(**self._place(call), pieces=pieces, protection=call.protection))
            case "mremap":
                self._mremap(call)
            case "brk":
                self._brk(call)
        self.calls += 1
        self.idle += self.operations == before

    def _mmap(self, call: Call) -> None:
        first, pages = call.result // PAGE_BYTES, _pages(call.length)
        over = self.known(first, first + pages)
        if over and len({piece.id for piece in over}) == 1 and sum(piece.pages for piece in over) == pages:
            piece = Piece(over[0].id, over[0].page, pages)
            self._emit(call, Remap(**self._place(call), piece=piece, protection=call.protection))
        else:
            self._alloc(call, first, pages, fixed=_is_fixed(call), protection=call.protection)

    def _mremap(self, call: Call) -> None:
        old, new = _pages(call.length), _pages(call.wanted)
        first, target = call.address // PAGE_BYTES, call.result // PAGE_BYTES
        if pieces := self.leaving.pop(call.begin, ()):
            self._vacate(call, target, target + new)
            name = self._put(target, new)
            move = Move(**self._place(call), pieces=pieces, id=name, pages=new, address=call.result)
            self._emit(call, move)
        elif target != first:  # a second mapping of the same memory; it is readable and writable in all uses known
            self._alloc(call, target, new, fixed=False, protection="rw-")
        elif new < old:
            self._unmap(call, first + new, old - new)
        elif new > old:
            self._extend(call, first + old, new - old)

    def _brk(self, call: Call) -> None:
        stop = _pages(call.result)
        start = stop if self.break_bytes is None else _pages(self.break_bytes)
        self.break_bytes = call.result
        if stop < start:
            self._unmap(call, stop, start - stop)
        elif stop > start:
            self._extend(call, start, stop - start)

    def _extend(self, call: Call, page: int, pages: int) -> None:
        """Pages are added behind what is there; if that is not known, they are an allocation of their own."""
        self._vacate(call, page, page + pages)
        index = bisect_right(self.spans, page, key=lambda span: span[0]) - 1
        # while a part of the allocation is on the move, its page numbers are taken
        if index >= 0 and self.spans[index][1] == page and not self.leaving:
            first, _, name, base = self.spans[index]
            self.spans[index] = (first, page + pages, name, base)
            self._emit(call, Grow(**self._place(call), id=name, page=page - base, pages=pages))
        else:
            self._alloc(call, page, pages, fixed=True, protection="rw-")

    def _alloc(self, call: Call, page: int, pages: int, *, fixed: bool, protection: str) -> None:
        self._vacate(call, page, page + pages)
        name = self._put(page, pages)
        address = page * PAGE_BYTES
        alloc = Alloc(**self._place(call), id=name, pages=pages, address=address, fixed=fixed, protection=protection)
        self._emit(call, alloc)

    def _vacate(self, call: Call, start: int, stop: int) -> None:
        """What a fixed mapping replaces, and was not one allocation's, is freed first."""
        if over := self.known(start, stop):
            self._cut(start, stop)
            self._emit(call, Free(**self._place(call), pieces=tuple(over)))

    def _unmap(self, call: Call, page: int, pages: int) -> None:
        if pieces := self._all(page, page + pages):
            self._cut(page, page + pages)
            self._emit(call, Free(**self._place(call), pieces=pieces))

    def _all(self, start: int, stop: int) -> tuple[Piece, ...]:
        """A page range in pieces: the known parts, and what lies between them as pieces without an id."""
        pieces, page = [], start
        for first, last, name, base in self._within(start, stop):
            if page < first:
                pieces.append(Piece(None, page, first - page))
            pieces.append(Piece(name, first - base, last - first))
            page = last
        if page < stop:
            pieces.append(Piece(None, page, stop - page))
        return tuple(pieces)

    def _within(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """The spans that overlap a page range, clipped to it."""
        index = max(bisect_right(self.spans, start, key=lambda span: span[0]) - 1, 0)
        found = []
        while index < len(self.spans) and self.spans[index][0] < stop:
            first, last, name, base = self.spans[index]
            if last > start:
                found.append((max(first, start), min(last, stop), name, base))
            index += 1
        return found

    def _cut(self, start: int, stop: int) -> None:
        """Forget what is mapped in a page range; spans that reach beyond it keep their ends."""
        inside = self._within(start, stop)
        if not inside:
            return
        low = bisect_right(self.spans, inside[0][0], key=lambda span: span[0]) - 1
        high = low + len(inside)
        first, _, first_name, first_base = self.spans[low]
        _, last, last_name, last_base = self.spans[high - 1]
        self.spans[low:high] = [
            span
            for span in ((first, start, first_name, first_base), (stop, last, last_name, last_base))
            if span[0] < span[1]
        ]

    def _put(self, page: int, pages: int) -> int:
        name = self.ids
        self.ids += 1
        self.spans.insert(bisect_right(self.spans, page, key=lambda s: s[0]), (page, page + pages, name, page))
        return name

    def _place(self, call: Call) -> dict[str, int]:
        return {"order": self.operations, "begin": call.begin, "end": call.end}

    def _emit(self, call: Call, op: Operation) -> None:
        self.by_pid.setdefault(call.pid, []).append(op)
        self.operations += 1


class _Spaces:
    """Which thread lives in which address space, and what happens there; `home` has the living threads only."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.spaces: list[_Space] = []
        self.home: dict[int, _Space] = {}

    def run(self) -> list[_Space]:
        """The address spaces in which anything changed, in order of first appearance."""
        steps: list[tuple[int, int, Call | Turn]] = [(line, pid, turn) for line, pid, turn in self.log.turns]
        for call in self.log.calls:
            if _moves(call):
                steps.append((call.begin, call.pid, call))
            steps.append((call.begin if _gives_back(call) else call.end, call.pid, call))
        leaving: set[int] = set()
        for _, pid, what in sorted(steps, key=lambda step: step[0]):
            if what is Turn.GONE:
                self.home.pop(pid, None)
            elif isinstance(what, Turn):
                self._enter(pid, _Space())
            elif _moves(what) and what.begin not in leaving:
                leaving.add(what.begin)
                self._home(what).leave(what)
            else:
                self._home(what).take(what)
        return [space for space in self.spaces if space.operations]

    def _enter(self, pid: int, space: _Space) -> _Space:
        if space not in self.spaces:
            self.spaces.append(space)
        self.home[pid] = space
        return space

    def _home(self, call: Call) -> _Space:
        """The address space of a call; the module's head says how it is found out."""
        space = self.home.get(call.pid) or self._newcomer(call)
        if call.name == "brk" and not call.address and space.break_bytes not in {None, call.result}:
            return self._enter(call.pid, _Space())
        if _lands_on(space, call):
            return self._enter(call.pid, _Space())
        return space

    def _newcomer(self, call: Call) -> _Space:
        living = list(dict.fromkeys(self.home.values()))
        if call.pid in self.log.parents:
            parent, shares = self.log.parents[call.pid]
            old = self.home.get(parent)
            if old and shares:
                return self._enter(call.pid, old)
            return self._enter(call.pid, _Space(old.break_bytes if old else None))
        if call.name == "brk" and not call.address:
            living = [space for space in living if space.break_bytes == call.result]
        page = (call.result if call.name == "mmap" else call.address) // PAGE_BYTES
        living = [space for space in living if not _lands_on(space, call)]
        nearest = min(living, key=lambda space: space.distance(page), default=None)
        return self._enter(call.pid, nearest or _Space())


def _moves(call: Call) -> bool:
    """Whether the call takes pages away where it begins, and puts them down where it ends."""
    keeps_source = not call.length or call.flags & _MREMAP_DONTUNMAP
    return call.name == "mremap" and call.result != call.address and not keeps_source


def _gives_back(call: Call) -> bool:
    shrinks = call.name == "mremap" and call.result == call.address and call.wanted <= call.length
    return shrinks or call.name in {"munmap", "mprotect"}


def _lands_on(space: _Space, call: Call) -> bool:
    """Whether the kernel placed a mapping where the space has one, which it never does unasked."""
    first = call.result // PAGE_BYTES
    unasked = call.name == "mmap" and not call.flags & _MAP_FIXED
    return unasked and bool(space.known(first, first + _pages(call.length)))
