"""A program that went wrong: what a person reads, and what replays it.

Hypothesis runs hundreds of failing examples while it shrinks, and only the last is read. So a failure is cheap to raise:
its explanation is made when somebody asks for it.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from stressvm.campaign.facts import program as command
from stressvm.campaign.facts import scenario_words
from stressvm.explore.result import schedule_of
from stressvm.explore.running import run_trio
from stressvm.report.explain import explain
from stressvm.stateful.smaller import smallest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stressvm.check.verdict import Verdict
    from stressvm.explore.execution import Subject
    from stressvm.stateful.machine import KernelMachine
    from stressvm.stateful.program import Program
    from stressvm.stateful.smaller import Smallest

_WIDTH: Final = 100


class ProgramFailed(AssertionError):  # noqa: N818 - it is what Hypothesis looks for, no error of anybody's
    """An execution of a machine's program ended with a finding.

    Hypothesis tells failures apart by their class, so each fingerprint has a class of its own, made as needed: while it
    shrinks one bug it does not slip to another.

    Attributes:
        verdict: the finding.
        program: what was executed.
    """

    verdict: Verdict
    program: Program
    subject: Subject
    schedule: Sequence[int]
    machine: type[KernelMachine[Any]]

    @cached_property
    def smallest(self) -> Smallest:
        """The execution again, with everything recorded, program and schedule as simple as they get."""
        operations = self.machine.operations_may_go
        return run_trio(partial(smallest, self.subject, tuple(self.schedule), operations=operations))

    @property
    def blob(self) -> str:
        """The text that replays it."""
        return schedule_of(self.smallest.recording).blob()

    def how_to_replay(self) -> str:
        """A command where there is a scenario of the machine's programs, else some Python."""
        scenario = self.subject.scenario
        module = sys.modules.get(self.machine.__module__)
        if any(value is scenario for value in vars(module).values()):
            return f"  {shlex.join([*command(), 'replay', self.blob, *scenario_words(scenario)])}"
        name = self.machine.__name__
        return (
            f'  {name}.replay("{self.blob}")\n'
            f"  (stressvm replays it, too, once its module says: {scenario.name} = {name}.scenario())"
        )

    def story(self) -> str:
        """Program, explanation, and how to replay it."""
        small = self.smallest
        # The program stands above, for people: not once more as a parameter.
        recording = replace(small.recording, subject=replace(small.recording.subject, params={}))
        less = f" (made smaller by {small.left_out})" if small.left_out else ""
        parts = [f"Program{less}:\n{indented(small.program)}", explain(recording, small.flips, width=_WIDTH)]
        return "\n\n".join((*parts, f"Replay:\n{self.how_to_replay()}"))


class Story:
    """A failure's story as an object whose text is made when it is printed."""

    def __init__(self, failure: ProgramFailed) -> None:
        self.failure = failure

    def __repr__(self) -> str:
        """The story."""
        return self.failure.story()


_CLASSES: Final[dict[str, type[ProgramFailed]]] = {}


def failure(
    machine: type, subject: Subject, program: Program, schedule: Sequence[int], verdict: Verdict
) -> ProgramFailed:
    """The exception for a finding."""
    cls = _CLASSES.get(verdict.fingerprint)
    if cls is None:
        name = verdict.kind.title().replace("-", "")
        cls = _CLASSES[verdict.fingerprint] = type(name, (ProgramFailed,), {"__module__": __name__})
    failed = cls(f"{verdict.kind}: {verdict.text}")
    failed.verdict = verdict
    failed.program = program
    failed.subject = subject
    failed.schedule = schedule
    failed.machine = machine
    return failed


def indented(program: Program) -> str:
    """A program, set in."""
    return "\n".join(f"  {line}" for line in str(program).splitlines())
