"""The simulated machine: CPUs, costs, a run queue and virtual time, below kernel threads that know nothing of it.

    machine = Machine(ncpu=4, costs=TYPICAL, queue="fifo", quantum=10_000_000)
    run = simulate(build, machine=machine, until=2_000_000_000, subscriber=Measures(), seed=1)

`build(k)` makes the world and spawns its threads, as a scenario does; `k` is a `MachineKernel` (see machine_kernel.py),
a `Kernel` with a few more calls:

    k.now                        virtual time, in ticks; k.hz of them are a second
    k.spawn(fn, *args, interrupt=True)   an interrupt handler: preempts any other thread; may not sleep
    k.device(fn, *args, name=)   a thread that needs no CPU: an arrival process, a disk; what it does takes no time, but delays
    await compute(k, ticks)      use a CPU for that long (and be preempted like any other)
    await k.delay(ticks)         be off the CPU for that long
    k.stream(name)               a random.Random for one purpose, from the seed and the name alone
    k.shut()                     end the simulation at this step

Thread numbers are used again when threads have ended, so that an open workload may spawn one thread for each customer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stressvm.explore.running import run_trio
from stressvm.kernel.errors import StressvmError, UsageError
from stressvm.kernel.stepped import stepped
from stressvm.study.costs import FREE, Costs
from stressvm.study.grants import ADAPTIVE, BARGING, LockGrant
from stressvm.study.machine_kernel import Draws, MachineKernel, where
from stressvm.study.runq import QUEUES
from stressvm.study.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.kernel.op import Event


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine; what it is made of, and how it shares out CPUs and locks.

    Attributes:
        ncpu: CPUs, at least 1.
        costs: what things take, in ticks.
        hz: ticks in a second: what the kernel's own one-second waits are made of.
        queue: the run queue: "fifo", or "priority" (larger is more urgent, first come first served among equals).
        preemptive: with "priority", a thread that becomes runnable takes the CPU of a less urgent one.
        quantum: ticks that a thread may run while others wait for a CPU; 0 for no limit.
        grant: who gets a lock that is free (see grants.py).
        spin: for how many ticks a thread spins for a lock before it sleeps: 0 for not at all, ADAPTIVE (-1) for as long as
            the holder is on a CPU. Spin mutexes are always spun for.
        limit: events after which a simulation is given up as endless; 0 for no limit.
    """

    ncpu: int = 1
    costs: Costs = FREE
    hz: int = 1_000_000_000
    queue: str = "fifo"
    preemptive: bool = False
    quantum: int = 0
    grant: LockGrant = BARGING
    spin: int = 0
    limit: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for a machine that cannot be."""
        for name, least in (("ncpu", 1), ("hz", 1), ("quantum", 0), ("spin", ADAPTIVE), ("limit", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"Machine({name}={value!r}): a whole number, {least} or more")
        if self.queue not in QUEUES:
            raise UsageError(f"Machine(queue={self.queue!r}): one of {', '.join(sorted(QUEUES))}")


@dataclass(frozen=True, slots=True)
class CpuUse:
    """What one CPU did with its time, in ticks: ran threads (switches and all), spun for locks, went from thread to thread.

    `switching` is a part of `running`; the rest of the time it was idle.
    """

    running: int
    spinning: int
    switching: int
    switches: int


@dataclass(frozen=True, slots=True)
class ThreadUse:
    """What one thread number had of CPUs, in ticks: over all threads that had the number."""

    name: str
    running: int
    spinning: int


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation.

    Attributes:
        now: when it ended, in ticks.
        ended: "until" (its time was over), "shut", "done" (all threads but daemons have ended), "stuck" (nobody can
            ever go on) or "limit".
        events: visible operations done.
        cpus: what each CPU did.
        threads: what each thread had.
        switches: of all CPUs.
        preemptions: of those, how many took the CPU from a thread that could have gone on.
        stuck: the names of the threads that had not ended, by number.
        value: what `build` returned.
        trace: the events, with `trace=True`; else empty.
        ticks: when each happened.
    """

    now: int
    ended: str
    events: int
    cpus: tuple[CpuUse, ...]
    threads: tuple[ThreadUse, ...]
    switches: int
    preemptions: int
    stuck: tuple[str, ...]
    value: Any = None
    trace: tuple[Event, ...] = field(default=(), repr=False)
    ticks: tuple[int, ...] = field(default=(), repr=False)

    @property
    def spinning(self) -> int:
        """Ticks that all CPUs together spun."""
        return sum(cpu.spinning for cpu in self.cpus)

    @property
    def running(self) -> int:
        """Ticks that all CPUs together ran threads."""
        return sum(cpu.running for cpu in self.cpus)


async def compute(k: Any, ticks: int) -> None:
    """Use the CPU for that many ticks. Sleeps: no; it may be preempted.

    On a kernel without CPUs, where the same threads may run to be looked at, it is a `yield_`.
    """
    if isinstance(k, MachineKernel):
        await k.compute(ticks)
    else:
        await k.yield_()


def simulate(
    build: Callable[[MachineKernel], Any],
    *,
    machine: Machine,
    until: int,
    subscriber: Subscriber | None = None,
    seed: int | str = 0,
    trace: bool = False,
) -> Run:
    """Run a world on a machine.

    Args:
        build: makes the world and spawns at least one thread.
        machine: what it runs on.
        until: ticks after which it ends, whatever is under way.
        subscriber: hears what happens (see subscriber.py).
        seed: of all random streams and data choices; the same seed, the same run.
        trace: keep all events; else only their number.

    Raises:
        UsageError: a thread, a policy or the builder raised, or broke a rule of the kernel's; says which and where.
    """
    return run_trio(lambda: _simulate(build, machine, until, subscriber, seed, trace))


async def _simulate(
    build: Callable[[MachineKernel], Any],
    machine: Machine,
    until: int,
    subscriber: Subscriber | None,
    seed: int | str,
    trace: bool,  # noqa: FBT001 - as `simulate` has it
) -> Run:
    if until < 0:
        raise UsageError(f"simulate(until={until}): ticks count up from 0")
    k = MachineKernel(machine, until, subscriber or Subscriber(), seed, keep=trace)
    async with stepped(k) as driver:
        k.reset(Draws(seed))
        try:
            value = build(k)
            k.start()
        except StressvmError:
            raise
        except Exception as exc:
            raise UsageError(f"building the world raised {type(exc).__name__}: {exc}{where(exc)}") from exc
        await driver.run()
        try:
            if k.fatal is not None:
                raise k.fatal
            if k.trouble is not None:
                raise _fault(k)
            return _run_of(k, value)
        finally:
            driver.unwind()


def _fault(k: MachineKernel) -> UsageError:
    """What went wrong in a thread, as an error of its author's."""
    trouble = k.trouble
    assert trouble is not None
    th = k.threads[trouble.thread] if trouble.thread >= 0 else None
    place = where(th.error) if th is not None and th.error is not None else ""
    name = f"thread {th.name}: " if th is not None else ""
    return UsageError(f"{name}{trouble.kind}: {trouble.text}{place}, at tick {k.clock}")


def _run_of(k: MachineKernel, value: Any) -> Run:
    stream = k.stream_
    return Run(
        now=k.clock,
        ended=k.ended,
        events=stream.events,
        cpus=tuple(CpuUse(cpu.running, cpu.spinning, cpu.switching, cpu.switches) for cpu in k.cpus),
        threads=tuple(ThreadUse(p.th.name, p.running, p.spinning) for p in k.procs),
        switches=sum(cpu.switches for cpu in k.cpus),
        preemptions=k.preemptions,
        stuck=tuple(th.name for th in k.threads if not th.done),
        value=value,
        trace=tuple(iter(stream)),
        ticks=tuple(stream.ticks),
    )
