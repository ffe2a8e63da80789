"""A kernel thread that awaits something that is no kernel operation: said plainly, in both drivers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from stressvm import Kernel, Mutex, UsageError
from stressvm.explore.execution import execute
from stressvm.explore.hunt import Settings, hunt_subject
from stressvm.explore.tape import Lenient
from tests.support import DRIVERS, in_trio, opened, run, subject

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    Body = Callable[[Kernel], Coroutine[Any, Any, Any]]

BOTH_DRIVERS = pytest.mark.parametrize("driver", DRIVERS)


async def sleeps(_k: Kernel) -> None:
    await trio.sleep(1)


async def sleeps_not_at_all(_k: Kernel) -> None:
    await trio.sleep(0)  # noqa: ASYNC115 - the mistake as people write it


async def checkpoints(_k: Kernel) -> None:
    await trio.lowlevel.checkpoint()


async def waits_for_an_event(_k: Kernel) -> None:
    await trio.Event().wait()


async def parks(_k: Kernel) -> None:
    await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)


async def goes_to_a_thread(_k: Kernel) -> None:
    await trio.to_thread.run_sync(int)


async def takes_a_trio_lock(_k: Kernel) -> None:
    async with trio.Lock():
        pass


async def awaits_a_future(_k: Kernel) -> None:
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    loop.close()
    await future


async def opens_a_nursery(_k: Kernel) -> None:
    async with trio.open_nursery():
        pass


async def sets_a_deadline(k: Kernel) -> None:
    with trio.move_on_after(3600):
        await k.yield_()
        await k.yield_()


async def fails_at_a_deadline(k: Kernel) -> None:
    with trio.fail_after(3600):
        await k.delay(5)


async def opens_a_nursery_around_kernel_operations(k: Kernel) -> None:
    async with trio.open_nursery():
        await k.yield_()
        await k.yield_()


#: What is awaited and comes out of the scheduler as such.
TRAPS: list[Body] = [
    sleeps,
    sleeps_not_at_all,
    checkpoints,
    waits_for_an_event,
    parks,
    goes_to_a_thread,
    takes_a_trio_lock,
    awaits_a_future,
    opens_a_nursery,
]
#: What acts on the Trio task behind the thread without being awaited.
SCOPES: list[Body] = [sets_a_deadline, fails_at_a_deadline, opens_a_nursery_around_kernel_operations]


def _build(body: Body, log: list[str]) -> Callable[[Kernel], None]:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def culprit() -> None:
            if body not in SCOPES:
                await m.lock()
            try:
                await body(k)
            finally:
                log.append("unwound")

        async def bystander() -> None:
            await m.lock()
            await m.unlock()

        # First, so that others get their turn meanwhile: a scope within one stretch of one thread does no harm.
        k.spawn(culprit, name="culprit")
        k.spawn(bystander)
        k.spawn(bystander)

    return build


@BOTH_DRIVERS
@pytest.mark.parametrize("body", [*TRAPS, *SCOPES], ids=lambda body: body.__name__)
@pytest.mark.parametrize("choices", [(), (1,), (1, 1, 1), (2, 1)])
def test_a_recorded_execution_says_who_did_it_and_what_is_allowed(
    body: Body, choices: tuple[int, ...], driver: str
) -> None:
    log: list[str] = []
    with pytest.raises(UsageError) as caught:
        run(_build(body, log), choices, driver=driver)
    text = str(caught.value)
    assert text.startswith("scenario build: thread culprit awaited something that is not a kernel operation")
    assert "k.delay() and k.join()" in text
    assert log == ["unwound"]


@BOTH_DRIVERS
@pytest.mark.parametrize("body", TRAPS, ids=lambda body: body.__name__)
def test_a_hot_execution_says_so_too(body: Body, driver: str) -> None:
    what = subject(_build(body, []))

    async def main() -> None:
        async with opened(what.kernel(), driver) as made:
            await execute(what, made, Lenient(()))

    with pytest.raises(UsageError, match="thread culprit awaited"):
        in_trio(main)


@BOTH_DRIVERS
@pytest.mark.parametrize("body", [*TRAPS, *SCOPES], ids=lambda body: body.__name__)
def test_a_hunt_ends_in_an_error_and_not_in_a_finding(body: Body, driver: str) -> None:
    result = trio.run(hunt_subject, subject(_build(body, [])), Settings(executions=20, driver=driver))
    assert result.status == "error"
    assert "thread culprit awaited" in result.error
    assert result.findings == []


@BOTH_DRIVERS
def test_swallowing_the_report_does_not_hide_it(driver: str) -> None:
    async def careless(_k: Kernel) -> None:
        with suppress(Exception):
            await trio.lowlevel.checkpoint()

    with pytest.raises(UsageError, match="thread culprit awaited"):
        run(_build(careless, []), driver=driver)


@BOTH_DRIVERS
def test_a_driver_serves_on_after_a_foreign_await(driver: str) -> None:
    bad = subject(_build(checkpoints, []))

    def clean(k: Kernel) -> None:
        k.spawn(k.yield_)
        k.spawn(k.yield_)

    good = subject(clean)

    async def main() -> list[object]:
        async with opened(bad.kernel(), driver) as made:
            for what in (bad, good, bad, good):
                try:
                    assert await execute(what, made, Lenient(())) is None
                    seen.append(len(made.k.trace))
                    made.unwind()
                except UsageError:
                    seen.append("error")
        return seen

    seen: list[object] = []
    assert in_trio(main) == ["error", 2, "error", 2]


@BOTH_DRIVERS
def test_a_bare_yield_is_no_switch(driver: str) -> None:
    class Bare:
        def __await__(self) -> Any:
            yield

    def build(k: Kernel) -> None:
        async def thread() -> None:
            await Bare()
            await k.yield_()

        k.spawn(thread)

    recording = run(build, driver=driver)
    assert recording.verdict is None
    assert [step.kind for step in recording.records] == ["yield"]
