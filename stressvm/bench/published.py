"""The field's benchmark programs, as the scenarios that re-create them, with the published figures of other tools.

Figures are means of the number of executions up to and including the one that shows the bug, over those of 20 trials
that found it, from the artifact of "Selectively Uniform Concurrency Testing" (Zhao, Wolff, Mathur and Roychoudhury,
ASPLOS 2025; github.com/zhaohuanqdcn/SURW, stats/period), whose programs are PERIOD's copies of SCTBench's and others.
A trial gave up after 10,000 executions, for some programs after 1,000,000. Threads (main included) and steps are those
that SCTBench lists (github.com/mc-imperial/sctbench, benchmarks/buggy.txt).

What counts as a step differs from tool to tool: there every instruction that touches memory can be one, here the
accesses to the program's shared variables, its locks, and one for each thread that main creates. So a figure of a
random walk, which depends most on what else there is to step through, says less than one of a strategy that does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Trials for each program and strategy.
TRIALS: Final = 20

#: Strategies with figures, by the names that they have here, and what they are there.
STRATEGIES: Final[Mapping[str, str]] = {
    "surw": "SURW: selectively uniform random walk, random priorities beneath (rp-urw)",
    "urw": "URW: uniform random walk, not selective (basicurw)",
    "pos": "POS: partial order sampling",
    "pct3": "PCT with depth 3",
    "pct10": "PCT with depth 10",
    "random": "random walk",
    "rp-rw": "random priorities, and a random walk over the selected accesses",
}


class Figure(NamedTuple):
    """What a strategy needed.

    Attributes:
        mean: executions to the bug, over the trials that found it; None if none did.
        found: trials that found it, of TRIALS.
    """

    mean: int | None
    found: int


@dataclass(frozen=True, slots=True)
class Program:
    """A published program.

    Attributes:
        scenario: the name of the scenario that re-creates it.
        params: its parameters, where they are not the scenario's defaults or could be mistaken.
        listed: threads and steps, as SCTBench lists them; None where it does not.
        figures: by strategy; a strategy that was not run on it is not there.
    """

    scenario: str
    params: Mapping[str, int]
    listed: tuple[int, int] | None
    figures: Mapping[str, Figure]

    def best(self) -> tuple[str, Figure] | None:
        """The strategy that found it most often, and soonest among equals, with its figure; None without figures."""
        found = [(name, figure) for name, figure in self.figures.items() if figure.mean is not None]
        return min(found, key=lambda item: (-item[1].found, item[1].mean or 0)) if found else None


def _figures(*columns: int | tuple[int | None, int] | None) -> dict[str, Figure]:
    """One row: a mean alone was found in all trials, a pair says in how many; None was not run."""
    return {
        name: Figure(*column) if isinstance(column, tuple) else Figure(column, TRIALS)
        for name, column in zip(STRATEGIES, columns, strict=True)
        if column is not None
    }


#: By the names under which they are published.
PROGRAMS: Final[Mapping[str, Program]] = {
    "CB/stringbuffer-jdk1.4": Program("stringbuffer", {}, (2, 10), _figures(8, 834, 23, 281, 26, (2_243, 19), 8)),
    "CS/account": Program("account", {}, (4, 8), _figures(6, 3, 4, 4, 4, 18, 7)),
    "CS/arithmetic_prog": Program("arithmetic_prog", {}, (3, 20), {}),
    "CS/bluetooth_driver": Program("bluetooth_driver", {}, (2, 13), _figures(70, (1_494, 19), 36, 112, 83, 215, 70)),
    "CS/carter01": Program("carter01", {}, (5, 19), _figures(None, None, 2, 5, 3, 1, None)),
    "CS/circular_buffer": Program("circular_buffer", {}, (3, 31), _figures(3, 14, 2, 9, 5, 4, 3)),
    "CS/deadlock01": Program("deadlock01", {}, (3, 11), _figures(2, 3, 4, 13, 7, 3, 4)),
    "CS/din_phil2": Program("din_phil", {"philosophers": 2}, (3, 21), {}),
    "CS/din_phil3": Program("din_phil", {"philosophers": 3}, (4, 32), {}),
    "CS/din_phil4": Program("din_phil", {"philosophers": 4}, (5, 43), {}),
    "CS/din_phil5": Program("din_phil", {"philosophers": 5}, (6, 39), {}),
    "CS/din_phil6": Program("din_phil", {"philosophers": 6}, (7, 49), {}),
    "CS/din_phil7": Program("din_phil", {"philosophers": 7}, (8, 59), {}),
    "CS/fsbench": Program("fsbench", {}, (28, 155), {}),
    "CS/lazy01": Program("lazy01", {}, (4, 11), _figures(2, 4, 5, 5, 5, 21, 6)),
    "CS/phase01": Program("phase01", {}, (3, 11), {}),
    "CS/queue": Program("queue", {}, (3, 83), _figures(2, 2, 1, 3, 2, 1, 2)),
    "CS/reorder_3": Program(
        "reorder", {"setters": 2, "checkers": 1}, (4, 12), _figures(7, 24, 86, 185, 148, (None, 0), 26)
    ),
    "CS/reorder_4": Program(
        "reorder", {"setters": 3, "checkers": 1}, (5, 16), _figures(7, 22, 533, 554, 362, (None, 0), 53)
    ),
    "CS/reorder_5": Program(
        "reorder", {"setters": 4, "checkers": 1}, (6, 20), _figures(10, 27, 2_169, 647, 1_094, (None, 0), 152)
    ),
    "CS/reorder_10": Program(
        "reorder",
        {"setters": 9, "checkers": 1},
        (11, 40),
        _figures(17, 74, (None, 0), (3_225, 16), (4_462, 12), (None, 0), (4_358, 6)),
    ),
    "CS/reorder_20": Program(
        "reorder",
        {"setters": 10, "checkers": 10},
        (21, 89),
        _figures(6, 10, (None, 0), 3_005, (3_297, 17), (None, 0), (3_783, 8)),
    ),
    "CS/reorder_50": Program(
        "reorder",
        {"setters": 40, "checkers": 10},
        None,
        _figures(13, 75, (None, 0), (3_304, 6), (9_422, 1), (None, 0), (None, 0)),
    ),
    "CS/reorder_100": Program(
        "reorder",
        {"setters": 99, "checkers": 1},
        None,
        _figures(194, (3_785, 12), (None, 0), (None, 0), (None, 0), (None, 0), (None, 0)),
    ),
    "CS/stack": Program("stack", {}, (3, 43), _figures(5, (986, 19), 2, 3, 3, 176, 5)),
    "CS/sync01": Program("sync01", {}, (3, 9), {}),
    "CS/sync02": Program("sync02", {}, (3, 18), {}),
    "CS/token_ring": Program("token_ring", {}, (5, 11), _figures(8, 9, 9, 8, 8, 13, 10)),
    "CS/twostage": Program("twostage", {"writers": 1, "readers": 1}, (3, 11), _figures(8, 9, 15, 13, 9, 464, 8)),
    "CS/twostage_20": Program(
        "twostage", {"writers": 10, "readers": 10}, None, _figures(6, 24, 156, 159, 101, (None, 0), 172)
    ),
    "CS/twostage_50": Program(
        "twostage", {"writers": 40, "readers": 10}, None, _figures(20, 93, 1_637, 1_676, 692, (None, 0), 1_834)
    ),
    "CS/twostage_100": Program(
        "twostage",
        {"writers": 99, "readers": 1},
        (101, 792),
        _figures(454, (2_992, 18), (6_674, 3), (7_466, 3), (5_726, 9), (None, 0), (8_530, 1)),
    ),
    "CS/wronglock": Program("wronglock", {"right": 1, "wrong": 7}, (9, 49), _figures(7, 4, 10, 51, 20, 36, 4)),
    "CS/wronglock_3": Program("wronglock", {"right": 1, "wrong": 3}, (5, 25), _figures(9, 5, 11, 58, 14, 36, 5)),
    "Chess/InterlockedWorkStealQueue": Program(
        "interlocked_work_steal_queue", {}, (3, 169), _figures(6, 428, 14, 48, 13, (None, 0), 40)
    ),
    "Chess/InterlockedWorkStealQueueWithState": Program(
        "interlocked_work_steal_queue_with_state", {}, (3, 660), _figures(6, (1_367, 4), 5, 907, 204, 26, 7)
    ),
    "Chess/StateWorkStealQueue": Program(
        "state_work_steal_queue", {}, (3, 2_406), _figures(7, (5, 3), 6, 842, 199, None, 15)
    ),
    "Chess/WorkStealQueue": Program("work_steal_queue", {}, (3, 161), _figures(6, 13, 12, 48, 16, None, 33)),
    "Inspect_benchmarks/boundedBuffer": Program("inspect_bounded_buffer", {}, None, _figures(9, 7, 5, 20, 6, 7, 8)),
    "SafeStack": Program(
        "safestack",
        {"threads": 3},
        (4, 117),
        _figures((368_921, 19), (None, 0), (None, 0), (None, 0), (None, 0), (None, 0), None),
    ),
}
