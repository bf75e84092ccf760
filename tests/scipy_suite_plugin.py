"""A pytest plugin: in the module under test the three names of scipy.special become those of fastce.

FASTCE_SUITE_REPORT names a file that receives {"outcomes": {test: outcome}, "reasons": {test: why it was
skipped}, "calls": {name: number of calls}}.  With FASTCE_SUITE_BASELINE=1 the calls go to SciPy as ever.
"""

import functools
import json
import os
from collections import Counter

import scipy.special

NAMES = ("logsumexp", "softmax", "log_softmax")
MODULE = "scipy.special.tests.test_logsumexp"

found = {"outcomes": {}, "reasons": {}, "calls": Counter()}


def counted(name):
    if os.environ.get("FASTCE_SUITE_BASELINE"):
        function = getattr(scipy.special, name)
    else:
        import fastce

        function = getattr(fastce, name)

    @functools.wraps(function)
    def call(*arguments, **options):
        found["calls"][name] += 1
        return function(*arguments, **options)

    return call


def pytest_collection_modifyitems(items):
    for module in {item.module for item in items}:
        assert module.__name__ == MODULE
        for name in NAMES:
            setattr(module, name, counted(name))


def pytest_runtest_logreport(report):
    """The outcome of a test is that of its call, or of whatever went wrong around it."""
    if report.when == "call" or report.outcome != "passed":
        found["outcomes"][report.nodeid] = report.outcome
    if report.outcome == "skipped":  # a skip, or an expected failure
        found["reasons"][report.nodeid] = getattr(report, "wasxfail", None) or report.longrepr[2]


def pytest_sessionfinish():
    with open(os.environ["FASTCE_SUITE_REPORT"], "w") as file:
        json.dump(found, file)
