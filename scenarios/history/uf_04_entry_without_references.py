"""DragonFly's pv entries, 2013: an entry that nobody refers to stays as long as its pmap knows it; who of two frees it?

An entry could have no references and still be in its pmap. Whoever let go of it last, and whoever took it out of the pmap,
each looked whether the other had been there already; each may find that, and both free it. It was repaired by counting the
pmap as a reference: who counts from one to zero frees it.

Source: DragonFly, sys/platform/pc64/x86_64/pmap.c, pv_drop and pv_free, commit 8e2efb11e5 of October 2013.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Atomic, Kernel, scenario

if TYPE_CHECKING:
    from scenarios.history._zone import Zone
else:
    from _zone import Zone

SOURCE = "DragonFly, sys/platform/pc64/x86_64/pmap.c, pv_drop and pv_free; repaired by 8e2efb11e5, October 2013"


class PvEntry:
    """A pv entry that is in its pmap, and that one thread refers to.

    Args:
        k: the kernel.

    Attributes:
        hold: how many refer to it, the pmap included.
    """

    def __init__(self, k: Kernel) -> None:
        self.zone: Zone[PvEntry] = Zone(k, "pv entry")
        self.hold = Atomic(k, 2, "pv_hold")

    async def drop(self) -> None:
        """pv_drop: a thread refers to it no more. Locks: none. Sleeps: for the zone's lock."""
        await self.unhold()

    async def unlink(self) -> None:
        """pv_free: its pmap knows it no more. Locks: none. Sleeps: for the zone's lock."""
        await self.unhold()

    async def unhold(self) -> None:
        """One reference less."""
        if await self.hold.fetchadd(-1) == 1:
            await self.zone.free(self)


class LinkedApart(PvEntry):
    """That its pmap knows it is no reference.

    Attributes:
        linked: 1 if it does.
    """

    def __init__(self, k: Kernel) -> None:
        super().__init__(k)
        self.hold = Atomic(k, 1, "pv_hold")
        self.linked = Atomic(k, 1, "pv_pmap")

    async def drop(self) -> None:
        """The last to refer to it frees it, if its pmap does not know it any more."""
        if await self.hold.fetchadd(-1) == 1 and not await self.linked.load():
            await self.zone.free(self)

    async def unlink(self) -> None:
        """Who takes it out of its pmap frees it, if nobody refers to it any more."""
        await self.linked.store(0)
        if not await self.hold.load():
            await self.zone.free(self)


def drop_and_unlink(k: Kernel, cls: type[PvEntry]) -> None:
    """One thread lets go of an entry, while another one removes it from its pmap."""
    pv = cls(k)

    async def frees() -> None:
        await pv.drop()
        await k.join(unlinks)
        assert len(pv.zone.items) == 1, "it is never freed"

    k.spawn(frees, name="drops")
    unlinks = k.spawn(pv.unlink, name="unlinks")


@scenario(expect="panic", source=SOURCE)
def uf_04_entry_without_references(k: Kernel) -> None:
    """The zone is given what it has."""
    drop_and_unlink(k, LinkedApart)


@scenario(source=SOURCE, executions=200)
def uf_04_entry_without_references_ok(k: Kernel) -> None:
    """One of the two counts from one to zero."""
    drop_and_unlink(k, PvEntry)
