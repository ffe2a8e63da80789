"""Schedules as text: what goes in comes out, and nothing else is ever accepted."""

from __future__ import annotations

import base64
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stressvm import UsageError
from stressvm.explore.schedule import PREFIX, UNPACKED_MAX, Schedule, parse

_decisions = st.lists(
    st.integers(2, 1 << 28).flatmap(lambda arity: st.tuples(st.integers(0, arity - 1), st.just(arity)))
)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_params = st.dictionaries(
    _texts,
    st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    max_size=4,
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    decisions = draw(_decisions)
    return Schedule(
        scenario=draw(_texts),
        choices=tuple(choice for choice, _ in decisions),
        arities=tuple(arity for _, arity in decisions),
        file=draw(_texts),
        params=draw(_params),
        source=draw(_texts),
        timers=draw(st.sampled_from(("idle", "never", "anytime"))),
        max_steps=draw(st.integers(1, 1 << 40)),
        digests=tuple(draw(st.lists(_texts, max_size=5))),
        version=draw(_texts),
    )


EXAMPLE = Schedule(
    scenario="two_waiters",
    choices=(0, 1, 2, 0, 200, 1),
    arities=(2, 2, 3, 2, 1000, 2),
    file="scenarios/x.py",
    params={"pages": 2, "fast": True},
    source="0123",
    digests=("aa", "bb"),
    version="0.1",
)


@given(schedules())
def test_a_schedule_survives_the_round_trip(schedule: Schedule) -> None:
    blob = schedule.blob()
    assert blob.startswith(PREFIX)
    assert blob.isprintable()
    assert " " not in blob
    assert parse(blob) == schedule


def test_white_space_from_pasting_does_no_harm() -> None:
    blob = EXAMPLE.blob()
    folded = "\n".join(["  " + blob[at : at + 20] + " " for at in range(0, len(blob), 20)])
    assert parse(folded) == EXAMPLE


def test_a_schedule_cut_off_at_any_place_is_refused() -> None:
    blob = EXAMPLE.blob()
    for length in range(len(blob)):
        with pytest.raises(UsageError):
            parse(blob[:length])


def test_a_schedule_with_any_one_character_changed_is_refused() -> None:
    blob = EXAMPLE.blob()
    accepted = []
    for at in range(len(PREFIX), len(blob)):
        changed = blob[:at] + ("A" if blob[at] != "A" else "B") + blob[at + 1 :]
        try:
            accepted.append(parse(changed))
        except UsageError:
            continue
    # The last character of base64 may carry bits that mean nothing.
    assert all(schedule == EXAMPLE for schedule in accepted)
    assert len(accepted) <= 1


@given(st.text())
def test_foreign_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


@given(st.binary())
def test_foreign_bytes_behind_the_prefix_are_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        parse(PREFIX + base64.urlsafe_b64encode(data).decode())


@given(st.binary(max_size=200))
def test_whatever_was_compressed_is_refused_as_data_and_never_as_our_error(data: bytes) -> None:
    with pytest.raises(UsageError):
        parse(_packed(data))


@pytest.mark.parametrize("text", ["", "x", "stressvm", "stressvm:", "stressvm:2:abc", "stressvm:1:", "STRESSVM:1:abc"])
def test_what_is_no_schedule_of_this_format_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="schedule"):
        parse(text)


def _packed(body: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(zlib.compress(body)).decode()


def _with(numbers: bytes, **changes: object) -> str:
    header = {
        "version": "",
        "scenario": "s",
        "file": "",
        "params": {},
        "source": "",
        "timers": "idle",
        "max_steps": 1,
        "digests": [],
    }
    text = orjson.dumps({name: value for name, value in (header | changes).items() if value is not ...})
    return _packed(len(text).to_bytes(4, "little") + text + numbers)


def test_the_helper_of_these_tests_makes_good_schedules() -> None:
    assert parse(_with(bytes([2, 1]))).choices == (1,)


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(bytes([2, 2]), id="choice beyond arity"),
        pytest.param(bytes([1, 0]), id="no alternative"),
        pytest.param(bytes([0, 0]), id="arity zero"),
        pytest.param(bytes([2]), id="no choice"),
        pytest.param(bytes([2, 0x80]), id="varint cut off"),
        pytest.param(bytes([0xFF] * 9 + [1, 0]), id="number too large"),
    ],
)
def test_impossible_decisions_are_refused(numbers: bytes) -> None:
    with pytest.raises(UsageError, match="damaged"):
        parse(_with(numbers))


@pytest.mark.parametrize("field", ["scenario", "file", "params", "source", "timers", "max_steps", "digests", "version"])
@pytest.mark.parametrize("value", [..., None, [[]], {"a": []}, 1.5])
def test_a_header_without_or_with_a_wrong_field_is_refused(field: str, value: object) -> None:
    if field == "params" and isinstance(value, dict):
        value = "no dict"
    if field == "digests" and isinstance(value, list):
        value = "no list"
    with pytest.raises(UsageError, match=f"damaged: its header lacks '{field}'"):
        parse(_with(b"", **{field: value}))


@pytest.mark.parametrize("header", [b"[]", b"1", b"null", b'"x"', b"{", b""])
def test_a_header_that_is_no_object_is_refused(header: bytes) -> None:
    with pytest.raises(UsageError, match="damaged"):
        parse(_packed(len(header).to_bytes(4, "little") + header))


def test_a_bomb_is_refused_without_being_unpacked() -> None:
    packer = zlib.compressobj(9)
    zeros = bytes(1 << 20)
    bomb = b"".join([packer.compress(zeros) for _ in range((UNPACKED_MAX >> 20) + 1)]) + packer.flush()
    assert len(bomb) < 100_000
    with pytest.raises(UsageError, match=f"unpacks to more than {UNPACKED_MAX} bytes"):
        parse(PREFIX + base64.urlsafe_b64encode(bomb).decode())
