"""What is executed, and one execution of it up to its verdict.

Only picks and the trace are noted. Everything that reports need and that costs time comes from a second, recorded run of
the same schedule: see execution.py.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stressvm.check.detectors import Inspector, asked, checked
from stressvm.check.judge import judge
from stressvm.check.verdict import UNUSABLE, Verdict, place, together
from stressvm.kernel.errors import Panic, StressvmError, UsageError
from stressvm.kernel.every_step import EveryStepKernel
from stressvm.kernel.kernel import Kernel
from stressvm.kernel.thread import frames_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stressvm.explore.scenario import Scenario
    from stressvm.kernel.driver import Driver
    from stressvm.kernel.strategy import Strategy


#: Where the detectors are: what goes wrong there is our fault, and not the scenario's.
_CHECKS: Final = str(Path(judge.__code__.co_filename).parent)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is executed: a scenario with the values of its parameters.

    Attributes:
        scenario: which.
        params: the values of its parameters.
        checks: detectors that are asked besides those that the scenario names: their names, or groups of them.
        inspector: asks them.
    """

    scenario: Scenario
    params: Mapping[str, Any]
    checks: tuple[str, ...] = ()
    inspector: Inspector = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises UsageError for a check that there is not."""
        checked(self.checks)
        own = [detector for detector in self.scenario.checks if not isinstance(detector, str)]
        object.__setattr__(self, "inspector", Inspector(self.asked, own))

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of the detectors that are asked, but for those that the scenario brings."""
        named = [name for name in self.scenario.checks if isinstance(name, str)]
        return asked((*self.checks, *named), self.scenario.expect)

    def kernel(self, *, every_step: bool = False) -> Kernel:
        """A kernel with the scenario's settings.

        Args:
            every_step: for a strategy that has `EVERY_STEP`.
        """
        scenario = self.scenario
        make = EveryStepKernel if every_step else Kernel
        return make(hz=scenario.hz, timers=scenario.timers, max_steps=scenario.max_steps)


async def execute(
    subject: Subject, driver: Driver, strategy: Strategy, number: int = 0, *, audit: bool = False
) -> Verdict | None:
    """Run one execution up to its verdict. The threads are not unwound yet: call `driver.unwind()` next.

    Raises:
        UsageError: the scenario cannot be run (it raised while building its world, or awaits foreign things).
        ReplayDiverged: the strategy could not do what it was to do.
    """
    k = driver.k
    strategy.begin(number)
    k.reset(strategy)
    try:
        subject.scenario.build(k, **subject.params)
        k.start()
    except StressvmError:
        driver.unwind()
        raise
    except Exception as exc:
        driver.unwind()
        name = subject.scenario.name
        raise UsageError(
            f"scenario {name} raised while building its world: {type(exc).__name__}: {exc}{_where(exc)}"
        ) from exc
    if audit:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            await driver.run(audit=True)
        forgotten = next((warning for warning in caught if "was never awaited" in str(warning.message)), None)
        if forgotten is not None:
            driver.unwind()
            where = f"{Path(forgotten.filename).name}:{forgotten.lineno}"
            raise UsageError(f"scenario {subject.scenario.name}: {forgotten.message}: an `await` is missing at {where}")
    else:
        await driver.run()
    if k.fatal is not None:
        driver.unwind()
        raise k.fatal
    try:
        verdict = judge(k)
    except Exception as exc:  # a predicate given by the scenario
        driver.unwind()
        raise UsageError(
            f"scenario {subject.scenario.name}: a predicate (until, holder) raised {type(exc).__name__}: {exc}{_where(exc)}"
        ) from exc
    if verdict is not None and verdict.kind in UNUSABLE:
        driver.unwind()
        raise UsageError(f"scenario {subject.scenario.name}: {verdict.text}")
    if verdict is not None and verdict.kind not in subject.scenario.tolerate:
        return verdict
    if subject.scenario.after is not None and k.trouble is None:
        verdict = _at_rest(subject.scenario.after, driver)
        if verdict is not None:
            return verdict
    return _detected(subject, driver)


def _detected(subject: Subject, driver: Driver) -> Verdict | None:
    """What detectors say of an execution in which nothing worse was found."""
    try:
        found = subject.inspector.look(driver.k)
    except StressvmError:
        driver.unwind()
        raise
    except Exception as exc:
        driver.unwind()
        if frames_of(exc.__traceback__)[-1].file.startswith(_CHECKS):
            raise
        # A specification, say, that the scenario brings.
        raise UsageError(
            f"scenario {subject.scenario.name}: a check raised {type(exc).__name__}: {exc}{_where(exc)}"
        ) from exc
    if not found:
        return None
    tolerate = subject.scenario.tolerate
    return together([verdict for verdict in found if verdict.kind not in tolerate])


def _at_rest(after: Callable[[Kernel], None], driver: Driver) -> Verdict | None:
    """What the scenario itself says of a world that has come to rest."""
    try:
        after(driver.k)
    except UsageError:
        driver.unwind()
        raise
    except Exception as exc:  # noqa: BLE001 - whatever the scenario's own check raises is its finding
        kind = "exception"
        if isinstance(exc, AssertionError | Panic):
            kind = "panic" if isinstance(exc, Panic) else "assertion"
        name, where = type(exc).__name__, place(frames_of(exc.__traceback__))
        text = str(exc).partition("\n")[0]
        return Verdict(kind, f"{name}: {text} (in {where}, at the end)", (), (f"{name} in {where}, at the end",))
    return None


def _where(exc: BaseException) -> str:
    """The innermost line of user code in a traceback."""
    frames = [frame for frame in frames_of(exc.__traceback__) if not frame.ours]
    return f" ({frames[-1]})" if frames else ""
