"""What a thread asks of an address map, one value for each kind of request.

An operation names the *allocation* that it works on, by an id, and pages within it. A recorded address is kept only as
information: a program got it from its own kernel, spread over 47 bits, and a replay on another map gets others. So a
replay can follow: "free pages 3 to 5 of allocation 7". Memory that existed before the recording began has no id; a
piece of it is named by its recorded page number, and a replay on another map leaves it alone.

`order` numbers the operations of all threads in one sequence in which every operation finds the memory that it works
on. `begin` and `end` are the lines of the log where the call was made and where it returned: two calls of different
threads overlapped in reality when their intervals do.

The alternative rejected: keeping raw system calls, and letting each replayer find out what an address belongs to. Every
replayer would need the whole bookkeeping of holes, and dependencies between threads would stay hidden.

Sizes are in pages of 4096 bytes, addresses in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PAGE_BYTES: Final = 4096
OPERATIONS_MAX: Final = 1_000_000


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


def pieces_of(op: Operation) -> tuple[Piece, ...]:
    """What was mapped before that the operation works on; nothing for Alloc and Grow."""
    match op:
        case Free() | Protect() | Move():
            return op.pieces
        case Remap():
            return (op.piece,)
        case Alloc() | Grow():
            return ()


def ids_of(op: Operation) -> tuple[int, ...]:
    """The allocations that an operation names, each once, a new one last."""
    named = [piece.id for piece in pieces_of(op) if piece.id is not None]
    if isinstance(op, Alloc | Grow | Move):
        named.append(op.id)
    return tuple(dict.fromkeys(named))
