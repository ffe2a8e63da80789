"""Leaks: what was taken during an execution and is still there at its end, where the world promises that nothing is.

Most worlds end with something mapped, and rightly. Those that give everything back say so while they are built:

    nothing_left(k, "tickets", lambda: [Left(f"ticket {n}", "ticket", *taken[n]) for n in taken])

What stressvm's own maps, pages and objects leave is found by `netbsd.expect_back` and `freebsd.expect_back`. It is only asked for when all
threads have ended: who is stuck in a call may hold anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stressvm.check.verdict import Verdict
from stressvm.kernel.balance import Left, balances

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel

#: So much of what one balance says is left is told in words.
TOLD_MAX: Final = 4


class Leaks:
    """A detector: what is left of what was promised to be given back."""

    kind = "leak"
    per_class = False
    of_promises = True

    def look(self, k: Kernel) -> tuple[Verdict, ...]:
        """See Detector."""
        promised = balances(k)
        if not promised or k.trouble is not None or any(not th.done and not th.daemon for th in k.threads):
            return ()
        found = []
        for left in promised:
            by_site: dict[str, list[Left]] = {}
            for one in left():
                by_site.setdefault(one.site, []).append(one)
            found += [_verdict(k, site, every) for site, every in by_site.items()]
        return tuple(found)


def _verdict(k: Kernel, site: str, every: list[Left]) -> Verdict:
    parts = [one.what + _by_whom(k, one) for one in every[:TOLD_MAX]]
    if len(every) > TOLD_MAX:
        parts.append(f"and {len(every) - TOLD_MAX} more")
    threads = tuple(dict.fromkeys(one.thread for one in every if one.thread >= 0))
    # By whose function it was taken: that tells two leaks apart.
    sites = {f"{site} taken in {k.threads[t].coro.__qualname__}" for t in threads} or {site}
    steps = tuple(sorted({one.step for one in every if 0 <= one.step < len(k.trace)}))
    return Verdict(
        "leak", f"left at the end: {'; '.join(parts)}", threads, tuple(sorted(sites)), steps=steps[:TOLD_MAX]
    )


def _by_whom(k: Kernel, one: Left) -> str:
    if one.thread < 0:
        return ""
    step = f" in step {one.step} ({k.trace[one.step][1]!r})" if 0 <= one.step < len(k.trace) else ""
    return f", taken by {k.threads[one.thread].name}{step}"
