"""The linearizability search says what trying all orders says; and it tells which call is the culprit."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from stressvm.check.history import NEVER, Call
from stressvm.check.linearizability import Answer, Specification, linearize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Queue = tuple[int, ...]


class QueueModel(Specification):
    """First in, first out; to take from an empty queue gives None. Queues are told apart by the first argument."""

    def initial(self, _calls: Sequence[Call]) -> Queue:
        return ()

    def step(self, state: Queue, call: Call) -> tuple[bool, Queue]:
        if call.name == "put":
            return True, (*state, call.args[1])
        if not state:
            return call.pending or call.result is None, state
        return call.pending or call.result == state[0], state[1:]

    def partition(self, calls: Sequence[Call]) -> list[list[Call]]:
        parts: dict[object, list[Call]] = {}
        for call in calls:
            parts.setdefault(call.args[0], []).append(call)
        return list(parts.values())


class Whole(QueueModel):
    """The same without partitions: a state is all queues."""

    def initial(self, _calls: Sequence[Call]) -> Any:
        return ((), ())

    def step(self, state: Any, call: Call) -> tuple[bool, Any]:
        which = call.args[0]
        allowed, after = super().step(state[which], call)
        return allowed, (after, state[1]) if which == 0 else (state[0], after)

    def partition(self, calls: Sequence[Call]) -> list[list[Call]]:
        return [list(calls)]


def call(thread: int, name: str, start: int, end: int, result: Any = None, *, queue: int = 0, value: int = 0) -> Call:
    args = (queue, value) if name == "put" else (queue,)
    return Call(thread, name, args, {}, result, start, end)


def explained(calls: Sequence[Call], model: Any) -> bool:
    """Is there an order? All are tried: of what has returned, with any of the rest."""
    done = [one for one in calls if not one.pending]
    pending = [one for one in calls if one.pending]
    for bits in range(1 << len(pending)):
        chosen = done + [one for at, one in enumerate(pending) if bits >> at & 1]
        if any(runs(order, model) for order in permutations(chosen)):
            return True
    return False


def runs(order: Sequence[Call], model: Any) -> bool:
    """Is it an order in time, and does the specification explain it?"""
    for at, one in enumerate(order):
        if any(not later.pending and later.end < one.start for later in order[at + 1 :]):
            return False
    state = model.initial(order)
    for one in order:
        allowed, state = model.step(state, one)
        if not allowed:
            return False
    return True


def histories(seed: int, count: int) -> Iterator[list[Call]]:
    """Small ones of three threads, of two queues, half of them made by a run of the queues."""
    rng = Random(seed)
    for _ in range(count):
        yield history(rng, honest=rng.random() < 0.5)


def history(rng: Random, *, honest: bool) -> list[Call]:
    queues: dict[int, list[int]] = {0: [], 1: []}
    #: By thread: when the call began, and whether it has had its effect; what it is, and what it gives.
    under_way: dict[int, dict[str, Any]] = {}
    made: list[Call] = []
    for time in range(1, rng.randrange(5, 19)):
        t = rng.randrange(3)
        now = under_way.get(t)
        if now is None:
            if len(made) + len(under_way) < 6:
                name = rng.choice(("put", "take"))
                under_way[t] = {
                    "name": name,
                    "queue": int(rng.random() < 0.3),
                    "value": rng.randrange(3),
                    "start": time,
                    "result": None if name == "put" else rng.choice((None, 0, 1, 2)),
                    "done": False,
                }
        elif honest and not now["done"]:
            queue = queues[now["queue"]]
            if now["name"] == "put":
                queue.append(now["value"])
            else:
                now["result"] = queue.pop(0) if queue else None
            now["done"] = True
        else:
            del under_way[t]
            made.append(call(t, now["name"], now["start"], time, now["result"], queue=now["queue"], value=now["value"]))
    for t, now in under_way.items():
        made.append(call(t, now["name"], now["start"], NEVER, queue=now["queue"], value=now["value"]))
    return made


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("model", [QueueModel(), Whole()], ids=["apart", "whole"])
def test_it_says_what_trying_all_orders_says(seed: int, model: Any) -> None:
    answers = {Answer.LINEARIZABLE: 0, Answer.BROKEN: 0}
    for calls in histories(seed, 250):
        found = linearize(calls, model)
        answers[found.answer] += 1
        assert (found.answer is Answer.LINEARIZABLE) == explained(calls, Whole()), calls
        if found.answer is Answer.LINEARIZABLE:
            for part in model.partition(calls):
                order = [one for one in found.order if one in part]
                assert runs(order, model)
                assert {one for one in part if not one.pending} <= set(order)
        else:
            check_culprit(calls, found.culprit)
    assert min(answers.values()) > 40


def check_culprit(calls: Sequence[Call], culprit: Call | None) -> None:
    """Up to its return there is no order, and before its return there was one: of the calls of its own queue."""
    assert culprit is not None
    own = [one for one in calls if one.args[0] == culprit.args[0] and one.start <= culprit.end]

    def until(time: int) -> list[Call]:
        return [
            one if not one.pending and one.end < time else Call(one.thread, one.name, one.args, {}, None, one.start)
            for one in own
        ]

    assert not explained(until(culprit.end + 1), Whole())
    assert explained(until(culprit.end), Whole())


def test_queues_are_judged_apart() -> None:
    """Many calls of many queues at once: together the search would have to go through all of their mixes."""
    calls = []
    for queue in range(6):
        calls += [call(2 * n, "put", queue, 100 + queue, queue=queue, value=n) for n in range(5)]
        calls.append(call(11, "take", queue, 200 + queue, 7, queue=queue))

    class Count(QueueModel):
        steps = 0

        def step(self, state: Queue, call: Call) -> tuple[bool, Queue]:
            self.steps += 1
            return super().step(state, call)

    model = Count()
    assert linearize(calls, model).answer is Answer.BROKEN
    assert model.steps < 50_000


def test_it_does_not_go_on_for_ever() -> None:
    calls = [call(n, "put", n, 100, value=n) for n in range(7)]
    calls.append(call(20, "take", 120, 130, 99))
    assert linearize(calls, QueueModel(), steps=200).answer is Answer.UNKNOWN
    assert linearize(calls, QueueModel()).answer is Answer.BROKEN


def test_a_call_that_has_not_returned_may_have_had_its_effect_or_not() -> None:
    put = call(0, "put", 1, NEVER, value=5)
    for result in (5, None):
        assert linearize([put, call(1, "take", 2, 3, result)], QueueModel()).answer is Answer.LINEARIZABLE
    broken = linearize([put, call(1, "take", 2, 3, 6)], QueueModel())
    assert broken.culprit is not None
    assert broken.culprit.result == 6


def test_what_is_said_of_a_broken_one() -> None:
    first, second = call(0, "put", 1, 2, value=5), call(0, "put", 3, 4, value=6)
    wrong, never = call(1, "take", 5, 6, 6), call(1, "take", 7, 8, 5)
    found = linearize([first, second, wrong, never], QueueModel())
    assert found.culprit is wrong
    assert found.order == (first, second)
    assert found.reasons == (("wrong", "in the state (5, 6) it may not return that"),)


def test_no_calls_are_no_mistake() -> None:
    assert linearize([], QueueModel()).answer is Answer.LINEARIZABLE
