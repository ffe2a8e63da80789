"""What stands behind an entry, as far as the map looks at it: memory objects and amaps, by their references.

Source: sys/uvm/uvm_object.h, uvm_amap.c (amap_ref, amap_unref, amap_splitref, amap_extend, amap_copy). Only the kernel
object has pages, so amaps have no slots: of amap_copy only the references are, without its chunking and without its
attempt to merge the entry with a neighbour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.field import Field
from stressvm.kernel.mutex import Mutex
from stressvm.vm.pages import PagesOf, SwapPager

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.vm.pages import Swap


class UvmObject:
    """struct uvm_object: something that can be mapped. Whoever maps it hands one reference over to the map.

    Args:
        name: as reports show it.
        kernel: a kernel object, whose offsets are distances from kernel_map's minimum; its references are not counted.
        last: what its pager does when the last reference goes. May sleep; the map is not locked then.

    Attributes:
        refs: references, one of which is the maker's.
    """

    __slots__ = ("kernel", "last", "name", "refs")

    def __init__(
        self, name: str = "uobj", *, kernel: bool = False, last: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.name = name
        self.kernel = kernel
        self.last = last
        self.refs = 1

    def reference(self) -> None:
        """pgo_reference. Sleeps: no."""
        if not self.kernel:
            self.refs += 1

    def drop(self) -> None:
        """pgo_detach of a reference that is not the last. Sleeps: no."""
        if not self.kernel:
            self.refs -= 1

    async def detach(self) -> None:
        """pgo_detach. Sleeps: what `last` does may, so no map may be locked."""
        self.drop()
        if not self.refs and self.last is not None:
            await self.last()

    def __repr__(self) -> str:
        """Name and references."""
        return f"<UvmObject {self.name}, {self.refs} references>"


class KernelObject(UvmObject):
    """uvm_kernel_object: whose pages all pageable kernel memory is. An offset is a distance from kernel_map's minimum.

    Args:
        k: the kernel.
        swap: where its pages can be written to; None: they stay.
        name: as reports show it.
    """

    __slots__ = ("lock", "pager", "pages")

    def __init__(self, k: Kernel, swap: Swap | None = None, name: str = "uvm_kernel_object") -> None:
        super().__init__(name, kernel=True)
        self.lock = Mutex(k, f"{name}.vmobjlock")
        self.pages = PagesOf(managed=True, field=Field(k, f"{name}.pages"))
        self.pager = SwapPager(swap) if swap is not None else None


class VmAmap:
    """struct vm_amap: the anonymous memory that lies over an entry.

    Attributes:
        refs: entries that refer to it; one with a single reference may grow with its entry.
        shared: AMAP_SHARED: it has been extracted or inherited, and is not to be copied when written to.
    """

    __slots__ = ("refs", "shared")

    def __init__(self) -> None:
        self.refs = 1
        self.shared = False

    def ref(self, *, shared: bool = False) -> None:
        """amap_ref."""
        self.refs += 1
        self.shared |= shared

    def unref(self) -> None:
        """amap_unref."""
        self.refs -= 1

    def __repr__(self) -> str:
        """References."""
        return f"<VmAmap, {self.refs} references{', shared' if self.shared else ''}>"
