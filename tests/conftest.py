"""How the suite searches: the same examples every time in `make test`, new and more of them at night."""

import os

from hypothesis import HealthCheck, settings

from testnet.pytest_plugin import pytest_runtest_makereport as pytest_runtest_makereport

# Processes share two cores with the tests that start networks: a slow example says nothing about the code.
settings.register_profile("default", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("nightly", settings.get_profile("default"), max_examples=5_000, print_blob=True)
settings.load_profile(os.environ.get("ROLEMESH_PROFILE", "ci" if os.environ.get("CI") else "default"))
