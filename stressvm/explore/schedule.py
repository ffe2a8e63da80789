"""Schedules: one number for every decision with two or more alternatives, and their form as text.

A number is an index into the candidates: 0 keeps the current thread running (or takes the first by number where it
cannot go on), then come the others by number, then timers by deadline; data choices are as drawn. So the all-zero
schedule is the one without preemptions, and a smaller schedule is a simpler one.

The text (a blob) is `stressvm:1:` and base64url of a zlib-compressed record: four bytes of length and a JSON header
(program version, scenario, its file, parameters and digest, settings, digests of the trace along the way), then the
decisions as varints, each number behind its arity. It is data: reading one executes nothing, and decompression is
bounded.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from stressvm.kernel.errors import UsageError

PREFIX: Final = "stressvm:1:"
#: Bytes that a blob may unpack to; some ten million decisions.
UNPACKED_MAX: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Schedule:
    """A replayable execution.

    Attributes:
        scenario: its name.
        file: the scenario's file as the user would find it, for a message when it is not found by name.
        params: the scenario's parameters.
        source: digest of the scenario's file.
        timers: "idle", "never" or "anytime".
        max_steps: the step budget it ran under.
        choices: for every decision the alternative taken.
        arities: for every decision the number of alternatives, 2 or more.
        digests: digest of the trace after every DIGEST_EVERY steps, and at the end.
        version: of the program that recorded it.
        checks: the detectors that looked at it, by name.
        bug: the fingerprint of the bug that it was kept for, if the execution shows several.
    """

    scenario: str
    choices: tuple[int, ...]
    arities: tuple[int, ...]
    file: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    timers: str = "idle"
    max_steps: int = 10_000
    digests: tuple[str, ...] = ()
    version: str = ""
    checks: tuple[str, ...] = ()
    bug: str = ""

    def blob(self) -> str:
        """As text, on one line."""
        facts: dict[str, Any] = {
            "version": self.version,
            "scenario": self.scenario,
            "file": self.file,
            "params": self.params,
            "source": self.source,
            "timers": self.timers,
            "max_steps": self.max_steps,
            "digests": list(self.digests),
        }
        if self.checks:
            facts["checks"] = list(self.checks)
        if self.bug:
            facts["bug"] = self.bug
        header = orjson.dumps(facts)
        body = bytearray(len(header).to_bytes(4, "little") + header)
        for choice, arity in zip(self.choices, self.arities, strict=True):
            _put(body, arity)
            _put(body, choice)
        return PREFIX + base64.urlsafe_b64encode(zlib.compress(bytes(body), 9)).decode().rstrip("=")


def parse(blob: str) -> Schedule:
    """Read a blob.

    Raises:
        UsageError: it is truncated, foreign, or of a format that this version does not know.
    """
    text = "".join(blob.split())
    if not text.startswith("stressvm:"):
        raise UsageError(f"not a schedule: {_clip(text)!r} does not start with {PREFIX!r}")
    if not text.startswith(PREFIX):
        raise UsageError(f"a schedule of another format: {_clip(text)!r}; this version reads {PREFIX!r}")
    body = _unpack(text[len(PREFIX) :])
    size = int.from_bytes(body[:4], "little")
    if len(body) < 4 + size:
        raise UsageError("the schedule is truncated: its header is cut off; copy the whole text")
    try:
        header = orjson.loads(body[4 : 4 + size])
        numbers = _take_all(body, 4 + size)
        choices, arities = tuple(numbers[1::2]), tuple(numbers[::2])
        schedule = Schedule(
            scenario=_typed(header, "scenario", str),
            choices=choices,
            arities=arities,
            file=_typed(header, "file", str),
            params=_typed(header, "params", dict),
            source=_typed(header, "source", str),
            timers=_typed(header, "timers", str),
            max_steps=_typed(header, "max_steps", int),
            digests=tuple(str(digest) for digest in _typed(header, "digests", list)),
            version=_typed(header, "version", str),
            checks=tuple(str(name) for name in _typed({"checks": [], **header}, "checks", list)),
            bug=_typed({"bug": "", **header}, "bug", str),
        )
    except (orjson.JSONDecodeError, ValueError) as exc:
        raise UsageError(f"the schedule is damaged: {exc}") from None
    for at, (choice, arity) in enumerate(zip(choices, arities, strict=True)):
        if arity < 2 or choice >= arity:
            raise UsageError(f"the schedule is damaged: decision {at} takes alternative {choice} of {arity}")
    return schedule


def _unpack(text: str) -> bytes:
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        unzip = zlib.decompressobj()
        body = unzip.decompress(packed, UNPACKED_MAX)
    except (binascii.Error, ValueError, zlib.error) as exc:
        raise UsageError(f"the schedule is damaged or truncated: {exc}; copy the whole text") from None
    if not unzip.eof:
        why = (
            f"unpacks to more than {UNPACKED_MAX} bytes"
            if unzip.unconsumed_tail
            else "is truncated; copy the whole text"
        )
        raise UsageError(f"the schedule {why}")
    return body


def _typed(header: Any, key: str, kind: type) -> Any:
    value = header.get(key) if isinstance(header, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"its header lacks {key!r}")  # noqa: TRY004 - a damaged value, caught by parse
    return value


def _put(out: bytearray, number: int) -> None:
    """A varint: seven bits a byte, the lowest first, the top bit set on all but the last."""
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _take_all(body: bytes, at: int) -> list[int]:
    numbers = []
    number = shift = 0
    for byte in body[at:]:
        number |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift > 28:
                raise ValueError("a number is too large")
        else:
            numbers.append(number)
            number = shift = 0
    if shift or len(numbers) % 2:
        raise ValueError("its last decision is cut off")
    return numbers


def _clip(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
