"""What a check says of an execution, and the fingerprint by which the same bug is known again.

A verdict names its sites: where the threads stand that the bug is about, as object and function, never as line,
thread or step. So the fingerprint stays the same when the schedule differs, when threads swap their parts and
when a line is inserted above; and two bugs in one scenario have two.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from stressvm.kernel.thread import stack_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.kernel.kernel import Kernel
    from stressvm.kernel.thread import Frame, Thread

#: Every kind of finding, with what it means. A scenario declares one of these, or none.
KINDS: Final = {
    "deadlock": "threads wait for each other, or for units that nobody is left to give",
    "lost-wakeup": "a thread sleeps for ever although what it waits for is there",
    "exhausted": "a thread sleeps for ever, and what it waits for never came",
    "stranded": "a thread sleeps for ever (it gave no predicate that could tell whether a wakeup was lost)",
    "rescued-sleep": "what a thread waited for was there, nobody woke it, and only its timeout did",
    "lock-held-at-exit": "a thread ended with a lock held",
    "sleep-rule": "a thread would have slept where sleeping is not allowed",
    "panic": "an assertion of the modelled kernel failed",
    "invariant": "an invariant of the modelled kernel does not hold",
    "assertion": "an assertion of the scenario failed",
    "exception": "a thread ended by an exception",
    "livelock": "the step budget ran out without progress",
    "too-long": "the step budget ran out, with progress still being made",
    "hang": "a thread ran for seconds without reaching another kernel operation",
    "not-linearizable": "no order of the calls, one after the other, explains what they returned",
    "predicted-deadlock": "threads of an execution that ended well could wait for each other; it was not brought about",
    "lock-order": "locks are taken in orders that could deadlock, or in one that their types forbid",
    "data-race": "two accesses to the same data, one of them a write, and nothing orders them",
    "starvation": "a thread is overtaken, or able to run and not run, more often than the scenario's bound allows",
    "herd": "a wakeup woke more threads for nothing than the scenario's bound allows",
    "leak": "something that was allocated is left at the end, where the scenario promises that nothing is",
    "stale": "something was used that had been freed, or that may have changed since it was last known to be valid",
    "priority-inversion": "an urgent thread waits for a lock, and less urgent ones keep its holder from running",
    "foreign-await": "a thread awaited something that is not a kernel operation",
}

#: These say that the scenario cannot be run, not that it has a bug.
UNUSABLE: Final = frozenset({"foreign-await", "hang"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bug in one execution.

    Attributes:
        kind: a key of KINDS.
        text: one sentence with names.
        threads: the numbers of the threads that it is about.
        sites: where they stand; see the module.
        cycle: for a deadlock, the threads of the wait-for cycle in order.
        steps: numbers of steps whose stacks a report shows: both accesses of a race, both acquisitions of a reversal.
        touches: the same for uses of data that are no steps of their own: places in `Kernel.touched`.
        about: what a graver verdict on the same execution may be about as well, so that this one is not told; orders of
            locks, say. Empty for most.
        also: other bugs that the same execution shows.
    """

    kind: str
    text: str
    threads: tuple[int, ...]
    sites: tuple[str, ...]
    cycle: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    touches: tuple[int, ...] = ()
    about: frozenset[str] = frozenset()
    also: tuple[Verdict, ...] = ()

    @property
    def all(self) -> tuple[Verdict, ...]:
        """All bugs that the execution shows, itself first."""
        return (replace(self, also=()), *self.also) if self.also else (self,)

    def of(self, fingerprint: str) -> Verdict | None:
        """The same, told as that bug; None if the execution does not show it."""
        among = self.all
        for verdict in among:
            if verdict.fingerprint == fingerprint:
                return replace(verdict, also=tuple(other for other in among if other is not verdict))
        return None

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits; equal for the same bug."""
        parts = "\0".join((self.kind, *sorted(set(self.sites))))
        return hashlib.blake2b(parts.encode(), digest_size=6).hexdigest()


def together(found: Sequence[Verdict]) -> Verdict | None:
    """All that an execution shows as one verdict, the first of them; None if there is nothing."""
    return replace(found[0], also=tuple(found[1:])) if found else None


def shows(verdict: Verdict | None, fingerprint: str) -> bool:
    """Does an execution with that verdict show that bug?"""
    return verdict is not None and any(one.fingerprint == fingerprint for one in verdict.all)


def place(frames: tuple[Frame, ...]) -> str:
    """The innermost function of a stack that is not the kernel's own."""
    for frame in reversed(frames):
        if not frame.ours:
            return frame.function
    return frames[-1].function if frames else "?"


def site(k: Kernel, th: Thread) -> str:
    """Where a thread stands: what it is about to do, on what, in which function."""
    if th.sleep is not None:
        return f"sleep {th.sleep.wmesg} in {place(stack_of(th))}"
    op = k.pend[th.number]
    return f"{op!r} in {place(stack_of(th))}"
