"""Results in a terminal: the answer first, then a row for each point, with half the width of its interval."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from stressvm.study.sample import MEASURES, OWN

if TYPE_CHECKING:
    from stressvm.study.results import Results
    from stressvm.study.statistics import Interval

_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))


def render(results: Results, width: int = 100) -> str:
    """The question, its answer, and the table.

    Args:
        results: what there is.
        width: columns of the prose; the table is as wide as it is.
    """
    plan = results.plan
    runs = f"{plan.replications} replication{'s' if plan.replications > 1 else ''} of each point, seed {plan.seed}"
    sure = "intervals are of 95 %" if plan.replications > 1 else "one replication has no interval: see --replications"
    lines = [textwrap.fill(plan.study.question, width), ""]
    lines += [textwrap.fill(answer(results), width), ""]
    if plan.study.text:
        lines += [textwrap.fill(plan.study.text, width), ""]
    return "\n".join([*lines, *_table(results), "", f"{runs}; {sure}. Times are virtual."])


def answer(results: Results) -> str:
    """Who beats whom, on what, and what could not be told: a sentence for each level that is compared with its baseline."""
    if not results.comparisons:
        return "The study compares nothing; its points are below."
    where = "" if len(results.plan.study.factors) == 1 else ", over all settings of the other factors"
    sentences = []
    pairs = dict.fromkeys((one.factor, one.level, one.baseline) for one in results.comparisons)
    for factor, level, baseline in pairs:
        among = [one for one in results.comparisons if (one.factor, one.level) == (factor, level)]
        said = []
        for word in ("beats", "loses to", "differs from"):
            sizes = [f"{one.measure} {one.size}" for one in among if one.outcome == word]
            if sizes:
                said.append(f"{word} it on {', '.join(sizes)}")
        unsure = [one.measure for one in among if not one.outcome]
        if unsure:
            said.append(f"shows no certain difference on {', '.join(unsure)}")
        sentences.append(f"Against {factor} {baseline}, {level} {'; '.join(said)}.")
    return f"{' '.join(sentences)} (95 % intervals, common random numbers{where}.)"


def _table(results: Results) -> list[str]:
    study = results.plan.study
    measures = list(dict.fromkeys(measure for _, measure in study.compare)) or list(results.samples[0][0].measures)
    rows = [[*study.factors, *measures]]
    for number, point in enumerate(study.points()):
        cells = [quantity(results.estimate(number, name), MEASURES.get(name, OWN).unit) for name in measures]
        rows.append([*map(str, point.values()), *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows]


def quantity(between: Interval, unit: str) -> str:
    """`9.1 ms ±0.3`: the estimate and half the width of its interval, both in one unit."""
    value, half = between.value, between.half
    scale, name = 1.0, ""
    if unit == "per tick":
        scale, name = 1e-9, "/s"
    elif unit == "ticks":
        scale, name = next((one for one in _TIMES if abs(value) >= one[0]), _TIMES[-1])
    text = f"{_short(value / scale)}{' ' if name and name != '/s' else ''}{name}"
    return text if math.isinf(half) else f"{text} ±{_short(half / scale)}"


def _short(value: float) -> str:
    """Three digits that count, and no exponent below a million."""
    if value == 0 or abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
