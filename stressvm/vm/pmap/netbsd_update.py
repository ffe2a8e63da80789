"""When NetBSD's pmap tells the processors: what is queued for them, and pmap_update.

Source: pmap(9); sys/arch/x86/x86/pmap_tlb.c of NetBSD 6: pages are queued, a few at most, and told all at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.vm.pmap.core import PmapCore
from stressvm.vm.pmap.tlb import Shootdown, Tlb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from stressvm.vm.pmap.entries import PmapSettings
    from stressvm.vm.pmap.machine import Machine

#: More pages than this, and processors are told to forget everything.
TP_MAXVA: Final = 6


class Updating(PmapCore):
    """See the module.

    Attributes:
        queue: what the next pmap_update must tell.
        open: that, and what calls of pmap_update under way are telling.
    """

    __slots__ = (
        "open",
        "queue",
    )

    def __init__(self, machine: Machine, name: str = "pmap", **settings: Unpack[PmapSettings]) -> None:
        super().__init__(machine, name, **settings)
        self.queue = Shootdown()
        self.open = [self.queue]

    def account(self) -> Shootdown:
        """See PmapCore."""
        return self.queue

    def queue_shootdown(self, va: int) -> None:
        """pmap_tlb_shootdown: the next pmap_update must tell the processors of this page."""
        queue = self.queue
        queue.pages[va] = None
        if len(queue.pages) > TP_MAXVA:
            queue.everything = True

    async def update(self) -> None:
        """pmap_update: all that was changed before is visible to all processors afterwards. Locks: any. Sleeps: no.

        Changes that another call of pmap_update is just telling are told once more, so that this one, too, keeps its word.
        """
        # The queues are changed where entries are.
        self.tables.used(write=True)
        promised = [queue for queue in self.open if queue.pages or queue.doomed]
        if not promised:
            return
        if self.queue in promised:
            self.queue = Shootdown()
            self.open.append(self.queue)
        todo = [queue for queue in promised if queue.pages]
        if todo:
            await self.shoot(todo)
        for queue in promised:
            self.keep_word(queue)

    async def shoot(self, todo: Sequence[Shootdown]) -> None:
        """pmap_tlb_shootnow: each processor that the pmap is active on forgets what is queued."""
        k = self.k
        targets = self.shoot_targets()
        first = next(iter(todo[0].pages))
        if self.machine.pcid:
            # First: while the others are told, any of these may come back.
            for tlb in self.tlbs:
                if not self.active >> tlb.cpu & 1:
                    tlb.used(write=True)
                    self.forget(tlb, todo)
        for tlb in targets:
            op = tlb.ops.invalidate
            if k.away(op):
                await k.baton
            self.forget(tlb, todo)
            self.invalidations += 1
            k.trace.append((k.cur, op, first))

    def shoot_targets(self) -> list[Tlb]:
        """The processors that the pmap is active on, the current one first."""
        self.tables.used(write=False)
        cpu, tlbs = self.machine.cpu(), self.tlbs
        return [tlb for tlb in (tlbs[cpu], *tlbs[:cpu], *tlbs[cpu + 1 :]) if self.active >> tlb.cpu & 1]

    def forget(self, tlb: Tlb, todo: Sequence[Shootdown]) -> None:
        """One processor forgets what is queued."""
        for queue in todo:
            if queue.everything:
                tlb.clear()
            for va in queue.pages:
                tlb.drop(va)

    def keep_word(self, queue: Shootdown) -> None:
        """pmap_update is done: nothing that these changes obsoleted may be left."""
        self.tables.used(write=True)
        left = queue.left()
        if left is not None:
            raise self.broken("G20 tlb", f"pmap_update is done, and {left}")
        queue.closed = True
        if queue in self.open:
            self.open.remove(queue)
