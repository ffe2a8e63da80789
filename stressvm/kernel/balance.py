"""What a world promises to give back: asked for when all of its threads have ended (see `stressvm.check.leaks`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stressvm.kernel.kernel import Kernel

_NAME: Final = "nothing left"


class Left(NamedTuple):
    """Something that is left.

    Attributes:
        what: in words.
        site: of what kind it is, the same however much there is of it: "addresses of kmap".
        thread: number of the thread that has taken it, or -1.
        step: the step in which it did, or -1.
    """

    what: str
    site: str
    thread: int = -1
    step: int = -1


def nothing_left(k: Kernel, name: str, left: Callable[[], Iterable[Left]]) -> None:
    """The world promises that of this nothing is left at the end. While it is built; once for each name. Sleeps: no.

    Args:
        k: the kernel.
        name: of what is balanced; another of the same name takes its place.
        left: pure; what is left, when everything is at rest.
    """
    promised: dict[str, Callable[[], Iterable[Left]]] = k.once(_NAME, dict)
    promised[name] = left


def balances(k: Kernel) -> Iterable[Callable[[], Iterable[Left]]]:
    """What the world has promised, in the order in which it has."""
    found: dict[str, Callable[[], Iterable[Left]]] = k.singletons.get(_NAME, {})
    return found.values()
