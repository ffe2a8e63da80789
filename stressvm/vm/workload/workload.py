"""A workload: what the threads of one process asked of one address map, ready to be replayed on another map.

A replay that explores interleavings keeps each thread's own order and waits only where `dependencies` says so; one that
wants the recorded order follows `order`. `window` makes a workload of the size that a search can afford.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stressvm.kernel.errors import UsageError
from stressvm.vm.workload.ledger import Ledger
from stressvm.vm.workload.operations import Alloc, Free, Move, Operation, Protect, ids_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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
            before = {last[name][1] for name in ids_of(op) if name in last and last[name][0] is not thread}
            if before:
                waits[op.order] = tuple(sorted(before))
            last.update((name, (thread, op.order)) for name in ids_of(op))
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
