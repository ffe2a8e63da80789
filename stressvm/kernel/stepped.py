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

from stressvm.kernel.driver import BATON, conclude, foreign_await, throw_until_done, unwind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Thread


class _ExecutionEnded(Exception):  # noqa: N818 - a signal to the stepping loop
    """There is no thread -1 to step, nor one that the pool has no task for."""


def _ended(_: None) -> None:
    raise _ExecutionEnded


class _Slot:
    """One pooled task: the thread it is to run, and how to step it, in its own context."""

    __slots__ = ("send", "task", "thread", "throw")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.thread: Thread | None = None
        send: Callable[[None], Any] = task.coro.send
        throw: Callable[[BaseException], Any] = task.coro.throw
        self.send: Callable[[None], Any] = partial(task.context.run, send)
        self.throw: Callable[[BaseException], Any] = partial(task.context.run, throw)


class Stepped:
    """The driver; made by `stepped`, which owns the pool."""

    def __init__(self, k: Kernel, nursery: trio.Nursery) -> None:
        self.k = k
        self.nursery = nursery
        self.slots: list[_Slot] = []
        k.baton = BATON

    async def run(self, *, audit: bool = False) -> None:
        """See Driver."""
        k = self.k
        sends = await self._sends(audit=audit)
        while True:
            try:
                while True:
                    trap = sends[k.cur](None)
                    if trap is not None:
                        self._foreign(trap)
            except _ExecutionEnded:
                if k.cur < 0:
                    break
                # A thread was spawned for which there is no task yet.
                sends = await self._sends(audit=audit)
        k.finish()

    def unwind(self) -> None:
        """See Driver."""
        if self.k.alive:
            unwind(self.k, self._throw)

    async def _sends(self, *, audit: bool) -> list[Callable[[None], Any]]:
        """How to step each thread, by number; the last entry serves both -1 and the first number too many."""
        threads = self.k.threads
        while len(self.slots) < len(threads):
            self.slots.append(await self.nursery.start(self._worker))
        sends = []
        for slot, th in zip(self.slots, threads, strict=False):
            slot.thread = th
            sends.append(self._audited(slot.send) if audit else slot.send)
        sends.append(_ended)
        return sends

    async def _worker(self, *, task_status: trio.TaskStatus[_Slot]) -> None:
        k = self.k
        slot = _Slot(current_task())
        task_status.started(slot)
        await temporarily_detach_coroutine_object(lambda _: Abort.FAILED)
        while (th := slot.thread) is not None:
            th.started = True
            try:
                th.result = await th.coro
            except BaseException as exc:  # noqa: BLE001 - whatever user code raises is its finding, not our end
                conclude(k, th, exc)
            k.leave()
            await BATON
        await reattach_detached_coroutine_object(slot.task, None)

    def _throw(self, th: Thread, exc: BaseException) -> None:
        self.slots[th.number].throw(exc)

    def _foreign(self, trap: object) -> None:
        k = self.k
        throw_until_done(k, k.threads[k.cur], self._throw, foreign_await(k, trap))
        k.cur = -1

    def _audited(self, send: Callable[[None], Any]) -> Callable[[None], Any]:
        controller = current_task()
        deadline = trio.current_effective_deadline()
        nurseries = len(controller.child_nurseries)

        def audited(value: None) -> Any:
            trap = send(value)
            if trap is None and not self.k.over:
                if trio.current_effective_deadline() != deadline:
                    return trio.CancelScope
                if len(controller.child_nurseries) != nurseries:
                    return trio.Nursery
            return trap

        return audited

    def close(self) -> None:
        """Give all tasks back to Trio, where they end."""
        for slot in self.slots:
            slot.thread = None
            slot.send(None)


@asynccontextmanager
async def stepped(k: Kernel) -> AsyncIterator[Stepped]:
    """A pool of detached tasks for the executions of one kernel."""
    async with trio.open_nursery() as nursery:
        driver = Stepped(k, nursery)
        try:
            yield driver
        finally:
            driver.close()
