"""What operations cost on the simulated machine, in ticks of virtual time (a tick is a nanosecond by default)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Operations that write a word that other CPUs want as well: it has to come over if another one had it last.
COLD: Final = frozenset(
    {
        "lock",
        "trylock",
        "unlock",
        "read-lock",
        "write-lock",
        "try-read-lock",
        "try-write-lock",
        "try-upgrade",
        "downgrade",
        "sema_wait",
        "sema_trywait",
        "sema_post",
        "store",
        "cas",
        "fetchadd",
        "swap",
    }
)

#: What the operations of a plain kernel cost: some tens of nanoseconds each.
_TYPICAL: Final = {
    "lock": 20,
    "trylock": 20,
    "trylock-failed": 20,
    "unlock": 15,
    "read-lock": 25,
    "write-lock": 25,
    "try-read-lock": 25,
    "try-write-lock": 25,
    "unlock-read": 20,
    "sleep": 150,
    "timeout": 150,
    "signal": 40,
    "broadcast": 40,
    "wakeup": 40,
    "wakeup_one": 40,
    "load": 2,
    "store": 5,
    "cas": 20,
    "fetchadd": 20,
    "swap": 20,
    "spawn": 0,
    "start": 0,
    "delay": 100,
    "join": 50,
    "yield": 50,
    "record": 0,
}


@dataclass(frozen=True, slots=True)
class Costs:
    """Ticks that things take. All are integers, at least 0.

    Attributes:
        operation: by kind of operation, as traces name it ("lock", "broadcast").
        other: for a kind that is not in the table.
        switch: a CPU goes over to another thread than it ran last.
        wake: what the waker pays for each thread that it makes runnable.
        ipi: until another CPU, which is idle, has noticed that it has a thread to run.
        transfer: an operation on a lock or atomic word that another CPU had last.
        interrupt: entering an interrupt handler, in place of `switch`.
    """

    operation: Mapping[str, int] = field(default_factory=dict)
    other: int = 0
    switch: int = 0
    wake: int = 0
    ipi: int = 0
    transfer: int = 0
    interrupt: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for what is no whole number of ticks."""
        scalars = {name: getattr(self, name) for name in ("other", "switch", "wake", "ipi", "transfer", "interrupt")}
        for name, ticks in (*scalars.items(), *self.operation.items()):
            if not isinstance(ticks, int) or isinstance(ticks, bool) or ticks < 0:
                raise UsageError(f"Costs: {name}={ticks!r}: a cost is a whole number of ticks, 0 or more")

    def of(self, kind: str) -> int:
        """What an operation of that kind costs, in ticks, without what its circumstances add."""
        return self.operation.get(kind, self.other)


#: Nothing takes time but delays and `compute`: what queueing theory presumes.
FREE: Final = Costs()

#: A server of the 2010s, in nanoseconds: orders of magnitude, to be replaced by whoever has measured.
TYPICAL: Final = Costs(operation=_TYPICAL, other=20, switch=1_500, wake=300, ipi=1_000, transfer=60, interrupt=400)
