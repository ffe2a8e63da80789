"""How tests run a small world: one schedule recorded, many at random, or every one there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from stressvm import Kernel, Timers, scenario
from stressvm.explore.execution import Recording, Subject, execute, plain, record
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.tape import Lenient, Tape
from stressvm.kernel.looped import looped
from stressvm.kernel.stepped import stepped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from stressvm import Scenario
    from stressvm.kernel.driver import Driver
    from stressvm.kernel.strategy import Strategy

    Build = Callable[[Kernel], None]

DRIVERS = ("stepped", "trio")

#: One step as plain values: thread, operation, object, argument.
Step = tuple[int, str, str, Any]


@dataclass(frozen=True, slots=True)
class Ending:
    """How one execution went, in plain values.

    Attributes:
        said: "thread word" for every `k.record(did=word)`, in order.
        kind: of the verdict; None for a clean execution.
        text: of the verdict, or empty.
        fingerprint: of the verdict, or empty.
        picks: the raw decisions.
        steps: the trace.
    """

    said: tuple[str, ...]
    kind: str | None
    text: str
    fingerprint: str
    picks: tuple[int, ...]
    steps: tuple[Step, ...]


def subject(
    build: Build | Scenario, *, timers: Timers = Timers.IDLE, hz: int = 100, max_steps: int = 10_000
) -> Subject:
    """A world as what is executed."""
    plain_build = getattr(build, "build", build)
    return Subject(scenario(timers=timers, hz=hz, max_steps=max_steps)(plain_build), {})


def opened(k: Kernel, driver: str) -> AbstractAsyncContextManager[Driver]:
    """The driver of that name."""
    return looped(k) if driver == "trio" else stepped(k)


def alone(error: BaseException) -> BaseException:
    """The one exception inside Trio's groups."""
    while isinstance(error, BaseExceptionGroup):
        assert len(error.exceptions) == 1
        error = error.exceptions[0]
    return error


def in_trio(fn: Callable[[], Any]) -> Any:
    """`trio.run`, with the one exception out of Trio's groups."""
    try:
        return trio.run(fn)
    except BaseExceptionGroup as group:
        raise alone(group) from None


def run(build: Build, choices: Sequence[int] = (), *, driver: str = "stepped", **settings: Any) -> Recording:
    """One execution under that schedule, read leniently, with everything recorded."""
    what = subject(build, **settings)

    async def main() -> Recording:
        async with opened(what.kernel(), driver) as made:
            return await record(what, made, Lenient(choices))

    recording: Recording = in_trio(main)
    return recording


def explore(build: Build, n: int, *, seed: int = 1, driver: str = "stepped", **settings: Any) -> list[Ending]:
    """The first `n` executions of a random walk."""
    what = subject(build, **settings)
    strategy = RandomWalk(seed)

    async def main() -> list[Ending]:
        async with opened(what.kernel(), driver) as made:
            return [await ending(what, made, strategy, number) for number in range(n)]

    endings: list[Ending] = in_trio(main)
    return endings


def every(build: Build, *, limit: int = 20_000, driver: str = "stepped", **settings: Any) -> list[Ending]:
    """All executions there are, each once: depth first through every decision."""
    what = subject(build, **settings)

    async def main() -> list[Ending]:
        endings = []
        to_try: list[tuple[int, ...]] = [()]
        async with opened(what.kernel(), driver) as made:
            while to_try:
                prefix = to_try.pop()
                tape = Lenient(prefix)
                endings.append(await ending(what, made, tape, 0))
                assert len(endings) <= limit, f"more than {limit} executions"
                to_try.extend(branches(prefix, tape))
        return endings

    endings: list[Ending] = in_trio(main)
    return endings


def branches(prefix: tuple[int, ...], tape: Tape) -> list[tuple[int, ...]]:
    """What else could have been decided after `prefix`."""
    return [
        (*tape.choices[:at], other)
        for at in range(len(prefix), len(tape.choices))
        for other in range(1, tape.arities[at])
    ]


async def ending(what: Subject, driver: Driver, strategy: Strategy, number: int) -> Ending:
    """Run one execution, and keep what tests look at."""
    verdict = await execute(what, driver, strategy, number)
    k = driver.k
    found = Ending(
        said=said(k),
        kind=verdict.kind if verdict is not None else None,
        text=verdict.text if verdict is not None else "",
        fingerprint=verdict.fingerprint if verdict is not None else "",
        picks=tuple(k.picks),
        steps=tuple((t, op.kind, op.obj.name, repr(plain(arg))) for t, op, arg in k.trace),
    )
    driver.unwind()
    return found


def said(k: Kernel) -> tuple[str, ...]:
    """See Ending."""
    return tuple(f"{k.threads[t].name} {arg['did']}" for t, op, arg in k.trace if op is k.record_op and "did" in arg)


def words(recording: Recording) -> tuple[str, ...]:
    """As `Ending.said`, of a recording."""
    names = recording.names()
    return tuple(
        f"{names[step.thread]} {_tuples(step.arg['did'])}"
        for step in recording.records
        if step.kind == "record" and "did" in step.arg
    )


def _tuples(value: Any) -> Any:
    """Records hold lists where tuples were."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def outcomes(endings: Iterable[Ending]) -> set[tuple[str, ...]]:
    """What was said, in all orders seen."""
    return {ending.said for ending in endings}


def kinds(endings: Iterable[Ending]) -> set[str | None]:
    """The kinds of verdicts seen."""
    return {ending.kind for ending in endings}
