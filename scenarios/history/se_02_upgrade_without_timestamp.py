"""FreeBSD's vm_map_lock_upgrade, before 1999: who becomes a writer that way does not move the timestamp.

Whoever has let go of the map's lock learns from the timestamp whether anybody can have changed the map. Every writer moves
it; only an upgrade did not, though nobody upgrades but to change something. Two threads touch new memory for the first time,
both holding the lock for reading. One upgrades, and gives the entry an object. The other, which could not upgrade with another
reader about, waits for the write lock, finds the timestamp as it was, and gives the entry an object, too: what the first one has
written is in no object of the map any more.

Source: FreeBSD, sys/vm/vm_map.h, commit rS44651 of March 1999. Here it is 13's lock, whose upgrade relies on the timestamp itself.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

SOURCE = "FreeBSD, sys/vm/vm_map.h, vm_map_lock_upgrade; repaired by rS44651, March 1999"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000


class UpgradesUnseen(freebsd.UserMapLock):
    """An upgrade leaves the timestamp as it is."""

    async def lock_upgrade(self) -> bool:
        """As it should be, but for that."""
        before = self.timestamp.peek()
        upgraded = await super().lock_upgrade()
        if upgraded:
            self.timestamp.poke(before)
        return upgraded

    def leaving(self) -> None:
        """That the timestamp has moved is an invariant, which the kernel has not: only the map's are looked at."""
        self.on_release()


class VmMap(freebsd.VmMap13):
    """A map with that lock."""

    def make_lock(self) -> freebsd.SystemMapLock | freebsd.UserMapLock:
        """The lock."""
        return UpgradesUnseen(self.k, self.name, self.check, self.process_deferred)


def two_first_touches(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """Two threads of a process write to a page each of memory that nobody has touched yet."""
    memory = freebsd.Memory(pages.VmPages13(k, 8))
    vm = freebsd.vmspace_alloc(k, LOW, LOW + 2 * PAGE, cls=cls, memory=memory)
    vm.map.insert(None, 0, LOW, LOW + 2 * PAGE)

    async def writes(number: int) -> None:
        await freebsd.vmspace_access(vm.map, LOW + number * PAGE, freebsd.VM_PROT_WRITE, f"by {number}")

    for number in range(2):
        k.spawn(writes, number, name=f"writes{number}")


@scenario(expect="invariant", source=SOURCE)
def se_02_upgrade_without_timestamp(k: Kernel) -> None:
    """A page is mapped that the map knows nothing of: its object has been replaced."""
    two_first_touches(k, VmMap)


@scenario(source=SOURCE, executions=200)
def se_02_upgrade_without_timestamp_ok(k: Kernel) -> None:
    """Who comes second sees that the map has been changed, and looks again."""
    two_first_touches(k, freebsd.VmMap13)
