"""What this face needs beyond stressvm's own dependencies, and what to do when it is not there."""

try:
    from hypothesis import __version__ as HYPOTHESIS  # noqa: N812 - a constant here
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "stressvm.stateful needs Hypothesis, which is not installed: pip install 'stressvm[hypothesis]'",
        name="hypothesis",
    ) from exc

__all__ = ["HYPOTHESIS"]
