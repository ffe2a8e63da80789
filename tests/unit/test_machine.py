"""The simulated machine: time, charges, preemption, lock grants, wait points, and what it says of mistakes."""

# ruff: noqa: ARG002 - subscribers hear more than they use

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import CondVar, Mutex, SpinMutex, UsageError
from stressvm.study.costs import FREE, TYPICAL, Costs
from stressvm.study.grants import ADAPTIVE, GRANTS
from stressvm.study.machine import Machine, Run, compute, simulate
from stressvm.study.policies import WAKE_POLICIES, Backoff, WakeAll, WakeFirst
from stressvm.study.subscriber import Subscriber
from stressvm.study.wait_maps import waiting
from stressvm.vm import freebsd, netbsd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stressvm.study.machine_kernel import MachineKernel
    from stressvm.study.policies import Space, Waiter, WaiterView

FOREVER = 1 << 60


def test_operations_and_switches_take_what_the_table_says() -> None:
    def build(k: MachineKernel) -> Mutex:
        m = Mutex(k, "m")

        async def thread() -> None:
            await m.lock()
            await compute(k, 1000)
            await m.unlock()

        k.spawn(thread)
        return m

    costs = Costs(operation={"lock": 7, "unlock": 5}, switch=100)
    run = simulate(build, machine=Machine(costs=costs), until=FOREVER)
    assert (run.now, run.ended, run.events) == (1112, "done", 3)
    assert run.running == run.threads[0].running == 1112
    assert run.cpus[0].switching == 100


def test_spinning_is_charged_to_the_cpu_and_sleeping_is_not() -> None:
    def build(k: MachineKernel, kind: type[Mutex] = Mutex) -> None:
        m = kind(k, "m")

        async def thread() -> None:
            await m.lock()
            await compute(k, 1000)
            await m.unlock()

        k.spawn(thread)
        k.spawn(thread)

    def spun(kind: type[Mutex], spin: int) -> tuple[int, int, int]:
        run = simulate(lambda k: build(k, kind), machine=Machine(ncpu=2, spin=spin), until=FOREVER)
        return run.spinning, run.running, run.now

    assert spun(Mutex, 0) == (0, 2000, 2000)
    assert spun(Mutex, 300) == (300, 2000, 2000)
    assert spun(Mutex, ADAPTIVE) == (1000, 2000, 2000)
    assert spun(SpinMutex, 0) == (1000, 2000, 2000)


def test_an_adaptive_waiter_sleeps_when_the_holder_has_left_its_cpu() -> None:
    def build(k: MachineKernel) -> None:
        m = Mutex(k, "m")

        async def holder() -> None:
            await m.lock()
            await k.delay(50_000)
            await m.unlock()

        async def waiter() -> None:
            await compute(k, 10)
            await m.lock()
            await m.unlock()

        k.spawn(holder)
        k.spawn(waiter)

    run = simulate(build, machine=Machine(ncpu=2, spin=ADAPTIVE), until=FOREVER)
    assert (run.spinning, run.now) == (0, 50_000)


def test_a_quantum_shares_a_cpu_and_an_interrupt_takes_it() -> None:
    ends: dict[str, int] = {}

    def build(k: MachineKernel) -> None:
        async def thread(name: str, ticks: int) -> None:
            await compute(k, ticks)
            ends[name] = k.now

        async def source() -> None:
            await k.delay(250)
            k.spawn(thread, "interrupt", 30, interrupt=True)

        k.spawn(thread, "long", 1000)
        k.spawn(thread, "short", 150)
        k.device(source)

    run = simulate(build, machine=Machine(quantum=100), until=FOREVER)
    # long 0-100, short 100-200, long 200-250, interrupt, long to the end of what it needs in turns with short.
    assert ends["interrupt"] == 280
    assert ends["short"] < ends["long"] == 1180 == run.now
    assert run.preemptions >= 3
    ends.clear()
    simulate(build, machine=Machine(), until=FOREVER)
    assert ends == {"interrupt": 280, "long": 1030, "short": 1180}


def test_priorities_preempt_if_the_machine_does() -> None:
    def order(*, preemptive: bool) -> list[str]:
        found: list[str] = []

        def build(k: MachineKernel) -> None:
            async def thread(name: str, ticks: int) -> None:
                await compute(k, ticks)
                found.append(name)

            async def source() -> None:
                await k.delay(10)
                k.spawn(thread, "urgent", 5, priority=9)

            k.spawn(thread, "first", 100, priority=1)
            k.spawn(thread, "second", 100, priority=2)
            k.device(source)

        simulate(build, machine=Machine(queue="priority", preemptive=preemptive), until=FOREVER)
        return found

    assert order(preemptive=False) == ["first", "urgent", "second"]
    assert order(preemptive=True)[0] == "urgent"


def test_timed_waits_and_delays_are_in_the_same_time() -> None:
    seen: list[tuple[str, int]] = []

    def build(k: MachineKernel) -> None:
        m, cv = Mutex(k, "m"), CondVar(k, "cv")

        async def sleeper() -> None:
            await m.lock()
            woken = await cv.timedwait(m, 500)
            seen.append((woken.name, k.now))
            await m.unlock()

        async def busy() -> None:
            await compute(k, 10_000)

        k.spawn(sleeper)
        k.spawn(busy)

    simulate(build, machine=Machine(ncpu=2), until=FOREVER)
    # Others can run all the time: that holds no timer back.
    assert seen == [("TIMEOUT", 500)]


def work(k: MachineKernel) -> list[int]:
    done: list[int] = []
    m = Mutex(k, "m")
    rng = k.stream("work")

    async def thread(number: int) -> None:
        for _ in range(5):
            await compute(k, rng.getrandbits(8))
            await m.lock()
            await k.delay(k.choose(100))
            done.append(number)
            await m.unlock()

    for number in range(6):
        k.spawn(thread, number)
    return done


@pytest.mark.parametrize("grant", sorted(GRANTS))
def test_the_same_seed_is_the_same_run_and_another_one_is_another(grant: str) -> None:
    def run(seed: int, *, trace: bool = True) -> Run:
        machine = Machine(ncpu=3, costs=TYPICAL, quantum=1000, spin=ADAPTIVE, grant=GRANTS[grant])
        return simulate(work, machine=machine, until=FOREVER, seed=seed, trace=trace)

    def plain(run: Run) -> list[tuple[int, str, Any]]:
        return [(t, op.kind, arg) for t, op, arg in run.trace]

    first, second, silent = run(1), run(1), run(1, trace=False)
    assert plain(first) == plain(second)
    assert first.ticks == second.ticks
    assert len(first.trace) == len(first.ticks) == first.events == silent.events
    assert (silent.now, silent.cpus, silent.trace) == (first.now, first.cpus, ())
    assert plain(run(2)) != plain(first)


def test_numbers_are_used_again_for_an_open_workload() -> None:
    def build(k: MachineKernel) -> None:
        async def customer() -> None:
            await compute(k, 10)

        async def source() -> None:
            for _ in range(200):
                await k.delay(20)
                k.spawn(customer)

        k.device(source)

    run = simulate(build, machine=Machine(), until=FOREVER)
    assert (len(run.threads), run.threads[1].running, run.ended) == (2, 2000, "done")


def test_readers_and_writers_are_granted_as_the_policy_says() -> None:
    def order(grant: str) -> str:
        found: list[str] = []

        def build(k: MachineKernel) -> None:
            kmap = netbsd.submap(k, pages=4)
            rw = kmap.lock

            async def writer(name: str, at: int) -> None:
                await k.delay(at)
                await rw.lock()
                found.append(name)
                await k.delay(100)
                await rw.unlock()

            async def reader(name: str, at: int) -> None:
                await k.delay(at)
                await rw.lock_read()
                found.append(name)
                await k.delay(100)
                await rw.unlock_read()

            for at, name in enumerate("WrwRv"):
                k.spawn(reader if name in "rR" else writer, name, at)

        simulate(build, machine=Machine(ncpu=8, grant=GRANTS[grant]), until=FOREVER)
        return "".join(found)

    assert order("fifo") == "WrwRv"
    assert order("writer-preference") == "WwvrR"
    assert order("reader-preference") == "WrRwv"


def on_netbsd(version: str, *, intrsafe: bool = False) -> Any:
    def build(k: MachineKernel, wake: Callable[[], Any]) -> Any:
        flags = netbsd.UVM_KMF_VAONLY
        cls = waiting(netbsd.VmMap, wake, proofs=True)
        kmap = netbsd.submap(k, pages=8, version=version, intrsafe=intrsafe, cls=cls)
        full = kmap.fill()

        async def take(pages: int) -> None:
            va = await netbsd.uvm_km_alloc(kmap, pages * netbsd.PAGE_SIZE, 0, flags | netbsd.UVM_KMF_WAITVA)
            await k.delay(1000)
            await netbsd.uvm_km_free(kmap, va, pages * netbsd.PAGE_SIZE, flags)

        async def give() -> None:
            await k.delay(100_000)
            for page in range(8):
                await netbsd.uvm_km_free(kmap, full + page * netbsd.PAGE_SIZE, netbsd.PAGE_SIZE, flags)

        for number in range(20):
            k.spawn(take, 1 + number % 3, priority=number % 2)
        k.spawn(give)
        return kmap

    return build


def on_freebsd(cls: type[Any]) -> Any:
    def build(k: MachineKernel, wake: Callable[[], Any]) -> Any:
        emap = freebsd.exec_map(k, pages=8, cls=waiting(cls, wake, recheck=1_000_000, proofs=True))
        full = emap.fill()

        async def take(pages: int) -> None:
            va = await freebsd.kmap_alloc_wait(emap, pages * freebsd.PAGE_SIZE)
            await k.delay(1000)
            await freebsd.kmap_free_wakeup(emap, va, pages * freebsd.PAGE_SIZE)

        async def give() -> None:
            await k.delay(100_000)
            for page in range(8):
                await freebsd.kmap_free_wakeup(emap, full + page * freebsd.PAGE_SIZE, freebsd.PAGE_SIZE)

        for number in range(20):
            k.spawn(take, 1 + number % 3, priority=number % 2)
        k.spawn(give)
        return emap

    return build


MAPS = {
    "netbsd-6": on_netbsd("6"),
    "netbsd-5.2-intrsafe": on_netbsd("5.2", intrsafe=True),
    "freebsd-13": on_freebsd(freebsd.VmMap13),
    "freebsd-2013": on_freebsd(freebsd.VmMap2013),
}


@pytest.mark.parametrize("world", sorted(MAPS))
@pytest.mark.parametrize("policy", sorted(WAKE_POLICIES))
def test_every_policy_serves_everybody_on_every_map(policy: str, world: str) -> None:
    build, wake = MAPS[world], WAKE_POLICIES[policy]
    run = simulate(lambda k: build(k, wake), machine=Machine(ncpu=4, costs=TYPICAL), until=60_000_000_000)
    point = run.value.point
    assert (run.ended, point.successes, point.waited) == ("done", 20, 20)
    assert not point.asking
    assert not point.reserved
    if wake().hands_over:
        assert (point.wakeups, point.wasted, point.timeouts) == (20, 0, 0)
    if policy == "all":
        assert point.wasted > 0


def test_a_policy_of_ones_own_is_given_to_the_same_place() -> None:
    asked: list[tuple[int, int]] = []

    class Largest:
        name = "largest"
        hands_over = True

        def chosen(self, waiters: WaiterView, space: Space, /) -> Iterable[Waiter]:
            asked.append((len(waiters), space.largest))
            fitting = [one for one in waiters if space.fits(one.size)]
            return [max(fitting, key=lambda one: one.size)] if fitting else []

    machine = Machine(ncpu=4, costs=TYPICAL)
    run = simulate(lambda k: MAPS["netbsd-6"](k, Largest), machine=machine, until=60_000_000_000)
    assert run.value.point.wasted == 0
    assert asked[0] == (20, netbsd.PAGE_SIZE)


def test_a_mistake_in_a_policy_or_a_thread_is_told_with_its_line() -> None:
    class Broken:
        name = "broken"
        hands_over = False

        def chosen(self, _waiters: WaiterView, _space: Space, /) -> Iterable[Waiter]:
            raise KeyError("what")

    class Deaf(Subscriber):
        def on_spawn(self, now: int, t: int, name: str) -> None:
            raise ValueError("ouch")

    def bad(k: MachineKernel) -> None:
        async def thread() -> None:
            await compute(k, 1)
            raise RuntimeError("mine")

        k.spawn(thread, name="worker")

    with pytest.raises(UsageError, match=r"KeyError.*test_machine.py:\d+.*chosen"):
        simulate(lambda k: MAPS["netbsd-6"](k, Broken), machine=Machine(), until=FOREVER)
    with pytest.raises(UsageError, match=r"ValueError.*test_machine.py"):
        simulate(bad, machine=Machine(), until=FOREVER, subscriber=Deaf())
    with pytest.raises(UsageError, match=r"worker.*RuntimeError: mine.*test_machine.py:\d+"):
        simulate(bad, machine=Machine(), until=FOREVER)


def test_what_cannot_be_is_refused() -> None:
    for wrong in ({"ncpu": 0}, {"queue": "lottery"}, {"quantum": -1}, {"spin": -2}):
        with pytest.raises(UsageError):
            Machine(**wrong)
    with pytest.raises(UsageError):
        Costs(switch=-1)
    with pytest.raises(UsageError):
        Backoff(first=10, most=1)
    with pytest.raises(UsageError):
        waiting(Mutex, WakeAll)
    with pytest.raises(UsageError):
        simulate(lambda _k: None, machine=Machine(), until=10)


def test_the_recheck_wakes_a_sleeper_by_itself() -> None:
    def timeouts(recheck: int) -> int:
        def build(k: MachineKernel) -> Any:
            kmap = netbsd.submap(k, pages=1, cls=waiting(netbsd.VmMap, WakeFirst, recheck=recheck))
            kmap.fill()
            flags = netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_WAITVA

            async def take() -> None:
                await netbsd.uvm_km_alloc(kmap, netbsd.PAGE_SIZE, 0, flags)

            k.spawn(take)
            return kmap

        return simulate(build, machine=Machine(hz=1000, costs=FREE), until=10_500).value.point.timeouts  # type: ignore[no-any-return]

    assert timeouts(0) == 0
    assert timeouts(-1) == 10
    assert timeouts(5000) == 2


def test_a_trylock_that_fails_backs_off() -> None:
    def run(backoff: Backoff | None) -> Run:
        def build(k: MachineKernel) -> None:
            kmap = netbsd.submap(k, pages=4, cls=waiting(netbsd.VmMap, backoff=backoff))

            async def holder() -> None:
                await kmap.lock.lock()
                await k.delay(1000)
                await kmap.lock.unlock()

            async def take() -> None:
                await k.delay(1)
                await netbsd.uvm_km_alloc(kmap, netbsd.PAGE_SIZE, 0, netbsd.UVM_KMF_VAONLY | netbsd.UVM_KMF_WAITVA)

            k.spawn(holder)
            k.spawn(take)

        return simulate(build, machine=Machine(ncpu=2), until=FOREVER, trace=True)

    def tries(run: Run) -> int:
        return sum(op.kind == "try-lock-failed" for _, op, _ in run.trace)

    assert tries(run(None)) == 1
    backed = run(Backoff(first=100, factor=2, most=10_000, tries=10))
    # It tries at 1, 101, 301, 701 and 1501.
    assert (tries(backed), backed.now) == (4, 1501)


def test_a_world_in_which_nothing_takes_time_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stressvm.study.stream.STILL_MAX", 1000)

    def build(k: MachineKernel) -> None:
        async def thread() -> None:
            while True:
                await k.yield_()

        k.spawn(thread)

    with pytest.raises(UsageError, match="nothing takes time"):
        simulate(build, machine=Machine(), until=FOREVER)
