"""The workload as a value: its file, what a broken file is told, how it is reduced, what it knows about itself."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stressvm.kernel.errors import UsageError
from stressvm.vm.workload import (
    Alloc,
    Free,
    Grow,
    Ledger,
    Move,
    Operation,
    Piece,
    Protect,
    Remap,
    Thread,
    Workload,
    file,
    ids_of,
    read_workload,
    write_workload,
)

NUMPY: Final = Path(__file__).parents[2] / "scenarios" / "workloads" / "numpy_import.json.gz"


def _at(order: int) -> dict[str, int]:
    return {"order": order, "begin": order + 1, "end": order + 1}


def _alloc(order: int, name: int, pages: int) -> Alloc:
    return Alloc(**_at(order), id=name, pages=pages, address=0x1000 * name, fixed=False, protection="rw-")


@pytest.fixture
def sample() -> Workload:
    """Two threads and every kind of operation; 0 is allocated by t0 and used by t1."""
    t0: tuple[Operation, ...] = (
        _alloc(0, 0, 8),
        Remap(**_at(2), piece=Piece(0, 1, 2), protection="r-x"),
        Move(**_at(4), pieces=(Piece(0, 0, 4),), id=2, pages=6, address=2**64 - 4096),
        Grow(**_at(6), id=2, page=6, pages=4),
    )
    t1: tuple[Operation, ...] = (
        _alloc(1, 1, 1),
        Protect(**_at(3), pieces=(Piece(0, 0, 8), Piece(None, 77, 1)), protection="---"),
        Free(**_at(5), pieces=(Piece(0, 4, 4), Piece(1, 0, 1))),
        Free(**_at(7), pieces=(Piece(2, 3, 7),)),
    )
    return Workload("sample", (("calls", 8), ("lines", 8)), (Thread("t0", 100, t0), Thread("t1", 101, t1)))


def _plain(sample: Workload, tmp_path: Path) -> Any:
    write_workload(sample, tmp_path / "plain.json")
    return orjson.loads((tmp_path / "plain.json").read_bytes())


# The file.


@pytest.mark.parametrize("name", ["w.json", "w.json.gz"])
def test_what_is_saved_is_loaded_and_saved_the_same(sample: Workload, tmp_path: Path, name: str) -> None:
    write_workload(sample, tmp_path / name)
    loaded = read_workload(tmp_path / name)
    assert loaded == sample
    write_workload(loaded, tmp_path / f"again-{name}")
    assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()


def test_a_compressed_file_has_no_time_in_it_and_needs_no_name(sample: Workload, tmp_path: Path) -> None:
    write_workload(sample, tmp_path / "w.json.gz")
    data = (tmp_path / "w.json.gz").read_bytes()
    assert data[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"
    (tmp_path / "renamed").write_bytes(data)
    assert read_workload(tmp_path / "renamed") == sample


def test_files_that_are_no_workload(sample: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.json.gz"
    with pytest.raises(UsageError, match="cannot read this workload"):
        read_workload(path)
    with pytest.raises(UsageError, match="cannot write this workload"):
        write_workload(sample, tmp_path / "none" / "w.json")
    write_workload(sample, path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match="cannot read this workload"):
        read_workload(path)
    path.write_bytes(b'{"format": ')
    with pytest.raises(UsageError, match="not a workload, which is JSON"):
        read_workload(path)
    monkeypatch.setattr(file, "FILE_BYTES_MAX", 1000)
    path.write_bytes(gzip.compress(b" " * 10_000_000))
    with pytest.raises(UsageError, match="larger than 1000 bytes"):
        read_workload(path)


def test_the_number_of_operations_is_bounded(sample: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_workload(sample, tmp_path / "w.json")
    monkeypatch.setattr(file, "OPERATIONS_MAX", 3)
    with pytest.raises(UsageError, match="thread 0 has 4 operations; at most 3 are read"):
        read_workload(tmp_path / "w.json")


_T0 = ("threads", 0)
_OP = (*_T0, "operations", 0)


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (
            ("format",),
            "stressvm-workload:2",
            "its format is 'stressvm-workload:2', understood is 'stressvm-workload:1'",
        ),
        (("page_bytes",), 8192, "page_bytes is 8192; only pages of 4096 bytes"),
        (("source",), 7, "source is 7, expected a text"),
        (("counts",), [], "counts is [], expected an object"),
        (("counts", "calls"), -1, "counts, calls is -1, expected at least 0"),
        (("threads",), {}, "threads is {}, expected a list"),
        (("more",), 1, "the file has the unknown key 'more'"),
        (_T0, None, "thread 0 is None, expected an object"),
        ((*_T0, "name"), "t1", "two threads have one name"),
        ((*_T0, "pid"), 1.5, "thread 0, pid is 1.5, expected a whole number"),
        ((*_T0, "operations"), "x" * 99, "thread 0, operations is 'xxxx"),
        (_OP, [], "thread 0, operation 0: [] is no operation; known are alloc, free"),
        ((*_OP, "op"), "jump", "is no operation"),
        ((*_OP, "op"), ["alloc"], "is no operation"),
        ((*_OP, "op"), "free", "thread 0, operation 0 lacks pieces"),
        ((*_OP, "pages"), 0, "thread 0, operation 0, pages is 0, expected at least 1"),
        ((*_OP, "address"), "0x1000", "expected a whole number"),
        ((*_OP, "address"), 2**64, "expected a whole number below 2**64"),
        ((*_OP, "id"), True, "id is True, expected a whole number"),
        ((*_OP, "fixed"), 1, "fixed is 1, expected true or false"),
        ((*_OP, "protection"), "rwxp", "protection is 'rwxp', expected three characters"),
        ((*_T0, "operations", 1, "piece"), [0, 1], "piece is [0, 1], expected [id, page, pages]"),
        ((*_T0, "operations", 2, "pieces"), [], "pieces is empty, expected at least one piece"),
        ((*_T0, "operations", 2, "pieces"), [[0, 0, 9]], "9 pages from page 0 of allocation 0 are not mapped"),
        ((*_T0, "operations", 2, "pieces"), [[9, 0, 1]], "1 pages from page 0 of allocation 9 are not mapped"),
        ((*_T0, "operations", 2, "id"), 1, "operation 4 of t0: allocation 1 exists already"),
        ((*_T0, "operations", 3, "id"), 3, "there is no allocation 3"),
        ((*_T0, "operations", 3, "page"), 5, "some of 4 pages from page 5 of allocation 2 are mapped already"),
        ((*_OP, "order"), 3, "the operations of t0 are not in their own order"),
        ((*_T0, "operations", 3, "order"), 9, "t1 has an operation with order 7 where 6 comes next"),
        ((*_OP, "end"), 0, "operation 0 begins at line 1 and ends at line 0"),
    ],
)
def test_a_broken_file_is_told_what_and_where(
    sample: Workload, tmp_path: Path, place: tuple[str | int, ...], value: object, fault: str
) -> None:
    raw = _plain(sample, tmp_path)
    inner = raw
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path / "broken.json"
    # orjson writes no numbers beyond 64 bits, but a file may have them
    path.write_bytes(orjson.dumps(raw, default=str) if value != 2**64 else _with_big_number(raw, inner, place[-1]))
    with pytest.raises(UsageError) as caught:
        read_workload(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert fault in str(caught.value)


def _with_big_number(raw: object, inner: Any, key: object) -> bytes:
    inner[key] = "BIG"
    return orjson.dumps(raw).replace(b'"BIG"', str(2**64).encode())


@pytest.mark.parametrize("key", ["page_bytes", "source", "counts", "threads"])
def test_a_missing_key_is_named(sample: Workload, tmp_path: Path, key: str) -> None:
    raw = _plain(sample, tmp_path)
    del raw[key]
    (tmp_path / "broken.json").write_bytes(orjson.dumps(raw))
    with pytest.raises(UsageError, match=f"the file lacks {key}; its keys are format"):
        read_workload(tmp_path / "broken.json")


@pytest.mark.parametrize("data", [b"[]", b"7", b"null", b"{}", b"[" * 5000])
def test_json_that_is_no_workload(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w").write_bytes(data)
    with pytest.raises(UsageError, match="not a workload"):
        read_workload(tmp_path / "w")


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_corrupt_files_raise_nothing_but_usage_errors(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    packed = data.draw(st.booleans())
    whole = NUMPY.read_bytes()
    text = bytearray(whole if packed else gzip.decompress(whole))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=2) | st.just(b"9"))
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(text)
    try:
        read_workload(path).summary()
    except UsageError:
        return


# What it knows about itself.


def test_sizes_and_dependencies(sample: Workload) -> None:
    assert sample.operations_total == 8
    assert sample.largest_pages == 8
    assert sample.peak_pages == 8 + 1 - 4 + 6  # when 2 has arrived; then 5 pages go, 4 come, 7 go
    assert sample.dependencies() == {3: (2,), 4: (3,), 5: (4,), 7: (6,)}
    assert [ids_of(op) for _, op in sample.in_order()] == [(0,), (1,), (0,), (0,), (0, 2), (0, 1), (2,), (2,)]
    assert [op.order for _, op in sample.in_order()] == list(range(8))


def test_the_summary_is_one_paragraph_with_the_figures(sample: Workload) -> None:
    summary = sample.summary()
    assert "\n" not in summary
    for figure in (
        "sample: 8 operations by 2 threads",
        "2 alloc",
        "2 free",
        "8 lines with 8 calls",
        "besides: nothing",
    ):
        assert figure in summary


def test_an_empty_workload_is_a_workload(tmp_path: Path) -> None:
    empty = Workload("none", (), ())
    write_workload(empty, tmp_path / "w.json")
    assert read_workload(tmp_path / "w.json") == empty == empty.window()
    assert (empty.peak_pages, empty.largest_pages, empty.dependencies()) == (0, 0, {})
    assert empty.summary().startswith("none: 0 operations by 0 threads")


# Reduction.


def test_the_whole_window_is_the_workload(sample: Workload) -> None:
    assert sample.window() == sample
    assert sample.window(count=8, threads=["t0", "t1"]) == sample


def test_a_window_drops_what_works_on_memory_from_before(sample: Workload) -> None:
    window = sample.window(first=1, count=5)
    assert [(thread.name, type(op), op.order) for thread, op in window.in_order()] == [
        ("t1", Alloc, 0),
        ("t1", Protect, 1),
        ("t0", Alloc, 2),
        ("t1", Free, 3),
    ]
    protect, free = window.threads[1].operations[1:]
    assert isinstance(protect, Protect)
    assert protect.pieces == (Piece(None, 77, 1),)
    assert isinstance(free, Free)
    assert free.pieces == (Piece(1, 0, 1),)
    # the remap; one piece each of protect, move and free
    assert (window.count("window-pieces-dropped"), window.count("window-moves-allocated")) == (4, 1)
    assert window.count("calls") == 8


def test_a_window_of_one_thread(sample: Workload) -> None:
    window = sample.window(threads=["t1"])
    assert [thread.name for thread in window.threads] == ["t1"]
    assert [type(op) for _, op in window.in_order()] == [Alloc, Protect, Free]


@pytest.mark.parametrize("count", [0, 1])
def test_a_window_past_the_end_is_empty(sample: Workload, count: int) -> None:
    assert sample.window(first=8, count=count).threads == ()


def test_wrong_windows_are_refused(sample: Workload) -> None:
    with pytest.raises(UsageError, match=r"window\(first=-1, count=None\)"):
        sample.window(first=-1)
    with pytest.raises(UsageError, match="neither is negative"):
        sample.window(count=-1)
    with pytest.raises(UsageError, match="no thread t7 in sample; it has t0, t1"):
        sample.window(threads=["t0", "t7"])


@given(
    first=st.integers(0, 1000),
    count=st.none() | st.integers(0, 200),
    threads=st.none() | st.sets(st.sampled_from([f"t{n}" for n in range(9)])),
)
@settings(max_examples=60, deadline=None)
def test_every_window_of_a_real_workload_is_consistent(
    first: int, count: int | None, threads: set[str] | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    window = read_workload(NUMPY).window(first=first, count=count, threads=threads)
    assert window.operations_total <= (1000 if count is None else count)
    path = tmp_path_factory.getbasetemp() / "window.json"
    write_workload(window, path)
    assert read_workload(path) == window


# The ledger, against a set of pages.


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(1, 6)), max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_ledger_agrees_with_a_set_of_pages(steps: list[tuple[bool, int, int]]) -> None:
    ledger, mapped = Ledger(), set(range(4))
    ledger.apply(_alloc(0, 0, 4))
    for grows, page, pages in steps:
        span = set(range(page, page + pages))
        op = Grow(**_at(1), id=0, page=page, pages=pages) if grows else Free(**_at(1), pieces=(Piece(0, page, pages),))
        possible = not span & mapped if grows else span <= mapped
        if possible:
            ledger.apply(op)
            mapped = mapped | span if grows else mapped - span
        else:
            with pytest.raises(ValueError, match="mapped"):
                ledger.apply(op)
        assert ledger.pages == len(mapped)
        live = [n for piece in ledger.live(Piece(0, 0, 30)) for n in range(piece.page, piece.page + piece.pages)]
        assert live == sorted(mapped)
        ranges = ledger.mapped().get(0, [])
        assert [n for start, stop in ranges for n in range(start, stop)] == live
        assert all(one[1] < other[0] for one, other in pairwise(ranges)), "ranges that touch are one"
