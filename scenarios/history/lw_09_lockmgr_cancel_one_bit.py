"""DragonFly's lockmgr, 2020: cancelling a lock overlooks those that wait to be the first to wait.

Somebody who holds a lock can send away all who wait for it and are willing to go. It sets a bit and calls wakeup, unless the
word says that nobody waits. But the bit EXREQ2 was not looked at: it was thought to matter only beside EXREQ. While the lock
is held exclusively nobody sets EXREQ, everybody who wants it next sets EXREQ2. So nobody is woken, and the canceller waits
for threads that were never told.

Source: DragonFly, sys/kern/kern_lock.c, commit 0962f67acb of January 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, scenario

if TYPE_CHECKING:
    from scenarios.history._lockmgr_2018 import LKC_EXREQ, LKC_SMASK, Lockmgr
else:
    from _lockmgr_2018 import LKC_EXREQ, LKC_SMASK, Lockmgr

SOURCE = "DragonFly, sys/kern/kern_lock.c, lockmgr_cancel_beg; repaired by 0962f67acb, January 2020"


class OneBit(Lockmgr):
    """Who cancels looks at one of two bits."""

    def somebody_waits(self, count: int) -> bool:
        """EXREQ2 does not count."""
        return bool(count & (LKC_EXREQ | LKC_SMASK))


def cancelled(k: Kernel, cls: type[Lockmgr]) -> None:
    """A timer is stopped: whoever does it holds the lock, sends away who waits for it, and waits until they have gone."""
    lock = cls(k, "callout")

    async def waits() -> None:
        if await lock.exclusive(cancelable=True):
            await lock.release()

    async def stops() -> None:
        await lock.exclusive()
        waiters = [k.spawn(waits, name=f"waiter{number}") for number in range(2)]
        await k.yield_()
        await lock.cancel_beg()
        for waiter in waiters:
            await k.join(waiter)
        await lock.cancel_end()
        await lock.release()

    k.spawn(stops, name="stops")


@scenario(expect="lost-wakeup", source=SOURCE)
def lw_09_cancel_one_bit(k: Kernel) -> None:
    """Those who sleep already are not told that the lock is being cancelled."""
    cancelled(k, OneBit)


@scenario(source=SOURCE, executions=200)
def lw_09_cancel_one_bit_ok(k: Kernel) -> None:
    """Either bit says that somebody waits."""
    cancelled(k, Lockmgr)
