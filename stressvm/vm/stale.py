"""Map entries that are used after they were freed.

An entry that a map has let go of for good is buried: it becomes an object of a class of its own, of which every attribute
is out of reach. So those that live cost nothing, and whoever still has a pointer to a dead one and follows it is found at
that moment, in whatever function. Worlds say that they want it, for the models' own proofs look elsewhere.

Source: what FreeBSD does with UMA trashing (sys/vm/uma_dbg.c) and NetBSD with pool poisoning (subr_pool.c).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stressvm.kernel.errors import Panic

if TYPE_CHECKING:
    from types import FrameType

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.entry import Entry

_NAME: Final = "freed entries"

#: The functions by which sleepers' predicates are asked, in the kernel and in recordings.
PREDICATES: Final = "_holds"


class Grave(NamedTuple):
    """Where an entry lies: of which map it was, and who freed it when."""

    k: Kernel
    where: str
    thread: int
    step: int


class _Freed:
    """What a freed entry is."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):
            _used(self, name, sys._getframe(1).f_code.co_qualname)  # noqa: SLF001 - whoever looks is what is told
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _used(self, name, sys._getframe(1).f_code.co_qualname)  # noqa: SLF001 - as above
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """The range that it was."""
        start, end = (object.__getattribute__(self, name) for name in ("start", "end"))
        return f"<{type(self).__name__.removeprefix('Freed')} {start:#x}-{end:#x}, freed>"


_CLASSES: Final[dict[type[Entry], type[Entry]]] = {}


def watch_freed(k: Kernel) -> None:
    """From now on, whoever uses a freed entry of any map is found out: `stale`. While the world is built. Sleeps: no."""
    k.once(_NAME, lambda: True)


def bury(k: Kernel, where: str, entry: Entry) -> None:
    """An entry is freed. Nothing, unless the world wants to know. Locks: any. Sleeps: no.

    Args:
        k: the kernel.
        where: name of the map.
        entry: in no list, and nobody's.
    """
    if _NAME not in k.singletons or k.cur < 0:
        return
    cls = type(entry)
    if cls not in _CLASSES:
        _CLASSES[cls] = type(f"Freed{cls.__name__}", (_Freed, cls), {"__slots__": ()})
    entry.owner = Grave(k, where, k.cur, len(k.trace))  # type: ignore[assignment]  # nobody asks a dead one for its list
    entry.__class__ = _CLASSES[cls]


def _used(entry: Any, name: str, function: str) -> None:
    grave = object.__getattribute__(entry, "owner")
    k = grave.k
    if k.over or k.cur < 0:
        # Reports look at what is left; threads that are unwound may do what they like.
        return
    if _aside(k):
        return
    me, other = k.threads[k.cur], k.threads[grave.thread]
    text = f"{me.name}: {function} uses {name} of {entry!r} of {grave.where}, which {other.name} freed at step {grave.step}"
    k.stop("stale", text, f"freed entry of {grave.where} in {function}")
    raise Panic(text)


def _aside(k: Kernel) -> bool:
    """Is it the predicate of a sleeper that looks, for a report? The modelled code has none."""
    outermost = k.threads[k.cur].coro.cr_frame
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - who called whom is the question
    while frame is not None and frame is not outermost:
        if frame.f_code.co_name == PREDICATES:
            return True
        frame = frame.f_back
    return False
