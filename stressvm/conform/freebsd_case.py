"""Cases of FreeBSD's map, one thread, as they are written down, and who has to answer them how (see `freebsd`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from stressvm.conform.answers import Answer, canonical, in_words
from stressvm.conform.records import address
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stressvm.conform.records import Record


@dataclass(frozen=True, slots=True)
class Personality:
    """A version, and how it searches."""

    name: str
    version: str
    search: freebsd.Search = freebsd.Search.FIRST_FIT


FIRST_FIT: Final = Personality("FreeBSD 13, first fit", "13")
SPLAY: Final = Personality("FreeBSD 13, splay tree", "13", freebsd.Search.SPLAY)
OF_2013: Final = Personality("FreeBSD 2013", "2013")
PERSONALITIES: Final = (FIRST_FIT, SPLAY, OF_2013)

#: Of each operation: the arguments that are numbers, other arguments with their type, and the fields of its answer.
OPERATIONS: Final[dict[str, tuple[tuple[str, ...], dict[str, type], tuple[str, ...]]]] = {
    "insert": (("start", "end"), {}, ("rc",)),
    "insert_bulk": ((), {}, ("rc",)),
    "delete": (("start", "end"), {}, ("rc",)),
    "remove": (("start", "end"), {}, ("rc",)),
    "fixed": (("start", "length"), {"excl": bool}, ("rc",)),
    "lookup": (("addr",), {}, ("found", "entry")),
    "findspace": (("start", "length"), {}, ("addr",)),
    "find": (("addr", "length", "max_addr"), {"strategy": str}, ("rc", "addr_out")),
}
STRATEGIES: Final = {
    "NO": freebsd.VMFS_NO_SPACE,
    "ANY": freebsd.VMFS_ANY_SPACE,
    "OPTIMAL": freebsd.VMFS_OPTIMAL_SPACE,
    "SUPER": freebsd.VMFS_SUPER_SPACE,
}
#: What the calls return, by number.
CODES: Final = {getattr(freebsd, name): name for name in freebsd.__all__ if name.startswith("KERN_")}
SUCCESS: Final = CODES[freebsd.KERN_SUCCESS]
NO_SPACE: Final = CODES[freebsd.KERN_NO_SPACE]
#: The mark of a search that missed the gap after the last entry.
MISSED: Final = "tail-gap-miss"
FINAL: Final = ("nentries", "size", "root_max_free", "entries", "gaps")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its arguments and the recorded answers.

    Attributes:
        word, args: what is done.
        answer: of 13.0.
        first_fit: what first fit answers where 13.0 missed a gap, else None.
        of_2013: of 10.4 where it is another one, else None.
    """

    word: str
    args: dict[str, Any]
    answer: Answer
    first_fit: Answer | None
    of_2013: Answer | None

    def expected(self, personality: Personality) -> Answer:
        """What a personality has to answer."""
        other = self.first_fit if personality is FIRST_FIT else self.of_2013 if personality is OF_2013 else None
        return self.answer if other is None else other

    @property
    def parts(self) -> bool:
        """Do the maps of 10.4 and 13.0 differ from here on?"""
        return self.of_2013 is not None and SUCCESS in {self.answer.get("rc"), self.of_2013.get("rc")}

    def text(self, number: int) -> str:
        """For people."""
        return in_words(number, self.word, self.args)

    @property
    def place(self) -> int:
        """The address that it is about."""
        addr: int = self.args["ranges"][0][0] if self.word == "insert_bulk" else next(iter(self.args.values()))
        return addr


@dataclass(frozen=True, slots=True)
class Case:
    """A case as it was recorded."""

    name: str
    low: int
    high: int
    coalesce: bool
    operations: tuple[Operation, ...]
    final: Answer

    @property
    def big(self) -> bool:
        """One whose map is checked only at the end."""
        return any(operation.word == "insert_bulk" for operation in self.operations)


def is_case(fields: Mapping[str, Any]) -> bool:
    """Is that line one of these?"""
    return "coalesce" in fields and "ops" in fields


def parse(record: Record) -> Case:
    """A line of a file.

    Raises:
        UsageError: a field is missing, or is not what it should be.
    """
    fields = record.fields
    try:
        return Case(
            name=str(fields["case"]),
            low=address(fields["min"]),
            high=address(fields["max"]),
            coalesce=_typed(fields, "coalesce", bool),
            operations=tuple(_operation(op, coalesce=fields["coalesce"]) for op in fields["ops"]),
            final={name: _final(fields["final"][name]) for name in FINAL},
        )
    except KeyError as exc:
        raise record.bad(f"the field {exc} is missing; record the case again, or leave the line out") from None
    except (TypeError, ValueError, AttributeError) as exc:
        raise record.bad(f"this is no case: {exc}; record it again, or leave the line out") from None


def _operation(op: Mapping[str, Any], *, coalesce: bool) -> Operation:
    word = op["op"]
    if word not in OPERATIONS:
        raise ValueError(f"the operation {word!r} is not known, only {', '.join(OPERATIONS)} are")
    numbers, others, results = OPERATIONS[word]
    args: dict[str, Any] = {name: address(op[name]) for name in numbers}
    args |= {name: _typed(op, name, kind) for name, kind in others.items()}
    if word == "insert_bulk":
        args["ranges"] = tuple((address(start), address(end)) for start, end in op["ranges"])
        if not args["ranges"]:
            raise ValueError("insert_bulk of nothing")
    elif word == "find":
        args |= _strategy(op, coalesce=coalesce)
    answer = {name: _answer(name, op[name]) for name in results}
    return Operation(word, args, answer, _of_first_fit(op, answer), _of_2013(op, answer))


def _strategy(op: Mapping[str, Any], *, coalesce: bool) -> dict[str, Any]:
    """The arguments that not every vm_map_find has."""
    strategy = op["strategy"]
    if strategy != "ALIGNED" and strategy not in STRATEGIES:
        raise ValueError(f"the strategy {strategy!r} is not known, only ALIGNED, {', '.join(STRATEGIES)} are")
    args: dict[str, Any] = {}
    if strategy == "ALIGNED":
        args["align_log2"] = _typed(op, "align_log2", int)
    if op.get("color") is not None:
        args["color"] = _typed(op, "color", int)
        if coalesce:
            raise ValueError("a colour, which is an object's, in a case whose mappings have none")
    if "offset" in op:
        args["offset"] = address(op["offset"])
    return args


def _of_first_fit(op: Mapping[str, Any], answer: Answer) -> Answer | None:
    if "quirk" not in op:
        return None
    if op["quirk"] != MISSED or op["op"] not in {"find", "findspace"}:
        raise ValueError(f"the quirk {op['quirk']!r} of a {op['op']} is not known, only {MISSED} of find and findspace")
    addr = canonical(op["first_fit"])
    if "rc" not in answer:
        return {"addr": addr}
    return {"rc": NO_SPACE if addr is None else SUCCESS, "addr_out": addr}


def _of_2013(op: Mapping[str, Any], answer: Answer) -> Answer | None:
    others = {name: _answer(name, op[f"{name}_2013"]) for name in answer if f"{name}_2013" in op}
    return {**answer, **others} if others else None


def _answer(name: str, value: Any) -> Any:
    """A field of an answer, held to its type."""
    if name == "rc":
        code = value.removesuffix(" (each)")
        if code not in CODES.values():
            raise ValueError(f"rc {value!r} is not known, only {', '.join(CODES.values())} are")
        return code
    if name == "found":
        if type(value) is not bool:
            raise ValueError(f"found is {value!r}")
        return value
    if name == "entry" and value is not None:
        start, end = value
        return [canonical(start), canonical(end)]
    return canonical(value)


def _final(value: Any) -> Any:
    return [[canonical(start), canonical(end)] for start, end in value] if isinstance(value, list) else canonical(value)


def _typed(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    value = fields[name]
    if type(value) is not kind:
        raise ValueError(f"{name} is {value!r}")
    return value
