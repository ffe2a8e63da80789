"""Is each step of FreeBSD's map protocols needed? What only costs time when it is done otherwise; the rest is in test_defects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm.bench.defects.freebsd_entries import AlwaysLooksAgain
from stressvm.bench.defects.freebsd_programs import cut_in_transition, two_removers, wire_and_remove
from stressvm.bench.defects.freebsd_world import World, build
from stressvm.vm.freebsd import VmMap13
from tests.support import every, explore, kinds
from tests.wiring import said

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("program", [wire_and_remove, cut_in_transition])
def test_to_look_again_each_time_is_harmless(program: Callable[[World], None]) -> None:
    """If the timestamp is compared with the wrong number; only work is lost."""
    careful, plain = every(build(program, AlwaysLooksAgain)), every(build(program, VmMap13))
    assert kinds(careful) == kinds(plain) == {None}
    assert said(careful) == said(plain)


def test_to_look_again_each_time_is_harmless_among_three() -> None:
    assert kinds(explore(build(two_removers, AlwaysLooksAgain), 200)) == {None}
