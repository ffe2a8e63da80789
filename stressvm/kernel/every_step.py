"""A kernel whose strategy is asked at every step, also where there is but one thread to go on.

For searches that have to know where each step begins, and what it accesses: they are asked, and what they answer is no
decision, so schedules are the same with this kernel and with the plain one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm.kernel.kernel import Kernel, Timers

if TYPE_CHECKING:
    from stressvm.kernel.op import Op
    from stressvm.kernel.strategy import Strategy


class EveryStepKernel(Kernel):
    """See the module.

    Attributes:
        told_time: a thread has asked for the time under ANYTIME, where no step can be told to have changed it.
    """

    __slots__ = ("told_time",)

    def reset(self, strategy: Strategy) -> None:
        """See Kernel."""
        super().reset(strategy)
        self.told_time = False

    def away(self, op: Op) -> bool:
        """See Kernel."""
        me = self.cur
        self.pend[me] = op
        if len(self.trace) >= self.limit:
            self._at_limit()
        mask = self.enabled
        if not mask:
            self._idle()
            return self.cur != me
        nxt = self.strategy.pick(self, mask)
        if mask & (mask - 1):
            self.picks.append(nxt)
        if nxt == me:
            return False
        self.cur = nxt
        return True

    def leave(self) -> None:
        """See Kernel."""
        super().leave()
        mask = self.enabled
        if mask and not mask & (mask - 1) and not self.over:
            try:
                self.strategy.pick(self, mask)
            except Exception as exc:  # noqa: BLE001 - no thread is left here that could carry it
                self.abort(exc)
                self.cur = -1

    def _idle(self) -> None:
        before = len(self.picks)
        super()._idle()
        if self.cur >= 0 and len(self.picks) == before:
            self.strategy.pick(self, 1 << self.cur)

    @property
    def now(self) -> int:
        """See Kernel."""
        if self.cur >= 0 and self.timers_mode is Timers.ANYTIME:
            self.told_time = True
        return self.clock
