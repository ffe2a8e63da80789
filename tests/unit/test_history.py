"""Histories of a user's own objects: a queue, right and broken, judged in every execution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import Atomic, Cell, Kernel, Mutex, UsageError
from stressvm.check.history import NEVER, History, calls_of
from stressvm.check.linearizability import Specification, judge_histories
from tests.support import alone
from tests.traces import traced, walked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stressvm.check.history import Call
    from stressvm.check.verdict import Verdict

    Build = Callable[[Kernel], None]


class QueueModel(Specification):
    """First in, first out; None from an empty one."""

    def initial(self, _calls: Sequence[Call]) -> tuple[int, ...]:
        return ()

    def step(self, state: tuple[int, ...], call: Call) -> tuple[bool, tuple[int, ...]]:
        if call.name == "put":
            return True, (*state, call.args[0])
        if not state:
            return call.pending or call.result is None, state
        return call.pending or call.result == state[0], state[1:]

    def why(self, state: tuple[int, ...], _call: Call) -> tuple[str, str]:
        if not state:
            return "from nothing", "the queue is empty"
        return "out of order", f"the first is {state[0]}"


class Queue:
    """Two indices and a ring, under one lock."""

    def __init__(self, k: Kernel, size: int = 8) -> None:
        self.lock = Mutex(k, "lock")
        self.head, self.tail = Atomic(k, 0, "head"), Atomic(k, 0, "tail")
        self.ring = [Cell[int | None](k, None, f"ring{n}") for n in range(size)]

    async def put(self, value: int) -> None:
        await self.lock.lock()
        at = await self.tail.load()
        await self.ring[at].store(value)
        await self.tail.store(at + 1)
        await self.lock.unlock()

    async def take(self) -> int | None:
        await self.lock.lock()
        at = await self.head.load()
        value = None
        if at != await self.tail.load():
            value = await self.ring[at].load()
            await self.head.store(at + 1)
        await self.lock.unlock()
        return value


class Hasty(Queue):
    """The place is taken first and filled later; and no lock is needed, it seems: Herlihy and Wing's queue, broken."""

    async def put(self, value: int) -> None:
        at = await self.tail.fetchadd(1)
        await self.ring[at].store(value)

    async def take(self) -> int | None:
        at = await self.head.load()
        if at == await self.tail.load():
            return None
        await self.head.store(at + 1)
        return await self.ring[at].load()


def world(cls: type[Queue], *programs: str) -> Build:
    """Threads that put and take: "1 2 - -"."""

    def build(k: Kernel) -> None:
        queue = cls(k)
        history = History(k, QueueModel(), "queue")

        async def thread(steps: str) -> None:
            for word in steps.split():
                if word == "-":
                    await history.do(queue.take)
                else:
                    await history.do(queue.put, int(word))

        for steps in programs:
            k.spawn(thread, steps)

    return build


def verdicts(build: Build, n: int = 150) -> list[Verdict]:
    return [found for one in walked(build, n) if (found := judge_histories(one.k)) is not None]


def history_of(k: Kernel) -> History:
    (history,) = (obj for obj in k.objects if isinstance(obj, History))
    return history


PROGRAMS = ("1 2 -", "3 -", "- 4")


def test_a_queue_that_is_right() -> None:
    assert verdicts(world(Queue, *PROGRAMS)) == []


def test_one_that_is_broken() -> None:
    found = verdicts(world(Hasty, *PROGRAMS))
    assert len(found) > 10
    assert {verdict.kind for verdict in found} == {"not-linearizable"}
    assert {verdict.sites[0] for verdict in found} == {"queue take"}
    assert {verdict.sites[1] for verdict in found} <= {"from nothing", "out of order"}
    # The same mistake has one fingerprint, whatever the schedule.
    assert len({verdict.fingerprint for verdict in found}) == len({verdict.sites for verdict in found})


def test_what_is_said() -> None:
    def build(k: Kernel) -> None:
        history = History(k, QueueModel(), "queue")

        async def thread() -> None:
            history.call("put", 1)
            await k.yield_()
            history.returned()
            history.call("take")
            history.returned(2)

        k.spawn(thread, name="user")

    found = judge_histories(traced(build).k)
    assert found is not None
    assert found.text == (
        "queue: user: take() = 2 (steps 4 to 4): no order of the calls explains that: the first is 1 (after user put(1) = None)"
    )


def test_calls_count_from_their_first_operation_to_their_return() -> None:
    def build(k: Kernel) -> None:
        history = History(k, None, "h")
        cell, other = Atomic(k, 0, "cell"), Mutex(k, "other")

        async def first() -> None:
            history.call("a", 1, by=2)
            k.record(did="nothing yet")
            await cell.load()
            await cell.load()
            history.returned("done")
            await cell.load()
            history.call("quick")
            history.returned()
            history.call("nothing")

        async def second() -> None:
            history.call("b")
            await other.lock()
            await other.unlock()

        k.spawn(first)
        k.spawn(second)

    one = traced(build)
    words = [(t, op.kind) for t, op, _ in one.trace]
    calls = calls_of(one.trace, history_of(one.k))
    # What has begun and done nothing is left out; what has done something and not returned is pending.
    assert [str(call) for call in calls] == ["a(1, by=2) = 'done'", "quick() = None", "b()"]
    a, quick, b = calls
    assert (words[a.start], words[a.end]) == ((0, "load"), (0, "return"))
    assert words.index((0, "call")) < words.index((0, "record")) < a.start
    assert quick.start == quick.end
    assert (words[b.start], b.end) == ((1, "lock"), NEVER)
    # The second thread's word came before everything, its first operation after all that the first one did.
    assert b.start > quick.end


def test_a_call_that_raises_has_not_returned() -> None:
    def build(k: Kernel) -> None:
        history = History(k, None, "h")
        cell = Atomic(k, 0, "cell")

        async def fails() -> None:
            await cell.store(1)
            raise ValueError

        async def thread() -> None:
            for _ in range(2):
                try:
                    await history.do(fails)
                except ValueError:
                    continue
            await history.do(cell.load)

        k.spawn(thread)

    one = traced(build)
    calls = calls_of(one.trace, history_of(one.k))
    assert [(call.name, call.pending) for call in calls] == [("fails", True), ("fails", True), ("load", False)]


@pytest.mark.parametrize(
    ("steps", "text"),
    [("cc", "h: user calls b within another call; record the outer one only"), ("r", "h: user returns from no call")],
)
def test_misuse(steps: str, text: str) -> None:
    def build(k: Kernel) -> None:
        history = History(k, None, "h")

        async def thread() -> None:
            for word in steps:
                if word == "c":
                    history.call("b")
                else:
                    history.returned()

        k.spawn(thread, name="user")

    with pytest.raises(UsageError) as caught:
        traced(build)
    assert str(alone(caught.value)) == text


def test_the_builder_of_the_world_makes_no_calls() -> None:
    def build(k: Kernel) -> None:
        History(k, None, "h").call("b")

    with pytest.raises(UsageError, match="h: calls are made by threads"):
        traced(build)


def test_a_history_adds_no_executions() -> None:
    def build(k: Kernel, *, records: bool) -> None:
        queue = Queue(k)
        history = History(k, None, "h")

        async def thread(value: int) -> None:
            if records:
                await history.do(queue.put, value)
            else:
                await queue.put(value)

        k.spawn(thread, 1)
        k.spawn(thread, 2)

    def picks(**how: Any) -> list[list[int]]:
        return [one.k.picks for one in walked(lambda k: build(k, **how), 30)]

    assert picks(records=True) == picks(records=False)
    # Nor are they other ones for schedules: the first thread is still the first candidate.
    first = traced(lambda k: build(k, records=True), [0])
    assert next(t for t, op, _ in first.trace if op.obj.number >= 0) == 0
