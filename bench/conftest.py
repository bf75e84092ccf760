"""One problem at a time: each is dropped before the next is made. And what the JSON of a run holds besides."""

import gc
import warnings
from pathlib import Path

import pytest

import fastce
from bench.own_matrix import own_matrix
from fastce.profile.machine import installed_version, machine
from fastce.profile.problem import Problem

PEERS = ("scikit-learn", "torch", "jax")
_latest = {}


def pytest_addoption(parser):
    parser.addoption("--logits", type=Path, metavar="FILE", help="measure this matrix (.npy) in place of the record's")


@pytest.fixture
def problem_of(request):
    """The data of a job; jobs that share theirs come one after the other."""

    def problem_of(job):
        key = job.shape, job.dtype, job.axis
        if key not in _latest:
            _latest.clear()
            gc.collect()
            _latest[key] = Problem(*key, fastce.get_num_threads())
            logits = own_matrix(request.config)
            if logits is not None:
                _latest[key].logits = logits
        return _latest[key]

    return problem_of


@pytest.fixture(autouse=True)
def _warnings_of_peers():
    """What other libraries warn of is not our business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def pytest_ignore_collect(collection_path):
    """Benchmarks alone are collected: --doctest-modules would import every script here, and with it the peers."""
    return True if collection_path.is_file() and not collection_path.name.startswith("bench_") else None


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info):
    machine_info["fastce"] = machine(fastce.get_num_threads())
    machine_info["fastce"]["versions"] |= {name: installed_version(name) for name in PEERS}


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json):
    """The times of single rounds are not kept: `extra_info` holds what the report needs."""
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)
        del benchmark["params"], benchmark["options"]
