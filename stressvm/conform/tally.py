"""What has been compared, and where model and record differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from stressvm.conform.records import Record

#: Of this many differences in a file all is kept; the others are counted.
SHOWN_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """A case that is not answered as it was recorded.

    Attributes:
        line: of the file.
        case: its name.
        operation: which, in words.
        expected: what was recorded.
        actual: what the model says.
        around: the map there, as a picture; or how to see more.
    """

    line: int
    case: str
    operation: str
    expected: Any
    actual: Any
    around: str = ""


@dataclass(slots=True)
class Tally:
    """The figures of one file, as one personality answers it.

    Attributes:
        path: the file.
        model: the personality, where the file is answered by several.
        kind: what its cases are called: "cases" or "programs".
        cases, operations, executions: how many were done.
        passed: cases that agree throughout; each ends with its first difference.
        operations_passed: operations that agree.
        words: operations done, by kind.
        left_out: what was not compared, by reason.
        outcomes, met: outcomes that the programs are known to have, and how many of them came about.
        differences: the first ones.
    """

    path: str
    model: str = ""
    kind: str = "cases"
    cases: int = 0
    passed: int = 0
    operations: int = 0
    operations_passed: int = 0
    executions: int = 0
    outcomes: int = 0
    met: int = 0
    words: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Does everything agree?"""
        return self.passed == self.cases

    def case_done(self, difference: Difference | None) -> None:
        """A case is over; its first difference, if it has one."""
        self.cases += 1
        if difference is None:
            self.passed += 1
        elif len(self.differences) < SHOWN_MAX:
            self.differences.append(difference)


class Differs(Exception):  # noqa: N818 - it ends a case, and is no error of ours
    """Raised within a case at its first difference."""

    def __init__(self, operation: str, expected: Any, actual: Any, around: str = "") -> None:
        super().__init__(operation)
        self.operation, self.expected, self.actual, self.around = operation, expected, actual, around

    def at(self, record: Record, case: str) -> Difference:
        """With the place in the file."""
        return Difference(record.line, case, self.operation, self.expected, self.actual, self.around)
