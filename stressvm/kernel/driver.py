"""What the two drivers share: the baton, the judgement of foreign awaits, the unwinding of what is left.

A driver runs one prepared execution of one kernel to its end: it resumes thread `k.cur`, which gives back the
baton (a bare yield) when another thread is to go on, until `k.cur` is -1. The kernel decides everything; so the
traces of both drivers are the same, and each is the other's oracle.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from stressvm.kernel.errors import InternalError, Over, Panic, StressvmError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Thread

#: How often a thread that refuses to unwind is thrown at before we give up.
THROWS_MAX: Final = 100


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


def foreign_await(k: Kernel, trap: object) -> Panic:
    """The current thread awaited something else than a kernel operation; stops the execution."""
    name = getattr(trap, "__qualname__", None) or type(trap).__qualname__
    return k.panic(
        f"thread {k.threads[k.cur].name} awaited something that is not a kernel operation (the scheduler was given "
        f"{name}): kernel threads may await operations of kernel objects, k.delay() and k.join(), but no sleeps, "
        "locks, sockets or cancel scopes of Trio or asyncio",
        "foreign-await",
    )


def conclude(k: Kernel, th: Thread, exc: BaseException) -> None:
    """A thread has ended by an exception: note it, and stop the execution unless it has ended already."""
    th.error = exc
    if isinstance(exc, Over | Panic):
        return
    if isinstance(exc, StressvmError | KeyboardInterrupt):
        k.abort(exc)
        return
    kind = "assertion" if isinstance(exc, AssertionError) else "exception"
    k.stop(kind, f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)


def unwind(k: Kernel, throw: Callable[[Thread, BaseException], Any]) -> None:
    """End every thread that is left, in order of number; `throw` raises an exception at its await.

    All kernel operations raise `Over` now, so a `finally` cannot run on; one that awaits foreign things is thrown
    at again.
    """
    for th in k.threads:
        if th.done:
            continue
        k.cur = th.number
        if inspect.getcoroutinestate(th.coro) == inspect.CORO_CREATED:
            th.coro.close()
            th.done = True
            continue
        throw_until_done(k, th, throw, Over())
    k.cur = -1


def throw_until_done(
    k: Kernel, th: Thread, throw: Callable[[Thread, BaseException], Any], first: BaseException
) -> None:
    """Raise `first`, then `Over`, in a thread until it has ended."""
    exc = first
    for _ in range(THROWS_MAX):
        k.cur = th.number
        throw(th, exc)
        if th.done:
            return
        exc = Over()
    raise InternalError(
        f"thread {th.name} does not unwind: it caught the end of its execution {THROWS_MAX} times and awaited "
        "something again; let BaseException pass in its except and finally clauses"
    )
