"""Memory that threads share: every access is a step, and read-modify-write is one."""

from __future__ import annotations

from stressvm import Atomic, Cell, Kernel
from tests.support import every, outcomes, run, words


def test_a_load_and_a_store_apart_lose_updates_in_some_interleavings() -> None:
    def build(k: Kernel) -> None:
        counter = Cell(k, 0, "counter")

        async def adds() -> None:
            await counter.store(await counter.load() + 1)

        async def sums_up() -> None:
            for thread in threads:
                await k.join(thread)
            k.record(did=await counter.load())

        threads = [k.spawn(adds), k.spawn(adds)]
        k.spawn(sums_up, name="sum")

    assert outcomes(every(build)) == {("sum 1",), ("sum 2",)}


def test_fetchadd_loses_none() -> None:
    def build(k: Kernel) -> None:
        counter = Atomic(k, 0, "counter")

        async def adds() -> None:
            k.record(did=await counter.fetchadd(1))

        for name in ("a", "b"):
            k.spawn(adds, name=name)

    assert {frozenset(word[2:] for word in said) for said in outcomes(every(build))} == {frozenset("01")}


def test_cas_stores_only_over_the_expected_value_and_says_whether() -> None:
    def build(k: Kernel) -> None:
        atomic = Atomic(k, 5, "a")

        async def thread() -> None:
            k.record(did=(await atomic.cas(4, 1), atomic.peek()))
            k.record(did=(await atomic.cas(5, 1), atomic.peek()))
            k.record(did=(await atomic.swap(7), atomic.peek()))
            k.record(did=(await atomic.fetchadd(-3), atomic.peek()))

        k.spawn(thread, name="t")

    recording = run(build)
    assert words(recording) == ("t (False, 5)", "t (True, 1)", "t (1, 7)", "t (7, 4)")
    assert [(step.kind, step.arg) for step in recording.records if step.obj == "a"] == [
        ("cas-failed", 5),
        ("cas", 1),
        ("swap", 7),
        ("fetchadd", 4),
    ]


def test_of_two_cas_on_the_same_value_exactly_one_wins() -> None:
    def build(k: Kernel) -> None:
        owner = Atomic(k, 0, "owner")

        async def claims(me: int) -> None:
            k.record(did=await owner.cas(0, me))

        k.spawn(claims, 1, name="a")
        k.spawn(claims, 2, name="b")

    assert {tuple(sorted(word[2:] for word in said)) for said in outcomes(every(build))} == {("False", "True")}


def test_peek_and_poke_are_no_steps() -> None:
    def build(k: Kernel) -> None:
        cell = Cell(k, ["x"], "c")

        async def thread() -> None:
            assert cell.peek() == ["x"]
            cell.poke(["y"])
            assert (await cell.load()) == ["y"]
            await cell.store(["z"])

        k.spawn(thread)

    assert [(step.kind, step.arg) for step in run(build).records] == [("load", ["y"]), ("store", ["z"])]


def test_store_buffering_is_sequentially_consistent() -> None:
    def build(k: Kernel) -> None:
        x, y = Cell(k, 0, "x"), Cell(k, 0, "y")

        async def thread(mine: Cell[int], other: Cell[int]) -> None:
            await mine.store(1)
            k.record(did=await other.load())

        k.spawn(thread, x, y, name="a")
        k.spawn(thread, y, x, name="b")

    seen = {tuple(sorted(said)) for said in outcomes(every(build))}
    assert seen == {("a 0", "b 1"), ("a 1", "b 0"), ("a 1", "b 1")}
