"""What a detector is: it looks at an execution that has ended, and finds bugs that stopped nothing.

A new one is a class with these three members, a line in `KINDS` (verdict.py) and one in `DETECTORS` (detectors.py). Hunts,
replays, shrinking and explanations ask it then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stressvm.check.verdict import Verdict
    from stressvm.kernel.kernel import Kernel


class Detector(Protocol):
    """Looks at one execution after another, and judges each by itself.

    It keeps nothing from one execution to the next but what makes it faster, and changes nothing in the kernel. What it says
    of an execution is the same in any process, after whatever other executions: the same kinds with the same sites.

    Attributes:
        kind: of what it finds, a key of KINDS.
        per_class: what it says is the same for all executions that differ in the order of independent steps only (see
            happens_before.py). Then it is asked once for each class; numbers of steps in its texts may be those of
            another execution of the class until the finding is recorded.

    One that also has `of_promises`, and it is true, is not asked where the world has made no promise, that is, nothing with
    `Kernel.once`.
    """

    @property
    def kind(self) -> str:
        """See the class."""

    @property
    def per_class(self) -> bool:
        """See the class."""

    def look(self, k: Kernel) -> Verdict | tuple[Verdict, ...] | None:
        """What an execution shows, the gravest first.

        Args:
            k: the kernel after an execution in which nothing worse was found, or only what the scenario tolerates (then
                `k.trouble` may say what stopped it). No thread is unwound yet: `k.trace`, `k.touched`, `k.objects` and
                `k.threads` are those of the execution, predicates may be asked, operations raise `Over`.
        """
