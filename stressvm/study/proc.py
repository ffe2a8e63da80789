"""What the simulated machine knows of a thread, of a CPU, and of those who wait for a lock."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from stressvm.kernel.op import ALONE
from stressvm.study.grants import Request

if TYPE_CHECKING:
    from stressvm.kernel.op import Event, Op
    from stressvm.kernel.thread import Thread
    from stressvm.study.grants import LockGrant

#: A time that never comes.
NEVER: Final = 1 << 80


class State(enum.Enum):
    """Where a thread is: on a CPU, on one and spinning, waiting for one, or off them all."""

    RUNNING = 0
    SPINNING = 1
    READY = 2
    OFF = 3


# An enum is slow to ask for its members.
RUNNING, SPINNING, READY, OFF = State.RUNNING, State.SPINNING, State.READY, State.OFF


class Proc:
    """A thread on the machine.

    Attributes:
        t, th: its number and itself.
        bit: its bit in masks.
        state: see State.
        cpu: the CPU that it is on, or was on last; -1 for none.
        event: the number of the one event that is to come for it; 0 for none.
        need: ticks that its announced operation still needs of a CPU.
        owed: ticks to be added to the next operation: for threads that it has woken.
        began: since when it has been on its CPU without having been charged.
        slice_end: when its quantum is over.
        device: it needs no CPU.
        remote: it is being handed a lock, and is about to announce what it does next.
        pause: ticks of a delay that begins as soon as it has had a CPU; -1 for none.
        tried: it has been woken for a lock, the number of which this is, and has not tried yet; -1 for none.
        running, spinning: ticks charged.
    """

    __slots__ = (
        "began",
        "bit",
        "cpu",
        "device",
        "event",
        "need",
        "owed",
        "pause",
        "priority",
        "remote",
        "running",
        "slice_end",
        "spinning",
        "state",
        "t",
        "th",
        "tried",
    )

    def __init__(self, th: Thread) -> None:
        self.t = th.number
        self.bit = 1 << th.number
        self.running = 0
        self.spinning = 0
        self.serve(th)

    def serve(self, th: Thread) -> None:
        """For a new thread of the same number."""
        self.th = th
        self.priority = th.priority
        self.state = OFF
        self.cpu = -1
        self.event = 0
        self.need = 0
        self.owed = 0
        self.began = 0
        self.slice_end = NEVER
        self.device = False
        self.remote = False
        self.pause = -1
        self.tried = -1


class Cpu:
    """A CPU: who runs on it (None: it is idle), who ran last, and what it did with its time."""

    __slots__ = ("last", "proc", "running", "spinning", "switches", "switching")

    def __init__(self) -> None:
        self.proc: Proc | None = None
        self.last: Thread | None = None
        self.running = 0
        self.spinning = 0
        self.switching = 0
        self.switches = 0


class Waiting:
    """Those who wait for one lock, in order of arrival, and how many have been woken for it and have not tried yet."""

    __slots__ = ("mask", "pending", "requests", "spinners")

    def __init__(self) -> None:
        self.requests: dict[int, Request] = {}
        self.mask = 0
        self.pending = 0
        self.spinners = 0

    def add(self, p: Proc, op: Op, *, spins: bool) -> None:
        """A thread waits, as the last."""
        self.spinners += spins
        self.requests[p.t] = Request(p.t, op.needs == ALONE, p.priority, spins)
        self.mask |= p.bit

    def remove(self, p: Proc) -> None:
        """It waits no more."""
        self.spinners -= self.requests.pop(p.t).spins
        self.mask ^= p.bit

    def able(self, enabled: int, grant: LockGrant) -> list[Request]:
        """Those of them who could have the lock, in order of arrival; not those whom others, who cannot, are in the way of."""
        mask = self.mask & enabled
        if mask == self.mask:
            return list(self.requests.values())
        able: list[Request] = []
        before: list[Request] = []
        for t, one in self.requests.items():
            goes = mask >> t & 1 and not (before and grant.queues(one, before))
            (able if goes else before).append(one)
        return able


class Events(dict[int, "Event"]):
    """The events of an operation, made when asked for: thousands of threads, each with few of them."""

    __slots__ = ("op",)

    def __init__(self, op: Op) -> None:
        self.op = op

    def __missing__(self, t: int) -> Event:
        return (t, self.op, None)


class Plan:
    """What the machine knows of an operation: its cost, and what to look at when it has been done."""

    __slots__ = ("block", "cold", "cost", "lock", "numbers", "wakes")

    def __init__(self, op: Op, cost: int, *, cold: bool) -> None:
        self.cost = cost
        self.cold = cold
        #: It asks for a lock.
        self.lock = op.needs not in {0, 4}
        #: It has queued for one.
        self.block = op.kind in {"block", "block-read", "block-write"}
        #: Its argument says who is woken.
        self.wakes = op.kind in {"signal", "broadcast", "wakeup", "wakeup_one"}
        self.numbers = tuple(number for number, write in op.accesses if write)
