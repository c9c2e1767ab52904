"""Profiles of Hypothesis: `short` (the default, the same examples each time) and `long`.

    python -m pytest tests/properties --hypothesis-profile=long

The long form draws new examples each time, and prints how to repeat one that fails.
"""

from importlib.util import find_spec

if find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    common = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    settings.register_profile("short", max_examples=25, derandomize=True, database=None, **common)
    settings.register_profile("long", max_examples=2000, print_blob=True, **common)
    settings.load_profile("short")
