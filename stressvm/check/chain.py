"""The chain of steps that led to a failing one: from thread to thread, by what made the one wait for the other.

A link is an unlock and the lock after it, a wakeup and the awakening, a spawn, a join, a store and the load after it.
Going back from the failing step, the chain takes the last link into each thread: what had to have happened, latest first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from stressvm.check.turns import woken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.kernel.op import Event

#: Links that are told.
LINKS_MAX: Final = 12


class Link(NamedTuple):
    """Step `before` of one thread came before step `after` of another, which depends on it."""

    before: int
    after: int


def links(trace: Sequence[Event]) -> list[int]:
    """For each step, the last step of another thread that it depends on directly; -1 if there is none."""
    written: dict[int, int] = {}
    read: dict[int, dict[int, int]] = {}
    let_go: dict[int, int] = {}
    last: dict[int, int] = {}
    found = []
    for step, event in enumerate(trace):
        t, op, arg = event
        before = let_go.pop(t, -1)
        if op.kind == "join" and isinstance(arg, int):
            before = max(before, last.get(arg, -1))
        for number, write in op.accesses:
            by = written.get(number, -1)
            if by >= 0 and trace[by][0] != t:
                before = max(before, by)
            for other, at in read.get(number, {}).items() if write else ():
                if other != t:
                    before = max(before, at)
        for number, write in op.accesses:
            if write:
                written[number] = step
                read.pop(number, None)
            else:
                read.setdefault(number, {})[t] = step
        if op.kind == "spawn" and isinstance(arg, int):
            let_go[arg] = step
        for other in woken(event):
            let_go[other] = step
        last[t] = step
        found.append(before)
    return found


def chain(trace: Sequence[Event], step: int) -> tuple[Link, ...]:
    """The links that lead to a step, earliest first; the last LINKS_MAX of them."""
    before = links(trace)
    found: list[Link] = []
    at = step
    while at >= 0 and len(found) < LINKS_MAX:
        t = trace[at][0]
        while at >= 0 and (trace[at][0] != t or before[at] < 0):
            at -= 1
        if at < 0:
            break
        found.append(Link(before[at], at))
        at = before[at]
    return tuple(reversed(found))
