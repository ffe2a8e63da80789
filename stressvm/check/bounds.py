"""What a world promises of waiting: how often a waiter may be overtaken, how many may be woken for nothing, and so on.

No number of these is a bug by itself, and no lock of the weakest promise keeps any of them; so nothing is checked that the
world has not given a bound for. It gives them while it is built:

    bounds(k, overtakes=2, herd=3)

The bounds of a hunt's settings, which detectors are made with, hold where the world gives none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stressvm.kernel.kernel import Kernel

#: Types of locks whose waiters lend their priority to the holder: those that wait in turnstiles.
TURNSTILES: Final = frozenset({"mutex", "rwlock"})

_NAME: Final = "bounds"


@dataclass(slots=True)
class Bounds:
    """So much and no more; None: as much as there is.

    Attributes:
        overtakes: how often one waiter may be overtaken by others that asked for the same later.
        unrun: steps for which one thread, in one wait, may be able to run and not be run, under a fair schedule.
        herd: threads that one wakeup may wake for nothing.
        inversion: steps for which less urgent threads may run while an urgent one waits for a lock whose holder could run.
        lending: types of locks whose waiters lend their priority to the holder; see inversion.py.
    """

    overtakes: int | None = None
    unrun: int | None = None
    herd: int | None = None
    inversion: int | None = None
    lending: frozenset[str] = TURNSTILES

    def __post_init__(self) -> None:
        """UsageError for a bound that is no count."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int) and value < 0:
                raise UsageError(f"bounds({one.name}={value}): bounds count from 0")


def bounds(
    k: Kernel,
    *,
    overtakes: int | None = None,
    unrun: int | None = None,
    herd: int | None = None,
    inversion: int | None = None,
    lending: Iterable[str] | None = None,
) -> None:
    """Give bounds, while the world is built; see `Bounds`. Those that are not given stay as they are. Sleeps: no.

    Args:
        k: the kernel.
        overtakes: times.
        unrun: steps.
        herd: threads.
        inversion: steps.
        lending: types of locks, such as "mutex"; empty for kernels without priority propagation.

    Raises:
        UsageError: one is below 0.
    """
    given = {"overtakes": overtakes, "unrun": unrun, "herd": herd, "inversion": inversion}
    changes: dict[str, int | frozenset[str]] = {name: value for name, value in given.items() if value is not None}
    if lending is not None:
        changes["lending"] = frozenset(lending)
    k.singletons[_NAME] = replace(k.once(_NAME, Bounds), **changes)  # type: ignore[arg-type]  # each by its name


def bounds_of(k: Kernel, otherwise: Bounds | None = None) -> Bounds | None:
    """The bounds that the world has given; else those."""
    found: Bounds | None = k.singletons.get(_NAME, otherwise)
    return found
