"""The trace of a simulated machine: told to whoever listens and counted, but kept only if asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from stressvm.kernel.errors import UsageError
from stressvm.kernel.op import NOTHING, Event, Op
from stressvm.study.subscriber import Subscriber

if TYPE_CHECKING:
    from stressvm.study.machine_kernel import MachineKernel

#: So many events at one tick are no progress.
STILL_MAX: Final = 1_000_000

_SILENT = Subscriber.on_step
_NONE: Event = (-1, Op("none", NOTHING, (), 0), None)


class Stream(list[Event]):
    """See the module.

    Attributes:
        events: how many there were so far.
        last: the last event.
        ticks: when each happened, if they are kept.
    """

    def __init__(self, k: MachineKernel, *, keep: bool) -> None:
        super().__init__()
        self.k = k
        self.keep = keep
        self.events = 0
        self.last = _NONE
        self.ticks: list[int] = []
        #: The tick of the last event, and how many there had been when it began.
        self.tick = -1
        self.still = 0
        self.limit = k.machine.limit
        self.tell: Any = k.subscriber.on_step
        if k.subscriber.__class__.on_step is _SILENT:
            self.tell = None

    def append(self, event: Event) -> None:
        """A step has been done; what it has woken and freed is looked at when its thread announces the next."""
        k = self.k
        self.events += 1
        self.last = event
        if k.clock != self.tick:
            self.tick = k.clock
            self.still = self.events
        elif self.events - self.still > STILL_MAX:
            raise UsageError(
                f"{STILL_MAX} events at tick {self.tick}: threads go on for ever and nothing takes time; give operations costs"
            )
        t, op, arg = event
        plan = k.plans.get(op)
        if plan is None:
            plan = k.plan(op)
        if arg is not None:
            if plan.wakes:
                k.woken.extend(arg)
            elif op is k.signal_op and (sleep := k.threads[arg].sleep) is not None and sleep.interruptible:
                k.woken.append(arg)
        if k.waiting:
            waiting = k.waiting
            for number in plan.numbers:
                if number in waiting:
                    k.dirty.append(number)
        if self.tell is not None:
            self.tell(k.clock, t, op, arg)
        if self.keep:
            super().append(event)
            self.ticks.append(k.clock)
        if self.events == self.limit:
            k.ended = "limit"

    def __len__(self) -> int:
        return self.events
