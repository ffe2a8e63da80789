"""DragonFly's vmspace, 2017: two who drop a reference both think that theirs was the last.

An address space is given up by the process that exits, and by others who have looked at it. Each counted itself out, and
then looked whether anybody was left. It was freed twice, and after that two processes could get the same one. It was repaired
by letting the atomic operation that counts to zero decide.

Source: DragonFly, sys/vm/vm_map.c, vmspace_drop and vmspace_rel, commit 009afa1dc4 of February 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Atomic, Kernel, scenario

if TYPE_CHECKING:
    from scenarios.history._zone import Zone
else:
    from _zone import Zone

SOURCE = "DragonFly, sys/vm/vm_map.c; repaired by 009afa1dc4, February 2017"


class Vmspace:
    """An address space that two have, and of which only the references matter.

    Args:
        k: the kernel.
        zone: where it goes.

    Attributes:
        refs: how many have it.
    """

    def __init__(self, k: Kernel, zone: Zone[Vmspace]) -> None:
        self.zone = zone
        self.refs = Atomic(k, 2, "vm_refcnt")

    async def drop(self) -> None:
        """vmspace_rel: who counts to zero frees it. Locks: none. Sleeps: for the zone's lock."""
        if await self.refs.fetchadd(-1) == 1:
            await self.zone.free(self)


class LooksAfterwards(Vmspace):
    """Counts itself out, and then looks."""

    async def drop(self) -> None:
        """Two can both see that nobody is left."""
        await self.refs.fetchadd(-1)
        if await self.refs.load() == 0:
            await self.zone.free(self)


def two_drop(k: Kernel, cls: type[Vmspace]) -> None:
    """A process exits, and somebody who has looked at its address space is done with it."""
    vm = cls(k, Zone(k, "vmspace"))
    k.spawn(vm.drop, name="exits")
    k.spawn(vm.drop, name="looks")


@scenario(expect="panic", source=SOURCE)
def uf_03_last_reference_seen_twice(k: Kernel) -> None:
    """The zone is given what it has."""
    two_drop(k, LooksAfterwards)


@scenario(source=SOURCE, executions=200)
def uf_03_last_reference_seen_twice_ok(k: Kernel) -> None:
    """One of the two counts from one to zero."""
    two_drop(k, Vmspace)
