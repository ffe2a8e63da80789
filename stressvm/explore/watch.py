"""An execution is watched: who makes true what sleepers wait for, and which objects tell them.

Whatever plain code changes, it does so between two announcements of its thread; so at each announcement all that has
changed since the one before is the doing of the thread that announces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.check.attribution import Made
from stressvm.kernel.thread import Wake

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Op


class Announced(list["Op | None"]):
    """Stands in for `Kernel.pend`, the operations that threads have announced, for one execution.

    Attributes:
        made: of each thread whose awaited condition holds, who made it so.
        reads: of each thread that has slept with a predicate, the numbers of the objects that it looked at.
        rescued: of each thread, what `made` said when the first timeout ended a sleep whose condition held.
    """

    def __init__(self, k: Kernel) -> None:
        super().__init__()
        self.k = k
        self.untils: dict[int, Callable[[], bool]] = {}
        self.made: dict[int, Made] = {}
        self.reads: dict[int, set[int]] = {}
        self.rescued: dict[int, Made] = {}

    def told(self, kind: str) -> dict[int, Made]:
        """Of each sleeper that a verdict of that kind may be about, who made true what it waited for."""
        return self.rescued if kind == "rescued-sleep" else self.made

    def __setitem__(self, t: int, op: Op | None) -> None:  # type: ignore[override]  # by number only
        self.look()
        super().__setitem__(t, op)

    def look(self) -> None:
        """What has become true since the last look is the current thread's doing."""
        k = self.k
        touched = k.touched
        for th in k.threads:
            if th.sleep is not None:
                if th.sleep.until is not None:
                    self.untils[th.number] = th.sleep.until
            elif th.number in self.untils:
                # It goes on: what comes true from now on is nothing that it waits for.
                del self.untils[th.number]
                made = self.made.pop(th.number, None)
                if made is not None and th.wake is Wake.TIMEOUT:
                    self.rescued.setdefault(th.number, made)
        for t, until in self.untils.items():
            mark = len(touched)
            holds = _holds(until)
            self.reads.setdefault(t, set()).update(number for _, _, number, _ in touched[mark:] if number >= 0)
            # What it looked at is no part of the execution.
            del touched[mark:]
            if not holds:
                self.made.pop(t, None)
            else:
                self.made.setdefault(t, Made(len(k.trace) - 1, k.cur))


def _holds(until: Callable[[], bool]) -> bool:
    """Between two steps it may look at what is being changed; to raise is to be false there."""
    try:
        return bool(until())
    except Exception:  # noqa: BLE001 - user code
        return False
