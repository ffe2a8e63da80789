"""Numbers on the command lines of verbs that have no profile."""

from __future__ import annotations

from stressvm.campaign.config import jobs, positive
from stressvm.kernel.errors import UsageError


def number_of(option: str, text: str | None, default: int) -> int:
    """A whole number from 1; `default` if nothing is given.

    Raises:
        UsageError: it is no such number.
    """
    if text is None:
        return default
    try:
        return positive(text)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is not a whole number from 1") from None


def jobs_of(text: str | None) -> int:
    """How many processes: a number, or as many as there are cores.

    Raises:
        UsageError: it is neither a number from 1 nor `auto`.
    """
    try:
        return jobs(text or "auto")
    except ValueError:
        raise UsageError(f"--jobs: {text!r} is not a whole number from 1, or auto") from None
