"""Small concurrent programs on one FreeBSD map, as they are written down, and what can come of them.

A program is a map, what is mapped in it beforehand, operations that one thread does first (`setup`), and a list of
operations for each thread. An outcome is all that can be told from outside when nobody can go on any more: the results
of each thread and where it sleeps for ever, the entries of the map, whether somebody waits for addresses, and the busy
count. Addresses and lengths are pages, counted from the map's lowest.

Whether entries that touch are one or two depends on the objects behind them, which programs do not show; so those that
look alike are joined, in what is recorded and in what the model comes to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from stressvm.conform.freebsd_case import FIRST_FIT
from stressvm.conform.programs import text
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stressvm.conform.freebsd_case import Personality
    from stressvm.conform.records import Record

SYSTEM: Final = "freebsd13"
MAPS: Final = {
    "user": freebsd.MapKind.USER,
    "ksub": freebsd.MapKind.SUBMAP,
    "system": freebsd.MapKind.SYSTEM,
}
#: What a page fault within a wiring does: nothing, or a real lookup.
FAULTS: Final = frozenset({"", "lookup"})

#: How a thread holds the map's lock.
NOT_AT_ALL: Final = ""
READING: Final = "r"
WRITING: Final = "w"

#: Of each operation: how the lock must be held (else it is skipped), its arguments, and those that it need not have.
#: `start` of an operation that also takes `own` may be left out for that: the number of the operation that got it.
OPERATIONS: Final[dict[str, tuple[str, dict[str, type], dict[str, type]]]] = {
    "kmap_alloc_wait": ("none", {"size": int}, {}),
    "kmap_free_wakeup": ("none", {"len": int}, {"start": int, "own": int}),
    "find": ("none", {"size": int, "strategy": str, "addr": int}, {"align_log2": int}),
    "fixed": ("none", {"start": int, "len": int, "excl": bool}, {}),
    "remove": ("none", {"len": int}, {"start": int, "own": int}),
    "wire": ("none", {"start": int, "len": int, "mode": str}, {"holes_ok": bool, "write": bool}),
    "unwire": ("none", {"start": int, "len": int, "mode": str}, {"holes_ok": bool}),
    "protect": ("none", {"start": int, "len": int, "prot": int}, {}),
    "lock": ("none", {}, {}),
    "lock_read": ("none", {}, {}),
    "trylock": ("none", {}, {}),
    "trylock_read": ("none", {}, {}),
    "wait_mapped": ("none", {"addr": int}, {}),
    "lock_upgrade": ("read", {}, {}),
    "lock_downgrade": ("write", {}, {}),
    "insert": ("write", {"start": int, "len": int}, {}),
    "delete": ("write", {"start": int, "len": int}, {}),
    "findspace": ("write", {"start": int, "size": int}, {}),
    "busy": ("write", {}, {}),
    "unbusy": ("write", {}, {}),
    "wait_busy": ("write", {}, {}),
    "unlock_and_wait": ("write", {}, {}),
    "unlock": ("any", {}, {}),
    "lookup": ("any", {"addr": int}, {}),
    "wakeup": ("not read", {}, {}),
}
HELD: Final = {
    "none": (NOT_AT_ALL,),
    "read": (READING,),
    "write": (WRITING,),
    "any": (READING, WRITING),
    "not read": (NOT_AT_ALL, WRITING),
}
#: Operations that get addresses.
ALLOCATIONS: Final = frozenset({"kmap_alloc_wait", "find"})
#: For whom memory is wired.
MODES: Final = {"user": freebsd.VM_MAP_WIRE_USER, "system": freebsd.VM_MAP_WIRE_SYSTEM}
STRATEGIES: Final = {"NO": freebsd.VMFS_NO_SPACE, "ANY": freebsd.VMFS_ANY_SPACE}

#: The columns of an entry.
COLUMNS: Final = ("start", "end", "prot", "wired", "flags")
#: The letters in the last of them.
FLAGS: Final = {
    "U": freebsd.MAP_ENTRY_USER_WIRED,
    "T": freebsd.MAP_ENTRY_IN_TRANSITION,
    "W": freebsd.MAP_ENTRY_NEEDS_WAKEUP,
    "S": freebsd.MAP_ENTRY_WIRE_SKIPPED,
}

#: Why a program is left out.
NOT_MODELLED: Final = "programs with the operation {}, which is not modelled"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: the word, how the lock may be held, its arguments."""

    word: str
    held: tuple[str, ...]
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Program:
    """A program, and the outcomes that it is known to have.

    Attributes:
        name: unique.
        kind: what it is about.
        map: the map's kind.
        pages: its size.
        initial: first page, pages and protection of what is mapped beforehand, in order.
        setup: what one thread does before the others start.
        threads: the operations of each thread.
        fault: what a fault does, one of FAULTS.
        bad_pages: pages whose fault fails.
        columns: how many of COLUMNS its entries have.
        outcomes: all that it can come to, each as text.
        missing: those of them that need a search that misses the last gap.
        first_fit: all that it can come to if no search does.
        unknown: operations that are not modelled: the program cannot be run.
    """

    name: str
    kind: str
    map: freebsd.MapKind
    pages: int
    initial: tuple[tuple[int, int, int], ...]
    setup: tuple[Operation, ...]
    threads: tuple[tuple[Operation, ...], ...]
    fault: str
    bad_pages: frozenset[int]
    columns: int
    outcomes: frozenset[str]
    missing: frozenset[str]
    first_fit: frozenset[str]
    unknown: tuple[str, ...]

    @property
    def max_prot(self) -> int:
        """The most rights that a mapping gets."""
        return freebsd.VM_PROT_ALL if self.map is freebsd.MapKind.USER else freebsd.VM_PROT_RW

    def expected(self, personality: Personality) -> frozenset[str]:
        """All outcomes that it can have with that search."""
        return self.first_fit if personality is FIRST_FIT else self.outcomes

    def left_out(self) -> Counter[str]:
        """Why it is left out, if it is."""
        return Counter(NOT_MODELLED.format(word) for word in self.unknown[:1])


def is_program(fields: Mapping[str, Any]) -> bool:
    """Is that line one of these?"""
    return fields.get("system") == SYSTEM and "threads" in fields


def parse(record: Record) -> Program:
    """A line of a file.

    Raises:
        UsageError: a field is missing, or is not what it should be.
    """
    fields = record.fields
    try:
        columns = len(_of_columns(fields["entry_fields"]))
        outcomes = [(_outcome(outcome, columns), outcome) for outcome in fields["outcomes"]]
        first_fit = fields.get("outcomes_first_fit", fields["outcomes"])
        lists = [fields.get("setup", []), *fields["threads"]]
        setup, *threads = (_operations(ops) for ops in lists)
        program = Program(
            name=str(fields["id"]),
            kind=str(fields["kind"]),
            map=MAPS[fields["map"]],
            pages=_number(fields["pages"]),
            initial=tuple(_initial(*map(_number, piece)) for piece in fields["init"]),
            setup=setup,
            threads=tuple(threads),
            fault=fields.get("fault", ""),
            bad_pages=frozenset(map(_number, fields.get("bad_pages", []))),
            columns=columns,
            outcomes=frozenset(outcome for outcome, _ in outcomes),
            missing=frozenset(outcome for outcome, fields in outcomes if "tail_gap_miss" in fields),
            first_fit=frozenset(_outcome(outcome, columns) for outcome in first_fit),
            unknown=tuple(dict.fromkeys(op["op"] for ops in lists for op in ops if op["op"] not in OPERATIONS)),
        )
        _validate(program)
    except KeyError as exc:
        raise record.bad(
            f"the field {exc} is missing, or not known; record the program again, or leave the line out"
        ) from None
    except (TypeError, ValueError, AttributeError) as exc:
        raise record.bad(f"this is no program: {exc}; record it again, or leave the line out") from None
    return program


def _of_columns(names: Any) -> Any:
    if list(names) != list(COLUMNS[: len(names)]) or len(names) < 2:
        raise ValueError(f"entry_fields are {names!r}, not the first of {', '.join(COLUMNS)}")
    return names


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} where a number of pages or the like is needed")
    return value


def _initial(start: int, length: int, prot: int = freebsd.VM_PROT_RW) -> tuple[int, int, int]:
    return start, length, prot


def _operations(ops: Iterable[Mapping[str, Any]]) -> tuple[Operation, ...]:
    """Those that are known."""
    return tuple(_operation(number, op) for number, op in enumerate(ops) if op["op"] in OPERATIONS)


def _operation(number: int, op: Mapping[str, Any]) -> Operation:
    word = op["op"]
    held, needed, other = OPERATIONS[word]
    where = f"operation {number}, {word}"
    args = {name: op[name] for name in (*needed, *other) if name in op or name in needed}
    for name, value in args.items():
        kind = needed.get(name) or other[name]
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise ValueError(f"{where}: {name} is {value!r}")
    if "own" in other and ("own" in args) == ("start" in args):
        raise ValueError(f"{where}: it needs either start or own")
    if word == "find" and (args["strategy"] == "ALIGNED") != ("align_log2" in args):
        raise ValueError(f"{where}: align_log2 is for ALIGNED, and ALIGNED needs it")
    if word == "find" and args["strategy"] not in {"ALIGNED", *STRATEGIES}:
        raise ValueError(
            f"{where}: the strategy {args['strategy']!r} is not known, only ALIGNED, {', '.join(STRATEGIES)} are"
        )
    if "mode" in args and args["mode"] not in MODES:
        raise ValueError(f"{where}: the mode {args['mode']!r} is not known, only {', '.join(MODES)} are")
    if "size" in args and not args["size"]:
        raise ValueError(f"{where}: no pages at all")
    return Operation(word, HELD[held], args)


def _outcome(fields: Mapping[str, Any], columns: int) -> str:
    """A recorded outcome in the form that the model's have."""
    threads = [{"ops": thread["ops"], "asleep": thread["asleep"]} for thread in fields["threads"]]
    for entry in fields["entries"]:
        if len(entry) != columns:
            raise ValueError(f"the entry {entry!r} has not the columns of entry_fields")
    return outcome_text(threads, fields["entries"], needs_wakeup=fields["needs_wakeup"], busy=fields["busy"])


def outcome_text(threads: list[Any], entries: Iterable[list[Any]], *, needs_wakeup: bool, busy: int) -> str:
    """An outcome as one canonical line; entries that touch and look alike are joined."""
    joined: list[list[Any]] = []
    for entry in entries:
        if joined and joined[-1][1] == entry[0] and joined[-1][2:] == entry[2:]:
            joined[-1][1] = entry[1]
        else:
            joined.append(list(entry))
    return text({"threads": threads, "entries": joined, "needs_wakeup": needs_wakeup, "busy": busy})


def _validate(program: Program) -> None:
    """Everything that running it relies on."""
    if not program.threads:
        raise ValueError("it has no threads")
    if program.fault not in FAULTS:
        raise ValueError(f"the fault {program.fault!r} is not known, only 'lookup' is")
    end = 0
    for start, length, prot in sorted(program.initial):
        if not end <= start < start + length <= program.pages:
            raise ValueError(f"the initial range [{start}, {length}] is taken, empty or not in the map")
        if prot & ~program.max_prot:
            raise ValueError(f"the initial range [{start}, {length}] has protection {prot} beyond {program.max_prot}")
        end = start + length
    for ops in () if program.unknown else (program.setup, *program.threads):
        for number, operation in enumerate(ops):
            own = operation.args.get("own")
            if own is not None and not (own < number and ops[own].word in ALLOCATIONS):
                raise ValueError(f"operation {number} is about what operation {own} got, which is no allocation")
