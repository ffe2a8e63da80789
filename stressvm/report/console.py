"""How a campaign looks in a terminal: live progress on standard error, results on standard output.

With a terminal there is one line that is rewritten; without one, a plain line now and then. NO_COLOR, FORCE_COLOR
and TERM=dumb are honoured.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from stressvm.explore.execution import Subject
    from stressvm.explore.result import Result

#: Seconds between two pictures of the live line, and between two plain lines.
LIVE_SECONDS: Final = 0.1
PLAIN_SECONDS: Final = 10.0

_CODES: Final = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}


def wants_colour(stream: TextIO) -> bool:
    """May colours be used there?"""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, where that is wanted."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if wants_colour(stream) else text


def width(default: int = 100) -> int:
    """Columns to use for standard output: those of the terminal, or a default; COLUMNS overrules both."""
    return shutil.get_terminal_size((default, 24)).columns


def several(number: int, what: str) -> str:
    """That many of something, whose plural has an s: "1 execution", "2 executions"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def compact(number: float) -> str:
    """1234567 as 1.23M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            scaled = number / (1e3 if unit == "k" else limit)
            return f"{scaled:.3g}{unit}"
    return f"{number:.0f}"


class Progress:
    """The live line of a hunt, on standard error."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.due = 0.0 if self.live else time.monotonic() + PLAIN_SECONDS
        self.shown = False
        self.number = self.total = 0
        self.findings = 0

    def begin(self, subject: Subject, number: int, total: int) -> None:
        """The hunt in a scenario starts."""
        self.number, self.total = number, total
        self.name = subject.scenario.name

    def progress(self, result: Result, left: float | None) -> None:
        """Show how it goes, if it is time to."""
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + (LIVE_SECONDS if self.live else PLAIN_SECONDS)
        line = self.line(result, left)
        if self.live:
            self.stream.write(f"\r\x1b[K{line[: width() - 1]}")
            self.shown = True
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def line(self, result: Result, left: float | None) -> str:
        """`[2/11] name: 12.3k executions, 24.1k/s, 9.1k distinct, 12.0% unseen, space about 10^12, 0 findings, 41 s left`."""
        rate = result.executions / result.seconds if result.seconds > 0 else 0.0
        about = "~" if result.seen.sampled else ""
        parts = [
            f"[{self.number}/{self.total}] {self.name}: {compact(result.executions)} execution{'' if result.executions == 1 else 's'}",
            f"{compact(rate)}/s",
            f"{about}{compact(result.seen.distinct)} distinct",
            f"{result.seen.unseen_mass:.1%} unseen",
            *result.coverage.words(),
            f"{self.findings + len(result.findings)} findings",
        ]
        if left is not None:
            parts.append(f"{max(0.0, left):.0f} s left")
        return ", ".join(parts)

    def clear(self) -> None:
        """Take the live line away, so that results can be printed."""
        if self.shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self.shown = False

    def end(self, result: Result) -> None:
        """The hunt in a scenario is over."""
        self.findings += len(result.findings)
        self.clear()
