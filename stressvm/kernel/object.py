"""What all kernel objects have in common: a number, a name, and who holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.op import ObjectId


class KernelObject:
    """Something that threads operate on. It lives for one execution; its operations outlive it."""

    __slots__ = ("ident", "k")

    k: Kernel
    ident: ObjectId
    #: Of plain data: why its unordered uses are no bug; "" if they are one.
    benign: str = ""

    def holders(self) -> list[int]:
        """The numbers of the threads that hold it and could let others have it; empty for what is not held."""
        return []

    def offers(self) -> int:
        """What a request that is made now would get at once, as bits of `Op.needs`; all bits if none has to wait."""
        return 0

    def names(self, mask_or_threads: int | list[int]) -> tuple[str, ...]:
        """The names of threads given as bits or as numbers, for statistics and messages."""
        threads = self.k.threads
        if isinstance(mask_or_threads, int):
            mask_or_threads = [t for t in range(mask_or_threads.bit_length()) if mask_or_threads >> t & 1]
        return tuple(threads[t].name for t in mask_or_threads)

    def __repr__(self) -> str:
        """Type and name."""
        return f"<{self.ident.type} {self.ident.name}>"


class Interlock(KernelObject):
    """A lock that a sleeper can give up and get back: mutexes and the sx lock.

    A sleep releases it in the very step that queues the sleeper, and getting it back is the next visible
    operation of a woken sleeper: enabled when it has been woken and the lock can be had.
    """

    __slots__ = ()

    #: May the holder not sleep? (It may sleep on this lock itself, which gives it up.)
    SPINS = False

    def drop(self, me: int) -> None:
        """Release it, as a part of the step of going to sleep. Panics if `me` does not hold it."""
        raise NotImplementedError

    def ask(self, t: int) -> None:
        """The woken thread `t` wants it back: announce its request, and enable it when that can be granted."""
        raise NotImplementedError

    async def regain(self, me: int) -> None:
        """Thread `me` has been chosen after `ask`: take it (under a policy with a queue, perhaps sleep once more)."""
        raise NotImplementedError
