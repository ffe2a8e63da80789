"""Machines that write programs: the programs as data, how they are executed, and what a failure says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, consumes, initialize, rule, run_state_machine_as_test

from stressvm import Cell, CondVar, Kernel, Mutex, ReplayDiverged, Rw, RwLock, Sx, UsageError
from stressvm.explore.schedule import parse as parse_schedule
from stressvm.stateful import Execution, KernelMachine, ProgramFailed, Ref, Step, operation
from stressvm.stateful.program import Program, checked, parse, without

if TYPE_CHECKING:
    from stressvm.stateful import ThreadState


class World:
    """A lock of each kind, a cell, and what was said."""

    def __init__(self, k: Kernel, start: int) -> None:
        self.k = k
        self.mutex, self.rw, self.sx = Mutex(k, "mutex"), RwLock(k, "rw"), Sx(k, "sx")
        self.changed = CondVar(k, "changed")
        self.cell = Cell(k, start, "cell")
        self.said: list[Any] = []


class Machine(KernelMachine[World]):
    """What these tests need."""

    numbers: Bundle[Ref] = Bundle("numbers")

    def build(self, k: Kernel, start: int = 0) -> World:
        return World(k, start)

    @operation(target=numbers, amount=st.integers(1, 9))
    async def add(self, world: World, amount: int) -> int:
        """Without the lock: additions get lost."""
        value = await world.cell.load() + amount
        await world.cell.store(value)
        return value

    @operation(on="what", what=consumes(numbers))
    async def say(self, world: World, what: Any) -> None:
        world.said.append(what)

    @operation(drawn=False)
    async def lock(self, world: World, how: str) -> None:
        k = world.k
        if how == "mutex":
            await world.mutex.lock()
            await k.yield_()
            await world.mutex.unlock()
        elif how == "rw":
            await world.rw.enter(Rw.READER)
            await k.yield_()
            await world.rw.exit()
        elif how == "upgrade":
            await world.sx.slock()
            if await world.sx.try_upgrade():
                await world.sx.downgrade()
            await world.sx.unlock()
        elif how == "try" and await world.mutex.trylock():
            await world.mutex.unlock()

    @operation(drawn=False)
    async def sleep(self, world: World) -> None:
        await world.mutex.lock()
        await world.changed.wait(world.mutex, until=lambda: world.cell.peek() > 99)
        await world.mutex.unlock()

    @operation(drawn=False)
    async def remember(self, world: World, thread: ThreadState) -> list[Any]:
        await world.k.yield_()
        return [thread.number, *thread.results]

    @operation(drawn=False)
    async def crash(self, world: World) -> None:
        await world.k.yield_()
        raise ValueError("boom")


class Summing(Machine):
    """A model: every addition is still there."""

    def after(self, execution: Execution[World]) -> None:
        added = sum(op.args["amount"] for op in execution.operations() if op.name == "add" and op.done)
        assert execution.world.cell.peek() == added, "an addition is lost"


summing = Summing.scenario()


def written(machine: KernelMachine[World], *threads: list[tuple[str, dict[str, Any]]], tape: bytes = b"") -> None:
    """A program by hand, as a printed example of Hypothesis is run."""
    for number, steps in enumerate(threads):
        for name, args in steps:
            machine.thread(number).add(name, **args)
    machine.schedule(tape=tape)


LOST = ([("add", {"amount": 1})], [("add", {"amount": 2})])
#: The first thread loads, the second does all it does, the first stores.
PREEMPTED = bytes([0, 1, 0, 0, 0])


# ---------------------------------------------------------------- programs


def test_a_program_survives_json() -> None:
    program = Program(
        {"start": 3},
        (
            (Step("add", {"amount": 1}), Step("say", {"what": Ref(0, 0)})),
            (Step("say", {"what": [Ref(0, 1), [None, True, "x", 1.5, 1 << 70]]}),),
        ),
    )
    again = parse(program.json())
    assert again.json() == program.json()
    assert str(again) == (
        "world: start=3\n"
        "t0  #0 add(amount=1)\n"
        "    #1 say(what=t0#0)\n"
        "t1  #0 say(what=[t0#1, [None, True, 'x', 1.5, 1180591620717411303424]])"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"world":{}}',
        '{"world":{},"threads":3}',
        '{"world":{},"threads":[[["add"]]]}',
        '{"world":{},"threads":[[[3,{}]]]}',
        '{"world":{},"threads":[[["add",[]]]]}',
        '{"world":{},"threads":[[["add",{"amount":{"x":1}}]]]}',
        '{"world":{},"threads":[[["say",{"what":{"ref":[0]}}]]]}',
        '{"world":{},"threads":[[["say",{"what":{"ref":["a","b"]}}]]]}',
        '{"world":{},"threads":[[["say",{"what":{"ref":[0,1]}}]]]}',
        '{"world":{},"threads":[[["say",{"what":{"ref":[-1,0]}}]]]}',
        '{"world":{"start":NaN},"threads":[]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_program_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


@pytest.mark.parametrize("value", [b"x", {"a": 1}, {1}, object(), float("nan"), float("inf"), [b"x"]])
def test_what_cannot_stand_in_a_program_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="cannot stand in a program"):
        Machine().thread(0).add("say", what=value)
    with pytest.raises(UsageError, match="cannot stand in a program"):
        Machine().describe_world(start=value)


def test_tuples_become_lists_as_they_would_in_json() -> None:
    assert checked("x", {"what": (1, (2, 3))}) == {"what": [1, [2, 3]]}


def test_without_an_operation_go_those_that_use_it_and_empty_threads() -> None:
    text = (
        '{"world":{},"threads":[[["add",{"amount":1}],["say",{"what":{"ref":[0,0]}}]],[["say",{"what":{"ref":[0,0]}}]],'
        '[["add",{"amount":2}],["add",{"amount":3}],["say",{"what":[{"ref":[2,1]}]}]]]}'
    )
    assert (
        str(without(parse(text), [Ref(0, 0)])) == "t0  #0 add(amount=2)\n    #1 add(amount=3)\n    #2 say(what=[t0#1])"
    )
    less = without(parse(text), [Ref(2, 0)])
    assert str(less).endswith("t2  #0 add(amount=3)\n    #1 say(what=[t2#0])")
    assert without(parse(text), parse(text).refs()).threads == ()


# ---------------------------------------------------------------- operations


def test_a_reference_is_the_result_in_the_same_thread_and_in_another() -> None:
    machine = Machine()
    ref = machine.thread(0).add("add", amount=5)
    assert ref == Ref(0, 0)
    machine.thread(0).add("say", what=[ref, "mine"])
    machine.thread(1).add("say", what=ref)
    # Without preemptions the first thread has ended before the second looks.
    assert machine.run().world.said == [[5, "mine"], 5]


def test_a_reference_is_none_as_long_as_there_is_no_result() -> None:
    machine = Machine()
    machine.thread(0)
    ref = machine.thread(1).add("add", amount=5)
    machine.thread(0).add("say", what=ref)
    assert machine.run().world.said == [None]


def test_an_operation_may_ask_for_its_thread() -> None:
    machine = Machine()
    written(machine, [("add", {"amount": 1}), ("remember", {})], [("remember", {})])
    results = [op.result for op in machine.run().operations() if op.name == "remember"]
    assert sorted(results) == [[0, 1], [1]]


def test_the_world_is_built_from_what_it_was_described_by() -> None:
    machine = Machine()
    machine.describe_world(start=40)
    written(machine, [("add", {"amount": 2})])
    assert machine.run().world.cell.peek() == 42


def test_thread_numbers_wrap_where_the_machine_has_no_more() -> None:
    class Two(Machine):
        threads_max = 2

    machine = Two()
    assert machine.thread(3).add("add", amount=1) == Ref(1, 0)

    class Five(Machine):
        threads_max = 5

    with pytest.raises(UsageError, match="1 to 4"):
        Five()


def test_mistakes_in_programs_are_named() -> None:
    with pytest.raises(UsageError, match="has no operation 'subtract'"):
        Machine().thread(0).add("subtract", amount=1)
    with pytest.raises(UsageError, match="t3#9 is no operation"):
        Machine().thread(0).add("say", what=Ref(3, 9))
    with pytest.raises(UsageError, match="is not async"):
        operation()(lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(UsageError, match="must name one of its arguments"):

        @operation(on="it")
        async def lost(self: Any, world: Any) -> None:
            """Nothing."""


def test_a_wrong_argument_shows_when_the_operation_runs_and_with_its_program() -> None:
    machine = Machine()
    machine.thread(0).add("add", much=1)
    with pytest.raises(ProgramFailed, match="unexpected keyword argument 'much'") as caught:
        machine.run()
    assert caught.value.verdict.kind == "exception"


# ---------------------------------------------------------------- executions


def test_operations_know_their_place_in_the_trace() -> None:
    machine = Machine()
    written(machine, [("add", {"amount": 1})], [("add", {"amount": 2})], tape=bytes([0, 1, 0]))
    execution = machine.run()
    first, second = execution.operations()
    assert [o.kind for _, (_, o, _) in execution.steps_of(first)] == ["load", "store"]
    assert [o.kind for _, (_, o, _) in execution.steps_of(second)] == ["load", "store"]
    for op in (first, second):
        for at, (thread, _, _) in execution.steps_of(op):
            assert thread == op.thread
            assert execution.at(op.thread, at) is op
    assert str(first) == "t0#0 add(amount=1) -> 1"
    assert execution.at(-1, 0) is None
    assert execution.at(0, first.end) is None


def test_an_operation_that_sleeps_for_ever_is_not_done() -> None:
    machine = Machine()
    written(machine, [("add", {"amount": 1}), ("sleep", {}), ("add", {"amount": 1})])
    execution = machine.run()
    assert [(op.name, op.done) for op in execution.operations()] == [("add", True), ("sleep", False)]
    assert execution.result(Ref(0, 2)) is None
    sleep = execution.operations()[1]
    assert "not done" in str(sleep)
    # The sleep has given up the mutex, which is taken no more.
    assert [(hold.end - hold.start, hold.by) for hold in execution.holds(execution.world.mutex)] == [(1, sleep)]


def test_what_is_not_tolerated_is_a_finding() -> None:
    class Strict(Machine):
        tolerate = frozenset()

    machine = Strict()
    written(machine, [("sleep", {})])
    with pytest.raises(ProgramFailed, match="exhausted"):
        machine.run()


def test_holds_of_a_mutex() -> None:
    machine = Machine()
    written(machine, [("lock", {"how": "mutex"})], [("lock", {"how": "try"})], tape=bytes([1, 0, 0, 0, 0]))
    execution = machine.run()
    holds = execution.holds(execution.world.mutex)
    assert [(hold.thread, hold.exclusive, hold.by) for hold in holds] == [
        (1, True, execution.operations()[1]),
        (0, True, execution.operations()[0]),
    ]
    assert [[execution.k.trace[at][1].kind for at in (hold.start, hold.end)] for hold in holds] == [
        ["trylock", "unlock"],
        ["lock", "unlock"],
    ]


def test_holds_for_reading_and_upgrades() -> None:
    machine = Machine()
    written(machine, [("lock", {"how": "rw"}), ("lock", {"how": "upgrade"})])
    execution = machine.run()
    assert [hold.exclusive for hold in execution.holds(execution.world.rw)] == [False]
    assert [(hold.exclusive, hold.end - hold.start) for hold in execution.holds(execution.world.sx)] == [
        (False, 1),
        (True, 1),
        (False, 1),
    ]


def test_readers_hold_a_lock_at_the_same_time() -> None:
    machine = Machine()
    written(machine, [("lock", {"how": "rw"})], [("lock", {"how": "rw"})], tape=bytes([0, 1, 0, 0]))
    execution = machine.run()
    first, second = execution.holds(execution.world.rw)
    assert first.start < second.start < first.end


# ---------------------------------------------------------------- failures


def failed(tape: bytes = PREEMPTED, machine: type[Machine] = Summing) -> ProgramFailed:
    made = machine()
    written(made, *LOST, tape=tape)
    with pytest.raises(ProgramFailed) as caught:
        made.run()
    return caught.value


def test_a_failed_check_is_a_finding_with_its_program_and_its_cause() -> None:
    exc = failed()
    assert exc.verdict.kind == "assertion"
    assert "an addition is lost" in str(exc)
    assert "in Summing.after, at the end" in str(exc)
    assert isinstance(exc.__cause__, AssertionError)
    assert str(exc.program) == "t0  #0 add(amount=1)\nt1  #0 add(amount=2)"


def test_the_exception_of_a_thread_is_the_cause() -> None:
    machine = Machine()
    written(machine, [("crash", {})])
    with pytest.raises(ProgramFailed, match="boom") as caught:
        machine.run()
    assert isinstance(caught.value.__cause__, ValueError)


def test_failures_differ_by_class_as_their_findings_do() -> None:
    one, again = failed(), failed(bytes([1, 1, 0, 0, 0]))
    machine = Machine()
    written(machine, [("crash", {})])
    with pytest.raises(ProgramFailed) as caught:
        machine.run()
    assert type(one) is type(again)
    assert type(caught.value) is not type(one)


def test_outside_of_hypothesis_a_failure_carries_its_story() -> None:
    (story,) = failed().__notes__
    for line in (
        "Program:",
        "  t0  #0 add(amount=1)",
        "What happened (8 steps, 1 preemption, 1 decision against the default):",
        "t1 preempts, to load cell 0. Without: the bug is gone.",
        "  stressvm replay stressvm:1:",
    ):
        assert line in story


def test_a_program_is_made_smaller_along_with_what_uses_its_results() -> None:
    machine = Summing()
    for number in (0, 1, 2):
        for amount in (1, 2, 3):
            ref = machine.thread(number).add("add", amount=amount)
            machine.thread(number).add("say", what=ref)
    machine.schedule(tape=bytes([1, 2, 1, 1, 0, 2] * 20))
    with pytest.raises(ProgramFailed) as caught:
        machine.run()
    small = caught.value.smallest
    assert [step.name for steps in small.program.threads for step in steps] == ["add", "add"]
    assert len(small.program.threads) == 2
    assert small.left_out == 16
    assert small.recording.preemptions == 1
    assert "Program (made smaller by 16):" in caught.value.story()


def test_a_program_stays_whole_where_operations_belong_together() -> None:
    class Whole(Summing):
        operations_may_go = False

    machine = Whole()
    written(machine, *LOST, [("say", {"what": 1})], tape=PREEMPTED)
    with pytest.raises(ProgramFailed) as caught:
        machine.run()
    assert len(caught.value.smallest.program.refs()) == 3


def test_a_machine_that_is_no_scenario_says_how_to_replay_in_python() -> None:
    class Local(Summing):
        """In no module."""

    exc = failed(machine=Local)
    assert f'Local.replay("{exc.blob}")' in exc.how_to_replay()
    assert "Local.scenario()" in exc.how_to_replay()
    with pytest.raises(ProgramFailed, match="an addition is lost"):
        Local.replay(exc.blob)


def test_a_blob_replays() -> None:
    blob = failed().blob
    schedule = parse_schedule(blob)
    assert schedule.scenario == "summing"
    assert schedule.file == __file__
    with pytest.raises(ProgramFailed, match="an addition is lost"):
        Summing.replay(blob)
    # Another machine: the same program, and nobody checks what came of it.
    assert Machine.replay(blob).verdict is None


def test_a_replay_that_does_something_else_says_so() -> None:
    class Slower(Machine):
        @operation(amount=st.integers(1, 9))
        async def add(self, world: World, amount: int) -> int:
            """It needs no load, but something else."""
            await world.k.yield_()
            await world.cell.store(amount)
            return amount

    with pytest.raises(ReplayDiverged):
        Slower.replay(failed().blob)


def test_a_schedule_of_something_else_is_refused() -> None:
    schedule = parse_schedule(failed().blob)
    schedule.params.clear()
    with pytest.raises(UsageError, match="runs no machine's program"):
        Summing.replay(schedule.blob())


def test_a_program_of_another_machine_is_refused_with_what_there_is() -> None:
    class Other(KernelMachine[World]):
        def build(self, k: Kernel) -> World:
            return World(k, 0)

        @operation()
        async def nothing(self, world: World) -> None:
            """Nothing."""

    with pytest.raises(UsageError, match=r"'add', and Other has none of that name \(it has: nothing\)"):
        Other.replay(failed().blob)


def test_a_scenario_is_named_after_its_machine_and_checks_its_program() -> None:
    assert summing.name == "summing"
    assert summing.story == "A model: every addition is still there."
    assert summing.params == {"program": '{"world":{},"threads":[[]]}'}
    assert Machine.scenario("other").name == "other"
    with pytest.raises(UsageError, match="no program"):
        Machine.scenario(program="nonsense")


def test_a_world_that_cannot_be_built_shows_the_program() -> None:
    machine = Machine()
    machine.describe_world(stop=1)
    written(machine, [("add", {"amount": 1})])
    with pytest.raises(UsageError, match="unexpected keyword argument 'stop'") as caught:
        machine.run()
    assert any("world: stop=1" in note for note in caught.value.__notes__)


# ---------------------------------------------------------------- under Hypothesis

FIND = settings(max_examples=300, stateful_step_count=8, report_multiple_bugs=False)


def test_hypothesis_finds_a_program_and_tells_its_story_once() -> None:
    with pytest.raises(ProgramFailed, match="an addition is lost") as caught:
        run_state_machine_as_test(Summing, settings=FIND)
    notes = "\n".join(caught.value.__notes__)
    assert notes.count("What happened (") == 1
    assert "state.schedule(tape=" in notes
    assert len(caught.value.smallest.program.refs()) == 2
    assert len(caught.value.program.refs()) <= 4


def test_the_story_is_short_even_without_shrinking() -> None:
    with pytest.raises(ProgramFailed) as caught:
        run_state_machine_as_test(Summing, settings=settings(FIND, phases=[Phase.generate]))
    assert len(caught.value.program.refs()) > 2
    assert len(caught.value.smallest.program.refs()) == 2


def test_rules_of_ones_own_add_operations() -> None:
    seen = []

    class Own(Machine):
        @initialize(start=st.integers(0, 3))
        def begin(self, start: int) -> None:
            self.describe_world(start=start)

        @rule(amount=st.integers(1, 9))
        def twice(self, amount: int) -> None:
            ref = self.thread(0).add("add", amount=amount)
            self.thread(0).add("say", what=ref)

        def after(self, execution: Execution[World]) -> None:
            seen.append(str(execution.program))

    run_state_machine_as_test(Own, settings=settings(FIND, max_examples=30))
    assert any("world: start=" in program and "say(what=t0#" in program for program in seen)


def test_an_operation_that_a_subclass_sets_to_none_is_gone() -> None:
    class Less(Machine):
        say = None

    assert "say" in Machine.operations()
    assert "say" not in Less.operations()


def test_an_example_in_which_nothing_was_added_runs_nothing() -> None:
    class Empty(Machine):
        def build(self, k: Kernel, start: int = 0) -> World:
            raise AssertionError(f"there is nothing to run: {k}, {start}")

    Empty().teardown()


@pytest.mark.parametrize("name", ["run", "teardown", "schedule", "world", "tape"])
def test_an_operation_that_would_take_the_machine_s_own_place_is_refused(name: str) -> None:
    """Nothing would be run, or checked, and all would seem well."""

    async def step(self: KernelMachine[None], world: None) -> None:
        """Nothing."""

    step.__name__ = name
    with pytest.raises(UsageError, match=f"{name} is the machine's own: give the operation another name"):
        type("Machine", (KernelMachine,), {name: operation()(step)})
