"""Small closed programs with exactly known figures, as they are written down.

A program has integer variables, locks, condition variables, semaphores, and a few threads that are lists of operations
without loops. Its figures were obtained by brute force: how many executions there are, how many of them are equivalent,
what they come to, how few preemptions show a failure. They do not depend on any kernel; so they hold an exploration
engine to what it claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stressvm.conform.records import Record

#: What can go wrong in an execution, as figures name it.
FAILURES: Final = ("deadlock", "assertion", "stuck_waiter")

#: Executions with at most so many preemptions are counted.
BOUNDS: Final = (0, 1, 2)

#: Where objects are declared, and what operations call them.
OBJECTS: Final = {
    "vars": "variable",
    "mutexes": "mutex",
    "rwlocks": "rwlock",
    "condvars": "condition variable",
    "sems": "semaphore",
}

COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=")

#: Of each operation what its arguments are: the place where an object is declared, or one of
#: "register", "value", "comparison", "skips" (operations to skip), "ways" (of a choice).
OPERATIONS: Final[dict[str, tuple[str, ...]]] = {
    "load": ("vars", "register"),
    "store": ("vars", "value"),
    "fadd": ("vars", "value", "register"),
    "cas": ("vars", "value", "value", "register"),
    "lock": ("mutexes",),
    "trylock": ("mutexes", "register"),
    "unlock": ("mutexes",),
    "rdlock": ("rwlocks",),
    "wrlock": ("rwlocks",),
    "rwunlock": ("rwlocks",),
    "tryupgrade": ("rwlocks", "register"),
    "wait": ("condvars", "mutexes"),
    "timedwait": ("condvars", "mutexes", "register"),
    "signal": ("condvars",),
    "broadcast": ("condvars",),
    "sem_wait": ("sems",),
    "sem_post": ("sems",),
    "set": ("register", "value"),
    "skip": ("skips",),
    "skip_if": ("value", "comparison", "value", "skips"),
    "assert": ("value", "comparison", "value"),
    "choose": ("ways", "register"),
}

#: Those that are no steps: they are done at once after the step before them.
LOCAL: Final = frozenset({"set", "skip", "skip_if", "assert", "choose"})

#: A value: the index of a register (-1 for none), and what is added to it.
Value: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: the word and its arguments. Objects and registers are indices, values as `Value`."""

    word: str
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread: its operations, and its registers' names in order."""

    operations: tuple[Operation, ...]
    registers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A program and its figures.

    Attributes:
        name: of the program.
        objects: the names of its objects, by the place where they are declared.
        units: what each semaphore starts with.
        threads: in order of number.
        timed: it has timed waits.
        figures: all that is recorded of it, by key; parts of a figure have keys such as "final_states.count".
        traces: how many executions there are if equivalent ones count once.
        traces_readers_commute: the same if readers of one lock are independent; None without such locks.
    """

    name: str
    objects: Mapping[str, tuple[str, ...]]
    units: tuple[int, ...]
    threads: tuple[Thread, ...]
    timed: bool
    figures: Mapping[str, Any]
    traces: int
    traces_readers_commute: int | None

    @property
    def executions(self) -> int:
        """How many there are."""
        executions: int = self.figures["executions"]
        return executions

    def expected(self, key: str) -> Any:
        """What is recorded under that key; None for nothing."""
        if key in ("traces", "traces_readers_commute"):
            return getattr(self, key)
        return self.figures.get(key)


class _Bad(Exception):  # noqa: N818 - it becomes a UsageError with its place
    """What is wrong with a field."""


def is_program(fields: Mapping[str, Any]) -> bool:
    """Is that line one of these?"""
    return "threads" in fields and "system" not in fields and bool(OBJECTS.keys() & fields.keys())


def parse(record: Record) -> Program:
    """A line of a file.

    Raises:
        UsageError: a field is missing, or is not what it should be; it is named.
    """
    try:
        return _program(record.fields)
    except _Bad as exc:
        raise record.bad(f"{exc}; get the file again, or leave the line out") from None


def _program(fields: Mapping[str, Any]) -> Program:
    name = _field(fields, "name", str)
    objects = {place: _names(place, _field(fields, place, dict if place == "sems" else list)) for place in OBJECTS}
    units = tuple(_number(f"sems.{sem}", value) for sem, value in fields["sems"].items())
    lists = _field(fields, "threads", list)
    if not lists:
        raise _Bad("threads: there must be one")
    threads = tuple(_thread(f"threads[{number}]", ops, objects) for number, ops in enumerate(lists))
    timed = any(operation.word == "timedwait" for thread in threads for operation in thread.operations)
    commuting = (
        _number("traces_readers_commute", _part(fields, "traces_readers_commute")) if objects["rwlocks"] else None
    )
    traces = _number("traces", _part(fields, "traces"))
    return Program(name, objects, units, threads, timed, _figures(fields, timed=timed), traces, commuting)


# ---------------------------------------------------------------- fields


def _field(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    value = _part(fields, name)
    if type(value) is not kind:
        what = {str: "a text", list: "a list", dict: "an object", bool: "true or false"}[kind]
        raise _Bad(f"{name}: {what} is needed, not {value!r:.60}")
    return value


def _part(fields: Mapping[str, Any], name: str) -> Any:
    """A field within a field has a name with dots."""
    value: Any = fields
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise _Bad(f"the field {name!r} is missing")
        value = value[part]
    return value


def _number(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise _Bad(f"{name}: a number from 0 is needed, not {value!r:.60}")
    return value


def _numbers(name: str, values: Any, count: int) -> list[int]:
    if not isinstance(values, list) or len(values) != count:
        raise _Bad(f"{name}: a list of {count} numbers is needed, not {values!r:.60}")
    return [_number(f"{name}[{at}]", value) for at, value in enumerate(values)]


def _names(place: str, names: Any) -> tuple[str, ...]:
    found = tuple(names)
    for name in found:
        if type(name) is not str:
            raise _Bad(f"{place}: a name is needed, not {name!r:.60}")
    if len(set(found)) != len(found):
        raise _Bad(f"{place}: a name stands there twice")
    return found


# ---------------------------------------------------------------- operations


def _thread(where: str, ops: Any, objects: Mapping[str, tuple[str, ...]]) -> Thread:
    if not isinstance(ops, list):
        raise _Bad(f"{where}: a list of operations is needed, not {ops!r:.60}")
    for number, op in enumerate(ops):
        _check_form(f"{where}[{number}]", op)
    registers = tuple(sorted({name for op in ops for name in _registers(op)}, key=str.encode))
    numbers = {name: index for index, name in enumerate(registers)}
    return Thread(
        tuple(_operation(f"{where}[{number}]", op, objects, numbers) for number, op in enumerate(ops)), registers
    )


def _check_form(where: str, op: Any) -> None:
    if not isinstance(op, list) or not op or type(op[0]) is not str:
        raise _Bad(f"{where}: an operation is needed, not {op!r:.60}")
    if op[0] not in OPERATIONS:
        raise _Bad(f"{where}: no such operation: {op[0]!r}")
    kinds = OPERATIONS[op[0]]
    if len(op) != len(kinds) + 1:
        raise _Bad(f"{where}: {op[0]} has {len(kinds)} arguments, not {len(op) - 1}")
    for kind, value in zip(kinds, op[1:], strict=True):
        if kind == "register" and type(value) is not str:
            raise _Bad(f"{where}: {op[0]}: a register is needed, not {value!r:.60}")
        if kind == "value" and not _is_value(value):
            raise _Bad(f"{where}: {op[0]}: a value is needed, not {value!r:.60}")


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return [type(part) for part in value] == [str, int]
    return type(value) in (int, str)


def _registers(op: list[Any]) -> list[str]:
    """Those that an operation of the right form names."""
    found = []
    for kind, value in zip(OPERATIONS[op[0]], op[1:], strict=True):
        if kind in ("register", "value"):
            name = value[0] if isinstance(value, list) else value
            if isinstance(name, str):
                found.append(name)
    return found


def _operation(
    where: str, op: list[Any], objects: Mapping[str, tuple[str, ...]], registers: Mapping[str, int]
) -> Operation:
    word, *values = op
    return Operation(
        word,
        tuple(
            _argument(f"{where}: {word}", kind, value, objects, registers)
            for kind, value in zip(OPERATIONS[word], values, strict=True)
        ),
    )


def _argument(
    where: str, kind: str, value: Any, objects: Mapping[str, tuple[str, ...]], registers: Mapping[str, int]
) -> Any:
    if kind == "register":
        return registers[value]
    if kind == "value":
        return _value(value, registers)
    if kind == "comparison":
        if value not in COMPARISONS:
            raise _Bad(f"{where}: no such comparison: {value!r:.60}")
        return value
    if kind in ("skips", "ways"):
        if _number(where, value) < (kind == "ways"):
            raise _Bad(f"{where}: a choice among none")
        return value
    if value not in objects[kind]:
        raise _Bad(f"{where}: no such {OBJECTS[kind]}: {value!r:.60}")
    return objects[kind].index(value)


def _value(value: Any, registers: Mapping[str, int]) -> Value:
    if isinstance(value, list):
        return registers[value[0]], value[1]
    return (registers[value], 0) if isinstance(value, str) else (-1, value)


# ---------------------------------------------------------------- figures


def _figures(fields: Mapping[str, Any], *, timed: bool) -> dict[str, Any]:
    """All of them but the numbers of traces, by key."""
    figures: dict[str, Any] = {}
    for name in ("executions", "final_states.count"):
        figures[name] = _number(name, _part(fields, name))
    figures["final_states.sha256"] = _part(fields, "final_states.sha256")
    if type(figures["final_states.sha256"]) is not str:
        raise _Bad("final_states.sha256: a text is needed")
    if "states" in fields["final_states"]:
        states = fields["final_states"]["states"]
        if not isinstance(states, list) or not all(type(state) is str for state in states):
            raise _Bad(f"final_states.states: a list of texts is needed, not {states!r:.60}")
        figures["final_states.states"] = states
    figures["length"] = _numbers("length", _part(fields, "length"), 2)
    for failure in FAILURES:
        figures[failure] = _field(fields, failure, bool)
        for name in ("failing_executions", "failing_traces"):
            figures[f"{name}.{failure}"] = _number(f"{name}.{failure}", _part(fields, f"{name}.{failure}"))
    for prefix in ("", "timeout_not_counted.") if timed else ("",):
        name = f"{prefix}bounded_executions"
        figures[name] = _numbers(name, _part(fields, name), len(BOUNDS))
        for failure in FAILURES:
            name = f"{prefix}min_preemptions.{failure}"
            fewest = _part(fields, name)
            figures[name] = None if fewest is None else _number(name, fewest)
    return figures
