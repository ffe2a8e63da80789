"""The state of an execution as plain values: the same state, the same values, whichever way it came about.

It is made of what the kernel knows (who can run, what each thread has announced, timers), of every kernel object, of
what the world says of itself, and of each thread's place (see places.py): the functions that it is in, where in them, and
all their local variables.

An object is told by what it is: kernel objects and threads by number, functions by what they are and what they have from
around them, dataclasses by their fields, containers by what they hold. Of the program's own objects the world says what
stands for them; one that nobody knows is refused.
"""

from __future__ import annotations

import enum
import hashlib
import marshal
from dataclasses import fields, is_dataclass
from functools import cache
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, Protocol

from stressvm.explore.places import places
from stressvm.kernel.errors import UsageError
from stressvm.kernel.kernel import Kernel
from stressvm.kernel.object import KernelObject
from stressvm.kernel.op import Op
from stressvm.kernel.thread import Sleep, Thread

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import CellType, CodeType

#: Of a kernel object these are not its state.
NO_STATE: Final = frozenset(
    {"__weakref__", "benign", "ident", "k", "lock_op", "ops", "told_read", "told_write", "unlock_op"}
)

#: Types whose values are plain.
PLAIN: Final = frozenset({int, bool, str, bytes, type(None)})

#: Second version of marshal's format: the last without references, so that equal values have equal bytes.
_VERSION: Final = 2


class World(Protocol):
    """What a program says of itself."""

    def state(self) -> Any:
        """All that may matter and is in no kernel object and no local variable: plain values and containers of them."""

    def name(self, value: object) -> Any:
        """What stands for an object of the program's: plain values; None if it is not known."""

    def local(self, name: str, value: Any) -> Any:
        """What stands for the value of a local variable: mostly the value."""

    def matters(self, obj: KernelObject) -> bool:
        """Does the state of that kernel object matter as it is? If not, `state` says what of it does."""


class StateKey:
    """Names states.

    Attributes:
        world: of the current execution; whoever builds it sets it.
    """

    __slots__ = ("kinds", "world")

    world: World

    def __init__(self) -> None:
        #: How values of a type are told, for types met so far.
        self.kinds: dict[type, Callable[[Any], Any]] = {}

    def __call__(self, k: Kernel) -> Hashable:
        """The name of the state that an execution is in: a digest.

        Raises:
            UsageError: something cannot be told in plain values.
        """
        return hashlib.blake2b(marshal.dumps(self.state(k), _VERSION), digest_size=16).digest()

    def state(self, k: Kernel) -> tuple[Any, ...]:
        """The state as plain values; the world is asked first."""
        return (
            self.plain(self.world.state()),
            k.enabled,
            k.clock,
            tuple(sorted(k.timers.items())),
            tuple([self.thread(k, th) for th in k.threads]),
            tuple([self.object(obj) for obj in k.objects if self.world.matters(obj)]),
            self.plain(sorted(k.singletons.items())),
        )

    # ------------------------------------------------------------ the kernel

    def thread(self, k: Kernel, th: Thread) -> Any:
        """A thread: its place, and what the kernel notes of it."""
        if th.done:
            return th.number
        op = k.pend[th.number]
        assert op is not None, "states are asked for when all threads have announced"
        return (
            (op.kind, op.obj.number, op.obj.name),
            None if th.wake is None else th.wake.name,
            (th.signal, th.fires, th.spins, th.joiners),
            None if th.sleep is None else self.sleep(th.sleep),
            tuple([self.frame(*place) for place in places(th)]),
        )

    def sleep(self, sleep: Sleep) -> Any:
        """A sleep under way; since when is no part of it."""
        return self.plain((sleep.queue, sleep.wmesg, sleep.relock, sleep.interruptible))

    def frame(self, code: CodeType, anchor: int, variables: dict[str, Any]) -> Any:
        """A function that a thread is in."""
        local, plain = self.world.local, self.plain
        values = [(name, plain(local(name, value))) for name, value in variables.items()]
        return (code.co_qualname, code.co_firstlineno, anchor, tuple(values))

    def object(self, obj: KernelObject) -> Any:
        """A kernel object."""
        kind: Any = type(obj)
        return tuple([self.plain(getattr(obj, slot)) for slot in slots(kind)])

    # ------------------------------------------------------------ values

    def plain(self, value: Any) -> Any:
        """A value in numbers, texts and tuples of them.

        Raises:
            UsageError: it is of a kind that nobody knows.
        """
        kind = type(value)
        if kind in PLAIN:
            return value
        if kind is tuple or kind is list:
            return tuple([self.plain(item) for item in value])
        try:
            told = self.kinds[kind]
        except KeyError:
            told = self.kinds[kind] = self.telling(kind)
        return told(value)

    def telling(self, kind: type) -> Callable[[Any], Any]:
        """How values of a type are told."""
        tellings: tuple[tuple[type, Callable[[Any], Any]], ...] = (
            (enum.Enum, lambda value: (kind.__name__, value.name)),
            (int, int),
            (tuple, lambda value: tuple([self.plain(item) for item in value])),
            (KernelObject, lambda value: (kind.__name__, value.ident.number)),
            (Thread, lambda value: ("thread", value.number)),
            (Kernel, lambda _: "kernel"),
            (Op, lambda value: (value.kind, value.obj.number, value.obj.name)),
            (Sleep, self.sleep),
            (MethodType, lambda value: (value.__func__.__qualname__, self.plain(value.__self__))),
            (FunctionType, self.function),
            (dict, lambda value: ("dict", tuple([self.plain(item) for item in value.items()]))),
            (set | frozenset, lambda value: ("set", tuple(sorted([repr(self.plain(item)) for item in value])))),
            (type, lambda value: ("type", value.__qualname__)),
        )  # type: ignore[assignment]  # a union serves isinstance as a type does
        return next((told for known, told in tellings if issubclass(kind, known)), self.other)

    def other(self, value: Any) -> Any:
        """An object that the world has a name for, or a dataclass."""
        known = self.world.name(value)
        if known is not None:
            return self.plain(known)
        kind: Any = type(value)
        if is_dataclass(value):
            return (kind.__name__, tuple([self.plain(getattr(value, name)) for name in field_names(kind)]))
        raise UsageError(
            f"states cannot be matched: a thread or the world refers to a {kind.__qualname__}, and nobody says what stands "
            "for that"
        )

    def function(self, value: FunctionType) -> Any:
        """A function, with what it has from around it."""
        cells = tuple([self.contents(cell) for cell in value.__closure__ or ()])
        return (value.__qualname__, value.__code__.co_firstlineno, cells)

    def contents(self, cell: CellType) -> Any:
        """A variable from around a function."""
        try:
            return self.plain(cell.cell_contents)
        except ValueError:
            return "unset"


@cache
def slots(cls: type) -> tuple[str, ...]:
    """The attributes of a kind of kernel object that are its state."""
    return tuple(slot for base in cls.__mro__ for slot in getattr(base, "__slots__", ()) if slot not in NO_STATE)


@cache
def field_names(cls: Any) -> tuple[str, ...]:
    """The fields of a dataclass."""
    return tuple(field.name for field in fields(cls))
