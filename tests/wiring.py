"""What can be seen of how calls on one FreeBSD map end, at once or one after the other."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any

from stressvm.bench.defects.freebsd_world import seen
from tests.lone_map import LoneMap

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from stressvm.bench.defects.freebsd_world import Call
    from tests.support import Ending


def said(endings: Collection[Ending]) -> set[str]:
    """All outcomes."""
    return {ending.said[-1].split(" ", 1)[1] for ending in endings if ending.said}


def in_some_order(calls: tuple[Call, ...], start: Callable[[Any], None], version: str, **kw: Any) -> set[str]:
    """The outcomes if the calls are done one after the other, in each order there is."""
    outcomes = set()
    for order in permutations(range(len(calls))):
        one = LoneMap(version, **kw)
        start(one)
        results = {}
        for number in order:
            word, first, last, argument = calls[number]
            args = (first, last) if word == "remove" else (first, last, argument)
            results[f"{word}{number}"] = getattr(one, word)(*args)
        outcomes.add(f"{sorted(results.items())} {seen(one.map)}")
    return outcomes
