"""What the simulated machine tells whoever listens, as it happens: it keeps none of it.

All calls come in order of virtual time. `t` is the number of a thread; numbers are used again for later threads, between
`on_exit` and `on_spawn`. They must not await, nor change anything of the kernel's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stressvm.kernel.op import ObjectId, Op


class Subscriber:
    """Hears everything and does nothing with it: override what you need; what is not overridden costs nothing."""

    def on_spawn(self, now: int, t: int, name: str) -> None:
        """There is a new thread."""

    def on_exit(self, now: int, t: int) -> None:
        """A thread has ended."""

    def on_step(self, now: int, t: int, op: Op, arg: Any) -> None:
        """A visible operation has been done (kind `op.kind`, on `op.obj`): one event of the trace."""

    def on_block(self, now: int, t: int, obj: ObjectId, how: str) -> None:
        """A thread leaves its CPU.

        `how`: "sleep" (a wait queue), "lock" (one that is held), "delay", or "join".
        """

    def on_spin(self, now: int, t: int, obj: ObjectId) -> None:
        """A thread begins to spin for a lock that is held, on its CPU."""

    def on_wake(self, now: int, t: int, by: int) -> None:
        """A thread that had left its CPU is made runnable by thread `by`; -1: its time has come."""

    def on_run(self, now: int, t: int, cpu: int, *, switched: bool) -> None:
        """A CPU begins to run a thread; `switched`: it ran another one before."""

    def on_preempt(self, now: int, t: int, cpu: int) -> None:
        """A CPU leaves a thread that could go on: its quantum is over, or a more urgent one has come."""
