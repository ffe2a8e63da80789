"""DragonFly's vm_map_find, 2012: when there is no room, the object stays held.

The object that is to be mapped is held while a place for it is looked for. There were two ways out: the one for success let
go of it, the one for "no space" only unlocked the map.

Source: DragonFly, sys/vm/vm_map.c, commit 552112a039 of August 2012. Here it is FreeBSD 13's map, which holds the object as
DragonFly does.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import freebsd

SOURCE = "DragonFly, sys/vm/vm_map.c, vm_map_find; repaired by 552112a039, August 2012"
PAGE = freebsd.PAGE_SIZE


class VmMap(freebsd.VmMap13):
    """A map that holds the object which it finds a place for."""

    async def find(self, request: freebsd.Request) -> tuple[int, int]:
        """vm_map_find. Sleeps: for the lock."""
        obj = request.obj
        if obj is not None:
            obj.reference()
        result, addr = await super().find(request)
        if obj is not None:
            self.found(obj, result)
        return result, addr

    def found(self, obj: freebsd.VmObject, result: int) -> None:
        """The way out: let go of it."""
        del result
        obj.deallocate()


class ForgetsTheObject(VmMap):
    """Without a place, nobody lets go of it."""

    def found(self, obj: freebsd.VmObject, result: int) -> None:
        """Only after a success."""
        if not result:
            super().found(obj, result)


def no_room(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """A file of two pages is mapped; there is no room to map it once more."""
    vm_map = freebsd.setup(k, pages=3, cls=cls)
    file = freebsd.VmObject(2)

    async def maps() -> None:
        for _ in range(2):
            file.reference()
            result, _ = await freebsd.vm_map_find(vm_map, file, 0, vm_map.min_offset, 2 * PAGE)
            if result:
                file.deallocate()
        file.deallocate()
        freebsd.audit(k)

    k.spawn(maps)


@scenario(expect="invariant", source=SOURCE)
def lk_01_hold_without_space(k: Kernel) -> None:
    """In the end there is a reference that nobody has."""
    no_room(k, ForgetsTheObject)


@scenario(source=SOURCE, executions=200)
def lk_01_hold_without_space_ok(k: Kernel) -> None:
    """Every reference is somebody's."""
    no_room(k, VmMap)
