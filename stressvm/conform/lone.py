"""A kernel with a single thread, whose operations the caller does one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from stressvm.explore.random_walk import RandomWalk
from stressvm.kernel.errors import InternalError
from stressvm.kernel.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class LoneThread:
    """There is nobody to hand the baton to, so no operation is ever suspended and no driver is needed.

    `start` ends the building of the world, `close` the thread.
    """

    def __init__(self) -> None:
        self.k = Kernel(max_steps=1_000_000)
        self.k.reset(RandomWalk(0))

    def start(self) -> None:
        """From here on the thread runs."""
        self.k.spawn(self._nothing)
        self.k.cur = 0

    async def _nothing(self) -> None:
        """The thread's own function, which is never called."""

    def now(self, operation: Coroutine[Any, Any, T]) -> T:
        """The result of an operation."""
        try:
            operation.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        raise InternalError("a lone thread would have to wait")

    def close(self) -> None:
        """The thread will not run any more."""
        self.k.threads[0].coro.close()
