"""Logs of strace: what is understood, what is refused and how it is named, and that the bookkeeping is right."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stressvm.kernel.errors import UsageError
from stressvm.vm.workload import (
    Alloc,
    Free,
    Grow,
    Move,
    Operation,
    Piece,
    Protect,
    Remap,
    Workload,
    ids_of,
    read_strace,
    read_workload,
    strace,
    write_workload,
)
from stressvm.vm.workload.strace import parse_log

ROOT: Final = Path(__file__).parents[2]
DATA: Final = ROOT / "tests" / "data"
NUMPY: Final = DATA / "numpy_import.strace.gz"
XZ: Final = DATA / "xz_t2.strace.gz"
KIB: Final = 1024


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.strace"


def _read(log: Path, text: str, **options: bool | int) -> Workload:
    log.write_text(text)
    return read_strace(log, **options)  # type: ignore[arg-type]


def _operations(workload: Workload) -> list[Operation]:
    return [op for _, op in workload.in_order()]


def _mmap(result: int, length: int, flags: str = "MAP_PRIVATE|MAP_ANONYMOUS", address: str = "NULL") -> str:
    return f"mmap({address}, {length}, PROT_READ|PROT_WRITE, {flags}, -1, 0) = {result:#x}"


# Real logs. The numbers were counted with grep and awk, line by line, before this code existed.


def test_the_log_of_xz_is_three_threads_on_one_map() -> None:
    workload = read_strace(XZ)
    assert [(t.name, t.pid, len(t.operations)) for t in workload.threads] == [
        ("t0", 29793, 39),
        ("t1", 29794, 8),
        ("t2", 29814, 8),
    ]
    assert dict(workload.counts) == {"lines": 60, "calls": 57, "exits": 3, "idle": 2, "spaces": 1}
    assert workload.largest_pages == 134217728 // 4096


def test_the_log_of_numpy_has_one_map_with_nine_threads_among_39() -> None:
    workload = read_strace(NUMPY)
    per_thread = {29941: 271, 29983: 78, 29984: 38, 29985: 77, 29986: 51, 29987: 75, 29988: 105, 29989: 95, 29990: 148}
    assert {t.pid: len(t.operations) for t in workload.threads} == per_thread
    expected = {"lines": 2191, "calls": 2091, "exits": 50, "signals": 40, "idle": 2, "spaces": 39, "elsewhere": 1151}
    assert dict(workload.counts) == expected
    assert workload.count("calls") == workload.operations_total + workload.count("idle") + workload.count("elsewhere")


def test_calls_by_name_agree_with_a_search_for_their_names() -> None:
    text = gzip.decompress(NUMPY.read_bytes()).decode()
    calls = [call.name for call in parse_log(NUMPY).calls]
    for name in ("mmap", "munmap", "mprotect", "brk", "mremap"):
        assert calls.count(name) == len(re.findall(rf" {name}\(", text)), name
    assert sum(call.begin < call.end for call in parse_log(NUMPY).calls) == text.count("<unfinished ...>") == 10


def test_peak_of_the_real_log_agrees_with_a_set_of_pages() -> None:
    text = gzip.decompress(NUMPY.read_bytes()).decode().splitlines()[1230:]
    ours = [line for line in text if re.match(r"29941|2998[3-9]|29990", line)]
    mapped: set[int] = set()
    peak = 0
    brk = 0
    split: dict[str, str] = {}
    for line in ours:
        pid, _, body = line.split(" ", 2)
        if "<unfinished" in body:
            split[pid] = body.partition("<")[0]
            body = split[pid] + ") = 0" if body.startswith("munmap") else ""
        elif "resumed>" in body:
            body = "" if split[pid].startswith("munmap") else split[pid] + body.partition(">")[2]
        if found := re.match(r"mmap\([^,]+, (\d+),.* = (0x\w+)", body):
            mapped |= set(range(int(found[2], 16) // 4096, -(-(int(found[2], 16) + int(found[1])) // 4096)))
        elif found := re.match(r"munmap\((0x\w+), (\d+)", body):
            mapped -= set(range(int(found[1], 16) // 4096, -(-(int(found[1], 16) + int(found[2])) // 4096)))
        elif found := re.match(r"brk\(.* = (0x\w+)", body):
            now = int(found[1], 16) // 4096
            mapped = mapped | set(range(brk, now)) if brk else mapped
            mapped -= set(range(now, brk))
            brk = now
        peak = max(peak, len(mapped))
    assert read_strace(NUMPY).peak_pages == peak


@pytest.mark.parametrize("name", ["xz_t2", "numpy_import"])
def test_the_shipped_workloads_are_what_the_logs_say(name: str) -> None:
    shipped = read_workload(ROOT / "scenarios" / "workloads" / f"{name}.json.gz")
    assert shipped == read_strace(DATA / f"{name}.strace.gz")


def test_another_address_space_can_be_chosen() -> None:
    first = read_strace(NUMPY, space=0)
    assert [(t.pid, len(t.operations)) for t in first.threads] == [(29941, 26)]
    with pytest.raises(UsageError, match="no address space 39; it has 39"):
        read_strace(NUMPY, space=39)


# The forms of a line.


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "77 ",
        "77    ",
        "[pid 77] ",
        "[pid    77] ",
        "1795407550.817969 ",
        "77 1795407550.817969 ",
        "77 1795407550 ",
        "[pid 77] 12:34:56 ",
        "77 12:34:56.123456 ",
        "     0.000017 ",
        "77 12:34:56 (+     0.000000) ",
        "[pid 77] 12:34:56.1 [   9] [00007fae1671f9b3] ",
    ],
)
@pytest.mark.parametrize("suffix", ["", " <0.000012>", " (DELAYED)"])
def test_every_prefix_and_suffix_of_strace(log: Path, prefix: str, suffix: str) -> None:
    workload = _read(log, f"{prefix}{_mmap(0x7000, 5000)}{suffix}\n")
    assert [t.pid for t in workload.threads] == [77 if "77" in prefix else 0]
    assert _operations(workload) == [
        Alloc(order=0, begin=1, end=1, id=0, pages=2, address=0x7000, fixed=False, protection="rw-")
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        "0x7000, 4096, PROT_READ|PROT_EXEC, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0",
        "0x7000, 0x1000, 0x5, 0x32, 0xffffffff, 0",
        "0x7000, 4096, 0x5 /* PROT_READ|PROT_EXEC */, 0x32 /* MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS */, -1, 0",
        "0x7000, 4096, PROT_READ|PROT_EXEC|0x8, MAP_FIXED|21<<MAP_HUGE_SHIFT, 3</tmp/a, b) = 3 (deleted)>, 0",
    ],
)
def test_flags_decoded_or_not(log: Path, arguments: str) -> None:
    (alloc,) = _operations(_read(log, f"mmap({arguments}) = 0x7000\n"))
    assert isinstance(alloc, Alloc)
    assert (alloc.fixed, alloc.protection) == (True, "r-x")


def test_what_is_no_memory_call_is_counted_by_name(log: Path) -> None:
    text = (
        f"1 {_mmap(0x7000, 4096)}\n"
        "1 madvise(0x7000, 4096, MADV_DONTNEED) = 0\n"
        '1 write(1, "mmap(\\377 = ) <unfinished ...>", 3) = 3\n'
        "1 mlock(0x7000, 4096 <unfinished ...>\n"
        "2 exit_group(0) = ?\n"
        "\n"
        "1 <... mlock resumed>) = 0\n"
        "1 --- SIGSEGV {si_signo=SIGSEGV, si_addr=0x10} ---\n"
        "1 --- stopped by SIGSTOP ---\n"
        "2 +++ killed by SIGKILL (core dumped) +++\n"
        "[ Process PID=1 runs in 32 bit mode. ]\n"
        "1 +++ exited with 1 +++"
    )
    counts = dict(_read(log, text).counts)
    for name in ("madvise", "write", "mlock", "exit_group"):
        assert counts.pop(f"skipped:{name}") == 1
    assert counts == {"lines": 12, "calls": 1, "signals": 2, "exits": 2, "notices": 1, "spaces": 1}


def test_failed_calls_and_calls_without_return_are_counted(log: Path) -> None:
    text = (
        "1 brk(NULL) = 0x10000\n"
        "1 brk(0x99990000) = 0x10000\n"
        "1 brk(0x12000) = 0x12000\n"
        "1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = -1 ENOMEM (Cannot allocate memory) <0.000009>\n"
        "1 munmap(0x10, 4096) = -1 EINVAL (Invalid argument)\n"
        "1 munmap(0x7000, 4096 <unfinished ...>) = ?\n"
        "2 munmap(0x7000, 4096 <unfinished ...>\n"
        "2 +++ exited with 0 +++\n"
        "3 munmap(0x7000, 4096 <detached ...>\n"
    )
    counts = dict(_read(log, text).counts)
    assert counts == {"lines": 9, "calls": 2, "failed": 3, "unreturned": 3, "exits": 1, "idle": 1, "spaces": 1}


def test_lines_without_a_thread_belong_to_the_only_one(log: Path) -> None:
    text = (
        f"{_mmap(0x10000, 4096)}\n"
        "clone3({flags=CLONE_VM|CLONE_THREAD, tls=0x7}strace: Process 6 attached\n"
        " => {parent_tid=[6]}, 88) = 6\n"
        f"[pid     6] {_mmap(0x20000, 4096)}\n"
        "strace: Process 7 attached\n"
        f"[pid     7] {_mmap(0x50000, 4096)}\n"
        f"[pid     5] {_mmap(0x30000, 4096)}\n"
        "[pid     6] +++ exited with 0 +++\n"
        "[pid     7] +++ exited with 0 +++\n"
        f"{_mmap(0x40000, 4096)}\n"
    )
    workload = _read(log, text)
    assert [(t.pid, len(t.operations)) for t in workload.threads] == [(5, 3), (6, 1), (7, 1)]


# Split calls.


def test_a_split_call_keeps_both_ends_and_memory_is_free_from_the_begin_on(log: Path) -> None:
    text = (
        f"1 {_mmap(0x10000, 8192)}\n"
        "1 munmap(0x10000, 8192 <unfinished ...>\n"
        f"2 {_mmap(0x10000, 4096)}\n"
        "1 <... munmap resumed> ) = 0 <0.000022>\n"
        "2 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0 <unfinished ...>\n"
        "1 munmap(0x10000, 4096) = 0\n"
        "2 <... mmap resumed>) = 0x10000\n"
    )
    workload = _read(log, text)
    assert [(type(op), ids_of(op), op.begin, op.end) for op in _operations(workload)] == [
        (Alloc, (0,), 1, 1),
        (Free, (0,), 2, 4),
        (Alloc, (1,), 3, 3),
        (Free, (1,), 6, 6),
        (Alloc, (2,), 5, 7),
    ]
    assert workload.dependencies() == {3: (2,)}


def test_a_move_frees_its_source_where_it_begins(log: Path) -> None:
    text = (
        f"1 {_mmap(0x10000, 8192)}\n"
        "1 mremap(0x10000, 8192, 16384, MREMAP_MAYMOVE <unfinished ...>\n"
        f"2 {_mmap(0x10000, 4096)}\n"
        "1 <... mremap resumed>) = 0x40000\n"
    )
    workload = _read(log, text)
    assert _operations(workload)[2] == Move(
        order=2, begin=2, end=4, pieces=(Piece(0, 0, 2),), id=2, pages=4, address=0x40000
    )
    assert workload.count("spaces") == 1


def test_pages_of_an_allocation_on_the_move_are_not_given_out_twice(log: Path) -> None:
    text = (
        f"1 {_mmap(0x10000, 8192)}\n"
        "1 mremap(0x11000, 4096, 4096, MREMAP_MAYMOVE|MREMAP_FIXED, 0x40000 <unfinished ...>\n"
        "2 mremap(0x10000, 4096, 8192, 0) = 0x10000\n"
        "1 <... mremap resumed>) = 0x40000\n"
    )
    workload = _read(log, text)
    assert [type(op) for op in _operations(workload)] == [Alloc, Alloc, Move]
    write_workload(workload, log)
    assert read_workload(log) == workload


# Address arithmetic: one test for each way in which an operation names its memory.


def _steps(log: Path, *calls: str) -> list[Operation]:
    """The operations of calls after one mapping of eight pages at 0x10000, which is allocation 0."""
    head = _mmap(0x10000, 32 * KIB)
    workload = _read(log, "".join(f"{line}\n" for line in (head, *calls)))
    return _operations(workload)[1:]


def test_unmapping_the_middle_names_pages_of_the_allocation(log: Path) -> None:
    (free, rest) = _steps(log, "munmap(0x12000, 5000) = 0", "munmap(0x10000, 32768) = 0")
    assert isinstance(free, Free)
    assert free.pieces == (Piece(0, 2, 2),)
    assert isinstance(rest, Free)
    assert rest.pieces == (Piece(0, 0, 2), Piece(None, 0x12, 2), Piece(0, 4, 4))


def test_memory_older_than_the_log_has_no_id(log: Path) -> None:
    (protect,) = _steps(log, "mprotect(0x17000, 8192, PROT_NONE) = 0")
    assert isinstance(protect, Protect)
    assert (protect.pieces, protect.protection) == ((Piece(0, 7, 1), Piece(None, 0x18, 1)), "---")


def test_a_fixed_mapping_within_one_allocation_is_a_remap(log: Path) -> None:
    call = "mmap(0x11000, 4097, PROT_READ, MAP_PRIVATE|MAP_FIXED, 3, 0) = 0x11000"
    assert _steps(log, call) == [Remap(order=1, begin=2, end=2, piece=Piece(0, 1, 2), protection="r--")]


def test_a_fixed_mapping_beyond_it_replaces_the_part_it_covers(log: Path) -> None:
    (free, alloc) = _steps(log, "mmap(0x17000, 8192, PROT_READ, MAP_PRIVATE|MAP_FIXED, 3, 0) = 0x17000")
    assert isinstance(free, Free)
    assert free.pieces == (Piece(0, 7, 1),)
    assert isinstance(alloc, Alloc)
    assert (alloc.id, alloc.pages, alloc.address, alloc.fixed) == (1, 2, 0x17000, True)
    assert free.begin == alloc.begin == 2


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("mremap(0x10000, 32768, 40960, 0) = 0x10000", Grow(order=1, begin=2, end=2, id=0, page=8, pages=2)),
        ("mremap(0x10000, 32768, 4096, 0) = 0x10000", Free(order=1, begin=2, end=2, pieces=(Piece(0, 1, 7),))),
        (
            "mremap(0x14000, 4096, 8192, MREMAP_MAYMOVE|MREMAP_FIXED, 0x40000) = 0x40000",
            Move(order=1, begin=2, end=2, pieces=(Piece(0, 4, 1),), id=1, pages=2, address=0x40000),
        ),
        (
            "mremap(0x10000, 0, 4096, MREMAP_MAYMOVE) = 0x40000",
            Alloc(order=1, begin=2, end=2, id=1, pages=1, address=0x40000, fixed=False, protection="rw-"),
        ),
        (
            "mremap(0x10000, 4096, 4096, MREMAP_MAYMOVE|MREMAP_DONTUNMAP) = 0x40000",
            Alloc(order=1, begin=2, end=2, id=1, pages=1, address=0x40000, fixed=False, protection="rw-"),
        ),
        (
            "mremap(0x80000, 4096, 8192, 0) = 0x80000",
            Alloc(order=1, begin=2, end=2, id=1, pages=1, address=0x81000, fixed=True, protection="rw-"),
        ),
    ],
)
def test_mremap(log: Path, call: str, expected: Operation) -> None:
    assert _steps(log, call) == [expected]


@pytest.mark.parametrize(
    "call",
    [
        "munmap(0x10000, 0) = 0",
        "mprotect(0x10000, 0, PROT_READ) = 0",
        "mremap(0x10000, 4096, 4095, 0) = 0x10000",
        "brk(NULL) = 0x80000",
    ],
)
def test_calls_that_change_nothing_are_idle(log: Path, call: str) -> None:
    workload = _read(log, f"{_mmap(0x10000, 4096)}\n{call}\n")
    assert (workload.operations_total, workload.count("idle")) == (1, 1)


def test_the_heap_is_one_allocation_that_grows_and_shrinks_by_whole_pages(log: Path) -> None:
    calls = ["NULL) = 0x80010", "0x80020) = 0x80020", "0x82000) = 0x82000", "0x83001) = 0x83001", "0x81000) = 0x81000"]
    ops = _steps(log, *(f"brk({call}" for call in calls))
    assert [type(op) for op in ops] == [Alloc, Grow, Free]
    alloc, grow, free = ops
    assert isinstance(alloc, Alloc)
    assert (alloc.address, alloc.pages) == (0x81000, 1)
    assert isinstance(grow, Grow)
    assert (grow.page, grow.pages) == (1, 2)
    assert isinstance(free, Free)
    assert free.pieces == (Piece(1, 0, 3),)


# Which threads share a map.


def test_a_new_program_is_seen_by_its_break_or_by_a_mapping_on_top_of_a_live_one(log: Path) -> None:
    text = (
        f"1 brk(NULL) = 0x10000\n1 {_mmap(0x7000000, 4096)}\n"
        f"1 brk(NULL) = 0x20000\n1 {_mmap(0x7000000, 4096)}\n"
        f"1 {_mmap(0x7000000, 4096)}\n"
    )
    assert _read(log, text).count("spaces") == 3


def test_a_newcomer_joins_the_nearest_map_unless_it_is_known_to_be_a_process(log: Path) -> None:
    text = (
        f"1 brk(NULL) = 0x10000\n1 {_mmap(0x7000000, 4096)}\n"
        f"2 brk(NULL) = 0x90000000\n2 {_mmap(0x9000000000, 4096)}\n"
        f"3 {_mmap(0x8FFFFFF000, 4096)}\n"
        f"4 {_mmap(0x6FFF000, 4096)}\n"
        "4 +++ exited with 0 +++\n1 --- SIGCHLD {si_signo=SIGCHLD, si_pid=4, si_uid=0} ---\n"
    )
    assert [t.pid for t in _read(log, text).threads] == [2, 3]
    assert _read(log, text).count("spaces") == 3


@pytest.mark.parametrize(
    ("call", "spaces"),
    [
        ("clone(child_stack=0x7f0, flags=CLONE_VM|CLONE_THREAD, tls=0x7) = 2", 1),
        ("clone3({flags=0x3d0f00 /* CLONE_VM|CLONE_FS */, stack_size=0x7fff80} => {parent_tid=[2]}, 88) = 2", 1),
        ("vfork() = 2", 1),
        ("clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD) = 2", 2),
        ("fork() = 2", 2),
        ("clone3(0x7ffc, 88) = 2", 1),
    ],
)
def test_what_the_log_says_about_kinship_is_believed(log: Path, call: str, spaces: int) -> None:
    text = f"1 brk(NULL) = 0x10000\n1 {_mmap(0x7000000, 4096)}\n1 {call}\n2 {_mmap(0x6FFF000, 4096)}\n"
    assert _read(log, text).count("spaces") == spaces


def test_execve_begins_a_new_map(log: Path) -> None:
    text = (
        f'1 {_mmap(0x7000000, 4096)}\n1 execve("/bin/x", ["x"], 0x7 /* 9 vars */) = 0\n1 {_mmap(0x6FFF000, 4096)}\n'
        f"2 execve() = -1 ENOENT (No such file)\n1 <... execve resumed>) = 0\n1 {_mmap(0x6FFE000, 4096)}\n"
    )
    assert _read(log, text).count("spaces") == 3


# What is refused.


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("1 mmap(NULL, 4096, PROT_READ", "neither returns nor is unfinished"),
        ("1 openat(AT_FDCWD, ", "neither returns nor is unfinished"),
        ("1 mmap(NULL, 4096) = 0x7000", "arguments of mmap cannot be read"),
        ("1 mmap(NULL, 4096, READ, MAP private, 3, 0) = 0x7000", "flags that cannot be read"),
        ("1 munmap(0x7000, many) = 0", "arguments of munmap cannot be read"),
        ("1 munmap(0x7000, 4096) = zero", "no result that can be read"),
        ("1 munmap(0x7000, 4096) = 0x7000", "a result that this call does not have"),
        ("1 munmap(0x7001, 4096) = 0", "no multiple of 4096"),
        ("1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7001", "a result that is no multiple of 4096"),
        ("1 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = -7", "a result that this call does not have"),
        ("1 mmap(NULL, 0, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7000", "an empty mapping"),
        ("1 mremap(0x7000, 4096, 0, 0) = 0x7000", "an empty mapping"),
        ("1 mmap(0x1000, 4096, PROT_READ, MAP_FIXED, 3, 0) = 0x7000", "a fixed mapping that went elsewhere"),
        ("1 munmap(0xfffffffffffff000, 8192) = 0", "beyond the end of 64-bit addresses"),
        ("1 <... munmap resumed>) = 0", "had not begun it"),
        ("1 some output of the program", "no line of strace"),
        ("1 <... munmap resu", "no line of strace"),
        ("\x00\x01", "no line of strace"),
    ],
)
def test_a_bad_line_is_named_by_its_number(log: Path, line: str, fault: str) -> None:
    log.write_text(f"1 brk(NULL) = 0x10000\n{line}\n1 brk(NULL) = 0x10000\n")
    for lenient in (False, True):
        with pytest.raises(UsageError, match=rf"log\.strace: line 2: .*{re.escape(fault)}"):
            read_strace(log, lenient=lenient)


def test_a_call_within_a_call_of_the_same_thread_is_refused(log: Path) -> None:
    head = "1 munmap(0x7000, 4096 <unfinished ...>\n"
    with pytest.raises(UsageError, match=r"line 2: brk begins although munmap of line 1 has not returned in thread 1"):
        _read(log, f"{head}1 brk(NULL) = 0x10000\n")
    with pytest.raises(UsageError, match=r"line 2: mmap is resumed, but what thread 1 had begun in line 1 is munmap"):
        _read(log, f"{head}1 <... mmap resumed>) = 0x7000\n")


def test_a_log_cut_in_its_last_line_is_an_error_with_a_remedy(log: Path) -> None:
    whole = f"1 {_mmap(0x10000, 4096)}\n"
    for cut in ("1 munmap(0x100", "1 munmap(0x10000, 4096) = 0", "1 brk(NULL) = 0x7f", "1", "1 +++ exited wi"):
        with pytest.raises(UsageError, match=r"line 2: the log is cut off in this line.*lenient"):
            _read(log, whole + cut)
        workload = _read(log, whole + cut, lenient=True)
        assert (workload.operations_total, workload.count("torn")) == (1, 1)


def test_a_log_that_ends_within_a_call_is_an_error_with_a_remedy(log: Path) -> None:
    text = f"1 {_mmap(0x10000, 4096)}\n2 munmap(0x10000, 4096 <unfinished ...>\n1 brk(NULL) = 0x7000\n"
    with pytest.raises(UsageError, match=r"line 2: munmap of thread 2 never returns.*lenient"):
        _read(log, text)
    assert _read(log, text, lenient=True).count("torn") == 1
    cut = f"{_mmap(0x10000, 4096)}\nclone(strace: Process 3 attached\n"
    with pytest.raises(UsageError, match=r"line 2: .*never returns"):
        _read(log, cut)


def test_files_that_are_no_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot read this log"):
        read_strace(log)
    with pytest.raises(UsageError, match="none of its 0 lines changes a map"):
        _read(log, "")
    with pytest.raises(UsageError, match="cannot read this log"):
        read_strace("\0")
    log.write_bytes(XZ.read_bytes()[:-30])
    with pytest.raises(UsageError, match="cannot read this log"):
        read_strace(log)
    log.write_bytes(b"\xff\xfe\n")
    with pytest.raises(UsageError, match=r"line 1: no line of strace: '\\\\xff\\\\xfe'"):
        read_strace(log)
    monkeypatch.setattr(strace, "LINE_BYTES_MAX", 100)
    with pytest.raises(UsageError, match="line 1: longer than 100 bytes"):
        _read(log, "x" * 101)
    with pytest.raises(UsageError, match="line 3: longer than 100 characters"):
        _read(log, "x" * 50 + "strace: Process 1 attached\n" + ("x" * 50 + "strace: Process 1 attached\n") * 2)
    monkeypatch.setattr(strace, "LOG_BYTES_MAX", 150)
    with pytest.raises(UsageError, match="line 8: more than 150 bytes"):
        _read(log, "1 brk(NULL) = 0x7000\n" * 9)
    monkeypatch.setattr(strace, "OPERATIONS_MAX", 1)
    with pytest.raises(UsageError, match="line 2: more than 1 calls"):
        _read(log, "1 brk(NULL) = 0x7000\n" * 2)


def test_bytes_that_are_not_utf_8_do_no_harm_where_they_do_not_matter(log: Path) -> None:
    log.write_bytes(b'1 openat(AT_FDCWD, "\xff\xfe", 0) = 3\n1 brk(NULL) = 0x7000\n1 brk(0x8000) = 0x8000\r\n')
    assert read_strace(log).operations_total == 1


# Properties.


def test_hostile_lines_are_refused_without_hanging(log: Path) -> None:
    size = 200_000
    for line in ("mmap(" + " " * size, "brk(" + ") = -1 EX (" * (size // 10), "mremap(" + "1, " * size + ") = 0x1000"):
        with pytest.raises(UsageError):
            _read(log, f"{line}\n")


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_logs_raise_nothing_but_usage_errors(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = gzip.decompress(NUMPY.read_bytes()).splitlines(keepends=True)
    start = data.draw(st.sampled_from([0, 120, 340, 1515, 2080]))
    text = bytearray(b"".join(lines[start : start + 30]))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(text)))
        length = data.draw(st.sampled_from([0, 1, 1, 5, 80]))
        text[place : place + length] = data.draw(
            st.binary(max_size=3)
            | st.sampled_from([b"\n", b"0", b"f" * 9, b") = ", b"<unfinished ...>\n", b"strace: Process 7 attached\n"])
        )
    _survives(bytes(text), tmp_path_factory, lenient=data.draw(st.booleans()))


@given(text=st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_random_bytes_raise_nothing_but_usage_errors(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    _survives(text, tmp_path_factory, lenient=True)


def _survives(text: bytes, factory: pytest.TempPathFactory, *, lenient: bool) -> None:
    log = factory.getbasetemp() / "fuzz.strace"
    log.write_bytes(text)
    try:
        workload = read_strace(log, lenient=lenient)
    except UsageError:
        return
    write_workload(workload, log)
    assert read_workload(log) == workload  # loading checks that every operation finds its memory


class _Kernel:
    """A map of 40 pages that answers as a kernel does, and writes the log: the reference for the bookkeeping."""

    def __init__(self) -> None:
        self.mapped: set[int] = set()
        self.lines: list[str] = []
        self.brk = 100

    def call(self, what: str, page: int, pages: int, more: int) -> None:
        span = set(range(page, page + pages))
        at, size = f"{page * 4096:#x}", pages * 4096
        if what == "fixed":
            self.mapped |= span
            self.lines.append(_mmap(page * 4096, size, "MAP_FIXED", at))
        elif what == "mmap" and not span & self.mapped:
            self.mapped |= span
            self.lines.append(_mmap(page * 4096, size))
        elif what == "munmap":
            self.mapped -= span
            self.lines.append(f"munmap({at}, {size}) = 0")
        elif what == "brk":
            self.mapped = {n for n in self.mapped if n < 100} | set(range(100, 100 + page))
            self.lines.append(f"brk({(100 + page) * 4096:#x}) = {(100 + page) * 4096:#x}")
        elif what == "grow" and span <= self.mapped and not set(range(page + pages, page + pages + more)) & self.mapped:
            self.mapped |= set(range(page + pages, page + pages + more))
            self.lines.append(f"mremap({at}, {size}, {(pages + more) * 4096}, 0) = {at}")
        elif what == "move" and span <= self.mapped and not set(range(50, 50 + more)) & self.mapped:
            self.mapped = (self.mapped - span) | set(range(50, 50 + more))
            self.lines.append(f"mremap({at}, {size}, {more * 4096}, MREMAP_MAYMOVE) = {50 * 4096:#x}")


def _mapped(workload: Workload) -> set[int]:
    """The recorded pages that are mapped in the end, from nothing but the operations."""
    base: dict[int | None, int] = {None: 0}
    mapped: set[int] = set()
    for op in _operations(workload):
        for piece in op.pieces if isinstance(op, Free | Move) else ():
            start = base[piece.id] + piece.page
            mapped -= set(range(start, start + piece.pages))
        if isinstance(op, Alloc | Move):
            base[op.id] = op.address // 4096
            mapped |= set(range(base[op.id], base[op.id] + op.pages))
        if isinstance(op, Grow):
            mapped |= set(range(base[op.id] + op.page, base[op.id] + op.page + op.pages))
    return mapped


_CALLS = st.tuples(
    st.sampled_from(["mmap", "fixed", "munmap", "brk", "grow", "move"]),
    st.integers(1, 30),
    st.integers(1, 10),
    st.integers(1, 5),
)


@given(calls=st.lists(_CALLS, min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_the_bookkeeping_agrees_with_a_set_of_pages(
    calls: list[tuple[str, int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    kernel = _Kernel()
    kernel.lines.append(f"brk(NULL) = {100 * 4096:#x}")
    kernel.call("fixed", 1, 1, 1)
    for call in calls:
        kernel.call(*call)
    log = tmp_path_factory.getbasetemp() / "kernel.strace"
    log.write_text("".join(f"{line}\n" for line in kernel.lines))
    workload = read_strace(log)
    assert workload.count("spaces") == 1
    assert _mapped(workload) == kernel.mapped
    write_workload(workload, log)
    assert read_workload(log) == workload
