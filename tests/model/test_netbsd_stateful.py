"""Random programs on NetBSD's maps, under random schedules, against a flat list of what is taken."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from stressvm.vm import netbsd
from tests.model.netbsd_machine import NetBSDMachine, ScarceMachine, World, raw
from tests.model.netbsd_rights_machine import NetBSDRightsMachine
from tests.model.netbsd_rights_machine import World as RightsWorld

if TYPE_CHECKING:
    from stressvm.stateful import Execution

PROGRAMS = settings(stateful_step_count=16)

TestNetBSD = NetBSDMachine.TestCase
TestNetBSD.settings = PROGRAMS
TestScarce = ScarceMachine.TestCase
TestScarce.settings = PROGRAMS
TestRights = NetBSDRightsMachine.TestCase
TestRights.settings = PROGRAMS


def test_the_programs_do_what_they_are_for() -> None:
    """Every operation succeeds and fails, threads find maps busy, and sleep for addresses."""
    seen: Counter[str] = Counter()

    class Counting(NetBSDMachine):
        def after(self, execution: Execution[World]) -> None:
            super().after(execution)
            for op in execution.operations():
                outcome = "undone" if not op.done else "nothing" if op.result is None else "something"
                seen[f"{op.name} {outcome}"] += 1
                seen.update(o.kind for _, (_, o, _) in execution.steps_of(op))
            lock = execution.world.maps[0].lock
            seen["moved"] += lock.timestamp.peek()
            seen["held"] += sum(hold.exclusive for hold in execution.holds(raw(execution.world.maps[0])))
            seen["submaps"] += len(execution.world.maps) - 1

    run_state_machine_as_test(Counting, settings=settings(PROGRAMS, max_examples=200, derandomize=True, database=None))
    for name in ("alloc", "map_hint", "map_fixed", "suballoc", "unmap_part", "busy", "free", "free_elsewhere"):
        assert seen[f"{name} something"], f"{name} never succeeds"
        assert seen[f"{name} nothing"], f"{name} never fails"
    assert seen["alloc undone"], "nobody waits for addresses in vain"
    assert seen["sleep"] > seen["alloc undone"], "nobody is woken"
    assert seen["try-lock-failed"], "no lock is held when somebody tries it"
    assert seen["held"] > seen["moved"], "nobody finds the map busy"
    assert seen["submaps"]


def test_the_programs_wire_protect_and_extract_with_and_without_success() -> None:
    """Each call comes to everything that it can come to; threads sleep for busy maps, and meet them with a try."""
    seen: Counter[str] = Counter()

    class Counting(NetBSDRightsMachine):
        def after(self, execution: Execution[RightsWorld]) -> None:
            super().after(execution)
            for op in execution.operations():
                result = op.result[0] if op.name.startswith(("map", "extract")) and op.result else op.result
                seen[f"{op.name} {'something' if isinstance(result, list) else result}"] += 1
                seen.update(o.kind for _, (_, o, _) in execution.steps_of(op))
            seen["moved"] += execution.world.maps[1].ghost.forgotten if execution.program.world["version"] == "6" else 0

    run_state_machine_as_test(Counting, settings=settings(PROGRAMS, max_examples=200, derandomize=True, database=None))
    outcomes = {
        "map": (0, netbsd.ENOMEM, netbsd.EAGAIN),
        "protect": (0, netbsd.EACCES, netbsd.ENOMEM),
        "inherit": (0, netbsd.EINVAL),
        "wire": (0, netbsd.EFAULT, netbsd.EINVAL, netbsd.ENOMEM),
        "unwire": (0, netbsd.EFAULT, netbsd.EINVAL),
        "pageable_all": (0, netbsd.ENOMEM),
        "extract": (0, netbsd.ENOMEM, netbsd.EINVAL, netbsd.EIO),
        "extract_reserved": (0, netbsd.EIO),
        "reserve": ("something", None),
        "replace": (True,),
        "look": (True, False),
    }
    missing = [f"{name} {one}" for name, results in outcomes.items() for one in results if not seen[f"{name} {one}"]]
    print(sorted(seen.items()))
    assert not missing, missing
    assert seen["sleep"], "nobody waits for a busy map"
    assert seen["moved"], "nothing is moved"
    assert seen["try-lock-failed"], "no lock is held when somebody tries it"
