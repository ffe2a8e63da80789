"""The same bug has the same fingerprint, however it came about; two bugs have two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stressvm import CondVar, Kernel, Mutex
from tests.support import every, explore, run

if TYPE_CHECKING:
    from collections.abc import Callable


def _transfer(order: tuple[int, int], extra: int = 0, names: tuple[str, str] = ("x", "y")) -> Callable[[Kernel], None]:
    """Two transfers that lock two accounts in opposite order."""

    def build(k: Kernel) -> None:
        accounts = [Mutex(k, "checking"), Mutex(k, "savings")]

        async def transfer(first: Mutex, second: Mutex) -> None:
            await first.lock()
            for _ in range(extra):
                await k.yield_()
            await second.lock()
            await second.unlock()
            await first.unlock()

        for name, at in zip(names, order, strict=True):
            k.spawn(transfer, accounts[at], accounts[1 - at], name=name)

    return build


def _fingerprints(build: Callable[[Kernel], None]) -> set[str]:
    return {ending.fingerprint for ending in every(build) if ending.kind is not None}


def test_every_schedule_that_shows_the_bug_gives_the_same_fingerprint() -> None:
    found = [ending for ending in every(_transfer((0, 1), extra=1)) if ending.kind is not None]
    assert len({ending.picks for ending in found}) > 1
    assert len({ending.fingerprint for ending in found}) == 1


def test_swapped_parts_other_names_and_further_steps_do_not_change_it() -> None:
    base = _fingerprints(_transfer((0, 1)))
    assert len(base) == 1
    assert _fingerprints(_transfer((1, 0))) == base
    assert _fingerprints(_transfer((0, 1), names=("p", "q"))) == base
    assert _fingerprints(_transfer((0, 1), extra=2)) == base


def test_more_threads_that_are_not_part_of_it_do_not_change_it() -> None:
    def build(k: Kernel) -> None:
        _transfer((0, 1))(k)
        k.spawn(k.yield_, name="bystander")

    assert _fingerprints(build) == _fingerprints(_transfer((0, 1)))


def test_it_is_twelve_hexadecimal_digits() -> None:
    (fingerprint,) = _fingerprints(_transfer((0, 1)))
    assert len(fingerprint) == 12
    assert set(fingerprint) <= set("0123456789abcdef")


def test_two_bugs_in_one_scenario_have_two() -> None:
    def build(k: Kernel) -> None:
        a, b, c = Mutex(k, "a"), Mutex(k, "b"), Mutex(k, "c")

        async def section(*mutexes: Mutex) -> None:
            for mutex in mutexes:
                await mutex.lock()
            for mutex in reversed(mutexes):
                await mutex.unlock()

        k.spawn(section, a, b)
        k.spawn(section, b, a)
        k.spawn(section, b, c)
        k.spawn(section, c, b)

    found = [ending for ending in explore(build, 3000) if ending.kind is not None]
    ab = {ending.fingerprint for ending in found if "lock c" not in ending.text}
    bc = {ending.fingerprint for ending in found if "lock a" not in ending.text}
    assert len(ab) == len(bc) == 1
    assert ab != bc


def test_the_same_kind_in_another_function_is_another_bug() -> None:
    def fails_in(where: str) -> Callable[[Kernel], None]:
        def build(k: Kernel) -> None:
            async def here() -> None:
                raise ValueError

            async def there() -> None:
                raise ValueError

            k.spawn(here if where == "here" else there)

        return build

    assert _fingerprints(fails_in("here")) != _fingerprints(fails_in("there"))


def test_the_message_of_an_exception_is_not_part_of_it_and_its_type_is() -> None:
    def fails_with(exc: Exception) -> Callable[[Kernel], None]:
        def build(k: Kernel) -> None:
            async def fails() -> None:
                raise exc

            k.spawn(fails)

        return build

    assert _fingerprints(fails_with(ValueError("1"))) == _fingerprints(fails_with(ValueError("2")))
    assert _fingerprints(fails_with(ValueError("1"))) != _fingerprints(fails_with(KeyError("1")))


def test_where_a_step_budget_ran_out_is_not_part_of_it() -> None:
    def build(k: Kernel) -> None:
        m = Mutex(k, "m")

        async def loops() -> None:
            while True:
                await m.lock()
                await m.unlock()

        k.spawn(loops)
        k.spawn(loops)

    found = {
        run(build, choices, max_steps=limit).verdict for limit in (50, 51, 60) for choices in ((), (1,), (0, 1, 1))
    }
    assert {verdict.kind for verdict in found if verdict} == {"livelock"}
    assert len({verdict.fingerprint for verdict in found if verdict}) == 1


def test_how_many_sleep_at_the_same_place_is_not_part_of_it() -> None:
    def sleepers(n: int) -> Callable[[Kernel], None]:
        def build(k: Kernel) -> None:
            m, cv = Mutex(k, "m"), CondVar(k, "cv")

            async def sleeps() -> None:
                await m.lock()
                await cv.wait(m)

            for _ in range(n):
                k.spawn(sleeps)

        return build

    assert _fingerprints(sleepers(1)) == _fingerprints(sleepers(3))


def test_two_invariants_that_one_function_asks_for_are_two_findings() -> None:
    def build(k: Kernel) -> None:
        async def asks() -> None:
            name = ("size", "order")[k.choose(2)]
            raise k.violation("map", name, f"{name} is wrong")

        k.spawn(asks)

    endings = every(build)
    assert {ending.text.partition(" (")[0] for ending in endings} == {
        "map: size: size is wrong",
        "map: order: order is wrong",
    }
    assert {ending.kind for ending in endings} == {"invariant"}
    assert len({ending.fingerprint for ending in endings}) == 2
