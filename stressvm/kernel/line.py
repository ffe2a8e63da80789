"""A line: threads that wait for something that no kernel object shows, declared to the kernel by the code that is modelled.

A lock that is built of an atomic word, room in a map, a turn at a table: who waits for it and who gets it is known to the
code alone. It says so, and the line counts how often each waiter has been overtaken:

    line = Line(k, "rwlock", overtakes=1)
    line.wait()        # the caller cannot have it yet
    ...
    line.got()         # the caller has it: whoever waits has been overtaken once
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stressvm.kernel.errors import Panic, UsageError
from stressvm.kernel.object import KernelObject

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


def _make_ops(_k: Kernel, _ident: Any) -> None:
    return None


class Line(KernelObject):
    """Who waits for something, and how often each was overtaken. Its calls belong to the step that they are made in.

    Args:
        k: the kernel.
        name: of what is waited for, as reports show it.
        overtakes: how often a waiter may be overtaken; once more ends the execution with a finding. None: it only counts.

    Attributes:
        overtaken: by number of a thread that waits, how often it was.
    """

    __slots__ = ("bound", "overtaken")

    TYPE = "line"

    def __init__(self, k: Kernel, name: str, overtakes: int | None = None) -> None:
        if overtakes is not None and overtakes < 0:
            raise UsageError(f"Line({name!r}, overtakes={overtakes}): it counts from 0")
        self.k = k
        self.ident, _ = k.adopt(self, self.TYPE, name, _make_ops)
        self.bound = overtakes
        self.overtaken: dict[int, int] = {}

    def wait(self) -> None:
        """The current thread waits from now on, if it does not already. Sleeps: no."""
        self.k.touch(self.ident.number, write=True)
        self.overtaken.setdefault(self.k.cur, 0)

    def leave(self) -> None:
        """The current thread waits no longer, and has not got it. Sleeps: no."""
        self.k.touch(self.ident.number, write=True)
        self.overtaken.pop(self.k.cur, None)

    def again(self) -> None:
        """All that wait have had their chance, and go on waiting: how often they were overtaken is counted anew. Sleeps: no."""
        self.k.touch(self.ident.number, write=True)
        self.overtaken = dict.fromkeys(self.overtaken, 0)

    def got(self, times: int = 1) -> None:
        """The current thread has got it: it waits no longer, and all others that wait have been overtaken.

        Sleeps: no.

        Args:
            times: as how often it counts; with a large portion, several times.
        """
        k = self.k
        k.touch(self.ident.number, write=True)
        self.overtaken.pop(k.cur, None)
        for t in self.overtaken:
            self.overtaken[t] += times
            if self.bound is not None and self.overtaken[t] > self.bound:
                self._starves(t)

    def _starves(self, t: int) -> None:
        k = self.k
        th = k.threads[t]
        name = self.ident.name
        text = f"{th.name} waits for {name}, and has been overtaken {self.overtaken[t]} times, {self.bound} at most was promised"
        k.stop("starvation", text, f"overtaken on {name} in {th.coro.__qualname__}")
        raise Panic(text)
