"""NetBSD's map, one thread: recorded answers of uvm_map, uvm_unmap1, uvm_map_findspace and uvm_map_lookup_entry.

A case is a map, a list of operations with what the kernel's code answered, and the map at the end. That code was built
with DIAGNOSTIC, and where an assertion failed the record has its text (`kassert`) beside the answer that a kernel without
it goes on to give. So a case runs on a map with DIAGNOSTIC, on which no other operation may panic; and at those it is
done twice: on a copy of the map, which must panic with that assertion, and on the map itself, without DIAGNOSTIC.

With `merge` off every mapping is NOMERGE; with it on, only entries of equal advice merge. Lookups and searches were done
with the map locked for writing, so they, too, move its timestamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from stressvm.conform.answers import Answer, canonical, compare, in_words, surroundings
from stressvm.conform.lone import LoneThread
from stressvm.conform.records import address
from stressvm.conform.tally import Differs
from stressvm.kernel.errors import Panic, UsageError
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping

    from stressvm.conform.records import Record
    from stressvm.conform.tally import Tally

    Arguments = Mapping[str, Any]

#: Of each operation: the arguments that are numbers, other arguments, and the fields of its answer.
OPERATIONS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]] = {
    "map": (("hint", "size", "align"), ("fixed",), ("rc", "addr")),
    "findspace": (("hint", "size", "align"), ("fixed",), ("addr", "prev")),
    "unmap": (("start", "end"), (), ("removed", "nentries")),
    "lookup": (("addr",), (), ("found", "index")),
    "fill": (("start", "stride", "size"), ("count",), ("rc",)),
}
FINAL: Final = ("size", "nentries", "first_free", "root_maxgap", "wantva", "timestamp")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its arguments, the recorded answer, and the assertion that fails within it ("": none)."""

    word: str
    args: dict[str, Any]
    expected: Answer
    kassert: str

    def text(self, number: int) -> str:
        """For people."""
        return in_words(number, self.word, self.args)

    @property
    def place(self) -> int:
        """The address that it is about."""
        addr: int = next(iter(self.args.values()))
        return addr


@dataclass(frozen=True, slots=True)
class Case:
    """A case as it was recorded; `final` holds the entries, too."""

    name: str
    low: int
    high: int
    topdown: bool
    merge: bool
    operations: tuple[Operation, ...]
    final: Answer

    @property
    def big(self) -> bool:
        """One whose map is checked only at the end, as where the answers come from."""
        return bool(self.operations) and self.operations[0].word == "fill"


def is_case(fields: Mapping[str, Any]) -> bool:
    """Is that line one of these?"""
    return "topdown" in fields and "ops" in fields


def parse(record: Record) -> Case:
    """A line of a file.

    Raises:
        UsageError: a field is missing, or is not what it should be.
    """
    fields = record.fields
    try:
        final = {name: canonical(fields["final"][name]) for name in FINAL}
        final["entries"] = [[canonical(start), canonical(end)] for start, end in fields["entries"]]
        return Case(
            name=str(fields["case"]),
            low=address(fields["min"]),
            high=address(fields["max"]),
            topdown=bool(fields["topdown"]),
            merge=bool(fields["merge"]),
            operations=tuple(_operation(*operation) for operation in fields["ops"]),
            final=final,
        )
    except KeyError as exc:
        raise record.bad(f"the field {exc} is missing; record the case again, or leave the line out") from None
    except (TypeError, ValueError, AttributeError) as exc:
        raise record.bad(f"this is no case: {exc}; record it again, or leave the line out") from None


def _operation(word: str, args: Arguments, answer: Answer) -> Operation:
    if word not in OPERATIONS:
        raise ValueError(f"the operation {word!r} is not known, only {', '.join(OPERATIONS)} are")
    numbers, others, results = OPERATIONS[word]
    taken: dict[str, Any] = {name: address(args[name]) for name in numbers}
    taken |= {name: args[name] for name in others}
    if word == "map":
        taken["adv"] = args.get("adv", netbsd.UVM_ADV_RANDOM)
    for name, kind in (("fixed", bool), ("count", int), ("adv", int)):
        if name in taken and type(taken[name]) is not kind:
            raise ValueError(f"{word}: {name} is {taken[name]!r}")
    expected = {name: canonical(answer[name]) for name in results if name in answer}
    return Operation(word, taken, expected, str(answer.get("kassert", "")))


class Unchecked(netbsd.VmMap):
    """A map that is not proved right at every release of its lock."""

    def check(self) -> None:
        """Nothing."""


class Replay:
    """One case on the model: a single thread, which nobody else can take the baton from."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.lone = LoneThread()
        self.kmap = self.make(self.lone)
        self.lone.start()

    def make(self, lone: LoneThread) -> netbsd.VmMap:
        """The case's map, empty, with DIAGNOSTIC."""
        case = self.case
        return (Unchecked if case.big else netbsd.VmMap)(
            lone.k,
            case.low,
            case.high,
            netbsd.VM_MAP_TOPDOWN if case.topdown else 0,
            options=netbsd.Options.DIAGNOSTIC,
        )

    def run(self, tally: Tally) -> None:
        """All operations, then the map as it is at the end.

        Raises:
            Differs: something is not as recorded; what follows is not done.
        """
        try:
            for number, operation in enumerate(self.case.operations):
                tally.operations += 1
                tally.words[operation.word] += 1
                self.perform(operation, operation.text(number), tally.words)
                tally.operations_passed += 1
            compare("the map at the end", self.case.final, self.final(), self.kmap.entries.describe, fields=True)
        finally:
            self.lone.close()

    def perform(self, operation: Operation, where: str, words: Counter[str]) -> None:
        """One operation, compared."""
        if operation.kassert:
            words["kassert"] += 1
            self.must_panic(operation, where)
            self.kmap.options &= ~netbsd.Options.DIAGNOSTIC
        compare(where, operation.expected, self.answer(operation), lambda: self.around(operation))
        self.kmap.options |= netbsd.Options.DIAGNOSTIC

    def answer(self, operation: Operation) -> Answer:
        """What the model says."""
        do: Callable[[Mapping[str, Any]], Answer] = getattr(self, operation.word)
        try:
            return do(operation.args)
        except Panic as exc:
            return {"panic": str(exc)}

    def must_panic(self, operation: Operation, where: str) -> None:
        """On a copy of the map, with the recorded assertion."""
        twin = self.copy()
        try:
            answer = twin.answer(operation)
        finally:
            twin.lone.close()
        if f"KASSERT({operation.kassert})" not in answer.get("panic", ""):
            wanted = {"panic": f"KASSERT({operation.kassert})"}
            raise Differs(f"{where}, with DIAGNOSTIC", wanted, answer, self.around(operation))

    def around(self, operation: Operation) -> str:
        """A picture of the map where an operation is about it."""
        return surroundings(self.kmap.entries, operation.place)

    def copy(self) -> Replay:
        """The same map in a kernel of its own."""
        twin = Replay.__new__(Replay)
        twin.case, twin.lone = self.case, LoneThread()
        twin.kmap = copy = twin.make(twin.lone)
        twin.lone.start()
        for entry in self.kmap.entries:
            copy.entries.insert(mine := entry.copy())
            if entry is self.kmap.first_free:
                copy.first_free = mine
        copy.size = self.kmap.size
        return twin

    # ------------------------------------------------------------ the operations

    def map(self, args: Arguments) -> Answer:
        """uvm_map."""
        flags = (netbsd.UVM_FLAG_FIXED if args["fixed"] else 0) | (0 if self.case.merge else netbsd.UVM_FLAG_NOMERGE)
        call = netbsd.uvm_map(
            self.kmap, args["hint"], args["size"], align=args["align"], flags=flags, advice=args["adv"]
        )
        error, va = self.lone.now(call)
        return {"rc": error, "addr": None if error else hex(va)}

    def findspace(self, args: Arguments) -> Answer:
        """uvm_map_findspace, under the write lock."""
        self.lone.now(self.kmap.lock.lock())
        flags = netbsd.UVM_FLAG_FIXED if args["fixed"] else 0
        va = self.kmap.findspace(args["hint"], args["size"], args["align"], flags)
        answer: Answer = {"addr": None}
        if va is not None:
            answer = {"addr": hex(va), "prev": self.index(self.kmap.neighbours(va)[0])}
        self.lone.now(self.kmap.lock.unlock())
        return answer

    def unmap(self, args: Arguments) -> Answer:
        """uvm_unmap1."""
        before = self.kmap.size
        self.lone.now(netbsd.uvm_unmap(self.kmap, args["start"], args["end"]))
        return {"removed": hex(before - self.kmap.size), "nentries": len(self.kmap.entries)}

    def lookup(self, args: Arguments) -> Answer:
        """uvm_map_lookup_entry."""
        self.lone.now(self.kmap.lock.lock())
        found, entry = self.kmap.entries.lookup(args["addr"])
        self.lone.now(self.kmap.lock.unlock())
        return {"found": found, "index": self.index(entry)}

    def fill(self, args: Arguments) -> Answer:
        """Many mappings at fixed places."""
        flags = netbsd.UVM_FLAG_FIXED | netbsd.UVM_FLAG_NOMERGE
        for at in range(args["count"]):
            va = args["start"] + at * args["stride"]
            call = netbsd.uvm_map(self.kmap, va, args["size"], flags=flags, advice=netbsd.UVM_ADV_RANDOM)
            error, _ = self.lone.now(call)
            if error:
                return {"rc": error}
        return {"rc": 0}

    def index(self, entry: netbsd.MapEntry | None) -> int:
        """The place of an entry in the list; -1 for the header."""
        return -1 if entry is None else list(self.kmap.entries).index(entry)

    def final(self) -> Answer:
        """Entries, and the map's other fields; `root_maxgap` is the largest gap but the first."""
        kmap = self.kmap
        try:
            netbsd.VmMap.check(kmap)
        except Panic as exc:
            raise Differs("the map at the end", "no panic", {"panic": str(exc)}, kmap.entries.describe()) from None
        gaps = [kmap.entries.gap_after(entry) for entry in kmap.entries]
        return {
            "size": hex(kmap.size),
            "nentries": len(kmap.entries),
            "first_free": self.index(kmap.first_free),
            "root_maxgap": hex(max(gaps)) if gaps else None,
            "wantva": bool(kmap.flags.peek() & netbsd.VM_MAP_WANTVA),
            "timestamp": kmap.lock.timestamp.peek(),
            "entries": [[hex(entry.start), hex(entry.end)] for entry in kmap.entries],
        }


def answer(record: Record, tally: Tally) -> None:
    """Run the case of one line, and note what comes of it.

    Raises:
        UsageError: it is no case, or asks for a map that there cannot be.
    """
    case = parse(record)
    try:
        Replay(case).run(tally)
    except Differs as difference:
        tally.case_done(difference.at(record, case.name))
    except UsageError as exc:
        raise record.bad(exc) from None
    else:
        tally.case_done(None)
