"""The decorator: what may be declared, what is refused, how parameters are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stressvm import KINDS, Kernel, Scenario, UsageError, scenario
from stressvm.check.verdict import UNUSABLE

if TYPE_CHECKING:
    from collections.abc import Callable


def _world(k: Kernel, waiters: int = 2, rate: float = 0.5, fast: bool = False, name: str = "x") -> None:  # noqa: FBT001, FBT002 - parameters of a scenario
    """What it is about.

    And more.
    """


def _plain(_k: Kernel) -> None:
    pass


WORLD = scenario()(_world)


def test_a_scenario_knows_its_name_story_file_and_parameters() -> None:
    assert WORLD.name == "_world"
    assert WORLD.story.splitlines() == ["What it is about.", "", "And more."]
    assert WORLD.file == __file__
    assert dict(WORLD.params) == {"waiters": 2, "rate": 0.5, "fast": False, "name": "x"}
    assert scenario()(_plain).story == ""


def test_where_nothing_is_declared_the_parentheses_may_be_left_out() -> None:
    @scenario
    def world(k: Kernel, n: int = 1) -> None:
        pass

    assert (world.name, dict(world.params), world.expect) == ("world", {"n": 1}, None)
    world(Kernel(), n=2)


def test_a_scenario_can_be_called_as_the_function_it_was() -> None:
    called: list[Any] = []

    @scenario()
    def world(k: Kernel, n: int = 1) -> None:
        called.append((k, n))

    k = Kernel()
    world(k)
    world(k, n=3)
    assert called == [(k, 1), (k, 3)]


def test_what_is_given_as_text_is_read_by_the_type_of_the_default() -> None:
    assert WORLD.resolve({}) == {"waiters": 2, "rate": 0.5, "fast": False, "name": "x"}
    given = WORLD.resolve({"waiters": "7", "rate": "2.5", "fast": "YES", "name": "12"})
    assert given == {"waiters": 7, "rate": 2.5, "fast": True, "name": "12"}
    assert WORLD.resolve({"waiters": 7, "fast": True}) == {**WORLD.resolve({}), "waiters": 7, "fast": True}


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("1", True), ("yes", True), ("false", False), ("0", False), ("No", False)]
)
def test_truth_is_read_from_the_usual_words(word: str, value: bool) -> None:  # noqa: FBT001 - a table's column
    assert WORLD.resolve({"fast": word})["fast"] is value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"waiter": "1"}, "_world has no parameter 'waiter' .it has: waiters, rate, fast, name."),
        ({"waiters": "many"}, "parameter waiters='many' is no int"),
        ({"waiters": "1.5"}, "parameter waiters='1.5' is no int"),
        ({"rate": "fast"}, "parameter rate='fast' is no float"),
        ({"fast": "perhaps"}, "parameter fast='perhaps' is no bool"),
        ({"fast": ""}, "parameter fast='' is no bool"),
    ],
)
def test_unknown_parameters_and_values_of_another_type_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WORLD.resolve(given)


def test_a_scenario_without_parameters_says_that_it_has_none() -> None:
    with pytest.raises(UsageError, match="it has: none"):
        scenario()(_plain).resolve({"n": "1"})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNUSABLE])
def test_every_kind_of_finding_may_be_expected_or_tolerated(kind: str) -> None:
    assert scenario(expect=kind)(_plain).expect == kind
    assert kind in scenario(tolerate=[kind])(_plain).tolerate


def test_scarcity_is_tolerated_where_another_bug_is_declared_and_nowhere_else() -> None:
    assert scenario()(_plain).tolerate == frozenset()
    assert scenario(expect="lost-wakeup")(_plain).tolerate == {"exhausted"}
    assert scenario(expect="exhausted")(_plain).tolerate == frozenset()
    assert scenario(expect="lost-wakeup", tolerate=())(_plain).tolerate == frozenset()


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"expect": "lost wakeup"}, "no such kind of finding: 'lost wakeup'; there are: deadlock"),
        ({"tolerate": ["panics"]}, "no such kind of finding: 'panics'"),
        ({"expect": "hang"}, "no such kind of finding: 'hang'"),
        ({"tolerate": ["foreign-await"]}, "no such kind"),
        ({"expect": "panic", "tolerate": ["panic"]}, "'panic' cannot be expected and tolerated"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"hz": 0}, "hz=0"),
    ],
)
def test_declarations_that_make_no_sense_are_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scenario(**declared)


async def _async_world(k: Kernel) -> None:
    pass


def _no_kernel() -> None:
    pass


def _no_default(k: Kernel, n: int) -> None:
    pass


def _list_default(k: Kernel, n: list[int] = []) -> None:  # noqa: B006 - the mistake under test
    pass


def _none_default(k: Kernel, n: int | None = None) -> None:
    pass


def _stars(k: Kernel, **n: int) -> None:
    pass


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_async_world, "_async_world is async"),
        (_no_kernel, "_no_kernel takes no argument: its first one must be the kernel"),
        (_no_default, "_no_default: parameter n needs a default"),
        (_list_default, "_list_default: parameter n needs a default that is a bool, int, float or str"),
        (_none_default, "parameter n needs a default"),
        (_stars, "parameter n needs a default"),
    ],
)
def test_functions_that_cannot_be_scenarios_are_refused(build: Callable[..., Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scenario()(build)


def test_scenarios_are_told_apart_by_identity() -> None:
    first, second = scenario()(_plain), scenario()(_plain)
    assert first != second
    assert len({first, second}) == 2
    assert isinstance(first, Scenario)
