"""Stops a thread that runs for seconds without reaching another kernel operation.

Nothing in the hot path: an interval timer looks, now and then, whether the trace of an execution under way has
grown. If it has not, it stops the execution and raises where the program stands. Python delivers signals to the
main thread only, so elsewhere (and where there are no interval timers) there is no watchdog.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Self

from stressvm.kernel.driver import give_up
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from stressvm.kernel.kernel import Kernel


class Hang(BaseException):
    """This thread has not reached a kernel operation for too long."""


class Watchdog:
    """A context manager around executions of some kernels.

    Args:
        kernels: those that may be running; more may be appended later.
        seconds: how long a thread may take from one kernel operation to the next.
    """

    def __init__(self, kernels: list[Kernel], seconds: float) -> None:
        self.kernels = kernels
        self.seconds = seconds
        self.seen: list[tuple[int, int, bool]] = []
        #: The execution whose unwinding has been interrupted once.
        self.asked = -1
        self.previous: object = None
        self.active = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        """Start to look."""
        if self.active:
            self.previous = signal.signal(signal.SIGALRM, self._look)
            # Two looks, half the time apart, that see the same make a hang.
            signal.setitimer(signal.ITIMER_REAL, self.seconds / 2, self.seconds / 2)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Stop looking."""
        if self.active:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.previous)  # type: ignore[arg-type]  # what signal() gave

    def _look(self, _signal: int, _frame: FrameType | None) -> None:
        """Twice in a row the same execution with the same trace: it hangs."""
        now = [(k.serial, len(k.trace), k.over) for k in self.kernels]
        hanging = [k for k, was, is_ in zip(self.kernels, self.seen, now, strict=False) if was == is_ and at_work(k)]
        self.seen = now
        if not hanging:
            return
        k = hanging[0]
        if k.over:
            # It is to unwind and does not: first it is asked once more, then there is nothing left to ask.
            if self.asked == k.serial:
                give_up(k.threads[k.cur])
            self.asked = k.serial
        elif k.cur < 0:
            raise UsageError(
                f"building the world took more than {self.seconds:g} seconds: the scenario's function does not return"
            )
        else:
            k.stop(
                "hang",
                f"thread {k.threads[k.cur].name} ran for {self.seconds:g} seconds without reaching a kernel operation: "
                "it loops or blocks outside the kernel",
            )
        raise Hang


def at_work(k: Kernel) -> bool:
    """Is an execution under way, or one of its threads being unwound?"""
    return not k.over or k.cur >= 0
