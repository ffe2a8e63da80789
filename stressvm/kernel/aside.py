"""What the model looks at for its own sake, to prove an invariant, say: no code of the kernel that is modelled reads it.

What such a look depends on is what it reads, so it is declared like any other use, and orders steps for searches. But it
races with nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stressvm.kernel.kernel import Kernel


class Aside:
    """What is declared to be used while it is entered is looked at by the model. No switch may come in between.

    Args:
        k: the kernel.
    """

    __slots__ = ("k", "mark")

    def __init__(self, k: Kernel) -> None:
        self.k = k
        self.mark = 0

    def __enter__(self) -> None:
        """The look begins."""
        self.mark = len(self.k.touched)

    def __exit__(self, *_: object) -> None:
        """It ends."""
        end = len(self.k.touched)
        if end > self.mark:
            self.k.asides.append((self.mark, end))
