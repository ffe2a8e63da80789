"""DragonFly's device pager, 2016: a driver is called back with the pager's mutex held.

When the last mapping of a device's memory goes, the pager tells the driver, by a destructor, and the driver takes its own
lock. It did so with the mutex of its list of objects held. A driver that makes an object for a mapping has its own lock
first, and then calls the pager, which takes that mutex.

Source: DragonFly, sys/vm/device_pager.c, commit 8ee19f911c of November 2016.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import Kernel, Mutex, scenario
from stressvm.vm import freebsd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SOURCE = "DragonFly, sys/vm/device_pager.c, dev_pager_dealloc; repaired by 8ee19f911c, November 2016"


class DevicePager:
    """The objects that stand for memory of devices.

    Args:
        k: the kernel.
    """

    def __init__(self, k: Kernel) -> None:
        self.mtx = Mutex(k, "dev_pager_mtx")
        self.objects: dict[str, freebsd.VmObject] = {}

    async def allocate(self, handle: str, pages: int) -> freebsd.VmObject:
        """cdev_pager_allocate: the object for a handle, which a driver makes up. Locks: takes the mutex."""
        await self.mtx.lock()
        obj = self.objects.setdefault(handle, freebsd.VmObject(pages))
        await self.mtx.unlock()
        return obj

    async def dealloc(self, handle: str, dtor: Callable[[], Awaitable[None]]) -> None:
        """dev_pager_dealloc: nobody maps it any more. Locks: takes the mutex; the destructor takes the driver's."""
        await dtor()
        await self.mtx.lock()
        del self.objects[handle]
        await self.mtx.unlock()


class CallsUnderTheMutex(DevicePager):
    """The destructor is called in between."""

    async def dealloc(self, handle: str, dtor: Callable[[], Awaitable[None]]) -> None:
        """With the mutex held."""
        await self.mtx.lock()
        await dtor()
        del self.objects[handle]
        await self.mtx.unlock()


def map_and_unmap(k: Kernel, cls: type[DevicePager]) -> None:
    """One thread unmaps the memory of a device, another maps some more of it."""
    pager = cls(k)
    driver = Mutex(k, "driver.lock")
    open_handles = {"old"}
    pager.objects["old"] = freebsd.VmObject(1)

    async def dtor() -> None:
        await driver.lock()
        open_handles.remove("old")
        await driver.unlock()

    async def unmaps() -> None:
        await pager.dealloc("old", dtor)

    async def maps() -> None:
        await driver.lock()
        open_handles.add("new")
        await pager.allocate("new", 1)
        await driver.unlock()

    k.spawn(unmaps, name="unmaps")
    k.spawn(maps, name="maps")


@scenario(expect="deadlock", source=SOURCE)
def dl_16_destructor_under_the_pager_lock(k: Kernel) -> None:
    """One has the pager's mutex and wants the driver's lock, the other the other way round."""
    map_and_unmap(k, CallsUnderTheMutex)


@scenario(source=SOURCE, executions=200)
def dl_16_destructor_under_the_pager_lock_ok(k: Kernel) -> None:
    """The destructor comes first, and holds nothing of the pager's."""
    map_and_unmap(k, DevicePager)
