"""The shipped exec_map scenarios, in every interleaving that they have."""

from __future__ import annotations

import pytest

from stressvm.explore.loading import by_name
from tests.support import every, explore, kinds


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # With the defect no order of the two threads helps; without it every order does.
        ("freebsd13_exec_map_tail_gap", {"lost-wakeup"}),
        ("freebsd13_exec_map_first_fit", {None}),
        ("freebsd2013_exec_map_tail_gap", {None}),
    ],
)
def test_the_last_gap(name: str, expected: set[str | None]) -> None:
    assert kinds(every(by_name(name))) == expected


def test_two_waiters_are_both_woken_or_one_is_lost() -> None:
    assert kinds(explore(by_name("freebsd13_exec_map_waiters"), 2_000)) == {"exhausted"}
    assert kinds(explore(by_name("freebsd13_exec_map_wakeup_one"), 200)) == {"exhausted", "lost-wakeup"}
