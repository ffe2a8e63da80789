"""Hypothesis writes concurrent kernel programs, draws their schedules, and shrinks both together.

A machine's rules do not run kernel code: they add operations to the programs of kernel threads. When an example ends,
the whole program is executed on a fresh kernel under the schedule that Hypothesis drew, every invariant of the kernel
is on, the execution is judged as any other, and the machine compares what came of it with a model of its own.

This needs Hypothesis, which stressvm itself does not: install `stressvm[hypothesis]`.
"""

from stressvm.stateful.needs import HYPOTHESIS

# ruff: isort: split
from stressvm.stateful.execution import Execution, Hold, Performed, ThreadState
from stressvm.stateful.failure import ProgramFailed
from stressvm.stateful.machine import KernelMachine, operation
from stressvm.stateful.program import Program, Ref, Step

__all__ = [
    "HYPOTHESIS",
    "Execution",
    "Hold",
    "KernelMachine",
    "Performed",
    "Program",
    "ProgramFailed",
    "Ref",
    "Step",
    "ThreadState",
    "operation",
]
