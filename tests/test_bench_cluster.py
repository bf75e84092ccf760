"""The model of a cluster: a case worked out by hand, how it grows, and what was measured."""

import json
from dataclasses import replace

import pytest
from scripts import ROOT

if not (ROOT / "bench").is_dir():
    pytest.skip("bench/ is not installed with the package", allow_module_level=True)

import itertools

from bench import cluster_report
from bench.cluster_model import BUDGET, Call, Constants, best_grid, computing, cost, depth, grid_cost, pulls

RECORD = ROOT / "bench" / "results" / "cluster.json"
CONSTANTS = Constants(
    operations_per_second=1000.0, seconds_per_added_byte=0.125, bytes_per_second=10.0, seconds_per_task=0.5
)
CALL = Call(
    "clip_loss_from_features_value_and_grad",
    rows=8,
    columns=4,
    width=2,
    products=4,
    seconds_per_element=0.25,
    bytes_per_column=3,
    fixed_tasks=6,
    tasks_per_stripe=2,
)
VALUE = replace(CALL, name="clip_loss_from_features", products=1)


def test_a_case_by_hand():
    found = cost(CALL, CONSTANTS, workers=2, stripes=4)
    assert found.operations == 2 * 8 * 4 * 2 * 4
    # Half of the products and elements; one part of a gradient of 32 bytes is added to its own, one to the other's.
    assert found.computing == (0.512 + 32 * 0.25) / 2 + 2 * 32 * 0.125
    # The right side is gathered, then goes to the other; 12 bytes of states and 32 of gradients up, 12 bytes down.
    assert found.network == (2 * 32 + (12 + 32) + 12) / 10
    assert found.network_bytes == 32 + (12 + 32) + 12
    assert found.scheduler == (6 + 2 * 4) * 0.5
    # The right side and three gradients of it; half of the left side, and its gradient.
    assert found.held_bytes == 32 * 4 + BUDGET + 64 * 2 / 2
    assert found.total == found.computing + found.network + found.scheduler
    assert found.limit == "computing"


def test_one_worker_has_no_network():
    for call in (CALL, VALUE):
        found = cost(call, CONSTANTS, 1, 4)
        assert (found.network, found.network_bytes) == (0, 0)
    assert cost(VALUE, CONSTANTS, 1, 4).computing == 0.128 + 32 * 0.25


def test_given_logits_have_no_products_and_no_features():
    found = cost(replace(VALUE, width=0, products=0, bytes_per_column=0), CONSTANTS, 4, 4)
    assert (found.operations, found.network, found.network_bytes) == (0, 0, 0)
    assert found.computing == 32 * 0.25 / 4
    assert found.held_bytes == 32 * 4 / 4


@pytest.mark.parametrize(
    ("workers", "units"), [(1, 0), (2, 1), (3, 2), (51, 50), (52, 51), (102, 51), (103, 52), (1024, 70)]
)
def test_what_all_ask_for_at_once(workers, units):
    assert pulls(workers, 50) == units
    assert pulls(workers, 1) == depth(workers)  # holders double


def test_workers_that_share_cores_are_no_faster_and_uneven_stripes_are_slower():
    assert computing(CALL, CONSTANTS, 3, 12, cores=2) == computing(CALL, CONSTANTS, 2, 12)
    assert computing(CALL, CONSTANTS, 3, 4) == computing(CALL, CONSTANTS, 2, 4)


@pytest.mark.parametrize("call", [CALL, VALUE])
def test_more_workers_compute_less_and_wait_more(call):
    large = replace(call, rows=1 << 20, columns=1 << 20, width=512)
    found = [cost(large, replace(CONSTANTS, seconds_per_added_byte=0.0), 2**k, 4 * 2**k) for k in range(11)]
    for fewer, more in itertools.pairwise(found):
        assert more.computing == fewer.computing / 2
        assert more.network > fewer.network
        assert more.scheduler > fewer.scheduler
        assert more.held_bytes < fewer.held_bytes
        assert more.network_bytes >= fewer.network_bytes


def test_faster_constants_cost_less():
    usual = cost(CALL, CONSTANTS, 4, 8).total
    assert cost(CALL, replace(CONSTANTS, operations_per_second=2000.0), 4, 8).total < usual
    assert cost(CALL, replace(CONSTANTS, bytes_per_second=20.0), 4, 8).total < usual
    assert cost(CALL, replace(CONSTANTS, seconds_per_task=0.25), 4, 8).total < usual
    assert cost(CALL, replace(CONSTANTS, seconds_per_added_byte=0.0), 4, 8).total < usual
    assert cost(CALL, CONSTANTS, 8, 8, is_spread=True).total < cost(CALL, CONSTANTS, 8, 8).total


def test_a_grid_cuts_the_longer_side_into_more_parts():
    square, tall = replace(CALL, rows=64, columns=64), replace(CALL, rows=1024, columns=64)
    assert best_grid(square, 16) == (4, 4)
    assert best_grid(tall, 16) == (16, 1)
    found, usual = grid_cost(square, CONSTANTS, 16), cost(square, CONSTANTS, 16, 16)
    assert found.network_bytes < usual.network_bytes
    assert found.held_bytes < usual.held_bytes
    assert found.network < usual.network


@pytest.mark.skipif(not RECORD.is_file(), reason="nothing was measured")
def test_the_model_says_what_was_measured():
    for row, predicted in cluster_report.checked(json.loads(RECORD.read_text())):
        assert 0.5 < predicted / row["fastest"] < 2, row


@pytest.mark.skipif(not RECORD.is_file(), reason="nothing was measured")
def test_every_number_of_workers_is_in_every_table():
    text = cluster_report.text(json.loads(RECORD.read_text()))
    for workers in cluster_report.WORKERS:
        assert text.count(f"\n| {workers:,} |") == 4
    assert text.count("What takes longest: ") == 4


def test_times_have_fitting_units():
    assert [cluster_report.time(seconds) for seconds in (0, 0.0123, 12.34, 90, 7200)] == [
        "0 s", "0.012 s", "12.3 s", "1.5 min", "2 h",
    ]  # fmt: skip
