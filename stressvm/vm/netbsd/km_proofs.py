"""What must hold of kernel memory over pages, checked where the model says that it holds: G15 and G17.

Each compares what the ledger knows with the pages, the tables and the TLBs. None has a switch point; a violation is a panic
of kind `invariant`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.aside import Aside
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them
from stressvm.vm.pmap import PG_FRAME, PG_RAW, words

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.netbsd.km_ledger import Ledger
    from stressvm.vm.netbsd.map_base import VmMap as MapBase
    from stressvm.vm.netbsd.uvm_object import KernelObject
    from stressvm.vm.pages import UvmPages
    from stressvm.vm.pmap import NetBSDPmap


class KmProofs:
    """The checks of a memory; see `Memory`, which is the whole of it."""

    k: Kernel
    uvm: UvmPages
    pmap: NetBSDPmap
    kernel_object: KernelObject
    ledger: Ledger

    def handed_out(self, vm_map: MapBase, start: int, end: int) -> None:
        """G15: nothing is mapped at addresses that are handed out, and no processor translates them."""
        with Aside(self.k):
            self.hold(vm_map.name, "G15 vacated", self.pmap.reached(start, end))

    def given_back(self, vm_map: MapBase, start: int, end: int) -> None:
        """G17: what was at addresses that leave the map is freed, pages by hand, pages and slots of the kernel object."""
        wrong = self.ledger.given_back(start, end)
        with Aside(self.k):
            self.hold(vm_map.name, "G17 pages", wrong or self.left_behind(vm_map, start, end))

    def left_behind(self, vm_map: MapBase, start: int, end: int) -> str | None:
        """Are there pages, or slots, of the kernel object?"""
        obj = self.kernel_object
        slots = obj.pager.slots if obj.pager is not None else ()
        obj.pages.looked_at()
        if obj.pages.resident or slots:
            for va in range(start, end, F.PAGE_SIZE):
                pindex = (va - vm_map.kernel_base) >> F.PAGE_SHIFT
                page = obj.pages.lookup(pindex)
                if page is not None or pindex in slots:
                    return f"{va:#x} is given back, and {page or 'its slot in swap'!r} has not been freed"
        return None

    def returned(self, name: str, start: int, end: int) -> None:
        """G15: a WIRED range that is returned has its pages, and the tables say so. `name`: who returns it."""
        self.hold(name, "G15 wired", self.ledger.backed(start, end) or self.unlike_ledger(start, end))

    def unlike_ledger(self, start: int, end: int) -> str | None:
        """Do the tables have the pages that were entered?"""
        for va in range(start, end, F.PAGE_SIZE):
            pte, (page, _) = self.pmap.tables.entry(va), self.ledger.wired[va]
            if pte & PG_FRAME != page.phys_addr or not pte & PG_RAW:
                return f"{va:#x} is returned as wired memory with {page!r}, and mapped as {words(pte)}"
        return None

    def failed(self, name: str, call: int) -> None:
        """G17: a call that has failed leaves nothing behind. `name`: who it was."""
        self.hold(name, "G17 undone", self.ledger.undone(call))

    def wired_down(self, vm_map: MapBase, start: int, end: int) -> None:
        """G15: what uvm_map_pageable has wired is resident and wired, and so is its mapping. The map is still busy."""
        with Aside(self.k):
            self._wired_down(vm_map, start, end)

    def _wired_down(self, vm_map: MapBase, start: int, end: int) -> None:
        there = {found.va: found for found in self.pmap.translations(start, end)}
        for va in range(start, end, F.PAGE_SIZE):
            page = self.kernel_object.pages.lookup((va - vm_map.kernel_base) >> F.PAGE_SHIFT)
            found = there.get(va)
            if page is None or not page.wire_count:
                self.hold(vm_map.name, "G15 wired down", f"{va:#x} is wired, and has {page!r}")
            elif found is None or found.pa != page.phys_addr or not found.wired:
                self.hold(vm_map.name, "G15 wired down", f"{va:#x} is wired with {page!r}, and mapped as {found}")

    def hold(self, name: str, invariant: str, wrong: str | None) -> None:
        """A violated invariant is a panic of kind `invariant`."""
        if wrong is not None:
            raise self.k.violation(name, invariant, wrong)
