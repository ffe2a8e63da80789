"""Cycles among orders, shortest first: what lock order and deadlock prediction ask of a graph of names."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Edge(NamedTuple):
    """An order: the first comes before the second."""

    first: str
    second: str


def around(cycle: tuple[str, ...]) -> Iterator[Edge]:
    """The orders that a cycle is made of."""
    for pair in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        yield Edge(*pair)


def cycles(edges: Iterable[Edge], given: Iterable[Edge] = ()) -> list[tuple[str, ...]]:
    """A shortest cycle through each of some orders that is in any, each cycle once, from its least name on.

    Args:
        edges: the orders.
        given: others that may be part of a cycle.
    """
    after: dict[str, list[str]] = {}
    edges = list(edges)
    for first, second in (*edges, *given):
        after.setdefault(first, []).append(second)
    found: dict[tuple[str, ...], None] = {}
    for first, second in edges:
        path = _path(after, second, first)
        if path:
            least = path.index(min(path))
            found[tuple(path[least:] + path[:least])] = None
    return list(found)


def _path(after: dict[str, list[str]], start: str, goal: str) -> list[str]:
    """A shortest path, both ends included; empty if there is none."""
    came: dict[str, str] = {start: start}
    queue = deque([start])
    while queue:
        at = queue.popleft()
        if at == goal:
            path = [at]
            while at != start:
                at = came[at]
                path.append(at)
            return path[::-1]
        for following in after.get(at, ()):
            if following not in came:
                came[following] = at
                queue.append(following)
    return []
