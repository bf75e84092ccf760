"""Losses from features on clusters of processes: the same bits on any of them, whatever happens to a worker."""

import os
import signal
import time

import numpy as np
import pytest

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

import dask

import fastce.dask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Sending large graph:UserWarning"),  # tests have no files to load shards from
    pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler:UserWarning"),
]


def features(rows, width, chunk):
    rng = np.random.default_rng(7)
    arrays = [rng.normal(size=(rows, width)).astype(np.float32) for _ in range(2)]
    return [da.from_array(x, chunks=(chunk, width)) for x in arrays]


def clip(rows, width=64, chunk=400):
    chunked = features(rows, width, chunk)
    return fastce.dask.clip_loss_from_features_value_and_grad(*chunked, 2.0, normalize=True, label_smoothing=0.1)


def siglip(rows, width=64, chunk=400):
    return fastce.dask.siglip_loss_value_and_grad(*features(rows, width, chunk), 0.1, -5.0)


def info_nce(rows, width=64, chunk=400):
    return fastce.dask.info_nce_value_and_grad(*features(rows, width, chunk))[:3]


def linear(rows, width=64, chunk=400):
    x, layer = features(rows, width, chunk)
    targets = da.from_array(np.arange(rows) % 700, chunks=chunk)
    return fastce.dask.linear_cross_entropy_value_and_grad(x, layer[:700], targets)[:3]


def all_losses():
    return [x for loss in (clip, siglip, info_nce, linear) for x in loss(1300)]


def loaded(rows, classes, chunks):
    """Logits that tasks make, -inf and NaN among them."""

    def load(block_info=None):
        place, shape = block_info[None]["chunk-location"], block_info[None]["chunk-shape"]
        block = np.random.default_rng(place).normal(size=shape).astype(np.float32)
        block[3::50], block[4::50, 7] = -np.inf, np.nan
        return block

    chunks = da.core.normalize_chunks(chunks, (rows, classes), dtype=np.float32)
    return da.map_blocks(load, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))


def of_logits(rows=2000, classes=1500, chunks=(500, 400)):
    """Functions of logits in chunks of rows and classes."""
    logits, targets = loaded(rows, classes, chunks), np.arange(rows) % classes
    loss = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none", label_smoothing=0.1)
    stats = fastce.row_stats(logits, targets, outputs=("entropy", "argmax", "target_rank"))
    return [*loss, *stats.values(), fastce.logsumexp(logits, axis=1), fastce.softmax(logits, axis=1)]


def here(arrays):
    """Computed in this thread."""
    return dask.compute(*arrays, scheduler="synchronous")


def assert_same_bits(got, expected):
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_array_equal(x, y)


def there(client, arrays):
    return client.gather(client.compute(list(arrays)))


def test_one_worker_and_two_give_the_bits_of_none(new_cluster, client):
    expected = here(all_losses())
    assert_same_bits(there(client, all_losses()), expected)
    assert_same_bits(there(client, all_losses()), expected)
    with new_cluster(n_workers=1) as alone, distributed.Client(alone) as other:
        assert_same_bits(there(other, all_losses()), expected)


@pytest.mark.parametrize("chunks", [(500, 400), (333, 1500)])
def test_functions_of_logits_give_the_same_bits_anywhere(chunks, client):
    expected = here(of_logits(chunks=chunks))
    assert_same_bits(there(client, of_logits(chunks=chunks)), expected)
    assert_same_bits(there(client, of_logits(chunks=chunks)), expected)


def test_a_worker_is_killed_while_gradients_are_computed(new_cluster):
    arrays = of_logits(8000, 6000, (1000, 2000))[:3]
    expected = here(arrays)
    with new_cluster(n_workers=2) as cluster, distributed.Client(cluster) as client:
        workers = client.run(os.getpid)
        futures = client.compute(list(arrays))
        os.kill(workers[worker_at(client, "cross_entropy")], signal.SIGKILL)
        assert_same_bits(client.gather(futures), expected)


def test_a_worker_is_killed_in_the_middle(new_cluster):
    arrays = clip(6000, 256, 500)
    expected = here(arrays)
    with new_cluster(n_workers=2) as cluster, distributed.Client(cluster) as client:
        workers = client.run(os.getpid)
        futures = client.compute(list(arrays))
        victim = worker_at(client, "clip_loss_from_features-gradients")
        os.kill(workers[victim], signal.SIGKILL)
        assert_same_bits(client.gather(futures), expected)


def worker_at(client, kind):
    """A worker that has such a task in hand."""
    while True:
        for worker, keys in client.processing().items():
            if any(kind in str(key) for key in keys):
                return worker
        time.sleep(0.01)


def test_a_loader_that_always_fails_says_so_itself(client):
    def load(x, block_info=None):
        if block_info[0]["chunk-location"][0] == 2:
            raise OSError("shard 2 is gone")
        return x

    broken, others = (x.map_blocks(load, dtype=x.dtype, meta=x._meta) for x in features(1300, 64, 400))
    with pytest.raises(OSError, match="shard 2 is gone"):
        fastce.dask.clip_loss_from_features(broken, others).compute()


def test_a_stripe_that_fails_names_itself(client):
    def narrow(x, block_info=None):
        return x[:, :-1] if block_info[0]["chunk-location"][0] == 2 else x

    broken, others = features(1300, 64, 400)
    broken = broken.map_blocks(narrow, dtype=broken.dtype, meta=broken._meta)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (it is NumPy's)
        fastce.dask.clip_loss_from_features(broken, others, normalize=True).compute()
    assert error.value.__notes__ == ["stripe 2 of clip_loss_from_features: rows 800 to 1200"]


def test_what_crosses_the_network_is_features_and_states(client):
    rows, width = 4000, 16
    before = sum(client.run(bytes_received).values())
    there(client, clip(rows, width, 1000))
    received = sum(client.run(bytes_received).values()) - before
    assert received < 8 * rows * width * 4 + 2000 * rows < rows * rows * 4


def bytes_received(dask_worker):
    return sum(entry["total"] for entry in dask_worker.transfer_outgoing_log)
