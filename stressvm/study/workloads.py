"""Workloads: who asks for addresses, when, how many, for how long. Declared as values, written out as plans.

    Open(Poisson(250 * MICROSECOND), sizes=Mix({1: 3, 4: 1}), holds=Exponential(2 * MILLISECOND), requests=400)
    Closed(clients=64, sizes=1, holds=Exponential(MILLISECOND), think=Exponential(3 * MILLISECOND), rounds=20)

A workload's `plan(seed)` says everything beforehand: a tuple of clients, each of which is going to be one kernel thread
that begins at a tick and makes one request after the other. So the same seed gives the same arrivals whatever the policy,
lock or machine, and two policies are compared request by request. What depends on how the machine goes on (a closed
client's next request comes when the last was given back) is said as a pause, not as a tick.

Your own workload is a class with that one method; `Together` puts several on one map. Times are ticks of virtual time, of
which a machine has 1,000,000,000 in a second unless it says otherwise; sizes are pages.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from stressvm.kernel.errors import UsageError
from stressvm.study.draws import Exponential, Fixed, Quantity, quantity, stream

if TYPE_CHECKING:
    from random import Random

#: Ticks of a machine whose tick is a nanosecond.
MICROSECOND: Final = 1_000
MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000


class Mode(enum.Enum):
    """What a request does where there is no room.

    WAIT: sleep until there is (WAITVA, kmap_alloc_wait). CANFAIL: fail, but wait for the lock. NOWAIT: fail, and do not
    even wait for the lock (an interrupt handler, NOWAIT with TRYLOCK).
    """

    WAIT = "wait"
    CANFAIL = "canfail"
    NOWAIT = "nowait"


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a client: a pause before it, pages asked for, ticks for which they are kept, and its mode.

    Of the time for which they are kept it needs a CPU for `work` ticks, which may take longer if it has to wait for one;
    the pages are kept for `hold` more.
    """

    pause: int
    pages: int
    hold: int
    mode: Mode = Mode.WAIT
    work: int = 0


@dataclass(frozen=True, slots=True)
class Client:
    """What one kernel thread does: begins at a tick, makes its requests in order. `interrupt`: it may never sleep.

    `priority` is the thread's: larger is more urgent. What an interrupt handler was given is given back by another thread.
    """

    name: str
    begin: int
    requests: tuple[Request, ...]
    priority: int = 0
    interrupt: bool = False


class Workload(Protocol):
    """Says who asks for what. A user's own class has this one method."""

    def plan(self, seed: int, /) -> tuple[Client, ...]:
        """The clients of the replication with that seed; drawn from `stream(seed, purpose)` alone."""


# -------------------------------------------------------------------- arrivals


class Arrivals(Protocol):
    """Says when requests arrive that nobody waits for. A user's own class has this one method."""

    def times(self, rng: Random, count: int, /) -> list[int]:
        """The ticks of the first `count` arrivals, ascending."""


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals, `mean` ticks apart on average.

    The sum of the distances is rounded, not each of them, so the rate is exact for distances of a tick, too.
    """

    mean: float

    def times(self, rng: Random, count: int, /) -> list[int]:
        """One random number an arrival."""
        fine = Exponential(self.mean * 1024)
        at = 0
        found: list[int] = []
        for _ in range(count):
            at += fine.draw(rng)
            found.append(at >> 10)
        return found


@dataclass(frozen=True, slots=True)
class Bursts:
    """Bursts that arrive as Poisson arrivals do, `mean` ticks apart; each of `size` requests, `within` ticks apart."""

    mean: float
    size: int | Quantity = 8
    within: int | Quantity = 0

    def times(self, rng: Random, count: int, /) -> list[int]:
        """A burst that is under way when the next begins goes on beside it."""
        size, within = quantity(self.size), quantity(self.within)
        fine = Exponential(self.mean * 1024)
        begin = 0
        found: list[int] = []
        while len(found) < count:
            begin += fine.draw(rng)
            at = begin >> 10
            for _ in range(max(1, size.draw(rng))):
                found.append(at)
                at += within.draw(rng)
        return sorted(found[:count])


@dataclass(frozen=True, slots=True)
class Every:
    """One arrival each `ticks`, each late by `jitter`."""

    ticks: int
    jitter: int | Quantity = 0

    def times(self, rng: Random, count: int, /) -> list[int]:
        """Late arrivals may overtake each other."""
        jitter = quantity(self.jitter)
        return sorted(i * self.ticks + jitter.draw(rng) for i in range(count))


@dataclass(frozen=True, slots=True)
class AtOnce:
    """All at tick `at`, spread over `spread` ticks."""

    at: int = 0
    spread: int = 0

    def times(self, rng: Random, count: int, /) -> list[int]:
        """One random number an arrival, if they are spread."""
        if not self.spread:
            return [self.at] * count
        return sorted(self.at + int(rng.random() * self.spread) for _ in range(count))


# -------------------------------------------------------------------- workloads


@dataclass(frozen=True, slots=True)
class Open:
    """Requests that arrive whatever happens to those before: each is a thread of its own.

    Args:
        arrivals: when.
        sizes: pages.
        holds: ticks for which the pages are kept.
        work: ticks for which a CPU is used meanwhile, beside `holds`.
        requests: how many arrive in all.
        mode: what they do where there is no room.
        name: the threads' names begin with it; two workloads on one map need two.
        interrupt: they come from an interrupt handler, and may not sleep: needs Mode.NOWAIT.
    """

    arrivals: Arrivals
    sizes: int | Quantity = 1
    holds: int | Quantity = 0
    requests: int = 1000
    work: int | Quantity = 0
    mode: Mode = Mode.WAIT
    name: str = "open"
    interrupt: bool = False
    priority: int = 0

    def __post_init__(self) -> None:
        _positive("Open", requests=self.requests)
        if self.interrupt and self.mode is not Mode.NOWAIT:
            raise UsageError(
                f"Open(interrupt=True, mode={self.mode}): an interrupt handler may not sleep; use Mode.NOWAIT"
            )

    def plan(self, seed: int, /) -> tuple[Client, ...]:
        """One client for each arrival."""
        times = self.arrivals.times(stream(seed, f"{self.name}/arrivals"), self.requests)
        requests = _Requests(seed, self.name, self.sizes, self.holds, self.work, 0, self.mode)
        return tuple(
            Client(f"{self.name}{i}", at, (requests.next(),), self.priority, self.interrupt)
            for i, at in enumerate(times)
        )


@dataclass(frozen=True, slots=True)
class Closed:
    """So many clients, each of which asks, keeps, gives back, thinks, and asks again.

    Args:
        clients: how many.
        sizes: pages of a request.
        holds: ticks for which they are kept.
        work: ticks for which a CPU is used meanwhile, beside `holds`.
        think: ticks between a request's end and the next request; the first one comes after a pause as well.
        rounds: requests of each client.
        mode, name, priority: as for `Open`.
    """

    clients: int
    sizes: int | Quantity = 1
    holds: int | Quantity = 0
    think: int | Quantity = 0
    rounds: int = 20
    work: int | Quantity = 0
    mode: Mode = Mode.WAIT
    name: str = "client"
    priority: int = 0

    def __post_init__(self) -> None:
        _positive("Closed", clients=self.clients, rounds=self.rounds)

    def plan(self, seed: int, /) -> tuple[Client, ...]:
        """Each client has streams of its own: another number of clients leaves the first ones as they are."""
        clients = []
        for i in range(self.clients):
            name = f"{self.name}{i}"
            requests = _Requests(seed, name, self.sizes, self.holds, self.work, self.think, self.mode)
            clients.append(Client(name, 0, tuple(requests.next() for _ in range(self.rounds)), self.priority))
        return tuple(clients)


@dataclass(frozen=True, slots=True)
class ExecStorm:
    """Processes that call execve(2): each needs pages for its arguments, copies them in and out, and gives them back.

    A make -j, a shell script or a boot: `waves` of `processes` each, a wave every `between` ticks, each wave spread over
    `spread` ticks. By default an execve takes 64 pages (a range of ARG_MAX, 256 KiB, as NetBSD's exec does, whatever the
    arguments are), copies for some 40 microseconds, and waits for the disk for some 300 with the range in its hands.
    """

    processes: int = 64
    waves: int = 4
    between: int = 20 * MILLISECOND
    spread: int = 500 * MICROSECOND
    pages: int | Quantity = 64
    copying: int | Quantity = field(default_factory=lambda: Exponential(40 * MICROSECOND))
    reading: int | Quantity = field(default_factory=lambda: Exponential(300 * MICROSECOND))
    name: str = "exec"

    def __post_init__(self) -> None:
        _positive("ExecStorm", processes=self.processes, waves=self.waves)

    def plan(self, seed: int, /) -> tuple[Client, ...]:
        """One client for each process; an execve is one request."""
        clients: list[Client] = []
        for wave in range(self.waves):
            arrivals = AtOnce(wave * self.between, self.spread)
            name = f"{self.name}{wave}."
            clients.extend(Open(arrivals, self.pages, self.reading, self.processes, self.copying, name=name).plan(seed))
        return tuple(clients)


@dataclass(frozen=True, slots=True)
class ForkStorm:
    """One process forks, its children fork, and so on for `generations`: each child needs kernel addresses and lives on.

    A child takes `pages` (a kernel stack and a user area), some ticks after its parent did, keeps them for its life and
    gives them back. Of `fanout` children each, the last generation is fanout ** generations wide.
    """

    fanout: int = 2
    generations: int = 6
    pages: int | Quantity = 4
    delay: int | Quantity = field(default_factory=lambda: Exponential(200 * MICROSECOND))
    life: int | Quantity = field(default_factory=lambda: Exponential(4 * MILLISECOND))
    name: str = "fork"

    def __post_init__(self) -> None:
        _positive("ForkStorm", fanout=self.fanout, generations=self.generations)
        if self.fanout**self.generations > 100_000:
            raise UsageError(f"ForkStorm: {self.fanout} ** {self.generations} children are too many; 100,000 at most")

    def plan(self, seed: int, /) -> tuple[Client, ...]:
        """One client for each child; when it begins depends on its ancestors' delays, not on how they were served."""
        requests = _Requests(seed, self.name, self.pages, self.life, 0, 0, Mode.WAIT)
        delay, delays = quantity(self.delay), stream(seed, f"{self.name}/delays")
        clients: list[Client] = []
        parents = [0]
        for _ in range(self.generations):
            children = []
            for begin in parents:
                at = begin
                for _ in range(self.fanout):
                    at += delay.draw(delays)
                    children.append(at)
                    clients.append(Client(f"{self.name}{len(clients)}", at, (requests.next(),)))
            parents = children
        return tuple(clients)


def interrupts(
    mean: float, requests: int, *, pages: int | Quantity = 1, holds: int | Quantity = 0, name: str = "intr"
) -> Open:
    """Callers at interrupt time, `mean` ticks apart on average: they may not sleep, and fail where there is no room."""
    return Open(Poisson(mean), pages, holds, requests, mode=Mode.NOWAIT, name=name, interrupt=True)


@dataclass(frozen=True, slots=True)
class Together:
    """Several workloads on one map. Give them names of their own: threads and random streams are named by them."""

    parts: tuple[Workload, ...]

    def plan(self, seed: int, /) -> tuple[Client, ...]:
        """The clients of all, in order of the parts."""
        clients = tuple(client for part in self.parts for client in part.plan(seed))
        seen: set[str] = set()
        for client in clients:
            if client.name in seen:
                raise UsageError(
                    f"Together: two clients are called {client.name}; give the workloads names of their own"
                )
            seen.add(client.name)
        return clients


# -------------------------------------------------------------------- for both


class _Requests:
    """Draws one request after the other, each of its quantities from a stream of its own."""

    def __init__(
        self,
        seed: int,
        name: str,
        pages: int | Quantity,
        hold: int | Quantity,
        work: int | Quantity,
        pause: int | Quantity,
        mode: Mode,
    ) -> None:
        self.mode = mode
        self.drawn = [
            (quantity(value), stream(seed, f"{name}/{purpose}"))
            for value, purpose in ((pause, "pauses"), (pages, "sizes"), (hold, "holds"), (work, "work"))
        ]

    def next(self) -> Request:
        """The next one; a size of 0 counts as 1."""
        pause, pages, hold, work = (what.draw(rng) for what, rng in self.drawn)
        return Request(pause, max(1, pages), hold, self.mode, work)


def _positive(what: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{what}({name}={value}): at least 1")


__all__ = [
    "MICROSECOND",
    "MILLISECOND",
    "SECOND",
    "Arrivals",
    "AtOnce",
    "Bursts",
    "Client",
    "Closed",
    "Every",
    "ExecStorm",
    "Exponential",
    "Fixed",
    "ForkStorm",
    "Mode",
    "Open",
    "Poisson",
    "Quantity",
    "Request",
    "Together",
    "Workload",
    "interrupts",
]
