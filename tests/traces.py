"""Traces for tests of what reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm.explore.execution import execute
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.tape import Lenient
from tests.support import in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from stressvm import Kernel, Thread
    from stressvm.check.verdict import Verdict
    from stressvm.kernel.op import Event
    from stressvm.kernel.strategy import Strategy

    Build = Callable[[Kernel], None]


class Traced(NamedTuple):
    """An execution that has ended."""

    trace: list[Event]
    threads: list[Thread]
    verdict: Verdict | None
    k: Kernel


def traced(build: Build, choices: Sequence[int] = (), **settings: Any) -> Traced:
    """One execution under that schedule, read leniently: with none, one thread after the other as far as it goes."""
    return _run(build, Lenient(choices), 1, **settings)[0]


def walked(build: Build, n: int, seed: int = 1, **settings: Any) -> list[Traced]:
    """The first `n` executions of a random walk."""
    return _run(build, RandomWalk(seed), n, **settings)


def _run(build: Build, strategy: Strategy, n: int, **settings: Any) -> list[Traced]:
    what = subject(build, **settings)

    async def main() -> list[Traced]:
        found = []
        for number in range(n):
            # A kernel for each, so that what came of it can be looked at later.
            async with opened(what.kernel(), "stepped") as driver:
                verdict = await execute(what, driver, strategy, number)
                found.append(Traced(driver.k.trace, driver.k.threads, verdict, driver.k))
        return found

    result: list[Traced] = in_trio(main)
    return result
