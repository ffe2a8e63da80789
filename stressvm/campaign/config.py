"""Where settings come from: flag, then STRESSVM_* variable, then [tool.stressvm] in pyproject.toml, then default."""

from __future__ import annotations

import difflib
import os
import re
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stressvm.check.detectors import DETECTORS, GROUPS, checked
from stressvm.explore.settings import DRIVERS, EXECUTIONS_DEFAULT, STRATEGIES, WHOLE, Shard
from stressvm.kernel.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Executions where only a budget of time is given.
EXECUTIONS_UNLIMITED: Final = 1 << 62

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: object) -> float:
    """Seconds of `90s`, `10m`, `24h`; a bare number counts as seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", str(text))
    if match is None or not float(match[1]):
        raise ValueError("a duration like 90s, 10m or 24h, above 0")
    return float(match[1]) * _UNITS[match[2] or "s"]


def positive(text: object) -> int:
    """A whole number from 1."""
    number = int(str(text))
    if number < 1:
        raise ValueError("a whole number from 1")
    return number


def count(text: object) -> int:
    """A whole number from 0."""
    number = int(str(text))
    if number < 0:
        raise ValueError("a whole number from 0")
    return number


def jobs(text: object) -> int:
    """A whole number from 1, or `auto` for one for each processor that may be used."""
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return positive(text)


def shard(text: object) -> Shard:
    """`i/n`: the i-th of n parts, counted from 1."""
    match = re.fullmatch(r"(\d+)/(\d+)", str(text))
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError("i/n, the i-th of n shards, like 1/4")
    return Shard(int(match[1]) - 1, int(match[2]))


def seed(text: object) -> int:
    """A whole number, or `random` for one that is drawn now."""
    if text == "random":
        return secrets.randbelow(1 << 32)
    return int(str(text))


def truth(text: object) -> bool:
    """Yes or no."""
    if str(text).lower() in ("1", "true", "yes", "on"):
        return True
    if str(text).lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("true or false")


def one_of(*words: str) -> Callable[[object], str]:
    """One of these words."""

    def read(text: object) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return str(text)

    return read


def checks(text: object) -> tuple[str, ...]:
    """Names of checks, separated by commas, or a list of them."""
    words = text if isinstance(text, list | tuple) else str(text).split(",")
    try:
        return checked(str(word).strip() for word in words if str(word).strip())
    except UsageError as exc:
        raise ValueError(f"names of checks: {exc}") from None


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a hunt: how it is read, its default, and what it is for."""

    read: Callable[[object], Any]
    default: Any
    metavar: str
    help: str


OPTIONS: Final[Mapping[str, Option]] = {
    "executions": Option(
        positive,
        None,
        "N",
        f"executions for each scenario (default: {EXECUTIONS_DEFAULT} or as the scenario says; no limit with --time)",
    ),
    "time": Option(
        duration, None, "D", "time for all scenarios together, like 90s, 10m, 24h (default: as long as it takes)"
    ),
    "seed": Option(seed, 1, "S", "seed of the campaign, a number or `random` (default: 1)"),
    "strategy": Option(one_of(*STRATEGIES), "auto", "|".join(STRATEGIES), "who goes next (default: auto)"),
    "depth": Option(positive, 3, "d", "depth of the bugs that pct looks for (default: 3)"),
    "preemptions": Option(count, None, "N", "the most preemptions that dfs and dpor use (default: any number)"),
    "max-steps": Option(
        positive, None, "N", "steps after which an execution is stopped (default: as the scenario says)"
    ),
    "jobs": Option(jobs, 1, "N", "worker processes, a number or `auto` (default: 1, all in this process)"),
    "shard": Option(shard, WHOLE, "i/n", "hunt in the i-th of n parts only; `stressvm merge` puts them together"),
    "driver": Option(one_of(*DRIVERS), "stepped", "|".join(DRIVERS), "how threads are switched (default: stepped)"),
    "hang": Option(duration, 5.0, "D", "how long a thread may run between two kernel operations (default: 5s)"),
    "keep-going": Option(truth, False, "", "go on after a finding, for others (default: stop the scenario there)"),
    "afresh": Option(
        truth,
        False,
        "",
        "leave out what earlier hunts with this folder of logs have found (default: their schedules are run first; shards "
        "always leave it out)",
    ),
    "until": Option(
        one_of("saturated"), None, "saturated", "end a hunt when hardly anything new is seen (default: at its budget)"
    ),
    "checks": Option(
        checks,
        ("default",),
        "C",
        f"what looks at executions that ended well: {', '.join(GROUPS)}, or some of {', '.join(DETECTORS)}, separated by "
        "commas (default: default)",
    ),
    "logs": Option(str, "logs", "DIR", "folder for the campaign's log folder (default: logs)"),
    "format": Option(one_of("human", "json"), "human", "human|json", "what standard output gets (default: human)"),
}


def resolve(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every option; `flags` holds what the command line gave, None for what it did not.

    Raises:
        UsageError: a value that cannot be read, or an unknown key in pyproject.toml.
    """
    table = _table()
    values = {}
    for name, option in OPTIONS.items():
        variable = f"STRESSVM_{name.upper().replace('-', '_')}"
        if flags.get(name) is not None:
            raw, origin = flags[name], f"--{name}"
        elif os.environ.get(variable):
            raw, origin = os.environ[variable], variable
        elif name in table:
            raw, origin = table[name], f"pyproject.toml, [tool.stressvm], {name}"
        else:
            values[name] = option.default
            continue
        values[name] = read(name, raw, origin)
    return values


def read(name: str, raw: object, origin: str) -> Any:
    """A value as its option reads it."""
    try:
        return OPTIONS[name].read(raw)
    except ValueError as exc:
        wanted = str(exc) if not str(exc).startswith("invalid literal") else "a whole number"
        raise UsageError(f"{origin}: {raw!r} is not {wanted}") from None


def _table() -> Mapping[str, Any]:
    """[tool.stressvm] of the nearest pyproject.toml, from the current folder upwards."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            break
    else:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("stressvm", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise UsageError(f"{path}: cannot be read: {exc}") from None
    if not isinstance(table, dict):
        raise UsageError(f"{path}: tool.stressvm must be a table")
    for key in table:
        if key not in OPTIONS:
            near = difflib.get_close_matches(key, OPTIONS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(OPTIONS)}"
            raise UsageError(f"{path}: [tool.stressvm] has no key {key!r}{hint}")
    return table
