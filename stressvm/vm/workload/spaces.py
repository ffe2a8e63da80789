"""Which calls of a log belong to one address space, in the order in which they took effect.

What gives memory back takes effect where the call begins, and what takes memory where it ends: nobody else can get
pages before a munmap has begun, and nobody can know what mmap gave before it returned. With this rule every log finds
its memory in order.

A log has the calls of several processes, but does not say which share a map. Where it has clone, fork and execve, they
are believed. Otherwise: a child named by SIGCHLD is a process of its own; `brk(NULL)` with an answer that is not the
known break is a program just started; a mapping placed, unasked, on top of a live one is proof of another address space;
and any other newcomer is a thread of the process whose mappings are nearest (address layouts are randomised, so two
processes lie gigabytes apart). A workload is one address space, by default the one with most operations. A forked child
begins without the mappings that it inherited: they are memory older than its recording.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.workload.calls import pages_of
from stressvm.vm.workload.operations import PAGE_BYTES
from stressvm.vm.workload.space import Space
from stressvm.vm.workload.strace import Turn, parse_log
from stressvm.vm.workload.workload import Workload

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from stressvm.vm.workload.calls import Call
    from stressvm.vm.workload.strace import Log


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


class _Spaces:
    """Which thread lives in which address space, and what happens there; `home` has the living threads only."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.spaces: list[Space] = []
        self.home: dict[int, Space] = {}

    def run(self) -> list[Space]:
        """The address spaces in which anything changed, in order of first appearance."""
        steps: list[tuple[int, Callable[[], None]]] = [
            (line, partial(self._turn, pid, turn)) for line, pid, turn in self.log.turns
        ]
        for call in self.log.calls:
            if call.moves:
                steps.append((call.begin, partial(self._leave, call)))
            steps.append((call.begin if call.gives_back else call.end, partial(self._take, call)))
        for _, step in sorted(steps, key=lambda step: step[0]):
            step()
        return [space for space in self.spaces if space.operations]

    def _turn(self, pid: int, turn: Turn) -> None:
        if turn is Turn.GONE:
            self.home.pop(pid, None)
        else:
            self._enter(pid, Space())

    def _leave(self, call: Call) -> None:
        self._home(call).leave(call)

    def _take(self, call: Call) -> None:
        self._home(call).take(call)

    def _enter(self, pid: int, space: Space) -> Space:
        if space not in self.spaces:
            self.spaces.append(space)
        self.home[pid] = space
        return space

    def _home(self, call: Call) -> Space:
        """The address space of a call; the module's head says how it is found out."""
        space = self.home.get(call.pid) or self._newcomer(call)
        if call.name == "brk" and not call.address and space.break_bytes not in {None, call.result}:
            return self._enter(call.pid, Space())
        if _lands_on(space, call):
            return self._enter(call.pid, Space())
        return space

    def _newcomer(self, call: Call) -> Space:
        living = list(dict.fromkeys(self.home.values()))
        if call.pid in self.log.parents:
            parent, shares = self.log.parents[call.pid]
            old = self.home.get(parent)
            if old and shares:
                return self._enter(call.pid, old)
            return self._enter(call.pid, Space(old.break_bytes if old else None))
        if call.name == "brk" and not call.address:
            living = [space for space in living if space.break_bytes == call.result]
        page = (call.result if call.name == "mmap" else call.address) // PAGE_BYTES
        living = [space for space in living if not _lands_on(space, call)]
        nearest = min(living, key=lambda space: space.distance(page), default=None)
        return self._enter(call.pid, nearest or Space())


def _lands_on(space: Space, call: Call) -> bool:
    """Whether the kernel placed a mapping where the space has one, which it never does unasked."""
    first = call.result // PAGE_BYTES
    unasked = call.name == "mmap" and not call.replaces
    return unasked and bool(space.known(first, first + pages_of(call.length)))
