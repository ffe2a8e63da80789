"""A scenario: a closed concurrent program under test, with what it declares about itself.

    @scenario(expect="lost-wakeup", source="NetBSD 5.2, sys/uvm/uvm_map.c")
    def two_waiters(k: Kernel, waiters: int = 2) -> None:
        ...builds its world, spawns kernel threads...

The function builds the world and returns; it runs anew for every execution. Its further arguments are parameters,
each with a default, settable from outside.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import orjson

from stressvm.check.detectors import GROUPS, checked
from stressvm.check.verdict import KINDS, UNUSABLE
from stressvm.kernel.errors import UsageError
from stressvm.kernel.kernel import Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from stressvm.check.detector import Detector
    from stressvm.kernel.kernel import Kernel

#: Types that a parameter may have, by the type of its default.
PARAMETER_TYPES = (bool, int, float, str)


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """A scenario and its declaration. Made by the decorator `scenario`; callable as the function it was.

    Attributes:
        name: the function's name.
        build: the function.
        expect: the kind of finding that it declares; None: it must stay clean.
        tolerate: kinds that are no findings here.
        source: where the story comes from.
        params: its parameters with their defaults.
        timers: when timed sleeps time out.
        max_steps: visible operations after which an execution is stopped.
        hz: ticks a second.
        executions: how many a hunt gives it by default; 0 for the hunt's own default.
        file: where it is defined.
        after: looks at the world when an execution has come to rest without a finding; what it raises is one.
        checks: detectors that look at each of its executions, whatever the settings of a hunt: by name, or its own.
    """

    name: str
    build: Callable[..., None]
    expect: str | None
    tolerate: frozenset[str]
    source: str
    params: Mapping[str, Any]
    timers: Timers
    max_steps: int
    hz: int
    executions: int
    file: str
    after: Callable[[Kernel], None] | None = None
    checks: tuple[str | Detector, ...] = ()

    def __call__(self, k: Kernel, **params: Any) -> None:
        """Build the world in `k`, as the plain function would."""
        self.build(k, **params)

    @property
    def story(self) -> str:
        """Its docstring."""
        return inspect.getdoc(self.build) or ""

    def resolve(self, given: Mapping[str, str | bool | float]) -> dict[str, Any]:
        """All parameters with their values; those given as text are read by the type of the default.

        Raises:
            UsageError: an unknown name, or a value of the wrong type.
        """
        values = dict(self.params)
        for name, value in given.items():
            if name not in values:
                known = ", ".join(values) or "none"
                raise UsageError(f"scenario {self.name} has no parameter {name!r} (it has: {known})")
            values[name] = _convert(self.name, name, value, type(self.params[name]))
        return values


def _convert(scenario: str, name: str, value: object, kind: type) -> Any:
    if type(value) is kind:
        return _storable(scenario, name, value)
    if kind is bool and str(value).lower() in ("true", "false", "1", "0", "yes", "no"):
        return str(value).lower() in ("true", "1", "yes")
    if kind is not bool:
        with suppress(ValueError, TypeError, OverflowError):
            return _storable(scenario, name, kind(value))
    raise UsageError(f"scenario {scenario}: parameter {name}={value!r} is no {kind.__name__}")


def _storable(scenario: str, name: str, value: Any) -> Any:
    """A value that a schedule can carry: what JSON has, of 64 bits at most."""
    try:
        if orjson.loads(orjson.dumps(value)) == value:
            return value
    except (TypeError, ValueError):
        pass
    raise UsageError(f"scenario {scenario}: parameter {name}={value!r} cannot be written into a schedule")


@overload
def scenario(build: Callable[..., None], /) -> Scenario: ...


@overload
def scenario(
    *,
    expect: str | None = None,
    tolerate: Iterable[str] | None = None,
    source: str = "",
    timers: Timers = Timers.IDLE,
    max_steps: int = 10_000,
    hz: int = 100,
    executions: int = 0,
    checks: Iterable[str | Detector] = (),
) -> Callable[[Callable[..., None]], Scenario]: ...


def scenario(
    build: Callable[..., None] | None = None,
    /,
    *,
    expect: str | None = None,
    tolerate: Iterable[str] | None = None,
    source: str = "",
    timers: Timers = Timers.IDLE,
    max_steps: int = 10_000,
    hz: int = 100,
    executions: int = 0,
    checks: Iterable[str | Detector] = (),
) -> Scenario | Callable[[Callable[..., None]], Scenario]:
    """Make a scenario of a function `(k, **parameters)`: `@scenario`, or `@scenario(...)` with what it declares.

    Args:
        build: the function, where nothing is declared.
        expect: the kind of finding that must be found (see `stressvm.KINDS`); None: nothing may be found.
        tolerate: kinds of findings that do not count, because the world is made so. By default a scenario that
            declares a bug of another kind tolerates `exhausted` sleepers: scarcity is what makes its bug show.
        source: where the story comes from, for reports.
        timers: when timed sleeps time out.
        max_steps: visible operations after which an execution is stopped as livelocked or too long.
        hz: ticks a second of virtual time.
        executions: how many a hunt without a budget gives it (0: as many as any), for scenarios with long executions.
        checks: detectors that look at it whatever the settings of a hunt: names (`stressvm hunt --help` has them), or
            detectors of its own, such as `LockOrder(Rules(...))`, each in place of what finds the same kind by default. The
            detector of the kind that is expected is asked anyway.

    Raises:
        UsageError: what is declared makes no sense; the message says what.
    """
    if tolerate is None:
        tolerate = () if expect in (None, "exhausted") else ("exhausted",)
    tolerated = frozenset(tolerate)
    for kind in (tolerated | {expect}) - {None}:
        if kind not in KINDS or kind in UNUSABLE:
            kinds = ", ".join(kind for kind in KINDS if kind not in UNUSABLE)
            raise UsageError(f"@scenario: no such kind of finding: {kind!r}; there are: {kinds}")
    checks = tuple(checks)
    names = checked(check for check in checks if isinstance(check, str))
    if set(names) & set(GROUPS):
        raise UsageError(f"@scenario(checks={names!r}): name the checks one by one")
    if expect in tolerated:
        raise UsageError(f"@scenario: {expect!r} cannot be expected and tolerated")
    if max_steps < 1 or hz < 1 or executions < 0:
        raise UsageError(
            f"@scenario(max_steps={max_steps}, hz={hz}, executions={executions}): the first two count from 1"
        )

    def make(build: Callable[..., None]) -> Scenario:
        if inspect.iscoroutinefunction(build):
            raise UsageError(
                f"scenario {build.__name__} is async: it builds its world with a plain `def` and spawns threads"
            )
        file = build.__code__.co_filename
        return Scenario(
            build.__name__,
            build,
            expect,
            tolerated,
            source,
            _parameters(build),
            timers,
            max_steps,
            hz,
            executions,
            file,
            checks=checks,
        )

    return make if build is None else make(build)


def _parameters(build: Callable[..., None]) -> dict[str, Any]:
    params = list(inspect.signature(build).parameters.values())
    if not params:
        raise UsageError(f"scenario {build.__name__} takes no argument: its first one must be the kernel")
    found = {}
    for param in params[1:]:
        if type(param.default) not in PARAMETER_TYPES:
            raise UsageError(
                f"scenario {build.__name__}: parameter {param.name} needs a default that is a bool, int, float or str"
            )
        found[param.name] = param.default
    return found
