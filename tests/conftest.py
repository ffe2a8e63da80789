"""How Hypothesis draws: `pytest --hypothesis-profile NAME` says otherwise. No profile times anything.

ci: the same examples in every run. dev: others each time, and failures are remembered. nightly: others, and many.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings

#: What every profile has. Explaining a failure line by line takes longer than finding it; the programs that fail here
#: are explained step by step.
COMMON: dict[str, Any] = {
    "deadline": None,
    "phases": [phase for phase in Phase if phase is not Phase.explain],
    "suppress_health_check": [HealthCheck.too_slow],
}

settings.register_profile("ci", max_examples=100, derandomize=True, database=None, **COMMON)
settings.register_profile("dev", max_examples=200, **COMMON)
settings.register_profile("nightly", max_examples=2_000, database=None, print_blob=True, **COMMON)
settings.load_profile("ci")
