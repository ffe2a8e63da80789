"""The pages that users have wired, of all maps together, and the limit on them (vm.max_user_wired).

Source: sys/vm/vm_map.c of releng/13.0, vm_map_wire_user_count_add and vm_map_wire_user_count_sub; 10.4 has no such limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


class UserWireCount:
    """So many bytes are wired by users, of at most `limit` (None: as many as they like)."""

    __slots__ = ("limit", "wired")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.wired = 0

    def add(self, size: int) -> bool:
        """Count `size` bytes; False, and nothing changed, if that is too many."""
        if self.limit is not None and self.wired + size > self.limit:
            return False
        self.wired += size
        return True

    def sub(self, size: int) -> None:
        """Those are wired no more."""
        self.wired -= size


def user_wire_count(k: Kernel) -> UserWireCount:
    """The count of a kernel; the world's builder may set its limit."""
    return k.once("vm_user_wire_count", UserWireCount)
