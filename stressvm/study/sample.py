"""One replication of one point of a study, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sample:
    """Measures by name, histograms (bucket to count), series of (tick, value)."""

    measures: dict[str, float]
    histograms: dict[str, dict[int, int]] = field(default_factory=dict)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
