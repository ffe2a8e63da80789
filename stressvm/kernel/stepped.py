"""The default driver: pooled Trio tasks, detached from Trio and stepped by hand.

A kernel thread runs in a real Trio task. The task detaches itself once with Trio's public API
(`temporarily_detach_coroutine_object`), is then stepped by whoever runs the execution, and reattaches when the pool
closes; so a switch costs one `send` and not a pass of Trio's event loop. The price: while detached the task is not
Trio's. Whatever it awaits from Trio comes out of `send` as a trap object, and is reported. A cancel scope with a
deadline or a nursery opened inside a thread would act on the task that steps it, without any trap: an audited
execution looks for that after every step.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import (
    Abort,
    Task,
    current_task,
    reattach_detached_coroutine_object,
    temporarily_detach_coroutine_object,
)

from stressvm.kernel.driver import BATON, DONE, Audit, conclude, foreign_await, unwind, unwind_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Thread


class _ExecutionEnded(Exception):  # noqa: N818 - a signal to the stepping loop
    """There is no thread -1 to step, nor one that the pool has no task for."""


def _ended(_: object) -> None:
    raise _ExecutionEnded


class Stepped:
    """The driver; made by `stepped`, which owns the pool."""

    def __init__(self, k: Kernel, nursery: trio.Nursery) -> None:
        self.k = k
        self.nursery = nursery
        self.closing = False
        #: How to step the task of each thread, in its own context; the last entry serves -1 and a number too many.
        self.sends: list[Callable[[object], Any]] = [_ended]
        self.throws: list[Callable[[BaseException], Any]] = []
        k.baton = BATON

    async def run(self, *, audit: bool = False) -> None:
        """See Driver."""
        k = self.k
        if len(self.throws) < len(k.threads):
            await self._grow()
        sends = self._audited() if audit else self.sends
        while True:
            try:
                while True:
                    trap = sends[k.cur](None)
                    if trap is not None:
                        self._foreign(trap)
            except (_ExecutionEnded, IndexError):
                if k.cur < 0:
                    break
                assert k.cur >= len(self.throws)
                # A thread was spawned for which there is no task yet.
                await self._grow()
                sends = self._audited() if audit else self.sends
        k.finish()

    def unwind(self) -> None:
        """See Driver."""
        if self.k.alive:
            unwind(self.k, self._resume)

    async def _grow(self) -> None:
        """As many tasks as there are threads."""
        while len(self.throws) < len(self.k.threads):
            task = await self.nursery.start(self._worker, len(self.throws))
            send: Callable[..., Any] = task.coro.send
            throw: Callable[..., Any] = task.coro.throw
            self.sends.insert(-1, partial(task.context.run, send))
            self.throws.append(partial(task.context.run, throw))

    async def _worker(self, number: int, *, task_status: trio.TaskStatus[Task]) -> None:
        k = self.k
        task = current_task()
        task_status.started(task)
        await temporarily_detach_coroutine_object(lambda _: Abort.FAILED)
        while not self.closing:
            th = k.threads[number]
            try:
                th.result = await th.coro
            except BaseException as exc:  # noqa: BLE001 - whatever user code raises is its finding, not our end
                conclude(k, th, exc)
            # Until there is a next thread, this task would keep the whole world of the last one.
            del th
            k.leave()
            await BATON
        await reattach_detached_coroutine_object(task, None)

    def _resume(self, th: Thread, exc: BaseException | None, /) -> object:
        return self.sends[th.number](DONE) if exc is None else self.throws[th.number](exc)

    def _foreign(self, trap: object) -> None:
        k = self.k
        unwind_thread(k, k.threads[k.cur], self._resume, foreign_await(k, trap))
        k.cur = -1

    def _audited(self) -> list[Callable[[object], Any]]:
        """The same, each followed by a look at the task that steps."""
        audit = Audit()

        def audited(number: int, send: Callable[[object], Any], value: object) -> Any:
            trap = send(value)
            if trap is None and not self.k.over and (trap := audit.trap()) is not None:
                # The thread has handed the baton over already: take it back.
                self.k.cur = number
            return trap

        return [*(partial(audited, number, send) for number, send in enumerate(self.sends[:-1])), _ended]

    def close(self) -> None:
        """Give all tasks back to Trio, where they end; a task in the middle of a thread must leave it first."""
        self.k.abandon()
        self.unwind()
        self.closing = True
        for send in self.sends[:-1]:
            send(None)


@asynccontextmanager
async def stepped(k: Kernel) -> AsyncIterator[Stepped]:
    """A pool of detached tasks for the executions of one kernel."""
    async with trio.open_nursery() as nursery:
        driver = Stepped(k, nursery)
        try:
            yield driver
        finally:
            driver.close()
