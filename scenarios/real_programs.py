"""What real programs asked of their address maps, asked of NetBSD's map by as many threads, in every order.

Each recorded thread is a kernel thread that does the recorded operations in their order, on one map as large as a
user's address space. An allocation is placed as mmap(NULL) is, at the lowest address with room (where the program
insisted on an address, at that one), so addresses depend on the interleaving and pieces are followed by id to
wherever their allocation went. An operation on an allocation that another thread made or last worked on waits for that
one, as the program must have done. A fixed mapping over a part of an allocation does what uvm_mmap of NetBSD does: it
unmaps the part and then maps it again at the same address. Another thread may take the addresses in between: that
loses nothing of the map's, so here the part goes elsewhere (and so does growth for which there is no room), which is
counted as `displaced`; what it means to the program is the story of `fixed_mapping_is_not_atomic`.

Left out, and counted as `left_out`: changes of protection, which the modelled map does not have yet. A mapping gets its
recorded protection from the start, so entries merge as far as those are alike. Operations on memory older than the
recording leave that memory alone.

Checked: an allocation never gets addresses that belong to a live one; and in the end, when all threads have ended, the
map holds exactly what is live, and that is, page by page, what the recording says must be.
"""

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stressvm import Field, Kernel, Semaphore, Thread, UsageError, scenario
from stressvm.vm import netbsd
from stressvm.vm.workload import (
    Alloc,
    Free,
    Grow,
    Ledger,
    Move,
    Operation,
    Piece,
    Protect,
    Remap,
    Workload,
    pieces_of,
    read_workload,
)

SHIPPED = Path(__file__).parent / "workloads"
XZ = str(SHIPPED / "xz_t2.json.gz")
NUMPY = str(SHIPPED / "numpy_import.json.gz")
PAGE = netbsd.PAGE_SIZE
USER_MIN = PAGE
USER_PAGES = (0x7FFF_FFFF_F000 - USER_MIN) // PAGE
ANYWHERE = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A workload as it is replayed: what each thread does, who waits for whom, and what is mapped in the end."""

    threads: tuple[tuple[str, tuple[Operation, ...]], ...]
    waits: dict[int, tuple[int, ...]]
    awaited: Counter[int]
    left_out: int
    live: dict[int, list[tuple[int, int]]]


@cache
def workload_of(path: str) -> Workload:
    """The workload of a file; "" is where numpy's threads overlap most, six of their calls in reality, too."""
    return read_workload(path) if path else read_workload(NUMPY).window(first=280, count=50)


@cache
def plan_of(path: str, first: int, count: int, threads: str) -> Plan:
    """The plan for a window of a workload; `count` 0 means to the end, `threads` "" means all."""
    workload = workload_of(path)
    window = workload.window(first=first, count=count or None, threads=threads.split(",") if threads else None)
    if not window.threads:
        raise UsageError(
            f"first={first} count={count} threads={threads!r}: none of {workload.operations_total} operations"
        )
    waits = window.dependencies()
    ledger = Ledger()
    for _, op in window.in_order():
        ledger.apply(op)
    return Plan(
        threads=tuple((thread.name, thread.operations) for thread in window.threads),
        waits=waits,
        awaited=Counter(order for orders in waits.values() for order in orders),
        left_out=sum(isinstance(op, Protect) for _, op in window.in_order()),
        live=ledger.mapped(),
    )


class Replay:
    """One execution's replay: the map, who is done, and the book of what is live where.

    Attributes:
        spans: the live pages in order of address: (first page of the map, page after the last, id, page within it).
        displaced: mappings that did not get the addresses that they insisted on.
        strict: a part that a fixed mapping replaces must not go elsewhere.
    """

    def __init__(self, k: Kernel, plan: Plan, *, strict: bool = False) -> None:
        self.k = k
        self.plan = plan
        self.strict = strict
        self.vm_map = netbsd.setup(k, USER_PAGES, min_offset=USER_MIN, name="vm_map")
        self.done = {order: Semaphore(k, 0, f"done{order}") for order in plan.awaited}
        self.booked = Field(k, "book", "the book is the scenario's own, and in no program")
        self.spans: list[tuple[int, int, int, int]] = []
        self.displaced = 0
        threads = [k.spawn(self.run, operations, name=name) for name, operations in plan.threads]
        k.spawn(self.check, threads, name="check")

    async def run(self, operations: tuple[Operation, ...]) -> None:
        """One recorded thread."""
        for op in operations:
            for order in self.plan.waits.get(op.order, ()):
                await self.done[order].wait()
            await self.do(op)
            for _ in range(self.plan.awaited[op.order]):
                await self.done[op.order].post()
            self.k.progress()

    async def do(self, op: Operation) -> None:
        """One operation, as the calls of the kernel that it comes to."""
        match op:
            case Alloc():
                at = op.address // PAGE if op.fixed else ANYWHERE
                await self.map(op.id, 0, op.pages, at=at, protection=op.protection)
            case Free():
                await self.unmap(op.pieces)
            case Remap(piece=Piece(id=int(name), page=page, pages=pages)):
                at = self.address(name, page)
                before = self.displaced
                await self.unmap(pieces_of(op))
                await self.map(name, page, pages, at=at, protection=op.protection)
                assert not self.strict or self.displaced == before, (
                    f"a fixed mapping lost page {at:#x} to another thread"
                )
            case Grow():
                await self.map(op.id, op.page, op.pages, at=self.address(op.id, op.page))
            case Move():
                await self.map(op.id, 0, op.pages)
                await self.unmap(op.pieces)

    async def map(self, name: int, page: int, pages: int, *, at: int = ANYWHERE, protection: str = "rw-") -> None:
        """uvm_map for pages of an allocation, at that page of the map or, if they are not free, anywhere."""
        prot = sum(1 << bit for bit, letter in enumerate(protection) if letter != "-")
        flags = netbsd.UVM_FLAG_FIXED if at != ANYWHERE else 0
        error, va = await netbsd.uvm_map(self.vm_map, at * PAGE, pages * PAGE, flags=flags, prot=prot)
        if error and flags:
            self.displaced += 1
            error, va = await netbsd.uvm_map(self.vm_map, ANYWHERE, pages * PAGE, prot=prot)
        assert not error, f"no room for {pages} pages"
        self.booked.write()
        span = (va // PAGE, va // PAGE + pages, name, page)
        index = bisect_left(self.spans, span)
        for other in self.spans[max(index - 1, 0) : index + 1]:
            assert other[1] <= span[0] or span[1] <= other[0], f"{span} was mapped over {other}, which is live"
        self.spans.insert(index, span)

    async def unmap(self, pieces: tuple[Piece, ...]) -> None:
        """uvm_unmap for what is live of the pieces, with one call for each run of addresses."""
        runs = sorted(run for piece in pieces if piece.id is not None for run in self.forget(piece))
        for start, stop in joined(runs):
            await netbsd.uvm_unmap(self.vm_map, start * PAGE, stop * PAGE)

    def forget(self, piece: Piece) -> list[tuple[int, int]]:
        """Take a piece out of the book, before anybody else can be given its addresses: where it was."""
        self.booked.write()
        runs = []
        for span in [span for span in self.spans if span[2] == piece.id]:
            start, stop, name, page = span
            low, high = max(piece.page, page), min(piece.page + piece.pages, page + stop - start)
            if low < high:
                first, last = start + low - page, start + high - page
                runs.append((first, last))
                self.spans.remove(span)
                if start < first:
                    insort(self.spans, (start, first, name, page))
                if last < stop:
                    insort(self.spans, (last, stop, name, high))
        return runs

    def address(self, name: int, page: int) -> int:
        """The page of the map where a page of an allocation is or, if it is not live, where it would follow the last."""
        self.booked.read()
        for start, stop, of, base in self.spans:
            if of == name and base <= page <= base + stop - start:
                return start + page - base
        return ANYWHERE

    async def check(self, threads: list[Thread]) -> None:
        """When all have ended: the map holds what the book says, and the book what the recording says."""
        for thread in threads:
            await self.k.join(thread)
        live: dict[int, list[tuple[int, int]]] = {name: [] for name in self.plan.live}
        for start, stop, name, page in self.spans:
            live.setdefault(name, []).append((page, page + stop - start))
        for name, ranges in live.items():
            found, wanted = joined(sorted(ranges)), self.plan.live.get(name, [])
            assert found == wanted, f"pages {found} of allocation {name} are live, and should be {wanted}"
        booked = joined([(start, stop) for start, stop, _, _ in self.spans])
        mapped = joined([(entry.start // PAGE, entry.end // PAGE) for entry in self.vm_map.entries])
        wrong = sorted(set(booked) ^ set(mapped))
        assert not wrong, f"mapped, or in the book, but not both: pages {wrong[:4]} of the map"
        pages = sum(stop - start for start, stop in mapped)
        assert self.vm_map.size == pages * PAGE, f"{pages} pages are mapped, and the size is {self.vm_map.size:#x}"
        self.k.record(pages=pages, displaced=self.displaced, left_out=self.plan.left_out)


def joined(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted half-open runs, those that touch made one."""
    found: list[tuple[int, int]] = []
    for start, stop in runs:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found


@scenario(source="strace of xz -T2: 55 operations of 3 threads", executions=300)
def xz_workload(k: Kernel, first: int = 0, count: int = 0) -> None:
    """Two compressors set up their heaps while the main thread loads libraries and makes buffers and stacks.

    `first` and `count` choose a window of the operations; a count of 0 means all from there on.
    """
    Replay(k, plan_of(XZ, first, count, ""))


@scenario(source="strace of python -c 'import numpy': 938 operations of 9 threads", executions=100)
def numpy_workload(k: Kernel, first: int = 250, count: int = 660, threads: str = "t0,t5,t7") -> None:
    """Worker threads that end free the stacks that the main thread had made for others.

    By default the main thread and two of the eight workers, from where workers begin to where these two have ended. With
    `threads=` all of them; `first=0 count=0 threads=` is all that was recorded, at half a second an execution.
    """
    Replay(k, plan_of(NUMPY, first, count, threads))


@scenario(source="a log of yours", max_steps=50_000, executions=200)
def imported_workload(k: Kernel, workload: str = "", first: int = 0, count: int = 100, threads: str = "") -> None:
    """A program of yours: `stressvm import LOG`, then `--param workload=FILE`.

    The first 100 operations, unless `first` and `count` choose another window (a count of 0: to the end) or `threads`
    some of the threads (`t0,t3`). Without a file it is the busiest moment of numpy's start: 46 operations of five threads.
    """
    Replay(k, plan_of(workload, first, count, threads))


@scenario(
    expect="assertion",
    source="NetBSD, sys/uvm/uvm_mmap.c 1.153, uvm_mmap: MAP_FIXED is uvm_unmap, then uvm_map with UVM_FLAG_FIXED",
)
def fixed_mapping_is_not_atomic(k: Kernel) -> None:
    """A library is loaded over the room reserved for it, while another thread asks for memory anywhere.

    The loader reserves room with one mmap and then puts each segment into it with MAP_FIXED. The kernel unmaps the
    segment's place and maps it in two steps, each under the map's lock, with none in between: there the other thread gets
    the addresses, and the loader gets ENOMEM for memory that it owned. The calls are those of xz.
    """
    Replay(k, plan_of(XZ, 0, 0, ""), strict=True)
