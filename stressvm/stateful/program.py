"""A concurrent program as data: what world it is for, and the operations of each kernel thread in order.

Programs are JSON, so that one can stand in a schedule, be sent by mail and be run again. An argument is what JSON has
(no dictionaries), or a `Ref`: the result that an earlier operation will have had by then, if it has been done.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

#: How a reference stands in JSON: an object with this key and [thread, operation].
_REF: Final = "ref"
_PLAIN: Final = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for the result of operation number `index` of thread number `thread`; both count from 0."""

    thread: int
    index: int

    def __str__(self) -> str:
        """As programs show it."""
        return f"t{self.thread}#{self.index}"


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """An operation of a program, by name, with its arguments; equal to itself only."""

    name: str
    args: Mapping[str, Any]

    def __str__(self) -> str:
        """As a call."""
        return f"{self.name}({', '.join(f'{name}={_shown(value)}' for name, value in self.args.items())})"


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A whole program.

    Attributes:
        world: arguments for the function that builds the world.
        threads: the operations of each thread.
    """

    world: Mapping[str, Any]
    threads: tuple[tuple[Step, ...], ...]

    def json(self) -> str:
        """On one line, as `parse` reads it."""
        threads = [[[step.name, _coded(dict(step.args))] for step in steps] for steps in self.threads]
        return json.dumps({"world": _coded(dict(self.world)), "threads": threads}, separators=(",", ":"))

    def refs(self) -> list[Ref]:
        """All its operations, thread by thread."""
        return [Ref(thread, index) for thread, steps in enumerate(self.threads) for index in range(len(steps))]

    def __str__(self) -> str:
        """For people: a line for each operation."""
        lines = [f"world: {', '.join(f'{name}={_shown(value)}' for name, value in self.world.items())}"]
        for number, steps in enumerate(self.threads):
            lines.extend(f"{f't{number}' if not at else '':<4}#{at} {step}" for at, step in enumerate(steps))
        return "\n".join(lines if self.world else lines[1:])


#: As `stressvm list` shows it: nothing to be done, by one thread.
EMPTY: Final = '{"world":{},"threads":[[]]}'


def checked(what: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as a program holds them: tuples are lists.

    Raises:
        UsageError: one of them cannot make that trip.
    """
    for name, value in args.items():
        if not _fits(value):
            raise UsageError(
                f"{what}: {name}={value!r} cannot stand in a program: arguments are numbers, texts, truth values, None, "
                "lists of these, and what `add` returned"
            )
    return {name: _decoded(_coded(value)) for name, value in args.items()}


@lru_cache(maxsize=64)
def parse(text: str) -> Program:
    """Read a program.

    Raises:
        UsageError: it is none.
    """
    try:
        fields = json.loads(text)
        world = checked("the world", _decoded(fields["world"]))
        threads = tuple(tuple(_step(*step) for step in steps) for steps in fields["threads"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
        raise UsageError(
            f"no program: {text[:60]!r}: {type(exc).__name__}: {exc}; one looks like "
            '{"world":{},"threads":[[["alloc",{"pages":1}]]]}'
        ) from None
    program = Program(world, threads or ((),))
    for number, steps in enumerate(program.threads):
        for at, step in enumerate(steps):
            for ref in refs(step.args):
                if not (0 <= ref.thread < len(threads) and 0 <= ref.index < len(threads[ref.thread])):
                    raise UsageError(f"no program: t{number}#{at} {step} uses {ref}, and there is no such operation")
    return program


def refs(args: Mapping[str, Any]) -> list[Ref]:
    """All references among arguments."""
    return [ref for value in args.values() for ref in _within(value)]


def resolved(value: Any, result: Callable[[Ref], Any]) -> Any:
    """An argument with every reference in it replaced by a result."""
    if isinstance(value, Ref):
        return result(value)
    return [resolved(one, result) for one in value] if isinstance(value, list) else value


def without(program: Program, gone: Iterable[Ref]) -> Program:
    """The program without some operations, all that use their results, and threads that have none then."""
    lost = set(gone)
    used = {ref: refs(program.threads[ref.thread][ref.index].args) for ref in program.refs()}
    while more := {ref for ref, others in used.items() if ref not in lost and lost.intersection(others)}:
        lost |= more
    kept = [
        [ref for ref in program.refs() if ref.thread == thread and ref not in lost]
        for thread in range(len(program.threads))
    ]
    now = {ref: Ref(t, at) for t, mine in enumerate(mine for mine in kept if mine) for at, ref in enumerate(mine)}

    def renumbered(ref: Ref) -> Step:
        step = program.threads[ref.thread][ref.index]
        return Step(step.name, {name: resolved(value, now.__getitem__) for name, value in step.args.items()})

    return Program(program.world, tuple(tuple(renumbered(ref) for ref in mine) for mine in kept if mine))


def _within(value: Any) -> list[Ref]:
    if isinstance(value, list):
        return [ref for one in value for ref in _within(one)]
    return [value] if isinstance(value, Ref) else []


def _step(name: Any, args: Any) -> Step:
    if not isinstance(name, str):
        raise TypeError(f"an operation's name is a text, not {name!r}")
    return Step(name, checked(name, _decoded(args)))


def _fits(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_fits(one) for one in value)
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")  # noqa: PLR0124 - not a number
    return isinstance(value, (*_PLAIN, Ref))


def _coded(value: Any) -> Any:
    if isinstance(value, Ref):
        return {_REF: [value.thread, value.index]}
    if isinstance(value, list | tuple):
        return [_coded(one) for one in value]
    if isinstance(value, dict):
        return {name: _coded(one) for name, one in value.items()}
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_REF}:
            thread, index = value[_REF]
            if type(thread) is not int or type(index) is not int:
                raise TypeError(f"a reference is two numbers, not {value!r}")
            return Ref(thread, index)
        return {name: _decoded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_decoded(one) for one in value]
    return value


def _shown(value: Any) -> str:
    if isinstance(value, Ref):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_shown(one) for one in value)}]"
    return repr(value)
