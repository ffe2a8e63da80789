"""DragonFly's lockmgr, 2017: an upgrade that has taken too long is granted all the same, to a thread that has gone.

Locks of maps may be asked for with a time limit. When the sleep of an upgrade ended by that, its request stayed in the lock
word: only a later sleep of the same request was undone properly. The last one to let go of its shared hold finds the
request, and hands the lock over: it is held exclusively, and nobody knows.

Source: DragonFly, sys/kern/kern_lock.c, commit bb36d905d2 of October 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario

if TYPE_CHECKING:
    from scenarios.history._lockmgr_2013 import Lockmgr
else:
    from _lockmgr_2013 import Lockmgr

SOURCE = "DragonFly, sys/kern/kern_lock.c, lockmgr (LK_UPGRADE with LK_TIMELOCK); repaired by bb36d905d2, October 2017"
SECOND = 100


class LeavesTheRequest(Lockmgr):
    """An upgrade whose sleep has failed is not undone."""

    async def upgrade_failed(self) -> None:
        """Nothing."""


def slow_reader(k: Kernel, cls: type[Lockmgr]) -> None:
    """A reader reads for two seconds; a second one wants to upgrade, and waits for one; a third one wants to write."""
    lock = cls(k, "map", SECOND)

    async def reads() -> None:
        await lock.shared()
        await k.delay(2 * SECOND)
        await lock.release()

    async def upgrades() -> None:
        await lock.shared()
        if await lock.upgrade():
            await lock.release()

    async def writes() -> None:
        await k.delay(3 * SECOND)
        await lock.exclusive()
        await lock.release()

    for thread in (reads, upgrades, writes):
        k.spawn(thread, name=thread.__name__)


@scenario(expect="exhausted", source=SOURCE)
def dl_07_upgrade_times_out(k: Kernel) -> None:
    """The reader grants the upgrade to a thread that has given up, and whoever comes later waits for ever."""
    slow_reader(k, LeavesTheRequest)


@scenario(source=SOURCE, executions=200)
def dl_07_upgrade_times_out_ok(k: Kernel) -> None:
    """A request that has failed is taken back; one that was granted at the last moment is released."""
    slow_reader(k, Lockmgr)
