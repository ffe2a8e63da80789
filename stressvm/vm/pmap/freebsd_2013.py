"""FreeBSD's pmap as it was in 10.4: pmap_enter replaces a page with one store, and tells the processors afterwards.

In between, one processor may already see the new page while another still writes to the old one: after a fault on a
copy-on-write page, two threads of a process see two pages. Later versions clear the entry and invalidate it first.
All else is as in `FreeBSDPmap`.

Source: sys/amd64/amd64/pmap.c of release/10.4.0, pmap_enter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.pmap import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap.freebsd_pages import FreeBSDPmap

if TYPE_CHECKING:
    from stressvm.vm.pmap.machine import PvLock
    from stressvm.vm.pmap.tables import PageTable


class FreeBSD2013Pmap(FreeBSDPmap):
    """See the module. The invariant "G20 two pages" finds it out as soon as another processor knows the old page."""

    async def replace(self, table: PageTable, va: int, new: int, lockp: PvLock) -> None:
        """Another page: list it, store it, and only then let go of the old one."""
        await self.enter_listed(va, new, lockp, have_entry=False)
        await self.tables.store(va)
        old = self.store_pte(table, va, new)
        await self.unlist(va, old, lockp)
        if old & F.PG_A:
            await self.invalidate_page(va)
