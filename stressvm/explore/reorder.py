"""Is what a search takes to be equivalent really so? An execution once more, its steps in another order.

Partial order reduction runs one execution of each class, so it never sees that two of one class differ. They do if threads
share state that is in no kernel object and under no common lock: plain attributes that are changed between two
operations on different objects, say. So now and then the search's execution is run again with independent steps
exchanged, as many as can be; the first that nothing cuts off in several orders, each thread going first once. Each thread
must then do the same, with the same outcomes, and the verdict must be the same, but for what detectors say of the order of
independent steps (who overtakes whom, say).
"""

from __future__ import annotations

from itertools import islice, permutations
from typing import TYPE_CHECKING, Any, Final

from stressvm.check.detectors import BY_ORDER
from stressvm.explore.execution import plain
from stressvm.explore.tape import diverged
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stressvm.check.verdict import Verdict
    from stressvm.explore.dependency import Step
    from stressvm.kernel.kernel import Kernel

#: What all threads did, each on its own: (kind, object, argument) by thread.
Deeds = dict[int, list[tuple[str, str, Any]]]

#: Orders of one execution at most: all in which four threads can go first. Fewer where it is long: so many steps in all.
ORDERS_MAX: Final = 24
ORDERS_STEPS_MAX: Final = 4_000

_CHANGED = (
    "the search takes these two orders to be equivalent, for all that kernel objects tell. Threads share something that is in "
    "no kernel object, and no lock that they all hold protects it: make it a Cell, or use another search"
)


def deeds(k: Kernel) -> Deeds:
    """What the threads of the execution that has ended did."""
    found: Deeds = {}
    for t, op, arg in k.trace:
        # Whether what a sleeper waits for is there is noted for reports; nothing depends on it.
        said = None if isinstance(arg, bool) and op.kind in ("sleep", "timeout") else plain(arg)
        found.setdefault(t, []).append((op.kind, op.obj.name, said))
    return found


class Reordered:
    """A strategy that does the steps of an execution in another order: always the latest that may come next.

    Args:
        k: the kernel, when the execution has ended.
        steps: of the execution, the first of which is what comes before all decisions.
        order: their indices in the other order; by default, see above.

    Attributes:
        following: the same execution in yet another order, to be run next; None: there is no more.
    """

    EVERY_STEP = True

    def __init__(self, k: Kernel, steps: Sequence[Step], order: list[int] | None = None) -> None:
        self.deeds = deeds(k)
        self.following: Reordered | None = None
        self.order = _other_order(steps) if order is None else order
        self.threads = [steps[index].thread for index in self.order]
        self.values = [steps[0].values, *(steps[index].values for index in self.order)]
        self.same = self.order == list(range(1, len(steps)))
        self.at = 0
        self.choice = 0

    def begin(self, number: int) -> None:  # noqa: ARG002 - see Strategy
        """See Strategy."""
        self.at = 0
        self.choice = 0

    def pick(self, k: Kernel, mask: int) -> int:
        """See Strategy."""
        at = self.at
        self.at = at + 1
        self.choice = 0
        if at >= len(self.threads):
            raise diverged(k, f"done in another order, the execution goes on where it had ended: {_CHANGED}")
        t = self.threads[at]
        if not mask >> t & 1:
            name = k.threads[t].name
            raise diverged(k, f"done in another order, at step {len(k.trace)} thread {name} cannot go on: {_CHANGED}")
        return t

    def choose(self, k: Kernel, n: int) -> int:
        """See Strategy."""
        values = self.values[self.at]
        at = self.choice
        self.choice = at + 1
        if at >= len(values) or values[at] >= n:
            raise diverged(k, f"done in another order, there is another data choice at step {len(k.trace)}: {_CHANGED}")
        return values[at]

    def end(self, k: Kernel) -> None:
        """See Strategy."""

    def compare(self, k: Kernel, first: Verdict | None, verdict: Verdict | None) -> None:
        """After both executions: the verdicts, and what the threads did.

        Raises:
            UsageError: they differ.
        """
        now = deeds(k)
        for t in sorted(self.deeds.keys() | now.keys()):
            one, other = self.deeds.get(t, []), now.get(t, [])
            if one != other:
                at = next(at for at in range(len(one) + 1) if one[at : at + 1] != other[at : at + 1])
                raise UsageError(
                    f"thread {k.threads[t].name} did {_words(one, at)} as its operation {at}, and in another order of the "
                    f"same steps {_words(other, at)}: {_CHANGED}"
                )
        if _bugs(first) != _bugs(verdict):
            said = [one.text if one is not None else "clean" for one in (first, verdict)]
            raise UsageError(
                f"an execution was {said[0]!r}, and in another order of the same steps {said[1]!r}: {_CHANGED}"
            )


def several(k: Kernel, steps: Sequence[Step]) -> Reordered | None:
    """One execution in several other orders, each in the next one's `following`; None if there is no other order.

    Two steps that do not depend on each other change places in some of them, whosever they are.

    Args:
        k: the kernel, when the execution has ended.
        steps: as for Reordered.
    """
    most = max(1, min(ORDERS_MAX, ORDERS_STEPS_MAX // len(steps)))
    threads = sorted({step.thread for step in steps[1:]}, reverse=True)
    orders = {tuple(_other_order(steps)): None}
    # Each thread goes first, and each last, before other orders are tried.
    turned = [tuple(threads[at:] + threads[:at]) for at in range(len(threads))]
    for ranks in islice(
        (*turned, *(r[::-1] for r in turned), *islice(permutations(threads), ORDERS_MAX)), 3 * ORDERS_MAX
    ):
        if len(orders) > most:
            break
        orders[tuple(_ranked_order(steps, ranks))] = None
    orders.pop(tuple(range(1, len(steps))), None)
    first: Reordered | None = None
    for order in reversed(list(orders)[:most]):
        made = Reordered(k, steps, list(order))
        made.following = first
        first = made
    return first


def _bugs(verdict: Verdict | None) -> set[str]:
    """The bugs that all executions of a class must show alike."""
    return {one.fingerprint for one in verdict.all if one.kind not in BY_ORDER} if verdict is not None else set()


def _words(done: list[tuple[str, str, Any]], at: int) -> str:
    if at >= len(done):
        return "nothing more"
    kind, obj, arg = done[at]
    return f"{kind} {obj} {'' if arg is None else arg}".strip()


def _other_order(steps: Sequence[Step]) -> list[int]:
    """The indices of all steps but the first, the latest that happens-before allows always next."""
    return _ordered(steps, lambda index: index)


def _ranked_order(steps: Sequence[Step], ranks: Sequence[int]) -> list[int]:
    """The same, with the threads as they stand in `ranks`, as far as happens-before allows."""
    rank = {t: -at for at, t in enumerate(ranks)}
    return _ordered(steps, lambda index: rank[steps[index].thread])


def _ordered(steps: Sequence[Step], key: Callable[[int], int]) -> list[int]:
    """The indices of all steps but the first, of each thread's next step whose past is done always the greatest by `key`."""
    order: list[int] = []
    done = 1
    own: dict[int, list[int]] = {}
    for index in range(len(steps) - 1, 0, -1):
        own.setdefault(steps[index].thread, []).append(index)
    while own:
        may = (left[-1] for left in own.values() if not steps[left[-1]].past & ~(done | 1 << left[-1]))
        index = max(may, key=key)
        order.append(index)
        done |= 1 << index
        left = own[steps[index].thread]
        left.pop()
        if not left:
            del own[steps[index].thread]
    return order
