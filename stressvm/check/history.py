"""Histories: which calls threads made of an object, with which arguments, what they returned, and when.

A scenario that wants an object of its own judged makes a `History` with the object's sequential specification (see
linearizability.py), and says of every call when it begins and what it returned, or lets `do` say it:

    stack = History(k, StackModel(), "stack")
    ...
    await stack.do(push, 3)

That is no visible operation: nothing can come in between, and no execution is added. Nothing visible happens between the
word that a call begins and the first operation of the thread after it, so the call could have been made right before that
operation. It counts from there, as late as it can be; and it ends with the word that it has returned, right after its
last operation. (Plain Python state that an object's code looks at before its first operation is looked at too early: the
rule that shared state is accessed with operations, or under a lock, holds here as elsewhere.) A call that has not returned
when the execution ends, or that raised, may have had its effect or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, TypeVar

from stressvm.check.locks import Effect, effect_of
from stressvm.kernel.errors import Over, UsageError
from stressvm.kernel.object import KernelObject
from stressvm.kernel.op import READ, WRITE, Op

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from stressvm.check.linearizability import Model
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import Event, ObjectId

P = ParamSpec("P")
R = TypeVar("R")

#: `Call.end` of a call that has not returned.
NEVER: Final = -1

_NAME: Final = "histories"


class _Ops(NamedTuple):
    call: Op
    returned: Op


def _make_ops(k: Kernel, ident: ObjectId) -> _Ops:
    # They are notes, and no operations on an object; a trace that begins with one has not begun.
    note = replace(ident, number=-1)
    # Whether one call returns before another begins matters; which of two begins first does not.
    return _Ops(
        k.cover(Op("call", note, ((ident.number, READ),), k.capacity)),
        k.cover(Op("return", note, ((ident.number, WRITE),), k.capacity)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call of an operation.

    Attributes:
        thread: number of the thread.
        name: of the operation.
        args, kwargs: its arguments.
        result: what it returned; None if it has not.
        start, end: the steps from which and to which it counts; `end` is NEVER if it has not returned.
    """

    thread: int
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    start: int = 0
    end: int = NEVER

    @property
    def pending(self) -> bool:
        """It has not returned."""
        return self.end == NEVER

    def __str__(self) -> str:
        """As it would be written."""
        words = [_word(arg) for arg in self.args] + [f"{name}={_word(arg)}" for name, arg in self.kwargs.items()]
        return f"{self.name}({', '.join(words)})" + ("" if self.pending else f" = {_word(self.result)}")


def _word(value: Any) -> str:
    if type(value) is int:
        return hex(value) if abs(value) > 0xFFFF else str(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_word, value))})"
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else repr(value)


class History(KernelObject):
    """The calls of one object, or of several that one specification is about.

    Args:
        k: the kernel.
        model: the sequential specification, of the objects as they are when the history is made; None: calls are
            recorded only.
        name: as reports show it.
    """

    __slots__ = ("inside", "model", "ops")

    TYPE = "history"

    def __init__(self, k: Kernel, model: Model[Any] | None = None, name: str | None = None) -> None:
        self.k = k
        self.ident, self.ops = k.adopt(self, self.TYPE, name, _make_ops)
        self.model = model
        #: The bits of threads within a call.
        self.inside = 0
        every: list[History] = k.once(_NAME, list)
        every.append(self)

    def call(self, name: str, *args: Any, **kwargs: Any) -> None:
        """The current thread begins a call. No switch.

        Raises:
            UsageError: it is within one already.
        """
        k = self.k
        bit = self._thread()
        if self.inside & bit:
            raise self._misuse(f"{k.threads[k.cur].name} calls {name} within another call; record the outer one only")
        self.inside |= bit
        k.trace.append((k.cur, self.ops.call, (name, args, kwargs)))

    def returned(self, value: Any = None) -> None:
        """The call of the current thread has returned that. No switch.

        Raises:
            UsageError: it is within none.
        """
        k = self.k
        bit = self._thread()
        if not self.inside & bit:
            raise self._misuse(f"{k.threads[k.cur].name} returns from no call")
        self.inside &= ~bit
        k.trace.append((k.cur, self.ops.returned, value))

    async def do(self, fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        """`await fn(*args, **kwargs)`, as a call of that name. Sleeps, and whatever else it does: as `fn`.

        If it raises, the call never returns.
        """
        name: str = getattr(fn, "__name__", "call")
        self.call(name, *args, **kwargs)
        try:
            value = await fn(*args, **kwargs)
        except Exception:
            self.inside &= ~(1 << self.k.cur)
            raise
        self.returned(value)
        return value

    def recorded(self, fn: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        """`fn`, of which every call is recorded: what `do` does, to be called as `fn` is.

        The functions of a map's face, say: `alloc = history.recorded(uvm_km_alloc)`, then `await alloc(kernel_map, size)`.
        """

        @wraps(fn)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            value: R = await self.do(fn, *args, **kwargs)
            return value

        return call

    def _thread(self) -> int:
        """The bit of the current thread."""
        k = self.k
        if k.over:
            raise Over
        if k.cur < 0:
            raise UsageError(f"{self.ident.name}: calls are made by threads, not while the world is built")
        return 1 << k.cur

    def _misuse(self, text: str) -> UsageError:
        error = UsageError(f"{self.ident.name}: {text}")
        self.k.abort(error)
        return error


def histories(k: Kernel) -> Sequence[History]:
    """Those of an execution, in the order in which they were made."""
    found: list[History] = k.singletons.get(_NAME, [])
    return found


def calls_of(trace: Sequence[Event], history: History) -> list[Call]:
    """The calls of a history, in the order in which they begin.

    Args:
        trace: of the execution that the history is of.
        history: which.
    """
    ops = history.ops
    found: list[Call] = []
    #: By thread: what it has called, and the step from which that counts, once it is known.
    begun: dict[int, tuple[tuple[Any, ...], int]] = {}
    for step, (t, op, arg) in enumerate(trace):
        if op is ops.call:
            # One before, if any, has raised.
            _pending(found, t, begun.pop(t, None))
            begun[t] = (arg, NEVER)
        elif op is ops.returned:
            (name, args, kwargs), start = begun.pop(t)
            found.append(Call(t, name, args, kwargs, arg, step if start == NEVER else start, step))
        elif t in begun and begun[t][1] == NEVER and effect_of(op) is not Effect.NOTHING:
            begun[t] = (begun[t][0], step)
    for t, call in begun.items():
        _pending(found, t, call)
    found.sort(key=lambda call: call.start)
    return found


def _pending(found: list[Call], t: int, call: tuple[tuple[Any, ...], int] | None) -> None:
    """A call that has not returned. One that has done nothing cannot have had an effect."""
    if call is not None and call[1] != NEVER:
        (name, args, kwargs), start = call
        found.append(Call(t, name, args, kwargs, None, start))
