"""What the two drivers share: the baton, the judgement of foreign awaits, the unwinding of what is left.

A driver runs one prepared execution of one kernel to its end: it resumes thread `k.cur`, which gives back the
baton (a bare yield) when another thread is to go on, until `k.cur` is -1. The kernel decides everything; so the
traces of both drivers are the same, and each is the other's oracle.
"""

from __future__ import annotations

import inspect
import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

import trio
from trio.lowlevel import current_task

from stressvm.kernel.errors import Over, Panic, StressvmError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Thread

#: How often a thread that refuses to unwind is resumed before we give up.
RESUMES_MAX: Final = 100


class Driver(Protocol):
    """Runs executions of one kernel, one at a time."""

    k: Kernel

    async def run(self, *, audit: bool = False) -> None:
        """Run the prepared execution to its end; stuck threads stay where they are, to be looked at.

        Args:
            audit: also look for misuse that costs time to look for (see stepped.py).
        """

    def unwind(self) -> None:
        """End what threads are left. Must follow every `run` before the next execution."""


class _Baton(tuple[None]):
    """A tuple whose awaiting is its iteration: one bare yield, without a Python frame of its own."""

    __slots__ = ()

    __await__ = tuple.__iter__


# A tuple iterator is not a Generator by its type, but serves an await as well.
BATON: Final = cast("Awaitable[None]", _Baton((None,)))


class _Done:
    """What Trio would send into a coroutine whose wait is over."""

    __slots__ = ()

    def unwrap(self) -> None:
        """Nothing came of it."""


DONE: Final = _Done()


def foreign_await(k: Kernel, trap: object) -> Panic:
    """The current thread awaited something else than a kernel operation; stops the execution."""
    name = getattr(trap, "__qualname__", None) or type(trap).__qualname__
    _take_back(trap)
    return k.panic(
        f"thread {k.threads[k.cur].name} awaited something that is not a kernel operation (the scheduler was given "
        f"{name}): kernel threads may await operations of kernel objects, k.delay() and k.join(), but no sleeps, "
        "locks, sockets or cancel scopes of Trio or asyncio",
        "foreign-await",
    )


def _take_back(trap: object) -> None:
    """Trio has the stepping task down as waiting, for a socket say, and would wake it at some bad moment.

    What it gave the scheduler carries the way to undo that.
    """
    abort = getattr(trap, "abort_func", None)
    if abort is not None:
        abort(lambda: None)


class Audit:
    """Looks, after a step, whether the thread has opened a scope with a deadline, or a nursery, in the stepping task.

    Neither gives the scheduler anything to see, and neither can work: threads have no time but virtual time, and no
    children but what `k.spawn` makes. Too slow for every step of every execution.
    """

    __slots__ = ("deadline", "nurseries", "task")

    def __init__(self) -> None:
        self.task = current_task()
        self.deadline = trio.current_effective_deadline()
        self.nurseries = len(self.task.child_nurseries)

    def trap(self) -> object:
        """What was opened, or None."""
        if trio.current_effective_deadline() != self.deadline:
            return trio.CancelScope
        if len(self.task.child_nurseries) != self.nurseries:
            return trio.Nursery
        return None


def conclude(k: Kernel, th: Thread, exc: BaseException) -> None:
    """A thread has ended by an exception: note it, and stop the execution unless it has ended already."""
    th.error = exc
    if isinstance(exc, Over | Panic):
        return
    if isinstance(exc, StressvmError | KeyboardInterrupt):
        k.abort(exc)
        return
    kind = "assertion" if isinstance(exc, AssertionError) else "exception"
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - user code: an exception may be unable to say what it is
        text = "(its text cannot be told)"
    k.stop(kind, f"{type(exc).__name__}: {text}" if text else type(exc).__name__)


def give_up(th: Thread) -> NoReturn:
    """The last resort for a thread that catches the end of its execution for ever: end the process (exit 2).

    Neither Python nor Trio can end a coroutine against its will, and the task that it runs in would keep Trio waiting.
    What was found before has been printed and journalled.
    """
    sys.stdout.flush()
    sys.stderr.write(
        f"stressvm: thread {th.name} does not end: it catches the end of its execution and goes on, again and again; "
        "let BaseException pass in its except and finally clauses. Giving up.\n"
    )
    sys.stderr.flush()
    os._exit(2)


class Resume(Protocol):
    """How a driver resumes one thread while it unwinds: with an exception, or with DONE. Gives what it awaits next."""

    def __call__(self, th: Thread, exc: BaseException | None, /) -> object:
        """Raise `exc` in the thread, or tell it that its wait is over."""


def unwind(k: Kernel, resume: Resume) -> None:
    """End every thread that is left, in order of number.

    All kernel operations raise `Over` now, so a `finally` cannot run on. One that awaits foreign things (a nursery
    does, when it is left) is told that they are done.
    """
    for th in k.threads:
        if th.done:
            continue
        k.cur = th.number
        if inspect.getcoroutinestate(th.coro) == inspect.CORO_CREATED:
            th.coro.close()
            th.done = True
        else:
            unwind_thread(k, th, resume, Over())
    k.cur = -1


def unwind_thread(k: Kernel, th: Thread, resume: Resume, first: BaseException) -> None:
    """Raise `first` in a thread, and see to it that it ends."""
    exc: BaseException | None = first
    for attempt in range(RESUMES_MAX):
        k.cur = th.number
        trap = resume(th, exc)
        if th.done:
            return
        _take_back(trap)
        exc = None if attempt < RESUMES_MAX // 2 else Over()
    give_up(th)
