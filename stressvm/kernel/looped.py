"""The oracle driver: pooled Trio tasks, every switch made by Trio's own scheduler (`--driver trio`).

A task parks in `wait_task_rescheduled`; the one that hands over reschedules the next. No polling, no checkpoint:
exactly one task of an execution is runnable at any time, so the order in which Trio runs a batch does not matter.
Several kernels share one event loop, which spreads the cost of a pass over them.

The task steps the thread's coroutine itself rather than awaiting it: a foreign await is then seen here too,
instead of quietly working, outside the schedule, as Trio would have it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from stressvm.kernel.driver import BATON, DONE, Audit, conclude, foreign_await, unwind, unwind_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Thread


def _give_way(_: Any) -> Abort:
    return Abort.SUCCEEDED


def _hold_on(_: Any) -> Abort:
    return Abort.FAILED


class Looped:
    """The driver; made by `looped`, which owns the pool."""

    def __init__(self, k: Kernel, nursery: trio.Nursery) -> None:
        self.k = k
        self.nursery = nursery
        #: The pooled tasks by number of thread, and last, where -1 finds it, the one that runs the execution.
        self.tasks: list[Task] = [current_task()]
        self.audit = False
        k.baton = BATON

    async def run(self, *, audit: bool = False) -> None:
        """See Driver."""
        k = self.k
        tasks = self.tasks
        tasks[-1] = current_task()
        self.audit = audit
        while k.cur >= 0:
            while len(tasks) <= len(k.threads):
                tasks.insert(-1, await self.nursery.start(self._worker, len(tasks) - 1))
            reschedule(tasks[k.cur])
            await wait_task_rescheduled(_hold_on)
        k.finish()

    def unwind(self) -> None:
        """See Driver."""
        if self.k.alive:
            unwind(self.k, self._resume)

    async def _worker(self, number: int, *, task_status: trio.TaskStatus[Task]) -> None:
        k = self.k
        tasks = self.tasks
        task_status.started(current_task())
        audit = Audit()
        while True:
            await wait_task_rescheduled(_give_way)
            th = k.threads[number]
            try:
                trap = th.coro.send(None)
            except StopIteration as stop:
                th.result = stop.value
                k.leave()
            except BaseException as exc:  # noqa: BLE001 - whatever user code raises is its finding, not our end
                conclude(k, th, exc)
                k.leave()
            else:
                if trap is None and self.audit:
                    trap = audit.trap()
                if trap is not None:
                    k.cur = number
                    unwind_thread(k, th, self._resume, foreign_await(k, trap))
                    k.cur = -1
            # A thread without a task yet finds the controller, as -1 does.
            reschedule(tasks[min(k.cur, len(tasks) - 1)])

    def _resume(self, th: Thread, exc: BaseException | None, /) -> object:
        k = self.k
        try:
            return th.coro.send(DONE) if exc is None else th.coro.throw(exc)
        except StopIteration:
            k.leave()
        except BaseException as raised:  # noqa: BLE001 - as in _worker
            conclude(k, th, raised)
            k.leave()
        return None


@asynccontextmanager
async def looped(k: Kernel) -> AsyncIterator[Looped]:
    """A pool of parked tasks for the executions of one kernel."""
    async with trio.open_nursery() as nursery:
        driver = Looped(k, nursery)
        try:
            yield driver
        finally:
            k.abandon()
            driver.unwind()
            nursery.cancel_scope.cancel()
