"""Where a thread is: the functions that it is in, how far it has come in each, and their local variables.

How far: in the innermost function, the last announcement of an operation; in each other one, the last await. Thus it
does not matter whether the thread is parked, or the one that is just announcing.

What a function keeps outside its local variables while it waits (the left side of an unfinished expression, how far a
loop over items has come) cannot be seen while it runs. So a parked thread that has such things is refused.
"""

from __future__ import annotations

import dis
import gc
import sys
from functools import cache
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
)
from typing import TYPE_CHECKING, Any, Final

from stressvm.kernel.errors import UsageError
from stressvm.kernel.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stressvm.kernel.thread import Thread

_AWAY: Final = Kernel.away.__code__

#: What a parked function may refer to besides its variables: what is called next says nothing that the place does not.
_CODE: Final = (
    BuiltinMethodType,
    CellType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    type,
)
#: Equal ones of these may be one object, so that a variable's value tells nothing of where else it is.
_SHARED: Final = (int, str, bytes, tuple)

#: Places in functions where a parked thread was found to keep nothing else.
_checked: set[tuple[CodeType, int]] = set()


def places(th: Thread) -> Iterator[tuple[CodeType, int, dict[str, Any]]]:
    """The functions that a thread is in, the outermost first: the code, the place in it, the local variables.

    Raises:
        UsageError: it keeps something elsewhere.
    """
    frames = _running(th) if th.coro.cr_running else _parked(th)
    innermost = frames.pop()
    for frame in frames:
        yield frame.f_code, last("GET_AWAITABLE", frame.f_code, frame.f_lasti), frame.f_locals
    yield innermost.f_code, last("away", innermost.f_code, innermost.f_lasti), innermost.f_locals


def _running(th: Thread) -> list[FrameType]:
    """Those of the thread that is announcing an operation."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no other way to ask
    while frame is not None and frame.f_code is not _AWAY:
        frame = frame.f_back
    frames = []
    while frame is not None and frame is not th.coro.cr_frame:
        frame = frame.f_back
        if frame is not None:
            frames.append(frame)
    return frames[::-1]


def _parked(th: Thread) -> list[FrameType]:
    frames = []
    coro: Any = th.coro
    while isinstance(coro, CoroutineType):
        frame = coro.cr_frame
        assert frame is not None, "it has not ended"
        place = (coro.cr_code, frame.f_lasti)
        if place not in _checked and _clean(coro, frame.f_locals):
            _checked.add(place)
        frames.append(frame)
        coro = coro.cr_await
    return frames


@cache
def last(what: str, code: CodeType, at: int) -> int:
    """Where an instruction, or one about that name, stands last before a place in the code; -1 for nowhere."""
    found = -1
    for instruction in dis.get_instructions(code):
        if instruction.offset <= at and what in (instruction.opname, instruction.argval):
            found = instruction.offset
    return found


def _clean(coro: CoroutineType[Any, Any, Any], variables: dict[str, Any]) -> bool:
    """Does a parked function keep nothing outside its local variables? False if it may, elsewhere it is refused."""
    code = coro.cr_code
    around = (*code.co_cellvars, *code.co_freevars)
    kept = gc.get_referents(coro)
    for name, value in variables.items():
        if name not in around:
            at = next((at for at, one in enumerate(kept) if one is value), -1)
            if at >= 0:
                del kept[at]
    named = [variables, coro.cr_await, coro.__name__, coro.__qualname__]
    named += [value for value in variables.values() if not isinstance(value, _SHARED)]
    clean = True
    for value in kept:
        if isinstance(value, _CODE) or any(value is one for one in named):
            continue
        if value is None:
            # Also what is there of an exception that was handled.
            clean = False
            continue
        raise UsageError(
            f"states cannot be matched: {code.co_qualname} keeps a {type(value).__qualname__} in the middle of an "
            "expression or of a loop while it waits; have it in a local variable"
        )
    return clean
