"""What a detector says of executions of a small world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stressvm.check.judge import judge
from stressvm.explore.random_walk import RandomWalk
from stressvm.explore.tape import Lenient
from tests.support import branches, in_trio, opened, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stressvm import Kernel
    from stressvm.check.detector import Detector
    from stressvm.check.verdict import Verdict
    from stressvm.kernel.strategy import Strategy


def looked(
    build: Callable[[Kernel], None],
    detector: Detector | None,
    *,
    seeds: int = 0,
    limit: int = 1_500,
    **settings: Any,
) -> list[Verdict]:
    """All that is found in the executions that there are, at most `limit`; or in so many of a random walk, with `seeds`.

    What stopped an execution comes first, and then the detector is not asked.
    """
    what = subject(build, **settings)
    found: list[Verdict] = []

    async def main() -> None:
        async with opened(what.kernel(), "stepped") as driver:
            k = driver.k

            async def one(strategy: Strategy, number: int) -> None:
                strategy.begin(number)
                k.reset(strategy)
                what.scenario.build(k)
                k.start()
                await driver.run()
                verdict = judge(k)
                if verdict is not None:
                    found.append(verdict)
                elif detector is not None:
                    said = detector.look(k)
                    found.extend(said if isinstance(said, tuple) else [said] if said is not None else [])
                driver.unwind()

            walk = RandomWalk(1)
            for number in range(seeds):
                await one(walk, number)
            to_try: list[Sequence[int]] = [] if seeds else [()]
            for _ in range(limit):
                if not to_try:
                    break
                prefix = tuple(to_try.pop())
                tape = Lenient(prefix)
                await one(tape, 0)
                to_try.extend(branches(prefix, tape))

    in_trio(main)
    return found


def told(verdicts: Iterable[Verdict]) -> set[str]:
    """Their texts."""
    return {verdict.text for verdict in verdicts}
