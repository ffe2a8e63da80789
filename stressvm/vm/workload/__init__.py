"""Workloads: what the threads of real programs asked of their address maps, as values, files and logs.

    workload = read_strace("prog.strace")            # a log of strace -f, plain or gzip
    write_workload(workload, "prog.json.gz")         # `stressvm import` does both
    window = read_workload("prog.json.gz").window(first=100, count=50)
    for thread, operation in window.in_order(): ...
    window.dependencies()                            # what must wait for another thread's operation

A scenario that replays one gives each recorded thread a kernel thread, follows allocations by their ids to wherever the
modelled map put them, and waits where `dependencies` says so; `Ledger` says what must be mapped in the end.
"""

from stressvm.vm.workload.file import read_workload, write_workload
from stressvm.vm.workload.ledger import Ledger
from stressvm.vm.workload.operations import (
    PAGE_BYTES,
    Alloc,
    Free,
    Grow,
    Move,
    Operation,
    Piece,
    Protect,
    Remap,
    ids_of,
    pieces_of,
)
from stressvm.vm.workload.spaces import read_strace
from stressvm.vm.workload.workload import Thread, Workload

__all__ = [
    "PAGE_BYTES",
    "Alloc",
    "Free",
    "Grow",
    "Ledger",
    "Move",
    "Operation",
    "Piece",
    "Protect",
    "Remap",
    "Thread",
    "Workload",
    "ids_of",
    "pieces_of",
    "read_strace",
    "read_workload",
    "write_workload",
]
