"""DragonFly's vm_map_unwire, 2003, from FreeBSD: the loop that unwires begins where the one before it has ended.

To unwire a range takes two loops over its mappings: the first sees that all of them are wired, without a hole, and the second
unwires them. The second used the first one's variable and did not set it back to the start. So it never ran: the call
succeeded, and all stayed wired.

Source: DragonFly, sys/vm/vm_map.c, commit b4eddbac42 of November 2003. Here it is NetBSD 6's uvm_map_pageable, which has the
same two loops from the same Mach.
"""

from __future__ import annotations

from stressvm import Kernel, scenario
from stressvm.vm import netbsd, pages

SOURCE = "DragonFly, sys/vm/vm_map.c, vm_map_unwire; repaired by b4eddbac42, November 2003"
PAGE = netbsd.PAGE_SIZE


class StartsAtTheEnd(netbsd.VmMap):
    """A map whose second loop goes on from where the first one has got to."""

    async def unwire_range(self, first: netbsd.MapEntry, end: int) -> None:
        """From the first entry behind the range."""
        for entry in self.from_entry(first, end):
            after = self.after(entry)
        if after is not None:
            await super().unwire_range(after, end)


def wire_and_unwire(k: Kernel, cls: type[netbsd.VmMap]) -> None:
    """Memory is wired, and unwired again."""
    uvm = pages.UvmPages(k, 5)
    kmap = netbsd.setup(k, 4, flags=netbsd.VM_MAP_PAGEABLE, memory=netbsd.Memory(uvm), cls=cls)

    async def uses() -> None:
        va = await netbsd.uvm_km_alloc(kmap, 2 * PAGE, 0, netbsd.UVM_KMF_PAGEABLE)
        assert not await netbsd.uvm_map_pageable(kmap, va, va + 2 * PAGE, new_pageable=False), "it cannot be wired"
        assert not await netbsd.uvm_map_pageable(kmap, va, va + 2 * PAGE, new_pageable=True), "it cannot be unwired"
        assert not uvm.wired, f"{uvm.wired} pages are wired, and nobody has wired anything"

    k.spawn(uses, name="uses")


@scenario(expect="assertion", source=SOURCE)
def it_03_unwire_starts_at_the_end(k: Kernel) -> None:
    """The page daemon will never have the pages."""
    wire_and_unwire(k, StartsAtTheEnd)


@scenario(source=SOURCE, executions=200)
def it_03_unwire_starts_at_the_end_ok(k: Kernel) -> None:
    """What was wired is wired no more."""
    wire_and_unwire(k, netbsd.VmMap)
