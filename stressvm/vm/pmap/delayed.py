"""FreeBSD's delayed invalidation: pages whose mappings are gone from the lists, but not yet from the TLBs.

pmap_remove takes a page off its pv list first and tells the processors at the end, once for all pages of the range. In
between, the page looks unmapped although a processor can still reach it. So the call is a *block* with a number, every
page it touches gets that number, and whoever wants to be sure that nobody reaches a page waits until all blocks up to
the page's number have ended. Blocks that end out of order pass their number on to the next older one.

Source: sys/amd64/amd64/pmap.c of releng/13.0, pmap_delayed_invl_start_l, _finish_l, _page and _wait_l.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stressvm.kernel.object import KernelObject
from stressvm.kernel.op import ALONE

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId, Op
    from stressvm.vm.pmap.page import MdPage


class _Ops(NamedTuple):
    start: Op
    finish: Op
    wait: Op


def _make_ops(k: Kernel, ident: ObjectId) -> _Ops:
    return _Ops(
        k.op("di-start", ident, write=True),
        k.op("di-finish", ident, write=True),
        k.op("di-wait", ident, write=True, needs=ALONE),
    )


class DelayedInvl(KernelObject):
    """The blocks of delayed invalidation of a machine.

    Args:
        k: the kernel.

    Attributes:
        gen: pmap_invl_gen: all blocks up to this number have ended.
        blocks: the number of each thread that is in a block, the oldest first.
    """

    __slots__ = ("blocks", "gen", "ops", "waiters")

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.ident, self.ops = k.adopt(self, "invl_gen", "invl_gen", _make_ops)
        self.gen = 0
        self.blocks: dict[int, int] = {}
        self.waiters: dict[int, int] = {}

    async def start(self) -> None:
        """pmap_delayed_invl_start. Locks: none asked for. Sleeps: no. Panics in a block."""
        k = self.k
        me = k.cur
        if me in self.blocks:
            raise k.panic("pmap_delayed_invl_start: KASSERT: already in a block")
        if k.away(self.ops.start):
            await k.baton
        newest = next(reversed(self.blocks.values())) if self.blocks else self.gen
        self.blocks[me] = newest + 1
        k.trace.append(self.ops.start.events[me])

    async def finish(self) -> None:
        """pmap_delayed_invl_finish: what the block touched can no longer be reached, once all older blocks have ended."""
        k = self.k
        me = k.cur
        if me not in self.blocks:
            raise k.panic("pmap_delayed_invl_finish: KASSERT: not in a block")
        if k.away(self.ops.finish):
            await k.baton
        older = -1
        for thread in self.blocks:
            if thread == me:
                break
            older = thread
        number = self.blocks.pop(me)
        if older >= 0:
            self.blocks[older] = max(number, self.blocks[older])
        else:
            self.gen = number
            self._wake()
        k.trace.append(self.ops.finish.events[me])

    def inside(self) -> bool:
        """Is the current thread in a block?"""
        return self.k.cur in self.blocks

    def note(self, md: MdPage) -> None:
        """pmap_delayed_invl_page: the page is off its pv list and perhaps not out of the TLBs. No-op outside a block."""
        md.invl_gen = max(md.invl_gen, self.blocks.get(self.k.cur, 0))

    async def wait(self, md: MdPage) -> None:
        """pmap_delayed_invl_wait: until no block is left that touched the page. Locks: no pmap's, no list's. Sleeps: yes."""
        k = self.k
        k.touch(self.ident.number, write=False)
        if md.invl_gen <= self.gen:
            return
        me = k.cur
        k.may_sleep("pmap_delayed_invl_wait")
        self.waiters[me] = md.invl_gen
        k.enabled &= ~(1 << me)
        if k.away(self.ops.wait):
            await k.baton
        del self.waiters[me]
        k.trace.append(self.ops.wait.events[me])

    def holders(self) -> list[int]:
        """The threads that are in a block: those who wait here wait for them."""
        return list(self.blocks)

    def _wake(self) -> None:
        for thread, number in self.waiters.items():
            if number <= self.gen:
                self.k.enabled |= 1 << thread
