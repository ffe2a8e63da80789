"""uvm_km_alloc by its truth table: every flag, every type, every shortage, and who holds the map's lock.

Each of the 384 rows is run with the lock held by a reader, by a writer, or by a mark on the map; with and without anything to
reclaim; with the lock taken by somebody else when the pages are given back; with and without DIAGNOSTIC; for both versions.
Whoever sleeps is then given what he sleeps for, and goes on as the row says that has it. What comes of it is compared with
the table, and counted where uvm_km(9) promises something else.
"""

from __future__ import annotations

import pytest

from stressvm.vm import netbsd
from tests import km_alloc_page
from tests.km_alloc_rows import BY_INPUT, ROWS, SLEEPS, run_of


def test_the_table_is_whole() -> None:
    assert len(ROWS) == len(BY_INPUT) == 384
    assert {row["outcome"] for row in ROWS} == {
        "addr",
        "0",
        "sleeps-until-va",
        "sleeps-until-pages",
        "0-if-not-reclaimable-else-sleeps",
    }


@pytest.mark.parametrize("diagnostic", [False, True], ids=["plain", "diagnostic"])
@pytest.mark.parametrize("version", netbsd.VERSIONS)
def test_every_row(version: str, *, diagnostic: bool) -> None:
    slept = set()
    count = 0
    for case, world, verdict in run_of(version, diagnostic=diagnostic):
        count += 1
        expected = case.expected()
        if expected == ["panic"]:
            assert verdict is not None, case
            assert verdict.kind == "panic", case
            assert "NOWAIT and WAITVA exclude each other" in verdict.text
            continue
        assert verdict is None, (case, verdict and verdict.text)
        assert world.came == expected, case
        # What the row says by itself, before anything was supplied. (That a CANFAIL that fails gives its addresses back,
        # and may wait for the lock then, is not in its row's list, which is of what it sleeps for while it waits.)
        for sleep in expected[: 1 + bool(case.holder)]:
            assert sleep in {"addr", "0", "unwind"} or SLEEPS[sleep] in case.row["sleeps_on"], case
        slept.update(expected)
        if case.row["outcome"] == "0" and not case.row["va_available"] and not (case.holder and case.row["trylock"]):
            assert world.kmap.flags.peek() & netbsd.VM_MAP_WANTVA, "the flag stays set"
    assert slept == {"map-lock", "va", "pages", "unwind", "addr", "0"}
    assert count > 900


# ---------------------------------------------------------------- what uvm_km(9) promises


def test_zero_changes_nothing_for_memory_without_pages_of_its_own() -> None:
    """uvm_km(9) says that it is for WIRED only; what the rows come to is the same with it, row by row, type by type."""
    for version in netbsd.VERSIONS:
        plain, zero = (run_of(version, diagnostic=True, zero=zero) for zero in (False, True))
        assert [world.came for _, world, _ in plain] == [world.came for _, world, _ in zero]
        assert [verdict and verdict.text for *_, verdict in plain] == [verdict and verdict.text for *_, verdict in zero]


@pytest.mark.parametrize("name", [promise.name for promise in km_alloc_page.PROMISES])
def test_every_promise_is_broken_in_some_row_and_as_often_on_both_versions(name: str) -> None:
    promise = next(one for one in km_alloc_page.PROMISES if one.name == name)
    six, five = (km_alloc_page.broken(promise, version) for version in netbsd.VERSIONS)
    assert list(six) == list(five)
    assert 0 < len(six) < len(ROWS)


def test_where_no_promise_is_broken_the_code_does_what_the_page_says() -> None:
    """NOWAIT never sleeps but for the lock; CANFAIL without NOWAIT never fails for addresses with WAITVA; and so on."""
    seen = set()
    for diagnostic in (False, True):
        for case, world, verdict in run_of("6", diagnostic=diagnostic):
            row, came = case.row, ["panic"] if verdict is not None else world.came
            if any(promise.breaks(case, came) for promise in km_alloc_page.PROMISES):
                continue
            if row["nowait"]:
                assert came in (["addr"], ["0"]), case
            if row["waitva"] and not row["nowait"] and not row["canfail"]:
                assert came[-1] == "addr", case
            if row["trylock"]:
                assert not {"map-lock", "unwind"} & set(came), case
            seen.add(came[-1])
    assert seen == {"addr", "0"}


def test_the_page_in_the_docs_is_what_the_run_gives() -> None:
    assert km_alloc_page.FILE.read_text() == km_alloc_page.page(), "python -m tests.km_alloc_page"
