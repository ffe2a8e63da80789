"""DragonFly's MAP_TRYFIXED, 2009: a mapping that is wanted at one address or not at all ends up at another.

A request with MAP_TRYFIXED is refused if anything is there. It went through the search for free space all the same, which
finds another place then; and who had asked took it for granted that he had what he had asked for.

Source: DragonFly, sys/vm/vm_mmap.c, commit cadb984bf2 of April 2009. Here it is FreeBSD 13's vm_map_find at a fixed place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stressvm import Kernel, scenario
from stressvm.vm import freebsd, pages

if TYPE_CHECKING:
    from stressvm.vm.freebsd import Request

SOURCE = "DragonFly, sys/vm/vm_mmap.c, MAP_TRYFIXED; repaired by cadb984bf2, April 2009"
PAGE = freebsd.PAGE_SIZE
LOW = 0x1_0000_0000


class Searches(freebsd.VmMap13):
    """What is wanted at one place is looked for from there on."""

    async def place(self, request: Request) -> tuple[int, int]:
        """As if any place would do."""
        return await super().place(replace(request, find_space=freebsd.VMFS_ANY_SPACE))


def two_want_it(k: Kernel, cls: type[freebsd.VmMap]) -> None:
    """Two threads of a process want memory at the same address; who gets it writes there, and reads it again."""
    memory = freebsd.Memory(pages.VmPages13(k, 8))
    vm = freebsd.vmspace_alloc(k, LOW, LOW + 4 * PAGE, cls=cls, memory=memory)

    async def maps(name: str) -> None:
        error, _ = await freebsd.vm_map_find(vm.map, None, 0, LOW, PAGE, 0, freebsd.VMFS_NO_SPACE)
        if not error:
            await freebsd.vmspace_access(vm.map, LOW, freebsd.VM_PROT_WRITE, name)
            error, page = await freebsd.vmspace_access(vm.map, LOW, freebsd.VM_PROT_READ)
            assert page is not None, f"the memory is gone: {error}"
            assert page.content == name, (
                f"{name} has memory of its own, and reads there what {page.content} has written"
            )

    for name in ("one", "two"):
        k.spawn(maps, name, name=name)


@scenario(expect="assertion", source=SOURCE)
def gp_06_try_fixed_is_moved(k: Kernel) -> None:
    """Both think that the memory there is theirs."""
    two_want_it(k, Searches)


@scenario(source=SOURCE, executions=200)
def gp_06_try_fixed_is_moved_ok(k: Kernel) -> None:
    """Only one of them gets it."""
    two_want_it(k, freebsd.VmMap13)
