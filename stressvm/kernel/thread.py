"""A kernel thread as the model sees it, and its stack as a person wants to read it."""

from __future__ import annotations

import enum
import os
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CoroutineType, FrameType, TracebackType

    from stressvm.kernel.object import Interlock
    from stressvm.kernel.waitq import WaitQueue

#: As code objects of this folder have it, whatever links lead here.
_COMPREHENSION: Final = re.compile(r"((\.<locals>)?\.?<(list|set|dict)comp>)+$")
_OURS: Final = str(Path(__file__).parent) + os.sep


class Wake(enum.Enum):
    """How a sleep ended, as the sleeper learns it."""

    WOKEN = 0
    TIMEOUT = "EWOULDBLOCK"
    SIGNAL = "EINTR"


@dataclass(slots=True)
class Sleep:
    """A sleep under way: what a report needs to say who waits for what.

    `until` is the sleeper's own condition, pure and cheap: it tells a lost wakeup (true, and nobody will come)
    from a wait for something that never arrived. `holder` names the thread number that could end the sleep, if
    one is known (-1 if not).
    """

    queue: WaitQueue
    wmesg: str
    until: Callable[[], bool] | None
    holder: Callable[[], int] | None
    relock: Interlock | None
    step: int
    tick: int
    interruptible: bool


class Thread:
    """A kernel thread. Public to scenarios: `number`, `name`, `done`, `result`; the rest is the kernel's.

    What most threads of most executions never need stays in the class: three threads are made anew some
    sixty thousand times a second.
    """

    #: More urgent threads are larger; wait queues are ordered by it.
    priority = 0
    #: May be asleep at the end without that being a finding.
    daemon = False
    #: Stands for an interrupt handler: may not sleep.
    interrupt = False
    done = False
    result: Any = None
    error: BaseException | None = None
    sleep: Sleep | None = None
    wake: Wake | None = None
    #: A signal is pending.
    signal = False
    #: Timeouts since the last progress.
    fires = 0
    #: Spin mutexes held.
    spins = 0
    #: Bits of those that wait for this one's end.
    joiners = 0
    joining: Thread | None = None

    def __init__(self, number: int, name: str | None, coro: CoroutineType[Any, Any, Any]) -> None:
        self.number = number
        self._name = name
        self.coro = coro

    @property
    def name(self) -> str:
        """As given, or the function's name with the thread's number."""
        return self._name if self._name is not None else f"{self.coro.__name__}{self.number}"

    def __repr__(self) -> str:
        """The name, as reports have it."""
        return f"<Thread {self.name}>"


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack: where, in which function, and the text of the line."""

    file: str
    line: int
    function: str
    text: str
    ours: bool

    def __str__(self) -> str:
        """As in a traceback, on one line."""
        return f"{Path(self.file).name}:{self.line} in {self.function}" + (f": {self.text}" if self.text else "")


def _frame(frame: FrameType, lineno: int) -> Frame:
    import linecache

    code = frame.f_code
    text = linecache.getline(code.co_filename, lineno, frame.f_globals).strip()
    # Python 3.12 has no frames of comprehensions any more.
    name = _COMPREHENSION.sub("", code.co_qualname) or code.co_name
    return Frame(code.co_filename, lineno, name, text, code.co_filename.startswith(_OURS))


def stack_of(thread: Thread) -> tuple[Frame, ...]:
    """The frames of a parked thread, outermost first; of one that ended by an exception, those of the exception."""
    if thread.error is not None:
        return frames_of(thread.error.__traceback__)
    frames = []
    coro: Any = thread.coro
    while (frame := getattr(coro, "cr_frame", None)) is not None:
        frames.append(_frame(frame, frame.f_lineno))
        coro = coro.cr_await
    return tuple(frames)


def frames_of(tb: TracebackType | None) -> tuple[Frame, ...]:
    """The frames of a traceback, outermost first."""
    return tuple(_frame(frame, lineno) for frame, lineno in traceback.walk_tb(tb))
