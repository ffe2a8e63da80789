"""Lock order from passing executions: what is a finding, what is none, and what is said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import CondVar, Kernel, Mutex, Rw, RwLock, SleepQueue, SpinMutex, Sx
from stressvm.check.lock_order import WITNESS, Duplicates, LockOrder, Rule, Rules, by_instance, by_name
from stressvm.kernel.op import ObjectId
from tests.traces import Traced, traced, walked

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.check.lock_order import Violation

    Build = Callable[[Kernel], None]


def nesting(*threads: str, types: dict[str, type[Mutex | Sx]] | None = None) -> Build:
    """Threads that take and release mutexes: "a b -a -b", or `?b` for a try. Names are those of the locks."""

    def build(k: Kernel) -> None:
        names = sorted({word.strip("?-") for steps in threads for word in steps.split()})
        locks = {name: (types or {}).get(name, Mutex)(k, name) for name in names}

        async def thread(steps: str) -> None:
            for word in steps.split():
                lock = locks[word.strip("?-")]
                if word[0] == "-":
                    await lock.unlock()
                elif isinstance(lock, Sx):
                    await (lock.try_xlock() if word[0] == "?" else lock.xlock())
                elif word[0] == "?":
                    assert await lock.trylock()
                else:
                    await lock.lock()

        for steps in threads:
            k.spawn(thread, steps)

    return build


def found(build: Build, rules: Rules | None = None) -> tuple[Violation, ...]:
    """What one thread after the other shows."""
    one = traced(build)
    assert one.verdict is None
    return LockOrder(rules).observe(one.trace, one.threads)


AB, BA = "a b -b -a", "b a -a -b"


def test_a_reversal_is_told_with_both_orders_of_a_passing_execution() -> None:
    (violation,) = found(nesting(AB, BA))
    assert violation.rule is Rule.REVERSAL
    assert violation.classes == ("a", "b")
    assert violation.text == (
        "lock order reversal: thread0 acquired b at step 1 with a held since step 0; "
        "thread1 acquired a at step 5 with b held since step 4"
    )
    verdict = violation.verdict()
    assert (verdict.kind, verdict.threads, verdict.text) == ("lock-order", (0, 1), violation.text)


@pytest.mark.parametrize(
    "threads",
    [
        (AB, AB),
        ("a -a b -b", "b -b a -a"),
        ("a ?b -b -a", BA),
        (AB, "b ?a -a -b"),
        # What one thread does by itself waits for nobody; nor do those that one lock keeps apart.
        ("a b -b -a b a -a -b", "c -c"),
        (f"g {AB} -g", f"g {BA} -g"),
    ],
)
def test_what_is_no_reversal(threads: tuple[str, ...]) -> None:
    assert found(nesting(*threads)) == ()


def test_witness_reports_what_cannot_happen_here_as_well() -> None:
    assert len(found(nesting("a b -b -a b a -a -b"), WITNESS)) == 1
    assert len(found(nesting(f"g {AB} -g", f"g {BA} -g"), WITNESS)) == 1
    # A lock that keeps only some of them apart is no guard.
    assert len(found(nesting(f"g {AB} -g", f"g {BA} -g", BA))) == 1


def test_what_a_try_got_comes_before_what_is_taken_after_it() -> None:
    (violation,) = found(nesting("a ?b c -c -b -a", "c b -b -c"))
    assert violation.classes == ("b", "c")
    # A try is no acquisition that could wait, but the lock before it comes before the one after it.
    (violation,) = found(nesting("a ?b c -c -b -a", "c a -a -c"))
    assert violation.classes == ("a", "c")


def test_a_cycle_of_three_is_one_finding() -> None:
    (violation,) = found(nesting(AB, "b c -c -b", "c a -a -c"))
    assert violation.classes == ("a", "b", "c")
    assert [seen.thread for seen in violation.seen] == [0, 1, 2]


def test_classes_are_compared_and_not_instances() -> None:
    threads = ("left1 right1 -right1 -left1", "right2 left2 -left2 -right2")
    (violation,) = found(nesting(*threads))
    assert violation.classes == ("left", "right")
    assert "left2" in violation.text
    assert found(nesting(*threads), Rules(class_of=by_instance)) == ()


@pytest.mark.parametrize(
    ("lock", "name"),
    [
        (ObjectId(3, "mutex", "fork12"), "fork"),
        (ObjectId(3, "mutex", "cpu0.lock"), "cpu.lock"),
        (ObjectId(3, "mutex", "mutex3"), "mutex3"),
        (ObjectId(3, "mutex", "mutex4"), "mutex"),
        (ObjectId(3, "mutex", "17"), "17"),
    ],
)
def test_a_class_is_a_name_without_numbers(lock: ObjectId, name: str) -> None:
    assert by_name(lock) == name


def test_locks_of_one_class_are_a_finding_if_their_order_is_broken() -> None:
    in_order, reversed_ = "fork0 fork1 -fork1 -fork0", "fork1 fork0 -fork0 -fork1"
    assert found(nesting(in_order, in_order)) == ()
    (violation,) = found(nesting(in_order, reversed_))
    assert (violation.rule, violation.classes) == (Rule.REVERSAL, ("fork",))
    assert found(nesting(in_order, reversed_), Rules(dupok=frozenset({"fork"}))) == ()


def test_locks_of_one_class_are_a_finding_always_if_asked_for() -> None:
    build = nesting("fork0 fork1 -fork1 -fork0")
    (violation,) = found(build, Rules(duplicates=Duplicates.NEVER))
    assert (violation.rule, violation.classes) == (Rule.DUPLICATE, ("fork",))
    assert "thread0 acquired fork1 at step 1 with fork0 held since step 0" in violation.text
    assert found(build, Rules(duplicates=Duplicates.NEVER, dupok=frozenset({"fork"}))) == ()


def test_a_given_order_needs_no_second_thread() -> None:
    rules = Rules(order=(("a", "m", "b"),))
    assert found(nesting(AB), rules) == ()
    (violation,) = found(nesting(BA), rules)
    assert violation.rule is Rule.STATIC
    assert violation.text.endswith(
        "with b held since step 0; the given order makes it a cycle: a before m before b before a"
    )


def test_a_blessed_pair_is_none() -> None:
    assert found(nesting(AB, BA), Rules(blessed=frozenset({frozenset("ab")}))) == ()


@pytest.mark.parametrize("under", [Mutex, SpinMutex])
def test_a_sleepable_lock_under_one_that_is_not(under: type[Mutex]) -> None:
    if under is SpinMutex:
        # The kernel itself stops a thread that would wait; a try is the only way there.
        assert found(nesting("a ?x -x -a", types={"x": Sx, "a": under})) == ()
        return
    (violation,) = found(nesting("a x -x -a", types={"x": Sx, "a": under}))
    assert (violation.rule, violation.classes) == (Rule.SLEEPABLE, ("a", "x"))
    assert found(nesting("x a -a -x", types={"x": Sx, "a": under})) == ()
    assert found(nesting("a ?x -x -a", types={"x": Sx, "a": under})) == ()


def sleeping(k: Kernel) -> None:
    a, m, cv = Mutex(k, "a"), Mutex(k, "m"), CondVar(k, "cv")

    async def sleeper() -> None:
        await a.lock()
        await m.lock()
        await cv.wait(m)
        await m.unlock()
        await a.unlock()

    async def waker() -> None:
        await m.lock()
        await cv.signal()
        await m.unlock()

    k.spawn(sleeper, name="sleeper")
    k.spawn(waker)


def test_sleeping_with_a_lock_held_is_a_finding_if_asked_for() -> None:
    assert found(sleeping) == ()
    (violation,) = found(sleeping, Rules(sleeping=True))
    assert violation.text == (
        "sleep with a non-sleepable lock held: sleeper slept on cv at step 2 with a held since step 0"
    )


def test_the_interlock_is_acquired_again_after_all_that_is_held() -> None:
    """So a thread that takes the other lock under the interlock reverses the order."""

    def build(k: Kernel) -> None:
        sleeping(k)
        a, m = k.objects[0], k.objects[1]
        assert isinstance(a, Mutex)
        assert isinstance(m, Mutex)

        async def other() -> None:
            await m.lock()
            await a.lock()
            await a.unlock()
            await m.unlock()

        k.spawn(other)

    (violation,) = found(build)
    assert violation.classes == ("a", "m")


def test_readers_are_told_as_such() -> None:
    def build(k: Kernel) -> None:
        a, b = RwLock(k, "a"), RwLock(k, "b")

        async def thread(first: RwLock, second: RwLock) -> None:
            await first.enter(Rw.READER)
            await second.enter(Rw.READER)
            await second.exit()
            await first.exit()

        k.spawn(thread, a, b)
        k.spawn(thread, b, a)

    (violation,) = found(build)
    assert "thread0 acquired b (shared) at step 1 with a (shared) held" in violation.text


def test_a_msleep_that_drops_its_interlock_orders_nothing_after_it() -> None:
    def build(k: Kernel) -> None:
        m, b, queue = Mutex(k, "m"), Mutex(k, "b"), SleepQueue(k, "q")

        async def sleeper() -> None:
            await m.lock()
            await queue.sleep(m, "w", pdrop=True)
            await b.lock()
            await m.lock()
            await m.unlock()
            await b.unlock()

        async def waker() -> None:
            await m.lock()
            await queue.wakeup()
            await m.unlock()

        k.spawn(sleeper)
        k.spawn(waker)

    assert found(build) == ()
    assert found(build, WITNESS) == ()


def test_the_answer_depends_on_one_execution_alone() -> None:
    builds = [nesting(AB, BA), nesting(AB, AB), nesting(BA, AB, "c a -a -c"), nesting("fork0 fork1 -fork1 -fork0")]
    ones = [one for build in builds for one in walked(build, 6)]
    together = LockOrder()
    last = LockOrder()
    for one in reversed(ones):
        last.observe(one.trace, one.threads)
    seen = 0
    for one in ones:
        alone = LockOrder().observe(one.trace, one.threads)
        assert together.observe(one.trace, one.threads) == alone
        assert last.observe(one.trace, one.threads) == alone
        seen += len(alone)
    assert seen
    assert {("a", "b"), ("b", "a"), ("c", "a")} == {tuple(edge) for edge in together.orders}


def test_the_fingerprint_is_that_of_rule_and_classes() -> None:
    def print_of(one: Traced) -> set[str]:
        return {violation.verdict().fingerprint for violation in LockOrder().observe(one.trace, one.threads)}

    prints = {frozenset(print_of(one)) for one in walked(nesting(AB, BA), 20) if one.verdict is None}
    assert len(prints) == 1
    other = traced(nesting("a c -c -a", "c a -a -c"))
    assert prints != {frozenset(print_of(other))}
