"""The simulated machine is right where queueing theory is exact; the customers are kernel threads on its CPUs.

The settings, seeds and lengths of runs were laid down before the first run, and are not to be tuned to pass.
"""

# ruff: noqa: ARG002 - subscribers hear more than they use

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stressvm import CondVar, Mutex
from stressvm.study.costs import FREE
from stressvm.study.grants import GRANTS
from stressvm.study.machine import Machine, compute, simulate
from stressvm.study.subscriber import Subscriber

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from stressvm.kernel.op import ObjectId, Op
    from stressvm.study.machine_kernel import MachineKernel

#: Ticks of a mean service: large, so that whole ticks are fine enough.
SERVICE = 10_000
REPLICATIONS = 8
#: Student's t, two-sided 95 %, for 7 degrees of freedom.
T = 2.365


def exponential(rng: random.Random) -> float:
    return -math.log(1 - rng.random())


def deterministic(rng: random.Random) -> float:
    rng.random()
    return 1.0


def hyperexponential(rng: random.Random) -> float:
    """Two exponentials with balanced means; the squared coefficient of variation is 4."""
    p = (1 + math.sqrt(3 / 5)) / 2
    first = rng.random() < p
    return exponential(rng) / (2 * p if first else 2 * (1 - p))


#: Service, and its squared coefficient of variation.
SERVICES: dict[str, tuple[Callable[[random.Random], float], float]] = {
    "M": (exponential, 1.0),
    "D": (deterministic, 0.0),
    "H": (hyperexponential, 4.0),
}


@dataclass(frozen=True)
class Setting:
    """A queue: its service, servers, load; customers before measuring, and measured. Servers are CPUs, or one mutex."""

    service: str
    servers: int
    load: float
    warm: int = 500
    measured: int = 2500
    mutex: bool = False

    def mean_wait(self) -> float:
        """Exact, in ticks: Erlang C, or Pollaczek and Khinchine."""
        c, rho = self.servers, self.load
        if c == 1:
            return rho * SERVICE * (1 + SERVICES[self.service][1]) / (2 * (1 - rho))
        offered = c * rho
        last = offered**c / math.factorial(c) / (1 - rho)
        waiting = last / (sum(offered**n / math.factorial(n) for n in range(c)) + last)
        return waiting * SERVICE / (c * (1 - rho))

    def mean_length(self) -> float:
        """Of those that wait."""
        return self.mean_wait() * self.servers * self.load / SERVICE


SETTINGS = [
    *(Setting("M", 1, load) for load in (0.3, 0.5, 0.7, 0.8)),
    Setting("M", 1, 0.9, 2000, 4000),
    Setting("M", 1, 0.95, 5000, 5000),
    *(Setting("M", 2, load) for load in (0.5, 0.8)),
    Setting("M", 2, 0.9, 2000, 4000),
    *(Setting("M", 4, load) for load in (0.7, 0.85)),
    Setting("M", 8, 0.8),
    *(Setting("D", 1, load) for load in (0.5, 0.7)),
    Setting("D", 1, 0.9, 2000, 4000),
    *(Setting("H", 1, load) for load in (0.3, 0.5)),
    *(Setting("H", 1, load, 2000, 5000) for load in (0.7, 0.8)),
    Setting("M", 1, 0.8, mutex=True),
]


class Line(Subscriber):
    """Who waits, for how long, and how many they are on average while they are counted."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.came: dict[int, tuple[int, int]] = {}
        self.waits: list[int] = []
        self.count = 0
        self.area = 0
        self.last = self.first = self.until = 0
        self.blocked: set[int] = set()

    def _integrate(self, now: int) -> None:
        if self.setting.warm < self.count <= self.setting.warm + self.setting.measured:
            self.area += len(self.came) * (now - self.last)
        self.last = now

    def on_spawn(self, now: int, t: int, name: str) -> None:
        if name == "source":
            return
        self._integrate(now)
        self.count += 1
        if self.count == self.setting.warm + 1:
            self.first = now
        if self.count == self.setting.warm + self.setting.measured + 1:
            self.until = now
        self.came[t] = now, self.count

    def served(self, now: int, t: int) -> None:
        self._integrate(now)
        came, number = self.came.pop(t)
        if self.setting.warm < number <= self.setting.warm + self.setting.measured:
            self.waits.append(now - came)

    def on_run(self, now: int, t: int, cpu: int, *, switched: bool) -> None:
        if not self.setting.mutex:
            self.served(now, t)

    def on_step(self, now: int, t: int, op: Op, arg: object) -> None:
        if self.setting.mutex and op.kind == "lock":
            self.served(now, t)


def replication(setting: Setting, seed: str) -> tuple[float, float]:
    """Mean wait and mean number waiting of one run."""
    draw, _ = SERVICES[setting.service]
    between = SERVICE / (setting.load * setting.servers)

    def build(k: MachineKernel) -> None:
        arrivals, services = k.stream("arrivals"), k.stream("services")
        server = Mutex(k, "server")

        async def customer(ticks: int) -> None:
            if not setting.mutex:
                await compute(k, ticks)
                return
            await server.lock()
            await k.delay(ticks)
            await server.unlock()

        async def source() -> None:
            for _ in range(setting.warm + setting.measured + 1):
                await k.delay(round(between * exponential(arrivals)))
                k.spawn(customer, round(SERVICE * draw(services)))

        k.device(source, name="source")

    line = Line(setting)
    machine = Machine(ncpu=16 if setting.mutex else setting.servers, costs=FREE, grant=GRANTS["fifo"])
    run = simulate(build, machine=machine, until=1 << 60, subscriber=line, seed=seed)
    assert run.ended == "done"
    assert len(line.waits) == setting.measured
    return sum(line.waits) / len(line.waits), line.area / (line.until - line.first)


def within(samples: list[float], exact: float) -> bool:
    mean = sum(samples) / len(samples)
    variance = sum((one - mean) ** 2 for one in samples) / (len(samples) - 1)
    return abs(mean - exact) <= T * math.sqrt(variance / len(samples))


def test_means_of_twenty_queues_are_within_their_intervals() -> None:
    assert len(SETTINGS) == 20
    missed = []
    for setting in SETTINGS:
        runs = [replication(setting, f"theory/{setting}/{r}") for r in range(REPLICATIONS)]
        waits, lengths = [wait for wait, _ in runs], [length for _, length in runs]
        if not (within(waits, setting.mean_wait()) and within(lengths, setting.mean_length())):
            missed.append((setting, waits, setting.mean_wait(), lengths, setting.mean_length()))
    assert len(missed) <= 2, missed


class Wakeups(Subscriber):
    """Of those who sleep on a queue: how many were woken, and how many of them slept again before they had it."""

    def __init__(self) -> None:
        self.woken: set[int] = set()
        self.wakeups = self.wasted = 0

    def on_wake(self, now: int, t: int, by: int) -> None:
        if by >= 0:
            self.woken.add(t)
            self.wakeups += 1

    def on_block(self, now: int, t: int, obj: ObjectId, how: str) -> None:
        if how == "sleep" and t in self.woken:
            self.woken.discard(t)
            self.wasted += 1


def test_all_woken_for_one_unit_are_all_but_one_woken_for_nothing() -> None:
    for waiters in (2, 5, 40):

        def build(k: MachineKernel, waiters: int = waiters) -> list[str]:
            lock, there = Mutex(k, "lock"), CondVar(k, "there")
            units: list[int] = []
            got: list[str] = []

            async def wants(name: str) -> None:
                await lock.lock()
                while not units:
                    await there.wait(lock)
                got.append(f"{name}{units.pop()}")
                await lock.unlock()

            async def gives() -> None:
                await k.delay(1000)
                await lock.lock()
                units.append(1)
                await there.broadcast()
                await lock.unlock()

            for number in range(waiters):
                k.spawn(wants, f"t{number}/")
            k.spawn(gives)
            return got

        heard = Wakeups()
        # As many CPUs as threads: nobody who is woken waits for anything but the lock.
        machine = Machine(ncpu=waiters + 1, spin=1 << 40)
        run = simulate(build, machine=machine, until=10_000, subscriber=heard)
        assert (run.ended, len(run.value), len(run.stuck)) == ("stuck", 1, waiters - 1)
        assert (heard.wakeups, heard.wasted) == (waiters, waiters - 1)


class Overtakes(Subscriber):
    """How often one that queued for the lock saw another, who had queued later or not at all, get it first."""

    def __init__(self) -> None:
        self.queue: list[int] = []
        self.count = self.locks = self.blocks = 0

    def on_block(self, now: int, t: int, obj: ObjectId, how: str) -> None:
        if how == "lock":
            self.blocks += 1
            self.queue.append(t)

    def on_step(self, now: int, t: int, op: Op, arg: object) -> None:
        if op.kind != "lock":
            return
        self.locks += 1
        self.count += self.queue.index(t) if t in self.queue else len(self.queue)
        if t in self.queue:
            self.queue.remove(t)


def overtakes(grant: str) -> int:
    """Under load, on CPUs with a quantum."""

    def build(k: MachineKernel) -> None:
        lock = Mutex(k, "lock")
        rng = k.stream("arrivals")

        async def thread() -> None:
            for _ in range(30):
                await compute(k, rng.getrandbits(9))
                await lock.lock()
                await compute(k, rng.getrandbits(7))
                await lock.unlock()

        for _ in range(12):
            k.spawn(thread)

    heard = Overtakes()
    machine = Machine(ncpu=4, quantum=400, grant=GRANTS[grant])
    run = simulate(build, machine=machine, until=1 << 40, subscriber=heard, seed=3)
    assert (run.ended, heard.locks) == ("done", 360)
    assert heard.blocks > 50
    return heard.count


def test_nobody_is_overtaken_under_fifo_hand_off_and_some_are_where_barging_is_allowed() -> None:
    assert overtakes("fifo") == 0
    assert overtakes("barging") > 0
