"""Measures: what a simulation says of itself, counted while it goes on, in virtual time.

A `Measures` is the subscriber of one simulated machine. It knows requests from the notes that `drive` makes (`asks`,
`got`, `failed`, `gave`), and all else from operations as any kernel thread does them: who sleeps, who is woken by whom,
who holds the lock. It keeps counters and histograms, never events, so a simulation may be as long as you like.

Words, as they are counted here:

- a *wait* is the time from asking to having, of every request that was served, also of those that never slept;
- a *wakeup* takes a thread off a wait queue of the addresses that are measured; it is *wasted* if the thread sleeps there
  again before it has been served. A second that has passed is no wakeup, but a thread that looks again for that reason
  and sleeps again has *rechecked in vain*;
- an *overtake* is one thread that was asleep already when another asked (or, if that one slept too, when it lay down
  first), and still waits when that one is served;
- *fairness* is Jain's index over the clients: of the time from asking to giving back, what share did each have the
  addresses? 1 if all had the same share, 1/n if one of n had all;
- *fragmentation* is 1 - largest gap / free pages, averaged over time.

What was asked for before `warmup` is not counted, in anything. Who still waits at the end is counted as *unserved*, and
among the waits with what it has waited so far.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from math import fsum
from typing import TYPE_CHECKING, Any, Final, Protocol

from stressvm.study.histogram import Histogram
from stressvm.study.sample import Sample
from stressvm.study.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stressvm.kernel.object import KernelObject
    from stressvm.kernel.op import ObjectId, Op
    from stressvm.study.machine import Run

#: Points of a series; with more, every second one is dropped, and from then on they are twice as far apart.
POINTS_MAX: Final = 480
#: Ticks between points at first.
_PERIOD: Final = 1_000

_WAKES: Final = frozenset({"signal", "broadcast", "wakeup", "wakeup_one"})
_TAKES: Final = frozenset({"lock", "trylock", "write-lock", "try-write-lock", "read-lock", "try-read-lock"})


class Gauge(Protocol):
    """What a measured map shows of itself at any moment, as no step of any thread."""

    def gaps(self) -> tuple[int, int, int]:
        """Free pages, in how many gaps, and how many of them in the largest."""


class _Request:
    """One request under way."""

    __slots__ = ("asked", "counted", "got", "place", "slept", "woken")

    def __init__(self, asked: int, place: int, *, counted: bool) -> None:
        self.asked = asked
        self.place = place
        self.counted = counted
        self.slept = False
        self.woken = False
        self.got = -1


class _Share:
    """What one client had so far."""

    __slots__ = ("had", "served", "total")

    def __init__(self) -> None:
        self.had = 0
        self.total = 0
        self.served = 0


class Measures(Subscriber):
    """Counts. `watch` says of what, while the world is built; `sample` says the result.

    Args:
        warmup: ticks until counting begins.
        only: count requests of clients alone whose names begin so.
    """

    def __init__(self, warmup: int = 0, only: str = "") -> None:
        self.warmup = warmup
        self.only = only
        self.waits = Histogram()
        self.holds = Histogram()
        self.lock_waits = Histogram()
        self.served = self.failed_nowait = self.failed_canfail = 0
        self.overtakes = self.wakeups = self.wasted = self.rechecks = 0
        self.events = 0
        self.gauge: Gauge | None = None
        self.queues: set[int] = set()
        self.lock = -1
        self.names: dict[int, str] = {}
        self.requests: dict[int, _Request] = {}
        self.shares: dict[str, _Share] = {}
        #: Places of those asleep, in the order in which they lay down first.
        self.asleep: list[int] = []
        self.places = 0
        self.rechecking: set[int] = set()
        self.lock_asked: dict[int, int] = {}
        self.lock_taken: dict[int, int] = {}
        self.period = _PERIOD
        self.next_point = 0
        self.series: dict[str, list[tuple[int, float]]] = {"waiters": [], "free": [], "gaps": [], "fragmentation": []}

    def watch(self, *, gauge: Gauge | None, queues: Iterable[KernelObject], lock: KernelObject) -> None:
        """While the world is built: the map, the wait queues for its addresses, and its lock."""
        self.gauge = gauge
        self.queues = {queue.ident.number for queue in queues}
        self.lock = lock.ident.number

    # ---------------------------------------------------------------- what the machine tells

    def on_spawn(self, now: int, t: int, name: str) -> None:  # noqa: ARG002 - see Subscriber
        """A thread has a number and a name; a name is a client's, and may come again."""
        self.names[t] = name

    def on_step(self, now: int, t: int, op: Op, arg: Any) -> None:
        """See Subscriber."""
        if now >= self.next_point:
            self._point(now)
        self.events += 1
        kind = op.kind
        number = op.obj.number
        if number == self.lock:
            self._locked(now, t, kind)
        elif number in self.queues:
            if kind == "sleep":
                self._slept(t)
            elif kind == "timeout":
                self.rechecking.add(t)
            elif kind in _WAKES and arg:
                self._woken(arg)
        elif kind == "record":
            for what, value in arg.items():
                self._noted(now, t, what, value)

    def on_exit(self, now: int, t: int) -> None:  # noqa: ARG002 - see Subscriber
        """See Subscriber: an interrupt handler ends, and another thread gives back what it was given."""
        self.requests.pop(t, None)

    def on_block(self, now: int, t: int, obj: ObjectId, how: str) -> None:
        """See Subscriber: a thread begins to wait for the lock, asleep."""
        if how == "lock" and obj.number == self.lock:
            self.lock_asked.setdefault(t, now)

    def on_spin(self, now: int, t: int, obj: ObjectId) -> None:
        """See Subscriber: a thread begins to wait for the lock, on its CPU."""
        if obj.number == self.lock:
            self.lock_asked.setdefault(t, now)

    # ---------------------------------------------------------------- locks

    def _locked(self, now: int, t: int, kind: str) -> None:
        if kind in _TAKES:
            asked = self.lock_asked.pop(t, now)
            self.lock_taken[t] = now
            if now >= self.warmup:
                self.lock_waits.add(now - asked)
        elif kind in {"unlock", "sleep"}:
            taken = self.lock_taken.pop(t, -1)
            if taken >= self.warmup:
                self.holds.add(now - taken)

    # ---------------------------------------------------------------- sleep and wakeup

    def _slept(self, t: int) -> None:
        request = self.requests.get(t)
        if request is None:
            return
        if request.woken:
            request.woken = False
            self.wasted += request.counted
        elif t in self.rechecking:
            self.rechecks += request.counted
        self.rechecking.discard(t)
        if not request.slept:
            request.slept = True
            request.place = self._place()
            insort(self.asleep, request.place)

    def _woken(self, woken: tuple[int, ...]) -> None:
        for t in woken:
            request = self.requests.get(t)
            if request is not None:
                request.woken = True
                self.wakeups += request.counted
            self.rechecking.discard(t)

    # ---------------------------------------------------------------- requests

    def _noted(self, now: int, t: int, what: str, value: Any) -> None:
        if what == "asks":
            counted = now >= self.warmup and self.names[t].startswith(self.only)
            self.requests[t] = _Request(now, self._place(), counted=counted)
        elif what == "got":
            self._served(now, t)
        elif what == "failed":
            request = self.requests.pop(t, None)
            if request is not None and request.counted:
                self.failed_nowait += value == "nowait"
                self.failed_canfail += value != "nowait"
        elif what == "gave":
            request = self.requests.pop(t, None)
            if request is not None and request.counted and request.got >= 0:
                share = self.shares.setdefault(self.names.get(t, str(t)), _Share())
                share.had += now - request.got
                share.total += now - request.asked

    def _served(self, now: int, t: int) -> None:
        request = self.requests.get(t)
        if request is None:
            return
        before = bisect_left(self.asleep, request.place)
        if request.slept:
            del self.asleep[before]
        self.rechecking.discard(t)
        request.woken = False
        request.got = now
        if request.counted:
            self.overtakes += before
            self.served += 1
            self.waits.add(now - request.asked)

    def _place(self) -> int:
        self.places += 1
        return self.places

    # ---------------------------------------------------------------- series

    def _point(self, now: int) -> None:
        """What is so now was so since the last step: a point for each period that has passed, at most one doubling at once."""
        free, gaps, largest = self.gauge.gaps() if self.gauge is not None else (0, 0, 0)
        broken = 1 - largest / free if free else 0.0
        values = (len(self.asleep), free, gaps, broken)
        while now >= self.next_point:
            for points, value in zip(self.series.values(), values, strict=True):
                points.append((self.next_point, float(value)))
            self.next_point += self.period
            if len(self.series["free"]) >= POINTS_MAX:
                self.period *= 2
                for name in self.series:
                    self.series[name] = self.series[name][::2]
                self.next_point = int(self.series["free"][-1][0]) + self.period

    # ---------------------------------------------------------------- the result

    def sample(self, run: Run) -> Sample:
        """What has been measured. Throughput is what was served in a second of virtual time."""
        span = max(1, run.now - self.warmup)
        unserved = 0
        waits = self.waits
        for request in self.requests.values():
            if request.counted and request.got < 0:
                unserved += 1
                waits.add(run.now - request.asked)
        self.requests.clear()
        broken = [value for at, value in self.series["fragmentation"] if at >= self.warmup]
        capacity = max(1, run.now * len(run.cpus))
        measures = {
            "throughput": self.served / span,
            "wait_mean": waits.mean,
            "wait_p50": waits.quantile(0.5),
            "wait_p90": waits.quantile(0.9),
            "wait_p99": waits.quantile(0.99),
            "wait_p999": waits.quantile(0.999),
            "wait_max": float(waits.greatest),
            "overtakes": float(self.overtakes),
            "wakeups": float(self.wakeups),
            "wakeups_per_success": self.wakeups / self.served if self.served else 0.0,
            "wasted_wakeups": float(self.wasted),
            "switches": float(run.switches),
            "lock_hold_mean": self.holds.mean,
            "lock_wait_mean": self.lock_waits.mean,
            "cpu_use": run.running / capacity,
            "jain": self._jain(),
            "fragmentation": fsum(broken) / len(broken) if broken else 0.0,
            "nowait_failures": float(self.failed_nowait),
            "canfail_failures": float(self.failed_canfail),
            "unserved": float(unserved),
            "events": float(run.events),
        }
        histograms = {"wait": waits.frozen(), "hold": self.holds.frozen(), "lock_wait": self.lock_waits.frozen()}
        series = {name: self.series[name] for name in ("waiters", "free", "gaps")}
        return Sample(measures, histograms, series)

    def _jain(self) -> float:
        """Over the clients. `fsum`, as everywhere here: what `sum` makes of floats depends on the version of Python."""
        shares = [share.had / share.total for share in self.shares.values() if share.total]
        squares = fsum(share * share for share in shares)
        return fsum(shares) ** 2 / (len(shares) * squares) if squares else 1.0
