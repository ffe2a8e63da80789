"""Random programs on FreeBSD's maps, under random schedules, against a flat list and a table of pages."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.freebsd_machine import FreeBSDMachine
from tests.model.freebsd_rights_machine import FreeBSDRightsMachine

if TYPE_CHECKING:
    from stressvm.stateful import Execution, KernelMachine

PROGRAMS = settings(stateful_step_count=16)

TestFreeBSD = FreeBSDMachine.TestCase
TestFreeBSD.settings = PROGRAMS
TestFreeBSDRights = FreeBSDRightsMachine.TestCase
TestFreeBSDRights.settings = PROGRAMS


def outcomes(machine: type[KernelMachine[Any]]) -> Counter[str]:
    """How often each operation came to what, and each kind of step."""
    seen: Counter[str] = Counter()

    class Counting(machine):  # type: ignore[misc, valid-type]  # whichever it is
        def after(self, execution: Execution[Any]) -> None:
            super().after(execution)
            for op in execution.operations():
                result = op.result[0] if op.name == "fault" and op.done else op.result
                plain = result if isinstance(result, int | None) else "something"
                seen[f"{op.name} {plain if op.done else 'undone'}"] += 1
                seen.update(o.kind for _, (_, o, _) in execution.steps_of(op))

    run_state_machine_as_test(Counting, settings=settings(PROGRAMS, max_examples=200, derandomize=True, database=None))
    return seen


def test_the_programs_find_room_and_wait_for_it() -> None:
    seen = outcomes(FreeBSDMachine)
    for name in ("alloc", "find", "fixed", "remap", "free", "free_elsewhere", "unmap_part"):
        assert seen[f"{name} something"], f"{name} never succeeds"
        assert seen[f"{name} None"], f"{name} never fails"
    assert seen["look True"] and seen["look False"]  # noqa: PT018 - both
    assert seen["alloc undone"], "nobody waits for addresses in vain"
    assert seen["sleep"] > seen["alloc undone"], "nobody is woken"
    assert seen["try-upgrade"]
    assert seen["try-upgrade-failed"], "no upgrade meets another reader"


def test_the_programs_wire_and_protect_with_and_without_success() -> None:
    seen = outcomes(FreeBSDRightsMachine)
    for outcome in ("wire 0", "wire 1", "wire 9", "unwire 0", "unwire 1", "unwire 4", "protect 0", "protect 2"):
        assert seen[outcome], outcome
    assert seen["fork something"]
    for outcome in ("inherit 0", "remove 0", "insert 0", "insert 3", "fault 0", "fault 1", "fault 2"):
        assert seen[outcome], outcome
    assert seen["sleep"], "nobody waits for an entry in transition"
