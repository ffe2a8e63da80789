"""A log of strace as a workload: what real programs asked of their address maps, as arrivals.

    Logged("prog.strace.gz", ticks_per_line=20_000)

Each recorded thread is a client. Its requests are the recorded allocations: so many pages, kept until the recorded
program unmapped the first of them, or to the end. A log without times says only what came before what, so a line of it
stands for a fixed number of ticks; pauses between a thread's requests follow from that. A client of a study has one
request at a time, a recorded thread had many mappings at once: therefore each *slot* of a thread, that is each mapping
that it had at the same time as others, is a client of its own.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.study.workloads import Client, Mode, Request
from stressvm.vm.workload import Alloc, Free, Move, Workload, read_strace, read_workload

if TYPE_CHECKING:
    import os


@dataclass(frozen=True, slots=True)
class Logged:
    """A recorded program's allocations, as often side by side as `copies` says.

    Args:
        path: a log of strace -f (plain or gzip), or what `stressvm import` made of one (`.json`, `.json.gz`).
        ticks_per_line: how long a line of the log takes.
        copies: that many programs at once, each begun `stagger` ticks after the one before.
        stagger: see `copies`.
        pages_max: larger requests ask for that many pages: a reservation of gigabytes says nothing about a map of the
            kernel's. 0: as they are.
        space: of a log of several address spaces, which one, in order of appearance; by default the busiest.
    """

    path: str | os.PathLike[str]
    ticks_per_line: int = 20_000
    copies: int = 1
    stagger: int = 0
    pages_max: int = 64
    space: int | None = None

    def __post_init__(self) -> None:
        if self.ticks_per_line < 1 or self.copies < 1 or self.stagger < 0 or self.pages_max < 0:
            raise UsageError(
                f"Logged(ticks_per_line={self.ticks_per_line}, copies={self.copies}, stagger={self.stagger}, "
                f"pages_max={self.pages_max}): ticks_per_line and copies at least 1, the others at least 0"
            )

    def plan(self, _seed: int, /) -> tuple[Client, ...]:
        """The same for every seed: a log is a log."""
        recorded = _spans(str(self.path), self.space)
        clients = []
        for copy in range(self.copies):
            for name, spans in recorded:
                requests = tuple(self._requests(spans))
                if requests:
                    clients.append(Client(f"{name}.{copy}", copy * self.stagger, requests))
        return tuple(clients)

    def _requests(self, spans: tuple[tuple[int, int, int], ...]) -> list[Request]:
        requests = []
        free_from = 0
        for begin, end, pages in spans:
            pause = max(0, begin - free_from) * self.ticks_per_line
            asked = min(pages, self.pages_max) if self.pages_max else pages
            requests.append(Request(pause, asked, (end - begin) * self.ticks_per_line, Mode.WAIT))
            free_from = end
        return requests


@lru_cache(maxsize=16)
def _spans(path: str, space: int | None) -> tuple[tuple[str, tuple[tuple[int, int, int], ...]], ...]:
    """For each slot of each thread its mappings, one after the other: line of begin, line of end, pages."""
    workload = _read(path, space)
    last = workload.count("lines")
    ends: dict[int, int] = {}
    for _, op in workload.in_order():
        if isinstance(op, Free | Move):
            for piece in op.pieces:
                if piece.id is not None:
                    ends.setdefault(piece.id, op.begin)
    found: list[tuple[str, tuple[tuple[int, int, int], ...]]] = []
    for thread in workload.threads:
        slots: list[list[tuple[int, int, int]]] = []
        idle: list[tuple[int, int]] = []
        for op in thread.operations:
            if not isinstance(op, Alloc | Move):
                continue
            span = (op.begin, max(op.begin, ends.get(op.id, last)), op.pages)
            if idle and idle[0][0] <= op.begin:
                slot = heapq.heappop(idle)[1]
            else:
                slot = len(slots)
                slots.append([])
            slots[slot].append(span)
            heapq.heappush(idle, (span[1], slot))
        found.extend((f"{thread.name}s{i}", tuple(spans)) for i, spans in enumerate(slots))
    return tuple(found)


def _read(path: str, space: int | None) -> Workload:
    if path.endswith((".json", ".json.gz")):
        if space is not None:
            raise UsageError(f"{path}: a workload file has one address space; leave space={space} off")
        return read_workload(path)
    return read_strace(path, space=space)
