"""Logs of strace: lines become calls.

Recorded best with `strace -f -ttt -o LOG -e trace=memory,execve,clone,clone3,fork,vfork PROGRAM`; `-e trace=memory`
alone is enough for most logs. Understood are mmap, munmap, mremap, brk and mprotect; other calls are counted as
`skipped:NAME`. Any of -t, -tt, -ttt, -r, -T, -i, -n, -y and -X raw may have been given.

Calls that were split (`<unfinished ...>`, `<... resumed>`) are joined; `begin` and `end` of a call are the numbers of
its first and its last line, so two calls overlapped exactly if their intervals do.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError
from stressvm.vm.workload.calls import ARGUMENTS, CLONE_VM, Call, Fault, bits_of, decode, number, short
from stressvm.vm.workload.file import open_plain_or_gzip
from stressvm.vm.workload.operations import OPERATIONS_MAX

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

LINE_BYTES_MAX: Final = 1 << 20
LOG_BYTES_MAX: Final = 1 << 32

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


def parse_log(path: str | os.PathLike[str], *, lenient: bool = False) -> Log:
    """The calls of a log, joined and decoded, without asking which addresses belong together.

    Raises:
        UsageError: the log cannot be read or understood; the message names file, line and fault.
    """
    parser = _Parser(path, lenient=lenient)
    try:
        for number, text, whole in _lines(path):
            parser.line(number, text, whole=whole)
    except Fault as fault:
        raise UsageError(f"{path}: line {parser.number}: {fault}") from fault
    return parser.finish()


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
                raise Fault(f"longer than {LINE_BYTES_MAX} characters, joined with the lines before")
            self.announced.add(int(torn[2]))
            return
        prefix = _PREFIX.match(text)
        body = text[prefix.end() if prefix else 0 :].rstrip()
        if not whole and not body.endswith(("+++", "---")):
            if not self.lenient:
                raise Fault(f"the log is cut off in this line, {short(text)}; reading it as lenient drops the line")
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
            if self.pending.pop(pid, ("",))[0] in ARGUMENTS:
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
            raise Fault(f"no line of strace: {short(body)}; record with -o, so that the program's output stays apart")

    def _call(self, pid: int, name: str, rest: str) -> None:
        split = rest.endswith((_UNFINISHED, _DETACHED))
        if not split and not re.search(r"\)\s*= ", rest):
            raise Fault(f"{name} neither returns nor is unfinished: {short(rest)}")
        if name not in ARGUMENTS:
            self.log.counts[f"skipped:{name}"] += 1
        if name in ARGUMENTS or name in _FAMILY:
            if pid in self.pending:
                was, _, line = self.pending[pid]
                raise Fault(f"{name} begins although {was} of line {line} has not returned in thread {pid}")
            if not split:
                self._returned(pid, name, rest, self.number)
            elif rest.endswith(_UNFINISHED):
                self.pending[pid] = (name, rest.removesuffix(_UNFINISHED).rstrip(), self.number)
            elif name in ARGUMENTS:
                self.log.counts["unreturned"] += 1

    def _resumed(self, pid: int, name: str, rest: str) -> None:
        if name not in ARGUMENTS and name not in _FAMILY:
            return
        begun, text, line = self.pending.pop(pid, (name, "", 0))
        if begun != name:
            raise Fault(f"{name} is resumed, but what thread {pid} had begun in line {line} is {begun}")
        if line:
            self._returned(pid, name, text + rest, line)
        elif name in ARGUMENTS:
            raise Fault(f"{name} is resumed, but thread {pid} had not begun it; the head of the log is missing")
        elif rest.startswith(") = 0"):  # an execve that takes over the id of the process's first thread
            self.log.turns.append((self.number, pid, Turn.EXEC))

    def _returned(self, pid: int, name: str, text: str, begin: int) -> None:
        """A whole call: its arguments, the closing parenthesis, its result."""
        end = _RETURNED.search(text)
        if not end:
            if name in _FAMILY:  # its strings may hold anything; what cannot be read is not needed
                return
            raise Fault(f"{name} has no result that can be read: {short(text)}")
        arguments, result = text[: end.start()].strip(), end["result"]
        if name in _FAMILY:
            self._family(pid, name, arguments, result)
        elif result == "?":
            self.log.counts["unreturned"] += 1
        elif end["error"]:
            self.log.counts["failed"] += 1
        else:
            self._decoded(pid, name, arguments, number(result), begin)

    def _family(self, pid: int, name: str, arguments: str, result: str) -> None:
        if name.startswith("execve"):
            if result == "0":
                self.log.turns.append((self.number, pid, Turn.EXEC))
        elif result.isdecimal() and result != "0":
            flags = _CLONE_FLAGS.search(arguments)
            if flags:
                self.log.parents[int(result)] = (pid, bool(bits_of(flags[1]) & CLONE_VM))
            elif name.endswith("fork"):
                self.log.parents[int(result)] = (pid, name == "vfork")

    def _decoded(self, pid: int, name: str, arguments: str, result: int, begin: int) -> None:
        call = decode(name, pid, (begin, self.number), arguments, result)
        if len(self.log.calls) >= OPERATIONS_MAX:
            raise Fault(f"more than {OPERATIONS_MAX} calls; replay a part of the log")
        if name == "brk" and call.address not in {0, result}:  # it has no error: it answers with the break as it was
            self.log.counts["failed"] += 1
            return
        self.log.counts["calls"] += 1
        self.log.calls.append(call)

    def finish(self) -> Log:
        """The log, once all lines have been taken. Calls still under way are a sign that it was cut off."""
        waiting = {pid: begun for pid, begun in self.pending.items() if begun[0] in ARGUMENTS}
        if self.held:
            waiting[0] = (short(self.held), "", self.number)
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
