"""What the checks know of operations: every operation of every kernel object is in one table, and holds are followed."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

import pytest

import stressvm.kernel
from stressvm import (
    Atomic,
    Cell,
    CondVar,
    Field,
    FreeBSDSx,
    Kernel,
    Mutex,
    NetBSDRwLock,
    Rw,
    RwLock,
    Semaphore,
    SleepQueue,
    SpinMutex,
    Sx,
    UsageError,
    Wake,
)
from stressvm.check.history import History
from stressvm.check.locks import EFFECTS, KERNEL_EFFECTS, Effect, Ways, effect_of
from stressvm.explore.tape import Lenient
from stressvm.kernel.line import Line
from stressvm.kernel.object import Interlock, KernelObject
from stressvm.kernel.op import NOTHING, ObjectId, Op
from stressvm.kernel.rwlock import RwCore
from stressvm.kernel.waitq import WaitQueue
from tests.traces import traced

if TYPE_CHECKING:
    from collections.abc import Callable

    from stressvm.check.locks import Hold

#: Classes that are there for others to derive from.
BASES = {KernelObject, Interlock, RwCore, WaitQueue}

#: Classes without operations: what is said of them belongs to steps on others.
DECLARED: set[type[KernelObject]] = {Field, Line}

MAKERS: dict[type[KernelObject], Callable[[Kernel], KernelObject]] = {
    Atomic: Atomic,
    Cell: lambda k: Cell(k, None),
    CondVar: CondVar,
    FreeBSDSx: FreeBSDSx,
    Mutex: Mutex,
    NetBSDRwLock: NetBSDRwLock,
    RwLock: RwLock,
    Semaphore: Semaphore,
    SleepQueue: SleepQueue,
    SpinMutex: SpinMutex,
    Sx: Sx,
}


class NotingKernel(Kernel):
    """Notes all operations that objects make."""

    __slots__ = ("made",)

    def __init__(self) -> None:
        self.made: list[Op] = []
        super().__init__()

    def cover(self, op: Op) -> Op:
        self.made.append(op)
        return super().cover(op)


def kernel_objects() -> set[type[KernelObject]]:
    for module in pkgutil.iter_modules(stressvm.kernel.__path__):
        importlib.import_module(f"stressvm.kernel.{module.name}")
    found, todo = set(), [KernelObject]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if cls.__module__.startswith("stressvm.kernel."):
                found.add(cls)
    return found - BASES - DECLARED


def test_every_kernel_object_is_looked_at() -> None:
    assert kernel_objects() == set(MAKERS), "a new kernel object: say in MAKERS how to make one"


@pytest.mark.parametrize("cls", MAKERS, ids=lambda cls: cls.__name__)
def test_every_operation_is_known(cls: type[KernelObject]) -> None:
    k = NotingKernel()
    k.reset(Lenient(()))
    obj = MAKERS[cls](k)
    ops = [op for op in k.made if op.obj == obj.ident]
    if isinstance(obj, WaitQueue):
        ops.append(obj.ops.sleep(None))
    assert ops
    kinds = EFFECTS[obj.ident.type]
    assert {op.kind for op in ops} <= set(kinds), f"new operations of {cls.__name__}: say in EFFECTS what they do"
    for op in ops:
        # What writes the object is no mere look at it, and the other way round.
        if kinds[op.kind] in (Effect.READ, Effect.REFUSED):
            assert not op.accesses[0][1]


def test_no_entry_of_the_table_is_out_of_use() -> None:
    k = NotingKernel()
    k.reset(Lenient(()))
    for make in MAKERS.values():
        obj = make(k)
        if isinstance(obj, WaitQueue):
            obj.ops.sleep(None)
    History(k)
    made = {(op.obj.type, op.kind) for op in k.made}
    assert set(EFFECTS) - {"thread", "field"} == {kind for kind, _ in made}
    listed = {(kind, op) for kind, ops in EFFECTS.items() for op in ops}
    # A queue's wakeups have other words on condition variables.
    others = {("thread", "join"), ("condvar", "wakeup"), ("condvar", "wakeup_one")}
    # What is touched within a step stands for an operation.
    touches = {
        ("cell", "peek"),
        ("cell", "poke"),
        ("atomic", "peek"),
        ("atomic", "poke"),
        ("field", "read"),
        ("field", "write"),
    }
    assert listed - made == others | touches


def test_the_kernel_s_own_operations_are_known() -> None:
    k = Kernel()
    own = [value for slot in Kernel.__slots__ if isinstance(value := getattr(k, slot, None), Op)]
    assert {op.kind for op in own} == set(KERNEL_EFFECTS)


def test_an_unknown_operation_of_a_lock_is_refused() -> None:
    with pytest.raises(UsageError, match="'grab' on m: nobody knows what it does to a mutex"):
        effect_of(Op("grab", ObjectId(0, "mutex", "m"), (), 0))
    # What is no lock may have operations of any kind; only queues of sleepers are known whatever their type.
    assert effect_of(Op("grab", ObjectId(0, "gate", "g"), (), 0)) is Effect.ORDERED
    assert effect_of(Op("sleep", ObjectId(0, "gate", "g"), (), 0)) is Effect.SLEEP
    assert effect_of(Op("fault", NOTHING, (), 0)) is Effect.ORDERED


# ---------------------------------------------------------------- holds


def acquisitions(build: Callable[[Kernel], None]) -> list[str]:
    """Each with what was held, as "held+held>got", "~" for shared and "?" for tried."""
    one = traced(build)
    assert one.verdict is None

    def word(hold: Hold) -> str:
        return hold.lock.name + "~" * hold.shared + "?" * hold.tried

    found = Ways().acquisitions(one.trace, len(one.threads))
    return ["+".join(word(hold) for hold, _ in got.held) + ">" + word(got.got) for got in found]


def test_holds_are_followed_through_every_operation() -> None:
    def build(k: Kernel) -> None:
        a, b, rw = Mutex(k, "a"), Mutex(k, "b"), Sx(k, "rw")

        async def thread() -> None:
            await a.lock()
            assert await b.trylock()
            await rw.slock()
            await a.unlock()
            assert await rw.try_upgrade()
            await a.lock()
            await rw.downgrade()
            await b.unlock()
            await b.lock()
            await b.unlock()
            await rw.unlock()
            assert await rw.try_slock()
            await rw.slock()
            await rw.unlock()
            await b.lock()
            for lock in (rw, a, b):
                await lock.unlock()

        k.spawn(thread)

    assert acquisitions(build) == [
        ">a",
        "a>b?",
        "a+b?>rw~",
        "b?+rw>a",
        "rw~+a>b",
        "a>rw~?",
        "a+rw~?>b",
    ]


def test_a_sleep_gives_up_the_interlock_and_acquires_it_again() -> None:
    def build(k: Kernel) -> None:
        a, m, cv = Mutex(k, "a"), Mutex(k, "m"), CondVar(k, "cv")

        async def sleeper() -> None:
            await a.lock()
            await m.lock()
            await cv.wait(m)
            await m.unlock()
            await a.unlock()

        async def waker() -> None:
            await m.lock()
            await cv.signal()
            await m.unlock()

        k.spawn(sleeper)
        k.spawn(waker)

    assert acquisitions(build) == [">a", "a>m", ">m", "a>m"]


@pytest.mark.parametrize("pdrop", [False, True])
def test_a_pending_signal_leaves_the_interlock_held_unless_told_otherwise(*, pdrop: bool) -> None:
    def build(k: Kernel) -> None:
        m, b, queue = Mutex(k, "m"), Mutex(k, "b"), SleepQueue(k, "q")

        async def thread() -> None:
            await m.lock()
            k.psignal(k.threads[0])
            assert await queue.sleep(m, "w", pcatch=True, pdrop=pdrop) is Wake.SIGNAL
            await b.lock()
            await b.unlock()
            if pdrop:
                await m.lock()
            await m.unlock()

        k.spawn(thread)

    assert acquisitions(build) == ([">m", ">b", ">m"] if pdrop else [">m", "m>b"])


def test_a_queue_before_a_lock_is_no_hold() -> None:
    def build(k: Kernel) -> None:
        m, rw = Mutex(k, "m"), NetBSDRwLock(k, "rw")

        async def thread(how: Rw) -> None:
            await m.lock()
            await rw.enter(how)
            await m.unlock()
            await rw.exit()

        k.spawn(thread, Rw.WRITER)
        k.spawn(thread, Rw.READER)

    assert acquisitions(build) == [">m", "m>rw", ">m", "m>rw~"]


def test_everything_is_forgotten_when_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(k: Kernel) -> None:
        a, b = Mutex(k, "a"), Mutex(k, "b")

        async def thread() -> None:
            await a.lock()
            await b.lock()
            await b.unlock()
            await a.unlock()

        k.spawn(thread)

    one = traced(build)
    ways = Ways()
    bits = ways.seen(one.trace, 1)
    assert bits
    assert ways.seen(one.trace, 1) == bits
    known = ways.transitions
    monkeypatch.setattr(Ways, "REMEMBERED", 1)
    assert ways.seen(list(one.trace), 1) == bits
    assert (ways.forgotten, ways.transitions) == (1, known)
