"""DragonFly's lockmgr, 2013: of two shared holders that both want to upgrade, neither is granted it.

The first one asks, gives its shared hold up and waits for the other's to go. The second one finds that somebody has asked
already, so it gives its hold up, too, and queues for the exclusive lock as anybody would. That was the last hold, so the
upgrade should have been granted in that very step, as it is when somebody releases the lock; but this way of letting go of
it only counted. Nobody holds the lock then, and both sleep.

Source: DragonFly, sys/kern/kern_lock.c, commit 6ebd652fc2 of November 2013.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario

if TYPE_CHECKING:
    from scenarios.history._lockmgr_2013 import LKC_EXREQ, LKC_UPREQ, Lockmgr
else:
    from _lockmgr_2013 import LKC_EXREQ, LKC_UPREQ, Lockmgr

SOURCE = "DragonFly, sys/kern/kern_lock.c, lockmgr (LK_UPGRADE); repaired by 6ebd652fc2, November 2013"


class OnlyCounts(Lockmgr):
    """Who gives its shared hold up for an upgrade does not look whether that was the last one."""

    def give_up(self, count: int) -> int:
        """One less, and the request."""
        return (count - 1) | (LKC_EXREQ if count & LKC_UPREQ else LKC_UPREQ)


def two_upgrades(k: Kernel, cls: type[Lockmgr]) -> None:
    """Two threads read under the lock, and then both want to write."""
    lock = cls(k, "map")
    writing: list[int] = []

    async def update() -> None:
        await lock.shared()
        await lock.upgrade()
        assert not writing, "two hold the lock exclusively"
        writing.append(k.cur)
        await k.yield_()
        writing.remove(k.cur)
        await lock.release()

    k.spawn(update)
    k.spawn(update)


@scenario(expect="lost-wakeup", source=SOURCE)
def lw_06_second_upgrade(k: Kernel) -> None:
    """The second upgrade takes the last hold away, and leaves the first one waiting for it."""
    two_upgrades(k, OnlyCounts)


@scenario(source=SOURCE, executions=200)
def lw_06_second_upgrade_ok(k: Kernel) -> None:
    """Whoever gives the last hold up grants the upgrade to the one that has asked for it before."""
    two_upgrades(k, Lockmgr)
