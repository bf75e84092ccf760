"""What all tests share: one seed, and how long hypothesis may look."""

import os

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "fastce",
    max_examples=50,
    deadline=None,  # the first example of each dtype compiles
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fastce")


@pytest.fixture
def rng():
    """The same numbers in every run, whatever the order of the tests."""
    return np.random.default_rng(20240229)
