"""5.2's callback heads, callback(9): functions that are asked in turn to give something back.

Source: sys/kern/subr_callback.c 1.5 and 1.6. The functions run with no lock of the head held; whoever leaves waits until
none is running. Two that run them at the same time take turns through one pointer, which nothing covers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from stressvm.kernel.condvar import CondVar
from stressvm.kernel.mutex import SpinMutex
from stressvm.vm.netbsd import flags as F  # noqa: N812 - the constants, as the kernel writes them

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stressvm.kernel.kernel import Kernel

    #: Gets what its round was started with; returns CALLBACK_CHAIN_CONTINUE or CALLBACK_CHAIN_ABORT.
    Callback: TypeAlias = Callable[[Any], Awaitable[int]]


class CallbackHead:
    """struct callback_head.

    Args:
        k: the kernel.
        name: as reports show its lock, a spin mutex.
    """

    def __init__(self, k: Kernel, name: str) -> None:
        self.k = k
        self.ch_lock = SpinMutex(k, f"{name}.ch_lock")
        self.ch_cv = CondVar(k, f"{name}.ch_cv")
        self.entries: list[Callback] = []
        #: Who is asked next; None for the first.
        self.next: Callback | None = None
        self.running = 0

    def add(self, fn: Callback) -> None:
        """While the world is built: as `register`."""
        self.entries.append(fn)

    async def register(self, fn: Callback) -> None:
        """callback_register: ask `fn`, too, after all others. Locks: none. Sleeps: no."""
        await self.ch_lock.lock()
        self.entries.append(fn)
        await self.ch_lock.unlock()

    async def unregister(self, fn: Callback) -> None:
        """callback_unregister: do not ask `fn` any more. Locks: none. Sleeps: until no callback is running."""
        await self.ch_lock.lock()
        while self.running:
            await self.ch_cv.wait(self.ch_lock, until=lambda: not self.running)
        if self.next is fn:
            self.next = self.following(fn)
        self.entries.remove(fn)
        await self.ch_lock.unlock()

    async def run_roundrobin(self, arg: object) -> int:
        """callback_run_roundrobin: ask each one once, beginning after the one asked last, until one says ABORT.

        Locks: none. Sleeps: what the callbacks do may. Returns: what the last one asked returned, or 0 for none.
        """
        await self.ch_lock.lock()
        self.running += 1
        await self.ch_lock.unlock()
        result = 0
        for _ in range(len(self.entries)):
            result = await self.run_one(arg)
            if result != F.CALLBACK_CHAIN_CONTINUE:
                break
        await self.ch_lock.lock()
        self.running -= 1
        if not self.running:
            await self.ch_cv.broadcast()
        await self.ch_lock.unlock()
        return result

    async def run_one(self, arg: object) -> int:
        """callback_runone: ask the next one."""
        fn = self.next or self.entries[0]
        result = await fn(arg)
        self.next = self.following(fn)
        return result

    def following(self, fn: Callback) -> Callback | None:
        """The one after, None at the end."""
        at = self.entries.index(fn) + 1
        return self.entries[at] if at < len(self.entries) else None
