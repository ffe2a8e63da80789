"""A state machine that writes a concurrent program step by step, and draws its schedule as bytes.

The program adds to accounts under their locks and moves between them; a sequential model knows the sums. Whatever the
schedule, the sums agree. With a defect planted (an update outside its lock), Hypothesis finds a program and a schedule
that show it, and shrinks both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from stressvm import Atomic, Cell, Kernel, Mutex
from tests.support import run

if TYPE_CHECKING:
    from stressvm.explore.execution import Recording

ACCOUNTS = 2

#: (what, account, amount); "move" takes from the account and gives to the next one.
Operation = tuple[str, int, int]
Program = list[list[Operation]]


class Bank:
    """Accounts, each with its mutex; `careless` updates forget the mutex."""

    def __init__(self, k: Kernel, *, careless: bool) -> None:
        self.k = k
        self.careless = careless
        self.mutexes = [Mutex(k, f"m{i}") for i in range(ACCOUNTS)]
        self.balances = [Cell(k, 0, f"balance{i}") for i in range(ACCOUNTS)]
        self.deposits = Atomic(k, 0, "deposits")

    async def run(self, program: list[Operation]) -> None:
        """A thread."""
        for what, account, amount in program:
            if what == "add":
                await self.add(account, amount)
            elif what == "move":
                await self.move(account, (account + 1) % ACCOUNTS, amount)
            else:
                await self.look(account)

    async def add(self, account: int, amount: int) -> None:
        """One account."""
        if not self.careless:
            await self.mutexes[account].lock()
        await self.balances[account].store(await self.balances[account].load() + amount)
        if not self.careless:
            await self.mutexes[account].unlock()
        await self.deposits.fetchadd(1)

    async def move(self, giver: int, taker: int, amount: int) -> None:
        """Two accounts, locked in order of number."""
        first, second = sorted((giver, taker))
        await self.mutexes[first].lock()
        await self.mutexes[second].lock()
        await self.balances[giver].store(await self.balances[giver].load() - amount)
        await self.balances[taker].store(await self.balances[taker].load() + amount)
        await self.mutexes[second].unlock()
        await self.mutexes[first].unlock()

    async def look(self, account: int) -> None:
        """A balance, under its lock."""
        await self.mutexes[account].lock()
        self.k.record(saw=self.balances[account].peek())
        await self.mutexes[account].unlock()


def sequential(program: Program) -> tuple[int, ...]:
    """The balances after any order of these operations."""
    balances = [0] * ACCOUNTS
    for what, account, amount in (operation for thread in program for operation in thread):
        if what == "add":
            balances[account] += amount
        elif what == "move":
            balances[account] -= amount
            balances[(account + 1) % ACCOUNTS] += amount
    return tuple(balances)


def executed(program: Program, schedule: bytes, *, careless: bool) -> tuple[Recording, tuple[int, ...]]:
    """The recording, and the balances at the end."""
    banks: list[Bank] = []

    def build(k: Kernel) -> None:
        bank = Bank(k, careless=careless)
        banks.append(bank)
        for thread in program:
            k.spawn(bank.run, thread)

    recording = run(build, schedule)
    return recording, tuple(cell.peek() for cell in banks[-1].balances)


class Machine(RuleBasedStateMachine):
    """Adds operations to threads; runs them all at the end."""

    careless = False

    def __init__(self) -> None:
        super().__init__()
        self.program: Program = []
        self.schedule = b""

    @precondition(lambda self: len(self.program) < 4)
    @rule()
    def spawn(self) -> None:
        """One more thread."""
        self.program.append([])

    @precondition(lambda self: bool(self.program))
    @rule(
        thread=st.integers(0, 3),
        what=st.sampled_from(("add", "move", "look")),
        account=st.integers(0, ACCOUNTS - 1),
        amount=st.integers(1, 9),
    )
    def operate(self, thread: int, what: str, account: int, amount: int) -> None:
        """One more operation of a thread."""
        self.program[thread % len(self.program)].append((what, account, amount))

    @rule(schedule=st.binary(min_size=64, max_size=128))
    def interleave(self, schedule: bytes) -> None:
        """Another schedule."""
        self.schedule = schedule

    def teardown(self) -> None:
        """The program under its schedule comes to what it would have come to in any order."""
        if self.program:
            recording, balances = executed(self.program, self.schedule, careless=self.careless)
            assert recording.verdict is None
            assert balances == sequential(self.program)


class CarelessMachine(Machine):
    """The defect is planted."""

    careless = True


QUICK = settings(max_examples=150, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow])


def test_whatever_the_schedule_a_correct_program_ends_as_in_any_order() -> None:
    run_state_machine_as_test(Machine, settings=QUICK)


def test_a_planted_defect_is_found_by_the_machine() -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            CarelessMachine,
            settings=settings(
                QUICK, max_examples=500, phases=(Phase.generate,), print_blob=False, report_multiple_bugs=False
            ),
        )


_operations = st.tuples(st.sampled_from(("look", "add", "move")), st.integers(0, ACCOUNTS - 1), st.integers(1, 9))
_programs = st.lists(st.lists(_operations, max_size=4), min_size=1, max_size=4)
_schedules = st.binary(min_size=64, max_size=96)


def _wrong(drawn: tuple[Program, bytes], *, careless: bool) -> bool:
    recording, balances = executed(*drawn, careless=careless)
    return recording.verdict is not None or balances != sequential(drawn[0])


def test_a_planted_defect_shrinks_to_a_small_program_and_a_simple_schedule() -> None:
    program, schedule = find(
        st.tuples(_programs, _schedules),
        lambda drawn: _wrong(drawn, careless=True),
        settings=settings(max_examples=2_000),
    )
    # Two threads, an update each, of the same account; and one preemption, between a load and its store.
    assert [len(thread) for thread in program] == [1, 1]
    assert {account for thread in program for _, account, _ in thread} <= {0, 1}
    recording, _ = executed(program, schedule, careless=True)
    assert recording.preemptions <= 1
    assert sum(1 for byte in schedule if byte) <= 2


def test_without_the_defect_there_is_nothing_to_be_found() -> None:
    with pytest.raises(NoSuchExample):
        find(
            st.tuples(_programs, _schedules),
            lambda drawn: _wrong(drawn, careless=False),
            settings=settings(max_examples=300),
        )
