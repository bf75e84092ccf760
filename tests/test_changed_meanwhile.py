"""Arrays that another thread changes during a call: a result of some kind or an error, but no memory is harmed."""

import pytest
from scripts import run_script

STRESS = """
import faulthandler, sys, threading, time
import numpy as np
import scipy.sparse
import fastce

faulthandler.enable()
SECONDS = 10
sys.setswitchinterval(1e-6)
rng = np.random.default_rng(3)
classes = 300
logits = rng.normal(size=(classes, classes)).astype(np.float32)
features = rng.normal(size=(classes, 4)).astype(np.float32)
dense = (rng.random((classes, classes)) < 0.2) * 1.0


def changing(array):
    good = array.copy()
    bad = np.where(rng.random(good.size) < 0.2, rng.choice([2_000_000_000, -2_000_000_000], good.size), good)
    while not done:
        array[...] = bad
        time.sleep(0)
        array[...] = good


def with_labels():
    for number, functions in (
        (300, (fastce.row_stats, fastce.nll_loss, fastce.cross_entropy_grad_and_hess, fastce.clip_loss, of_few)),
        (20, (fastce.cross_entropy_value_and_grad, of_weighted, as_usual)),
    ):
        labels = rng.integers(0, number, classes)
        for function in functions:
            yield function, (np.ascontiguousarray(logits[:, :number]), labels), labels
    yield fastce.sup_con, (features, labels), labels


def of_weighted(logits, labels):
    return fastce.cross_entropy_value_and_grad(logits, labels, weight=np.ones(logits.shape[1]))


def as_usual(logits, labels):  # not as small calls are
    return fastce.cross_entropy_value_and_grad(logits, labels, n_threads=np.int64(1))


def of_few(logits, labels):
    return fastce.cross_entropy_value_and_grad(logits[:40], labels[:40])


def siglip(features, targets):
    return fastce.siglip_loss(features, features, 1.0, 0.0, targets=targets)


def linear(features, targets):
    return fastce.linear_cross_entropy(features, features, targets)


def with_sparse_of_few(name, *places):
    few, pairs = np.ascontiguousarray(logits[:, :20]), np.eye(classes, 20) + np.eye(classes, 20)[::-1]
    pairs[20:, 3:5] = 0.5  # two classes in nearly every row
    for dtype in (np.int32, np.int64):
        for masses in (dense[:, :20], pairs[:, :20]):
            targets = getattr(scipy.sparse, name)(masses.astype(np.float32))
            if name != "coo_array":
                targets.indices, targets.indptr = targets.indices.astype(dtype), targets.indptr.astype(dtype)
            for place in places:
                yield fastce.cross_entropy_value_and_grad, (few, targets), getattr(targets, place)


def with_sparse(name, *places):
    targets = getattr(scipy.sparse, name)(dense)
    functions = (fastce.cross_entropy_value_and_grad, logits), (fastce.clip_loss, logits), (siglip, features)
    for place in places:
        for function, array in (*functions, (linear, features)):
            yield function, (array, targets), getattr(targets, place)


calls = [
    *with_labels(),
    *with_sparse_of_few("csr_array", "indices", "indptr"),
    *with_sparse_of_few("csc_array", "indices", "indptr"),
    *with_sparse_of_few("coo_array", "row", "col"),
    *with_sparse("csr_array", "indices", "indptr"),
    *with_sparse("csc_array", "indices", "indptr"),
    *with_sparse("bsr_array", "indices", "indptr"),
    *with_sparse("coo_array", "row", "col"),
]
for function, arguments, _ in calls:
    function(*arguments)  # compiled before the time counts
errors = 0
for function, arguments, array in calls:
    done = False
    thread = threading.Thread(target=changing, args=(array,))
    thread.start()
    stop = time.monotonic() + SECONDS / len(calls)
    while time.monotonic() < stop:
        try:
            function(*arguments)
        except (IndexError, ValueError) as error:
            errors += 1
            assert "targets" in str(error), error
    done = True
    thread.join()
print("alive" if errors else "nothing was ever seen to change")
"""


@pytest.mark.slow
def test_targets_that_another_thread_changes_harm_no_memory(tmp_path):
    out, _ = run_script(STRESS, tmp_path, timeout=120)
    assert out == "alive\n"
