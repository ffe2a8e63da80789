"""Calls of NetBSD's that rely on their caller's lock: without it, a panic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stressvm import Panic
from stressvm.vm import netbsd
from tests.lone_netbsd import PAGE, One

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READ = netbsd.VM_PROT_READ
PAGEABLE = netbsd.VM_MAP_PAGEABLE
ENTER, EXIT = netbsd.UVM_LK_ENTER, netbsd.UVM_LK_EXIT


@pytest.fixture(params=netbsd.VERSIONS)
def one(request: pytest.FixtureRequest) -> Iterator[One]:
    with One(version=request.param, flags=PAGEABLE) as made:
        made.map(0, 4)
        yield made


def looks_up(one: One) -> object:
    return netbsd.uvm_map_lookup_entry(one.kmap, one.at(1))


def checks_rights(one: One) -> object:
    return netbsd.uvm_map_checkprot(one.kmap, one.at(0), one.at(2), READ)


def replaces(one: One) -> object:
    return netbsd.uvm_map_replace(one.kmap, one.at(0), one.at(4), [])


@pytest.mark.parametrize(("call", "name"), [(looks_up, "uvm_map_lookup_entry"), (checks_rights, "uvm_map_checkprot")])
def test_looking_needs_the_lock_in_some_way(one: One, call: Callable[[One], object], name: str) -> None:
    """The kernel asserts nothing here; the model says what is missing."""
    with one.reading():
        assert call(one)
    one.now(one.kmap.lock.lock())
    assert call(one)
    one.now(one.kmap.lock.unlock())
    with pytest.raises(Panic, match=f"{name}: _nothing0 has not locked kmap"):
        call(one)
    assert one.k.trouble is not None
    assert one.k.trouble.kind == "invariant"


def test_a_busy_mark_is_no_lock(one: One) -> None:
    one.now(one.kmap.lock.lock())
    one.now(one.kmap.lock.busy())
    one.now(one.kmap.lock.unlock())
    with pytest.raises(Panic, match="has not locked kmap"):
        looks_up(one)


def test_replacing_needs_the_write_lock(one: One) -> None:
    one.now(one.kmap.lock.lock())
    assert replaces(one)
    one.now(one.kmap.lock.unlock())
    one.map(0, 4)
    one.now(one.kmap.lock.lock_read())
    with pytest.raises(Panic, match="uvm_map_replace: _nothing0 has not write-locked kmap"):
        replaces(one)
    assert one.k.trouble is not None
    assert one.k.trouble.kind == "invariant"


def test_an_intrsafe_map_has_one_lock_for_both() -> None:
    with One(version="5.2", flags=netbsd.VM_MAP_INTRSAFE) as one:
        one.map(0, 4)
        one.now(one.kmap.lock.lock())
        assert looks_up(one)
        assert replaces(one)
        one.now(one.kmap.lock.unlock())
        with pytest.raises(Panic, match="has not locked"):
            looks_up(one)


@pytest.mark.parametrize("new_pageable", [False, True])
@pytest.mark.parametrize("lockflags", [ENTER, ENTER | EXIT])
@pytest.mark.parametrize("page", [0, 9])
def test_wiring_a_map_that_is_said_to_be_locked_and_is_not(
    one: One, page: int, lockflags: int, *, new_pageable: bool
) -> None:
    """The kernel panics when it marks the map busy or unlocks it; with UVM_LK_EXIT it might not notice at all."""
    call = netbsd.uvm_map_pageable(
        one.kmap, one.at(page), one.at(page) + PAGE, new_pageable=new_pageable, lockflags=lockflags
    )
    with pytest.raises(
        Panic, match=r"uvm_map_pageable: KASSERT\(rw_write_held\(&map->lock\)\): _nothing0 has not locked kmap"
    ):
        one.now(call)
    assert one.k.trouble is not None
    assert one.k.trouble.kind == "panic"


def test_a_read_lock_is_not_enough_for_wiring(one: One) -> None:
    one.now(one.kmap.lock.lock_read())
    with pytest.raises(Panic, match="has not locked kmap"):
        one.now(netbsd.uvm_map_pageable(one.kmap, one.at(0), one.at(1), new_pageable=False, lockflags=ENTER))


def test_wiring_a_map_that_is_locked_and_not_said_to_be(one: One) -> None:
    one.now(one.kmap.lock.lock())
    with pytest.raises(Panic, match="locking against myself"):
        one.now(netbsd.uvm_map_pageable(one.kmap, one.at(0), one.at(1), new_pageable=False))
