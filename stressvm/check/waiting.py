"""Who waits for whom: the wait-for graph of an execution that has come to rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Wait:
    """What one thread waits for.

    Attributes:
        thread: its number.
        what: in words, such as "lock kmap" or "sleeps on vmmapva".
        on: the numbers of the threads that could let it go on; empty if nobody is known.
        asleep: it sleeps (only a wakeup can help), rather than being blocked at a lock.
    """

    thread: int
    what: str
    on: tuple[int, ...]
    asleep: bool
    idle: bool = False


def waits(k: Kernel) -> list[Wait]:
    """What every unfinished thread waits for, in order of number; nothing is enabled any more."""
    found = []
    for th in k.threads:
        if th.done:
            continue
        sleep = th.sleep
        if sleep is not None:
            holder = sleep.holder() if sleep.holder is not None else -1
            on = (holder,) if holder >= 0 else ()
            channel = sleep.queue.ident.name
            what = f"sleeps on {channel}" + (f" ({sleep.wmesg})" if sleep.wmesg != channel else "")
            found.append(Wait(th.number, what, on, asleep=True, idle=True))
        elif th.joining is not None:
            found.append(Wait(th.number, f"waits for {th.joining.name} to end", (th.joining.number,), asleep=False))
        else:
            op = k.pend[th.number]
            if op is None or op.obj.number < 0:
                found.append(Wait(th.number, f"is at {op!r}", (), asleep=False, idle=op is k.delay_op))
            else:
                holders = tuple(k.objects[op.obj.number].holders())
                found.append(Wait(th.number, f"waits for {op!r}", holders, asleep=False))
    return found


def cycle_in(graph: list[Wait]) -> tuple[int, ...]:
    """A cycle of threads, each waiting for the next, starting at its lowest number; empty if there is none."""
    edges = {wait.thread: wait.on for wait in graph}
    seen: set[int] = set()
    for start in edges:
        path: list[int] = []
        branches = [iter((start,))]
        while branches:
            at = next(branches[-1], -1)
            if at < 0:
                branches.pop()
                if path:
                    path.pop()
            elif at in path:
                del path[: path.index(at)]
                least = path.index(min(path))
                return tuple(path[least:] + path[:least])
            elif at not in seen and at in edges:
                seen.add(at)
                path.append(at)
                branches.append(iter(edges[at]))
    return ()
