"""How asynchronous work is run from the outside: one `trio.run`, interrupts at checkpoints only, one plain error out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


def run_trio(fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    """`trio.run(fn, *args)`.

    An interrupt (Ctrl-C) arrives where the running task looks for it and nowhere else: in the midst of an execution it
    would be taken for the fault of the thread it hits. The groups that Trio wraps exceptions in are taken off: an
    interrupt comes first, then whatever is first.
    """
    try:
        return trio.run(fn, *args, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        raise next((exc for exc in leaves if isinstance(exc, KeyboardInterrupt)), leaves[0]) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for exc in group.exceptions:
        found.extend(_leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc])
    return found
