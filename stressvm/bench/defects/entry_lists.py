"""Entry lists that forget to record something: what stands in for the kernels' trees, with one step left out.

The lanes over the list say how large the largest gap below each link is, as the nodes of the kernels' trees do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.vm.entry import E
from stressvm.vm.skiplist import EntryList

if TYPE_CHECKING:
    from stressvm.vm.entry import Lane


class ResizeForgetsTheGap(EntryList[E]):
    """An entry that grows still has the gap that it has grown into."""

    def _set_gap(self, entry: E, gap: int) -> None:
        """Nothing is recorded."""


class DeleteForgetsTheLanes(EntryList[E]):
    """No annotation is raised when an entry leaves."""

    def _grown(self, lane: Lane[E], gap: int) -> None:
        """Nothing is recorded."""


class DeleteForgetsTheGapUnderATower(EntryList[E]):
    """The links that are joined say what both said, which is less than the gap between them is now."""

    def _raze(self, lane: Lane[E] | None, gap: int) -> None:  # noqa: ARG002 - that is the mistake
        super()._raze(lane, 0)


class TowersLookAtOneGap(EntryList[E]):
    """A link is annotated with the first gap in its span instead of the largest."""

    def _widest(self, lane: Lane[E]) -> int:
        return lane.entry.gap if lane.down is None else lane.down.gap
