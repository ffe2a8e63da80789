"""Searches run to their end on one world after another, with what came of each class of executions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stressvm import Timers
from stressvm.check.happens_before import class_of
from stressvm.explore.execution import execute, plain
from stressvm.kernel.stepped import stepped
from tests.support import in_trio, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from stressvm import Kernel
    from stressvm.check.verdict import Verdict
    from stressvm.explore.search import Search

#: What one class came to: the verdict, what every thread did, the cells' values.
Outcome = tuple[Any, ...]


@dataclass
class Explored:
    """What a search has done.

    Attributes:
        executions: how many.
        exhausted: there are no more within its bounds.
        vain: executions that explored nothing new, and are not counted.
        classes: how often each class was executed.
        outcomes: what each class came to: more than one if executions of it differed.
        least: the fewest preemptions with which a class was executed, if the search counts them.
        kinds: of verdicts.
        stuck: some thread had not ended when an execution came to its end.
    """

    executions: int = 0
    exhausted: bool = False
    vain: int = 0
    classes: Counter[Hashable] = field(default_factory=Counter)
    outcomes: dict[Hashable, set[Outcome]] = field(default_factory=dict)
    least: dict[Hashable, int] = field(default_factory=dict)
    kinds: set[str | None] = field(default_factory=set)
    stuck: bool = False


def outcome(k: Kernel, verdict: Verdict | None) -> Outcome:
    """See Outcome."""
    done: dict[int, list[tuple[str, str, str]]] = {}
    for t, op, arg in k.trace:
        done.setdefault(t, []).append((op.kind, op.obj.name, repr(plain(arg))))
    cells = tuple((obj.ident.name, getattr(obj, "value", None)) for obj in k.objects)
    deeds = tuple((t, tuple(done[t])) for t in sorted(done))
    return (verdict.fingerprint if verdict is not None else "", deeds, cells)


def explored(
    build: Callable[[Kernel], None],
    search: Search,
    *,
    timers: Timers = Timers.IDLE,
    limit: int = 20_000,
    max_steps: int = 400,
    repeat: bool = True,
) -> Explored:
    """Run a search to its end, or to the limit.

    Args:
        build: the world.
        search: the search.
        timers: of the kernel.
        limit: executions at most.
        max_steps: of an execution.
        repeat: executions are done again in another order when the search asks for that.
    """
    what = subject(build, timers=timers, max_steps=max_steps)
    found = Explored()

    async def main() -> None:
        async with stepped(what.kernel(every_step=True)) as driver:
            k = driver.k
            calls = 0
            while found.executions < limit and not found.exhausted:
                verdict = await execute(what, driver, search, calls)
                name = class_of(k)
                calls += 1
                found.exhausted = search.exhausted
                if getattr(search, "vain", False):
                    found.vain += 1
                    driver.unwind()
                    continue
                found.executions += 1
                found.classes[name] += 1
                found.outcomes.setdefault(name, set()).add(outcome(k, verdict))
                found.kinds.add(verdict.kind if verdict is not None else None)
                preemptions = getattr(search, "untimed", 0)
                found.least[name] = min(preemptions, found.least.get(name, preemptions))
                found.stuck = found.stuck or k.alive > 0
                driver.unwind()
                again = getattr(search, "again", None) if repeat else None
                while again is not None:
                    other = await execute(what, driver, again, 0)
                    again.compare(k, verdict, other)
                    assert class_of(k) == name
                    driver.unwind()
                    again = again.following

    in_trio(main)
    return found
