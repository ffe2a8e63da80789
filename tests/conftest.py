"""What holds for all tests: Hypothesis draws the same examples in every run, and times nothing."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("stressvm", derandomize=True, deadline=None, database=None)
settings.load_profile("stressvm")
