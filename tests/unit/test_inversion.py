"""Priority inversion: with and without propagation, and only where a scheduler by priority would have done the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Atomic, Kernel, Mutex, Rw, RwLock, Sx, bounds
from stressvm.check.bounds import TURNSTILES, Bounds
from stressvm.check.inversion import PriorityInversion
from tests.verdicts import looked, told

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 4


def _pathfinder(
    lock: str = "mutex", low: int = 0, middle: int = 1, high: int = 2, inner: str | None = None
) -> Callable[[Kernel], None]:
    """One of low priority holds what one of high priority wants, and one in between has work to do that needs neither."""

    def build(k: Kernel) -> None:
        bus = {"mutex": Mutex, "rwlock": RwLock, "sx": Sx}[lock](k, "bus")
        cell = Atomic(k, 0, "cell")

        async def take() -> None:
            if isinstance(bus, Mutex):
                await bus.lock()
            elif isinstance(bus, RwLock):
                await bus.enter(Rw.WRITER)
            else:
                await bus.xlock()

        async def give() -> None:
            await (bus.exit() if isinstance(bus, RwLock) else bus.unlock())

        async def weather() -> None:
            await take()
            k.spawn(manages, name="high", priority=high)
            await k.yield_()
            await cell.load()
            await give()

        async def manages() -> None:
            await take()
            await give()

        async def talks() -> None:
            for _ in range(STEPS):
                await cell.load()

        k.spawn(weather, name="low", priority=low)
        k.spawn(talks, name="middle", priority=middle)

    return build


WITHOUT = PriorityInversion(Bounds(inversion=STEPS - 1, lending=frozenset()))
WITH = PriorityInversion(Bounds(inversion=0, lending=TURNSTILES))


@pytest.mark.parametrize("lock", ["mutex", "rwlock", "sx"])
def test_without_propagation_the_middle_one_keeps_the_holder_from_running(lock: str) -> None:
    verdicts = looked(_pathfinder(lock), WITHOUT, seeds=200)
    assert verdicts
    for verdict in verdicts:
        assert "high (priority 2) waits for bus, and so for low (priority 0), which could go on" in verdict.text
        assert f"middle (priority 1) ran for {STEPS} steps" in verdict.text
    assert len({verdict.fingerprint for verdict in verdicts}) == 1


@pytest.mark.parametrize(("lock", "found"), [("mutex", False), ("rwlock", False), ("sx", True)])
def test_who_waits_in_a_turnstile_lends_its_priority(lock: str, found: bool) -> None:  # noqa: FBT001
    assert bool(looked(_pathfinder(lock), WITH, seeds=200)) is found


def test_up_to_the_bound_it_is_none() -> None:
    assert not looked(_pathfinder(), PriorityInversion(Bounds(inversion=STEPS, lending=frozenset())), seeds=200)
    assert not looked(_pathfinder(), PriorityInversion(), seeds=20)


@pytest.mark.parametrize("priorities", [(1, 1, 1), (0, 0, 2), (0, 2, 2), (1, 0, 2)])
def test_without_three_priorities_in_that_order_there_is_none(priorities: tuple[int, int, int]) -> None:
    low, middle, high = priorities
    nothing = PriorityInversion(Bounds(inversion=0, lending=frozenset()))
    assert not looked(_pathfinder("mutex", low, middle, high), nothing, seeds=200)


def test_the_world_says_who_lends() -> None:
    def build(k: Kernel) -> None:
        bounds(k, inversion=STEPS - 1, lending=())
        _pathfinder()(k)

    assert told(looked(build, WITH, seeds=200))


def test_priority_is_lent_through_a_chain_of_locks() -> None:
    def build(k: Kernel) -> None:
        first, second, cell = Mutex(k, "first"), Mutex(k, "second"), Atomic(k, 0, "cell")

        async def low() -> None:
            await first.lock()
            k.spawn(between, name="between")
            await k.yield_()
            await cell.load()
            await first.unlock()

        async def between() -> None:
            await second.lock()
            k.spawn(high, name="high", priority=2)
            await first.lock()
            await first.unlock()
            await second.unlock()

        async def high() -> None:
            await second.lock()
            await second.unlock()

        async def talks() -> None:
            for _ in range(3):
                await cell.load()

        k.spawn(low, name="low")
        k.spawn(talks, name="middle", priority=1)

    none = PriorityInversion(Bounds(inversion=2, lending=frozenset()))
    texts = told(looked(build, none, seeds=300))
    assert any("high (priority 2) waits for second, and so for low (priority 0)" in text for text in texts)
    # Both locks must lend: `between` has nothing of its own to lend.
    assert not looked(build, WITH, seeds=300)
