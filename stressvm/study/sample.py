"""One replication of one point of a study, as numbers; and what the numbers are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Measure:
    """What a number of a sample is.

    Attributes:
        unit: "ticks" (of virtual time, nanoseconds on the shipped machines), "per tick", "share" (0 to 1), "" for a count.
        better: "less", "more", or "" if neither is.
        text: in words.
    """

    unit: str
    better: str
    text: str


MEASURES: Final[dict[str, Measure]] = {
    "throughput": Measure("per tick", "more", "requests served in each second of virtual time"),
    "wait_mean": Measure("ticks", "less", "from asking to having, mean over all requests"),
    "wait_p50": Measure("ticks", "less", "what half of the requests wait at most"),
    "wait_p90": Measure("ticks", "less", "what 90 % of the requests wait at most"),
    "wait_p99": Measure("ticks", "less", "what 99 % of the requests wait at most"),
    "wait_p999": Measure("ticks", "less", "what 99.9 % of the requests wait at most"),
    "wait_max": Measure("ticks", "less", "the longest wait"),
    "overtakes": Measure("", "less", "pairs of one who slept and one who came later and was served first"),
    "wakeups": Measure("", "less", "threads taken off a wait queue for addresses"),
    "wakeups_per_success": Measure("", "less", "wakeups for each request served"),
    "wasted_wakeups": Measure("", "less", "wakeups after which the thread slept again, unserved"),
    "switches": Measure("", "less", "context switches of all CPUs"),
    "lock_hold_mean": Measure("ticks", "less", "how long the map's lock is held, mean"),
    "lock_wait_mean": Measure("ticks", "less", "how long the map's lock is waited for, mean"),
    "cpu_use": Measure("share", "less", "of the CPUs' time, the share that ran threads"),
    "jain": Measure("share", "more", "Jain's fairness index over the clients' shares: 1 if all are alike"),
    "fragmentation": Measure("share", "less", "1 - largest gap / free pages, averaged over time"),
    "nowait_failures": Measure("", "less", "requests that may not sleep, and failed"),
    "canfail_failures": Measure("", "less", "requests that may fail otherwise, and did"),
    "unserved": Measure("", "less", "requests that still waited when the simulation ended"),
    "events": Measure("", "", "visible operations simulated"),
}

#: A number that a study measures itself.
OWN: Final = Measure("", "", "a measure of the study's own")


@dataclass(frozen=True, slots=True)
class Sample:
    """One replication of one point.

    Attributes:
        measures: by name; those of `MEASURES`, or a study's own.
        histograms: "wait", "hold", ...: bucket (see histogram.py) to count.
        series: "waiters", "free", ...: (tick, value), in order.
    """

    measures: dict[str, float]
    histograms: dict[str, dict[int, int]] = field(default_factory=dict)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """As JSON has it: buckets are pairs (bucket, count), for JSON's keys are text."""
        return {
            "measures": self.measures,
            "histograms": {name: sorted(counts.items()) for name, counts in self.histograms.items()},
            "series": {name: [list(point) for point in points] for name, points in self.series.items()},
        }

    @classmethod
    def of(cls, facts: Any) -> Sample:
        """What `facts` made.

        Raises:
            ValueError: it is no such thing.
        """
        try:
            measures = {str(name): float(value) for name, value in facts["measures"].items()}
            histograms = {
                str(name): {int(bucket): int(count) for bucket, count in pairs}
                for name, pairs in facts["histograms"].items()
            }
            series = {
                str(name): [(int(tick), float(value)) for tick, value in points]
                for name, points in facts["series"].items()
            }
        except (AttributeError, KeyError, TypeError) as exc:
            raise ValueError(f"not a sample: {exc}") from None
        return cls(measures, histograms, series)
