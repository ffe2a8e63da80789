"""FreeBSD's map, one thread: recorded answers of vm_map_insert, vm_map_find and their kin, by three personalities.

A case is a map, a list of operations with what 13.0's code answered, and the map at the end. It is held against

- version 13 with its splay tree, which has to give every recorded answer itself;
- version 13 with first fit. A search that missed the gap after the last entry has what first fit would have found beside
  the recorded answer; the model has to find that. A mapping it makes there is undone: the code went on without it;
- version 2013. Where 10.4's code answered otherwise, that is recorded, too. After an answer that leaves another map
  behind 10.4 was asked no further, so there the rest of the case and its end are left out.

With `coalesce` off every mapping is of an object of its own, and nothing merges; with it on, no mapping has an object.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from stressvm.conform.answers import Answer, compare, surroundings
from stressvm.conform.freebsd_case import CODES, OF_2013, STRATEGIES, SUCCESS, parse
from stressvm.conform.lone import LoneThread
from stressvm.conform.tally import Differs
from stressvm.kernel.errors import Panic, UsageError
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stressvm.conform.freebsd_case import Case, Operation, Personality
    from stressvm.conform.records import Record
    from stressvm.conform.tally import Tally

    Arguments = Mapping[str, Any]

AT_THE_END: Final = "the map at the end"

#: Why something is left out.
NOT_FIRST_FIT: Final = "answers that missed the last gap: first fit's were compared in their place"
NOT_ASKED: Final = "operations that 10.4 was not asked, for an answer before them had left it with another map"
NO_END: Final = "maps at the end, in cases that 10.4 was not asked to the end"


class Unchecked13(freebsd.VmMap13):
    """A map that is not proved right at every release of its lock."""

    def check(self) -> None:
        """Nothing."""


class Unchecked2013(freebsd.VmMap2013):
    """The same of the other version."""

    def check(self) -> None:
        """Nothing."""


UNCHECKED: Final[dict[str, type[freebsd.VmMap]]] = {"13": Unchecked13, "2013": Unchecked2013}


class Replay:
    """One case on the model: a single thread, which nobody else can take the baton from.

    Attributes:
        map: it.
        objects: each object that was made, with whether its maker still has its reference.
    """

    def __init__(self, case: Case, personality: Personality) -> None:
        self.case, self.personality = case, personality
        self.lone = LoneThread()
        cls = (UNCHECKED if case.big else freebsd.VERSIONS)[personality.version]
        self.map = cls(self.lone.k, case.low, case.high, kind=freebsd.MapKind.SYSTEM, search=personality.search)
        self.lone.start()
        self.objects: dict[freebsd.VmObject, bool] = {}

    def run(self, tally: Tally) -> None:
        """All operations that there are answers to, then the map as it is at the end.

        Raises:
            Differs: something is not as recorded; what follows is not done.
        """
        operations = self.case.operations
        try:
            for number, operation in enumerate(operations):
                tally.operations += 1
                tally.words[operation.word] += 1
                self.perform(operation, operation.text(number), tally.left_out)
                tally.operations_passed += 1
                if self.personality is OF_2013 and operation.parts:
                    tally.left_out[NOT_ASKED] += len(operations) - number - 1
                    tally.left_out[NO_END] += 1
                    return
            compare(AT_THE_END, self.case.final, self.final(), self.map.entries.describe, fields=True)
            self.compare_references()
        finally:
            self.lone.close()

    def perform(self, operation: Operation, where: str, left_out: Counter[str]) -> None:
        """One operation, compared."""
        expected = operation.expected(self.personality)
        compare(where, expected, self.answer(operation), lambda: surroundings(self.map.entries, operation.place))
        if expected is operation.first_fit:
            left_out[NOT_FIRST_FIT] += 1
            if operation.word == "find":
                self.go_on_as_recorded(operation)

    def go_on_as_recorded(self, operation: Operation) -> None:
        """First fit has mapped where 13.0 did not, or not there: have the map as it was then."""
        assert operation.first_fit is not None, "asked for where it is given"
        mapped, was_mapped = operation.first_fit["addr_out"], operation.answer["addr_out"]
        if mapped is not None:
            start = int(mapped, 16)
            self.remove({"start": start, "end": start + operation.args["length"]})
        if was_mapped is not None:
            self.find({**operation.args, "addr": int(was_mapped, 16), "strategy": "NO"})

    def answer(self, operation: Operation) -> Answer:
        """What the model says."""
        do: Callable[[Mapping[str, Any]], Answer] = getattr(self, operation.word)
        try:
            return do(operation.args)
        except Panic as exc:
            return {"panic": str(exc)}

    # ------------------------------------------------------------ objects

    def object(self, color: int | None = None) -> freebsd.VmObject | None:
        """What a mapping maps: nothing if mappings may coalesce, else an object of its own."""
        if self.case.coalesce:
            return None
        obj = freebsd.VmObject(1, pg_color=color)
        self.objects[obj] = True
        return obj

    def told(self, rc: int, obj: freebsd.VmObject | None) -> str:
        """The code's name; if it means success, the map has taken over the reference to the object."""
        if obj is not None and not rc:
            self.objects[obj] = False
        return CODES[rc]

    def compare_references(self) -> None:
        """Every object is referred to by its entries, and by whoever could not map it, and nobody else.

        Raises:
            Differs: one is not.
        """
        users = Counter(entry.object for entry in self.map.entries if entry.object is not None)
        for number, (obj, kept) in enumerate(self.objects.items()):
            expected, actual = {"references": users[obj] + kept}, {"references": obj.ref_count}
            compare(f"{AT_THE_END}, object {number}", expected, actual, self.map.entries.describe)

    # ------------------------------------------------------------ the operations

    def insert(self, args: Arguments) -> Answer:
        """vm_map_insert."""
        obj = self.object()
        self.lone.now(self.map.lock.lock())
        rc = freebsd.vm_map_insert(self.map, obj, 0, args["start"], args["end"])
        self.lone.now(self.map.lock.unlock())
        return {"rc": self.told(rc, obj)}

    def insert_bulk(self, args: Arguments) -> Answer:
        """Many of them, up to the first that fails."""
        for start, end in args["ranges"]:
            answer = self.insert({"start": start, "end": end})
            if answer["rc"] != SUCCESS:
                return {**answer, "start": hex(start)}
        return {"rc": SUCCESS}

    def delete(self, args: Arguments) -> Answer:
        """vm_map_delete."""
        self.lone.now(self.map.lock.lock())
        rc = self.lone.now(freebsd.vm_map_delete(self.map, args["start"], args["end"]))
        self.lone.now(self.map.lock.unlock())
        return {"rc": CODES[rc]}

    def remove(self, args: Arguments) -> Answer:
        """vm_map_remove."""
        return {"rc": CODES[self.lone.now(freebsd.vm_map_remove(self.map, args["start"], args["end"]))]}

    def fixed(self, args: Arguments) -> Answer:
        """vm_map_fixed."""
        obj = self.object()
        cow = freebsd.MAP_CHECK_EXCL if args["excl"] else 0
        rc = self.lone.now(freebsd.vm_map_fixed(self.map, obj, 0, args["start"], args["length"], cow=cow))
        return {"rc": self.told(rc, obj)}

    def lookup(self, args: Arguments) -> Answer:
        """vm_map_lookup_entry."""
        self.lone.now(self.map.lock.lock())
        found, entry = self.lone.now(freebsd.vm_map_lookup_entry(self.map, args["addr"]))
        self.lone.now(self.map.lock.unlock())
        return {"found": found, "entry": None if entry is None else [hex(entry.start), hex(entry.end)]}

    def findspace(self, args: Arguments) -> Answer:
        """vm_map_findspace."""
        self.lone.now(self.map.lock.lock())
        addr = freebsd.vm_map_findspace(self.map, args["start"], args["length"])
        self.lone.now(self.map.lock.unlock())
        return {"addr": None if addr is None else hex(addr)}

    def find(self, args: Arguments) -> Answer:
        """vm_map_find."""
        aligned = args["strategy"] == "ALIGNED"
        space = freebsd.VMFS_ALIGNED_SPACE(args["align_log2"]) if aligned else STRATEGIES[args["strategy"]]
        obj = self.object(args.get("color"))
        offset, addr, length, max_addr = args.get("offset", 0), args["addr"], args["length"], args["max_addr"]
        rc, found = self.lone.now(freebsd.vm_map_find(self.map, obj, offset, addr, length, max_addr, space))
        return {"rc": self.told(rc, obj), "addr_out": None if rc else hex(found)}

    def final(self) -> Answer:
        """Entries, gaps, size and the largest gap, which in a map without entries is 0."""
        entries = list(self.map.entries)
        try:
            freebsd.VmMap.check(self.map)
        except Panic as exc:
            raise Differs(AT_THE_END, "no panic", {"panic": str(exc)}, self.map.entries.describe()) from None
        root = self.map.tree.root if isinstance(self.map.tree, freebsd.SplayTree) else None
        largest = root.max_free if root is not None else self.map.entries.largest_gap if entries else 0
        edges = [self.map.min_offset, *(edge for entry in entries for edge in (entry.start, entry.end))]
        edges.append(self.map.max_offset)
        return {
            "nentries": len(entries),
            "size": hex(self.map.size),
            "root_max_free": hex(largest),
            "entries": [[hex(entry.start), hex(entry.end)] for entry in entries],
            "gaps": [[hex(a), hex(b)] for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b],
        }


def answer(record: Record, tally: Tally, personality: Personality) -> None:
    """Run the case of one line by one personality, and note what comes of it.

    Raises:
        UsageError: it is no case, or asks for a map that there cannot be.
    """
    case = parse(record)
    try:
        Replay(case, personality).run(tally)
    except Differs as difference:
        tally.case_done(difference.at(record, case.name))
    except UsageError as exc:
        raise record.bad(exc) from None
    else:
        tally.case_done(None)
