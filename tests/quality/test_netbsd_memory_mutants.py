"""Every step of uvm_km_alloc and uvm_km_free over pages is there for a reason: without it, a hunt finds a bug.

Each mutant overrides one small step. It is found, as the kind of bug that it is; what the kernel does is clean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from stressvm import scenario
from stressvm.bench.defects.netbsd_memory import (
    AddressesFirst,
    AddressesFirstUnseen,
    AsksCanfailFirst,
    GoesOn,
    IgnoresWaiters,
    LockedWhileWaiting,
    NeverUpdates,
    UnwindFreesAPart,
    UnwindLeaksAddresses,
    UpdatesLate,
)
from stressvm.bench.defects.netbsd_memory_worlds import failing, in_interrupt, must_free, paged_out, same_address
from stressvm.explore.execution import Subject
from stressvm.explore.hunt import Result, Settings, hunt_subject
from stressvm.vm import netbsd

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm import Kernel
    from stressvm.vm.netbsd import Memory, VmMap

    Build = Callable[[Kernel], None]

PAGE = netbsd.PAGE_SIZE
WIRED = netbsd.UVM_KMF_WIRED
PAGEABLE = netbsd.UVM_KMF_PAGEABLE
VAONLY = netbsd.UVM_KMF_VAONLY
NOWAIT = netbsd.UVM_KMF_NOWAIT
CANFAIL = netbsd.UVM_KMF_CANFAIL
WAITVA = netbsd.UVM_KMF_WAITVA
STRATEGIES = pytest.mark.parametrize("strategy", ["random", "pct"])


def hunt(
    build: Build,
    expect: str | None,
    *,
    strategy: str = "pct",
    executions: int = 1_000,
    max_steps: int = 4_000,
) -> Result:
    made = scenario(expect=expect, max_steps=max_steps)(build)
    result: Result = trio.run(hunt_subject, Subject(made, {}), Settings(executions=executions, strategy=strategy))
    assert not result.error, result.error
    return result


def assert_found(build: Build, expect: str, words: str, **how: object) -> Result:
    result = hunt(build, expect, **how)  # type: ignore[arg-type]
    assert result.status == "found", f"{result.status}: {[finding.verdict.text for finding in result.findings]}"
    assert words in result.findings[0].verdict.text
    return result


def assert_clean(build: Build, **how: object) -> None:
    result = hunt(build, None, **how)  # type: ignore[arg-type]
    assert result.status == "clean", [finding.verdict.text for finding in result.findings]


# ---------------------------------------------------------------- worlds


# ---------------------------------------------------------------- mutants


class UnwindLeaksPages(netbsd.Memory):
    """A call that fails gives its addresses back, and keeps its pages."""

    async def unwind(self, vm_map: VmMap, va: int, size: int, kind: int) -> None:  # noqa: ARG002 - that is the defect
        await self.free_addresses(vm_map, va, va + size)


# ---------------------------------------------------------------- claims


@STRATEGIES
def test_what_the_kernel_does_is_clean(strategy: str) -> None:
    for version in netbsd.VERSIONS:
        assert_clean(same_address(version=version), strategy=strategy, executions=300)
    for more in (NOWAIT, NOWAIT | CANFAIL):
        assert_clean(failing(more=more), strategy=strategy, executions=300)
    assert_clean(must_free(), strategy=strategy, executions=300)
    assert_clean(paged_out(), strategy=strategy, executions=300)
    # Here pages are free, and in use again, while what they were taken from still maps them.
    assert_clean(paged_out(version="5.2"), strategy=strategy, executions=300)


def test_addresses_before_pages() -> None:
    assert_found(same_address(AddressesFirst), "invariant", "G17 pages")


@STRATEGIES
def test_addresses_before_pages_are_found_by_what_comes_of_it(strategy: str) -> None:
    assert_found(same_address(AddressesFirstUnseen), "invariant", "G15 vacated", strategy=strategy)


@STRATEGIES
@pytest.mark.parametrize("cls", [UpdatesLate, NeverUpdates])
def test_processors_told_too_late(cls: type[VmMap], strategy: str) -> None:
    assert_found(same_address(cls=cls), "invariant", "still translates it", strategy=strategy)


@pytest.mark.parametrize(
    ("memory", "words"),
    [(UnwindLeaksPages, "G17 pages"), (UnwindLeaksAddresses, "G17 undone"), (UnwindFreesAPart, "G17 undone")],
)
def test_a_failing_call_that_leaks(memory: type[Memory], words: str) -> None:
    assert_found(failing(memory), "invariant", words)


@STRATEGIES
def test_nowait_is_asked_before_canfail(strategy: str) -> None:
    assert_clean(in_interrupt(), strategy=strategy, executions=300)
    assert_found(in_interrupt(AsksCanfailFirst), "sleep-rule", "intr", strategy=strategy)


def test_the_map_must_not_be_locked_while_pages_are_awaited() -> None:
    """Who has the pages wants the lock before he gives them back: the daemon finds nothing meanwhile, round after round."""
    assert_found(must_free(LockedWhileWaiting), "livelock", "no progress", strategy="random", max_steps=400)


@STRATEGIES
def test_the_daemon_must_heed_those_who_wait(strategy: str) -> None:
    assert_found(must_free(uvm_class=IgnoresWaiters), "lost-wakeup", "km_getwait2", strategy=strategy)


def test_a_busy_page_is_looked_at_again() -> None:
    """The page was being written to swap, and is free when that is done: it is its slot that is forgotten.

    The write must last from the call on, which a random walk hardly ever does (never in 10,000 executions).
    """
    result = assert_found(paged_out(GoesOn), "invariant", "G17 pages", strategy="pct")
    assert "its slot in swap" in result.findings[0].verdict.text
