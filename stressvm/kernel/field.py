"""A field of a modelled structure: plain Python data, of which every use is declared to the kernel, within the step that uses it.

A map's list of entries, a page's wire count and their like are changed under locks, so a switch between two such uses would
show nothing and none is made. But who uses them without the lock is what races are made of, and which steps could change
places depends on them: so code that uses one says so, before it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stressvm.kernel.object import KernelObject
from stressvm.kernel.op import READ, WRITE

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


def _make_ops(_k: Kernel, _ident: Any) -> None:
    return None


class Field(KernelObject):
    """Declares the uses of something that is kept elsewhere.

    Args:
        k: the kernel.
        name: as reports show it, such as "kernel_map.entries".
        benign: why its unordered uses are no bug, if the code that is modelled relies on them; "" if they are one.
    """

    __slots__ = ("benign", "told_read", "told_write")

    TYPE = "field"

    def __init__(self, k: Kernel, name: str, benign: str = "") -> None:
        self.k = k
        self.ident, _ = k.adopt(self, self.TYPE, name, _make_ops)
        self.benign = benign
        #: Where it was last said to be read, and changed: to say so again within a step would tell nothing.
        self.told_read = self.told_write = -1

    def read(self) -> None:
        """The current step reads it. No switch; may be called while the world is built, where it means nothing."""
        k = self.k
        if k.cur >= 0:
            at = len(k.trace)
            here = (at << 40) + (len(k.asides) << 16) + k.cur
            if here != self.told_read:
                self.told_read = here
                if here != self.told_write:
                    k.touched.append((at, k.cur, self.ident.number, READ))

    def write(self) -> None:
        """The current step changes it. As `read`."""
        k = self.k
        if k.cur >= 0:
            at = len(k.trace)
            here = (at << 40) + (len(k.asides) << 16) + k.cur
            if here != self.told_write:
                self.told_write = here
                k.touched.append((at, k.cur, self.ident.number, WRITE))
