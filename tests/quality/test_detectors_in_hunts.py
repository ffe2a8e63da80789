"""What detectors find in hunts: in executions that end well, with schedules that replay, shrunk and explained as any finding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import (
    Atomic,
    FreeBSDSx,
    History,
    Kernel,
    LockOrder,
    Mutex,
    Specification,
    scenario,
)
from stressvm.check.lock_order import WITNESS
from stressvm.explore.execution import Subject, record
from stressvm.explore.hunt import Settings, hunt_subject
from stressvm.explore.tape import Strict
from stressvm.report.explain import explain
from stressvm.vm import netbsd
from stressvm.vm.linear import NetBSDSpecification
from tests.support import in_trio, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stressvm import Call
    from stressvm.explore.execution import Recording
    from stressvm.explore.result import Finding, Result

    Build = Callable[[Kernel], None]

PAGE = netbsd.PAGE_SIZE


def hunted(build: Build, declared: dict[str, Any] | None = None, **settings: Any) -> Result:
    made = scenario(**(declared or {}))(build)
    settings.setdefault("executions", 300)
    result: Result = in_trio(lambda: hunt_subject(Subject(made, {}), Settings(**settings)))
    assert result.error == ""
    return result


def kinds(result: Result) -> list[str]:
    return [finding.kind for finding in result.findings]


def replayed(finding: Finding) -> Recording:
    what = finding.recording.subject

    async def main() -> Recording:
        async with opened(what.kernel(), "stepped") as driver:
            return await record(what, driver, Strict(finding.schedule))

    found: Recording = in_trio(main)
    return found


def nested(*orders: str, guard: bool = False, types: Callable[[Kernel, str], Any] = Mutex, rounds: int = 1) -> Build:
    """A thread for each word: it takes the locks of its letters one inside of the other."""

    def build(k: Kernel) -> None:
        locks = {name: types(k, name) for name in sorted(set("".join(orders)))}
        outer = Mutex(k, "guard")

        async def thread(order: str) -> None:
            for _ in range(rounds):
                if guard:
                    await outer.lock()
                for name in order:
                    await locks[name].lock()
                for name in reversed(order):
                    await locks[name].unlock()
                if guard:
                    await outer.unlock()

        for order in orders:
            k.spawn(thread, order)

    return build


# ---------------------------------------------------------------- predicted deadlocks


def test_a_predicted_deadlock_is_brought_about_and_found_as_what_it_is() -> None:
    result = hunted(nested("ab", "ba"))
    (finding,) = result.findings
    assert (finding.kind, finding.executions_to_find) == ("deadlock", 1)
    assert finding.note == "predicted by an execution in which it did not happen, brought about in attempt 1"
    assert finding.recording.preemptions == 1
    assert finding.shrunk.fewest
    again = replayed(finding).verdict
    assert again is not None
    assert (again.kind, again.fingerprint) == ("deadlock", finding.fingerprint)
    # It is the one that a hunt without detectors comes to by itself.
    assert finding.fingerprint == hunted(nested("ab", "ba"), checks=("none",)).findings[0].fingerprint


def test_it_is_one_finding_however_it_is_come_by() -> None:
    result = hunted(nested("ab", "ba"), keep_going=True, strategy="random")
    assert kinds(result) == ["deadlock"]


def test_two_deadlocks_in_one_scenario_are_two() -> None:
    result = hunted(nested("ab", "ba", "cd", "dc"), keep_going=True, strategy="random", executions=60)
    assert kinds(result) == ["deadlock", "deadlock"]
    assert len({finding.fingerprint for finding in result.findings}) == 2


def test_a_guard_lock_excludes_it() -> None:
    result = hunted(nested("ab", "ba", guard=True))
    assert result.status == "exhausted"


def handed_over(k: Kernel) -> None:
    """The second thread takes the locks the other way round only once the first is done, as it reads in a flag."""
    a, b, flag = Mutex(k, "a"), Mutex(k, "b"), Atomic(k, 0, "flag")

    async def one() -> None:
        await a.lock()
        await b.lock()
        await b.unlock()
        await a.unlock()
        await flag.store(1)

    async def two() -> None:
        if await flag.load():
            await b.lock()
            await a.lock()
            await a.unlock()
            await b.unlock()

    k.spawn(one)
    k.spawn(two)


def test_what_cannot_be_brought_about_says_so() -> None:
    result = hunted(handed_over, strategy="random")
    (finding,) = result.findings
    assert finding.kind == "predicted-deadlock"
    assert finding.note == "unconfirmed: 100 attempts to bring it about have failed"
    assert finding.verdict.text.startswith("predicted deadlock: one0 wants b at step")
    assert result.status == "unexpected"


def test_a_scenario_may_tolerate_it_or_declare_it() -> None:
    both = {"tolerate": ("predicted-deadlock", "lock-order")}
    assert hunted(handed_over, both, strategy="random").status == "clean"
    declared = {"expect": "predicted-deadlock"}
    assert hunted(handed_over, declared, strategy="random").status == "found"


# ---------------------------------------------------------------- lock order


def spin_then_sleep(k: Kernel) -> None:
    """An sx lock, whose holder may sleep, under a mutex."""
    m, sx = Mutex(k, "m"), FreeBSDSx(k, "sx")

    async def innermost() -> None:
        await sx.xlock()

    async def thread() -> None:
        await m.lock()
        await innermost()
        await sx.unlock()
        await m.unlock()

    k.spawn(thread)
    k.spawn(thread)


def test_a_lock_order_finding_has_both_stacks_in_its_explanation() -> None:
    (finding,) = hunted(nested("ab", "ba"), checks=("lock-order",)).findings
    assert finding.kind == "lock-order"
    assert finding.recording.preemptions == 0
    text = explain(finding.recording, finding.flips)
    where = text[text.index("Where it is:") : text.index("Who waits")]
    assert [line.split(": ")[1] for line in where.splitlines() if line.startswith("  step")] == [
        "thread0, lock a",
        "thread0, lock b",
        "thread1, lock b",
        "thread1, lock a",
    ]
    assert where.count("in nested.<locals>.build.<locals>.thread: await locks[name].lock()") == 4


def test_the_sleepable_lock_under_a_mutex() -> None:
    (finding,) = hunted(spin_then_sleep).findings
    assert finding.kind == "lock-order"
    assert finding.verdict.sites[0] == "sleepable lock acquired with a non-sleepable one held"
    ours = [
        [frame.function.rpartition(".")[2] for frame in place.stack if not frame.ours]
        for place in finding.recording.shown()
    ]
    assert ours == [["thread"], ["thread", "innermost"]]
    assert hunted(spin_then_sleep, {"expect": "lock-order"}, checks=("none",)).status == "found"


def test_how_strict_the_rules_are_is_a_setting() -> None:
    """Two locks of one class in an order of their own: WITNESS wants to be told, the default does not."""

    def named(k: Kernel, name: str) -> Mutex:
        return Mutex(k, f"fork{name}")

    numbered = nested("12", "12", types=named)
    assert hunted(numbered, checks=("all",)).status == "exhausted"
    for result in (
        hunted(numbered, checks=("all", "witness")),
        hunted(numbered, {"checks": (LockOrder(WITNESS),)}, checks=("none",)),
    ):
        (finding,) = result.findings
        assert finding.verdict.sites == ("duplicate lock of a class", "fork then fork")


# ---------------------------------------------------------------- linearizability


class LastFit(netbsd.VmMap):
    """The highest place in place of the lowest."""

    def findspace(self, hint: int, size: int, align: int = 0, flags: int = 0) -> int | None:
        """See VmMap."""
        if flags & netbsd.UVM_FLAG_FIXED or align:
            return super().findspace(hint, size, align, flags)
        place = self.entries.last_fit(size, self.max_offset - size, bound=self.max_offset)
        return place if place is not None and place >= hint else None


class NotNow(netbsd.VmMap):
    """Who must not wait for addresses does not wait for the lock, either: a failure beside free addresses."""

    async def lock_for_prepare(self, flags: int) -> bool:
        """See VmMap."""
        trylock = netbsd.UVM_KMF_TRYLOCK if flags & netbsd.UVM_KMF_NOWAIT else 0
        return await super().lock_for_prepare(flags | trylock)

    async def prepare(self, hint: int, size: int, align: int, flags: int) -> tuple[int, int]:
        """See VmMap."""
        error, va = await super().prepare(hint, size, align, flags)
        return netbsd.ENOMEM if error == netbsd.EAGAIN else error, va


class OnePageMore(netbsd.VmMap):
    """Unmaps a page too many, somebody else's."""

    async def remove(self, start: int, end: int, flags: int = 0) -> list[netbsd.MapEntry]:
        """See VmMap."""
        return await super().remove(start, min(end + PAGE, self.max_offset), flags)


def allocators(cls: type[netbsd.VmMap]) -> Build:
    """Two threads that allocate and give back, every call of which is recorded."""

    def build(k: Kernel) -> None:
        kmap = netbsd.submap(k, pages=4, cls=cls)
        history = History(k, NetBSDSpecification(kmap), "kmap")
        uvm_map, uvm_unmap = history.recorded(netbsd.uvm_map), history.recorded(netbsd.uvm_unmap)

        async def thread() -> None:
            mine = []
            for _ in range(2):
                error, va = await uvm_map(kmap, kmap.min_offset, PAGE, flags=netbsd.UVM_KMF_NOWAIT)
                if not error:
                    mine.append(va)
            for va in mine:
                await uvm_unmap(kmap, va, va + PAGE)

        k.spawn(thread)
        k.spawn(thread)

    return build


@pytest.mark.parametrize(
    ("cls", "mistake"),
    [(LastFit, "not first fit"), (NotNow, "failed with room"), (OnePageMore, "overlap")],
)
def test_calls_of_a_map_that_no_order_explains(cls: type[netbsd.VmMap], mistake: str) -> None:
    result = hunted(allocators(cls), {"tolerate": ("panic", "invariant")}, strategy="random", keep_going=True)
    found = {finding.verdict.sites: finding for finding in result.findings if finding.kind == "not-linearizable"}
    assert ("kmap uvm_map", mistake) in found
    finding = found["kmap uvm_map", mistake]
    again = replayed(finding)
    assert again.about(finding.fingerprint).verdict == finding.verdict
    assert len(again.about(finding.fingerprint).shown()) >= 1


def test_the_map_as_it_is_keeps_it() -> None:
    assert hunted(allocators(netbsd.VmMap), executions=200, checks=("all",)).status in ("clean", "exhausted")


class QueueModel(Specification):
    """First in, first out; None from an empty one."""

    def initial(self, calls: Sequence[Call]) -> tuple[int, ...]:
        """See Model."""
        del calls
        return ()

    def step(self, state: tuple[int, ...], call: Call) -> tuple[bool, tuple[int, ...]]:
        """See Model."""
        if call.name == "put":
            return True, (*state, call.args[0])
        return call.pending or call.result == (state[0] if state else None), state[1:]


def queue(*, atomic: bool) -> Build:
    """A user's own object, whose `get` looks and takes in two critical sections, or in one."""

    def build(k: Kernel) -> None:
        lock = Mutex(k, "lock")
        items: list[int] = []
        history = History(k, QueueModel(), "queue")

        async def put(item: int) -> None:
            await lock.lock()
            items.append(item)
            await lock.unlock()

        async def get() -> int | None:
            await lock.lock()
            found = items[0] if items else None
            if not atomic:
                await lock.unlock()
                await lock.lock()
            if items and found is not None:
                del items[0]
            await lock.unlock()
            return found

        async def one() -> None:
            await history.do(put, 1)
            await history.do(get)

        async def two() -> None:
            await history.do(put, 2)
            await history.do(get)

        k.spawn(one)
        k.spawn(two)

    return build


@pytest.mark.parametrize("strategy", ["auto", "random", "pct", "dpor"])
def test_a_user_s_own_object_and_model(strategy: str) -> None:
    (finding,) = hunted(queue(atomic=False), strategy=strategy).findings
    assert finding.kind == "not-linearizable"
    assert finding.verdict.sites == ("queue get", "wrong")
    assert hunted(queue(atomic=True), strategy=strategy).status in ("clean", "exhausted")


# ---------------------------------------------------------------- fingerprints


@pytest.mark.parametrize("build", [nested("ab", "ba", rounds=2), spin_then_sleep, queue(atomic=False)])
@pytest.mark.parametrize("checks", [("default",), ("lock-order", "not-linearizable")])
def test_one_bug_has_one_fingerprint_whatever_the_schedule(build: Build, checks: tuple[str, ...]) -> None:
    found = set()
    for seed in range(1, 5):
        for strategy in ("random", "pct"):
            result = hunted(build, seed=seed, strategy=strategy, executions=60, checks=checks, keep_going=True)
            assert len(result.findings) <= 2
            found |= {(finding.kind, finding.fingerprint) for finding in result.findings}
    # With lock order alone the deadlock itself is met as well, sooner or later.
    assert len(found) == len({kind for kind, _ in found})
