"""Losses from features on Dask give what the plain functions give, whatever the chunks."""

import numpy as np
import pytest
from ml_dtypes import bfloat16
from scipy import sparse

import fastce

da = pytest.importorskip("dask.array")
pytest.importorskip("threadpoolctl")

import dask

import fastce.dask

N, D = 37, 8
CHUNKS = {
    "uneven": ((10, 3, 24), (5, 3)), "with_empty": ((0, 20, 0, 17, 0), (8,)), "single_rows": ((1,) * N, (8,)),
    "one": ((N,), (8,)), "one_and_single": ((N - 1, 1), (1, 7)),
}  # fmt: skip
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def features(rng):
    return [rng.normal(size=(N, D)) for _ in range(2)]


def on_dask(x, chunks="uneven"):
    return da.from_array(x, chunks=CHUNKS[chunks] if isinstance(chunks, str) else chunks)


def wide(x):
    return np.asarray(x, np.float64)


def assert_same(name, given, chunked, *numbers, gain=1.0, **options):
    """The loss and its twin, and the latter's gradients, are those of the plain functions.

    ``gain`` is how large a gradient may be whose slopes are 1: 4 eps of these are promised.
    """
    value, *gradients = getattr(fastce, f"{name}_value_and_grad")(*given, *numbers, **options)
    results = getattr(fastce.dask, f"{name}_value_and_grad")(*chunked, *numbers, **options)
    alone = getattr(fastce.dask, name)(*chunked, *numbers, **options)
    assert alone.name != results[0].name  # their tasks are others
    assert type(results) is type(getattr(fastce, f"{name}_value_and_grad")(*given, *numbers, **options))
    for x, array in zip(chunked, results[1:], strict=False):
        assert x is None or not isinstance(x, da.Array) or array.chunks == x.chunks
    got, alone = dask.compute(tuple(results), alone)
    np.testing.assert_array_equal(got[0], alone)
    assert np.asarray(got[0]).dtype == np.asarray(value).dtype
    computed = np.result_type(*(np.float32 if x.dtype.itemsize == 2 else x.dtype for x in given if x is not None))
    np.testing.assert_allclose(got[0], value, rtol=1e-6 if computed == np.float32 else 1e-14, atol=1e-300)
    for x, expected in zip(got[1:], gradients, strict=True):
        if expected is None:
            assert x is None
            continue
        assert np.shape(x) == np.shape(expected)
        assert np.asarray(x).dtype == np.asarray(expected).dtype
        rounding = 2 * EPS[np.asarray(expected).dtype.name] * np.abs(wide(expected)).max(initial=0.0)
        np.testing.assert_allclose(wide(x), wide(expected), rtol=0.0, atol=4 * EPS[computed.name] * gain + rounding)


def gain_of(features, scale, options):
    if options.get("normalize"):
        return 3.0 * scale
    return scale * max(float(np.abs(wide(x)).sum(axis=0).max(initial=1.0)) for x in features)


def assert_clip_same(features, chunked, scale=3.0, **options):
    gain = gain_of(features, scale, options) * np.abs(wide(features[0])).max(initial=1.0)
    assert_same("clip_loss_from_features", features, chunked, scale, gain=gain, **options)


def assert_siglip_same(features, chunked, scale=3.0, **options):
    gain = gain_of(features, scale, options) * np.abs(wide(features[0])).max(initial=1.0) * len(features[0])
    assert_same("siglip_loss", features, chunked, scale, -4.0, gain=gain, **options)


PAIR_LOSSES = pytest.mark.parametrize("check", [assert_clip_same, assert_siglip_same])


@PAIR_LOSSES
@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_chunks(features, check, chunks, dtype):
    features = [x.astype(dtype) for x in features]
    check(features, [on_dask(features[0], chunks), on_dask(features[1])])
    check(features, [on_dask(features[0]), on_dask(features[1], chunks)], normalize=True)


@PAIR_LOSSES
@pytest.mark.parametrize("dtype", [np.float16, bfloat16, np.float32])
def test_half_precision_adds_up_in_single(features, check, dtype):
    features = [x.astype(dtype) for x in features]
    check(features, [on_dask(x, "single_rows") for x in features], scale=1.0)
    check([features[0], wide(features[1])], [on_dask(features[0]), on_dask(wide(features[1]))])


@pytest.mark.parametrize(("chunks", "dtype"), [
    ("uneven", np.float64), ("with_empty", np.float32), ("single_rows", bfloat16), ("one_and_single", np.float32),
])  # fmt: skip
@pytest.mark.parametrize("negatives", [None, "shared", "own"])
@pytest.mark.parametrize("options", [{}, {"normalize": False, "reduction": "sum"}, {"reduction": "none"}])
def test_info_nce(features, rng, chunks, dtype, negatives, options):
    given = [x.astype(dtype) for x in features]
    chunked = [on_dask(x, c) for x, c in zip(given, (chunks, "uneven"), strict=True)]
    if negatives is not None:
        given.append(rng.normal(size=(11, D) if negatives == "shared" else (N, 3, D)).astype(dtype))
        chunked.append(da.from_array(given[2], chunks=4))
    gain = 30.0 if options.get("normalize", True) else 100.0
    gain = gain if options.get("reduction") else gain / N
    assert_same("info_nce", given, chunked, gain=gain, temperature=0.5, **options)


def test_info_nce_checks_its_arguments(features):
    query, keys = features
    for wrong, match in (
        ({"temperature": 0.0}, "temperature must be positive"), ({"positive_key": keys[1:]}, "differ in shape"),
        ({"negative_keys": keys[:, 1:]}, "negative_keys have shape"), ({"progress": print}, "progress must be None"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            fastce.dask.info_nce(**{"query": query, "positive_key": on_dask(keys)} | wrong)


def targets_of(kind, rng, rows=N, columns=N):
    if kind == "sparse":
        return sparse.random(rows, columns, 0.1, "csr", random_state=rng, dtype=np.float64)
    return rng.integers(0, columns, rows)


CLASSES = 11


@pytest.fixture
def layer(rng):
    return rng.normal(size=(CLASSES, D)), rng.normal(size=CLASSES)


def linear_targets(kind, rng):
    if kind == "probabilities":
        return rng.random((N, CLASSES))
    if kind == "sparse":
        return sparse.random(N, CLASSES, 0.3, "csr", random_state=rng)
    return np.r_[rng.integers(0, CLASSES, N - 5), [-100] * 5]


@pytest.mark.parametrize(("chunks", "dtype", "kind"), [
    ("uneven", np.float64, "indices"), ("with_empty", np.float32, "probabilities"), ("one", np.float32, "indices"),
    ("single_rows", np.float16, "sparse"), ("one_and_single", np.float64, "sparse"),
])  # fmt: skip
@pytest.mark.parametrize("options", [
    {}, {"reduction": "sum", "label_smoothing": 0.1, "z_loss": 0.1, "softcap": 3.0}, {"reduction": "none"},
    {"weight": np.arange(CLASSES) / CLASSES, "sample_weight": np.linspace(-1.0, 2.0, N)},
    {"smoothing_over": "others", "label_smoothing": 0.2, "logit_scale": 0.5, "sample_weight": 2.0},
])  # fmt: skip
def test_linear_cross_entropy(features, layer, rng, chunks, dtype, kind, options):
    given = [features[0].astype(dtype), layer[0].astype(dtype)]
    chunked = [on_dask(given[0], chunks), on_dask(given[1], (4, 4))]
    targets = linear_targets(kind, rng)
    bias = layer[1].astype(dtype) if "weight" in options else None
    gain = 200.0 if options.get("reduction") else 200.0 / N
    if not chunks.startswith("one"):
        chunked[1] = given[1]
    assert_same("linear_cross_entropy", given, chunked, targets, gain=gain, linear_bias=bias, **options)


def test_all_arguments_of_a_layer_may_be_chunked(features, layer, rng):
    """Rows of two axes, a factor for each row's gradient."""
    x, targets, weights, above = (y.reshape(12, 3, *y.shape[1:]) for y in (
        features[0][:36], linear_targets("indices", rng)[:36], rng.random(36), rng.random(36)
    ))  # fmt: skip
    options = {"sample_weight": weights, "reduction": "none", "weight": rng.random(CLASSES), "linear_bias": layer[1]}
    for given in (targets, rng.random((12, 3, CLASSES))):
        expected = fastce.linear_cross_entropy_value_and_grad(x, layer[0], given, grad_output=above, **options)
        chunked = {k: da.from_array(v, chunks=5) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        got = fastce.dask.linear_cross_entropy_value_and_grad(
            da.from_array(x, chunks=((5, 0, 7), 2, 4)), da.from_array(layer[0], chunks=3),
            da.from_array(given, chunks=2), grad_output=da.from_array(above, chunks=4), **chunked,
        )  # fmt: skip
        assert got.value.shape == (12, 3)
        assert got.grad_features.chunks == ((5, 0, 7), (2, 1), (4, 4))
        for a, b in zip(dask.compute(*got), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e200, 1e307])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_a_mean_is_the_same_for_weights_of_any_size(features, layer, rng, size, kind):
    """Their sum may be beyond the largest number, or have no digits."""
    weights, targets = rng.random(N) * size, linear_targets(kind, rng)
    got = fastce.dask.linear_cross_entropy_value_and_grad(
        on_dask(features[0]), *layer[:1], targets, sample_weight=weights
    )
    expected = fastce.linear_cross_entropy_value_and_grad(features[0], *layer[:1], targets, sample_weight=weights)
    for a, b in zip(dask.compute(*got)[:3], expected, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_single_row_of_a_layer(features, layer, reduction):
    row = on_dask(features[0][0], 3)
    got = fastce.dask.linear_cross_entropy_value_and_grad(row, *layer[:1], 4, reduction=reduction)
    expected = fastce.linear_cross_entropy_value_and_grad(features[0][0], *layer[:1], 4, reduction=reduction)
    for a, b in zip(dask.compute(*got), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13) if b is not None else None


def test_a_layer_without_any_row_that_counts(features, layer):
    targets = da.full(N, -100, chunks=5)
    value, of_features, of_layer, _ = dask.compute(
        *fastce.dask.linear_cross_entropy_value_and_grad(on_dask(features[0]), layer[0], targets)
    )
    assert np.isnan(value)
    assert not of_features.any()
    assert not of_layer.any()


def test_arguments_of_a_layer_are_checked(features, layer):
    x, w = on_dask(features[0]), on_dask(layer[0], 4)
    y = np.zeros(N, int)
    for wrong, error, match in (
        ({"targets": y + CLASSES}, IndexError, "targets in row 0 hold class index 11"),
        ({"targets": da.zeros((N, 3))}, ValueError, "targets of probabilities have shape"),
        ({"targets": da.zeros(N, dtype=bool)}, TypeError, "targets must be class indices"),
        ({"linear_bias": np.zeros(3)}, ValueError, "linear_bias has shape"),
        ({"sample_weight": da.zeros(3)}, ValueError, "sample_weight has shape"),
        ({"grad_output": da.zeros(N)}, ValueError, "grad_output has shape"),
        ({"linear_weight": w[:, 1:]}, ValueError, "differ in width"),
        ({"linear_weight": w[:0]}, ValueError, "has no classes"),
        ({"features": 1.0}, ValueError, "at least one dimension"),
        ({"softcap": -1.0}, ValueError, "softcap must be positive"),
        ({"progress": True}, ValueError, "progress must be None"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            fastce.dask.linear_cross_entropy_value_and_grad(**{"features": x, "linear_weight": w, "targets": y} | wrong)


def test_targets_of_a_stripe_that_are_out_of_range(features, layer):
    targets = da.from_array(np.r_[np.zeros(N - 1, int), 99], chunks=5)
    with pytest.raises(IndexError, match="targets in row 23 hold class index 99") as error:
        fastce.dask.linear_cross_entropy(on_dask(features[0]), layer[0], targets).compute()
    assert error.value.__notes__ == ["stripe 2 of linear_cross_entropy: rows 13 to 37"]


@PAIR_LOSSES
@pytest.mark.parametrize("kind", ["indices", "dask", "sparse"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_targets_and_reductions(features, check, kind, reduction, rng):
    targets = targets_of(kind, rng)
    chunked = [on_dask(x) for x in features]
    if kind == "dask":
        expected = fastce.siglip_loss_value_and_grad(*features, 3.0, -4.0, targets=targets)
        got = fastce.dask.siglip_loss_value_and_grad(*chunked, 3.0, -4.0, targets=da.from_array(targets, chunks=7))
        for x, y in zip(dask.compute(*got), expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)
        return
    check(features, chunked, targets=targets, reduction=reduction)


@pytest.mark.parametrize("options", [
    {"label_smoothing": 0.1}, {"label_smoothing": 1.0, "normalize": True},
    {"label_smoothing": 0.3, "reduction": "none"},
])  # fmt: skip
def test_label_smoothing(features, options):
    assert_clip_same(features, [on_dask(x, "with_empty") for x in features], **options)
    features = [x.astype(np.float32) for x in features]
    assert_clip_same(features, [on_dask(x, "single_rows") for x in features], **options)


def test_more_columns_than_rows(rng):
    features = [rng.normal(size=(12, D)), rng.normal(size=(30, D))]
    chunked = [on_dask(features[0], (5, 8)), on_dask(features[1], (7, 3))]
    for kind in ("indices", "sparse"):
        targets = targets_of(kind, rng, 12, 30)
        assert_clip_same(features, chunked, targets=targets, label_smoothing=0.1)
        assert_siglip_same(features, chunked, targets=targets)


@pytest.mark.parametrize("name", ["clip_loss_from_features", "siglip_loss"])
def test_no_rows(name):
    empty = np.zeros((0, D), np.float32)
    numbers = () if name.startswith("clip") else (1.0, 0.0)
    value, *gradients = dask.compute(*getattr(fastce.dask, f"{name}_value_and_grad")(empty, empty, *numbers))
    assert np.isnan(value)
    assert gradients[0].shape == gradients[1].shape == (0, D)
    assert getattr(fastce.dask, name)(empty, empty, *numbers, reduction="sum").compute() == 0.0


@pytest.mark.parametrize(("dtype", "sizes"), [
    (np.float32, (1e-30, 1e25)), (np.float32, (1e18, 1e18)),
    (np.float64, (1e-200, 1e200)), (np.float64, (1e200, 1e150)), (np.float64, (1e-300, 1e-300)),
])  # fmt: skip
def test_features_of_any_size_are_computed_in_one_range(rng, dtype, sizes):
    """Rows of one stripe are large, those of another are small: no stripe alone can know what to compute in."""
    rows = np.geomspace(1e-3, 1.0, N)[:, None]
    features = [(rows * rng.normal(size=(N, D)) * size).astype(dtype) for size in sizes]
    chunked = [on_dask(x) for x in features]
    for name, numbers in (("clip_loss_from_features", (1.0,)), ("siglip_loss", (1.0, 0.0))):
        expected = getattr(fastce, f"{name}_value_and_grad")(*features, *numbers)
        got = dask.compute(*getattr(fastce.dask, f"{name}_value_and_grad")(*chunked, *numbers))
        for x, y in zip(got, map(np.asarray, expected), strict=True):
            largest = np.abs(y, where=np.isfinite(y), out=np.zeros_like(y)).max()
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * largest)


LOSSES = {"clip_loss_from_features": (), "siglip_loss": (0.5, 0.0), "info_nce": (), "linear_cross_entropy": ([0] * N,)}


def assert_close(name, given, chunked, **options):
    expected = getattr(fastce, f"{name}_value_and_grad")(*given, *LOSSES[name], **options)
    got = dask.compute(*getattr(fastce.dask, f"{name}_value_and_grad")(*chunked, *LOSSES[name], **options))
    for x, y in zip(got, expected, strict=True):
        if y is not None:
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_an_element_that_is_no_number(features, name, reduction, odd):
    features[0][7, 2] = odd
    assert_close(name, features, [on_dask(x) for x in features], reduction=reduction)


@pytest.mark.parametrize("name", LOSSES)
def test_integers_booleans_and_features_without_width(features, name):
    integers, booleans = features[0].astype(int), features[1] > 0.0
    assert_close(name, [integers, booleans], [on_dask(integers), on_dask(booleans)])
    assert_close(name, [x[:, :0] for x in features], [on_dask(x, "with_empty")[:, :0] for x in features])


def test_info_nce_of_no_keys_and_of_no_queries(features):
    query, keys = ([on_dask(x)[:0] for x in features], features)
    assert_close("info_nce", [x[:0] for x in keys], query, reduction="sum")
    for shape in ((0, D), (N, 0, D)):
        none = np.zeros(shape)
        assert_close("info_nce", [*keys, none], [*map(on_dask, keys), da.from_array(none, chunks=4)])


def test_masked_arrays_are_refused(features):
    masked = da.ma.masked_array(on_dask(features[0]), features[0] > 0.0)
    with pytest.raises(TypeError, match="image_features is a masked array"):
        fastce.dask.clip_loss_from_features(masked, features[1])


def test_arrays_of_numpy_and_the_same_array_twice(features):
    assert_clip_same(features, features)
    x = on_dask(features[0])
    assert_siglip_same([features[0]] * 2, [x, x])


def test_nothing_is_computed_before_it_is_asked_for(features):
    def fail(block):
        raise OSError("this is read too early")

    lazy = on_dask(features[0]).map_blocks(fail, dtype=float, meta=np.empty((0, 0)))
    result = fastce.dask.clip_loss_from_features_value_and_grad(lazy, lazy, targets=da.zeros(N, dtype=int, chunks=5))
    with pytest.raises(OSError, match="too early"):
        result.value.compute()


def test_the_same_bits_twice_and_in_threads(features):
    chunked = [on_dask(x.astype(np.float32), (4, 8)) for x in features]
    first, again = (fastce.dask.clip_loss_from_features_value_and_grad(*chunked) for _ in range(2))
    assert [x.name for x in first] == [x.name for x in again]
    expected = dask.compute(*first)
    of_two = fastce.dask.clip_loss_from_features_value_and_grad(*chunked, n_threads=2)
    for got in (dask.compute(*again, scheduler="threads"), dask.compute(*of_two)):
        for x, y in zip(got, expected, strict=True):
            np.testing.assert_array_equal(x, y)


def test_other_options_are_other_tasks(features):
    results = [
        fastce.dask.clip_loss_from_features(*features, scale, targets=targets, reduction="sum").name
        for scale in (1.0, 2.0) for targets in (None, np.zeros(N, int), sparse.eye_array(N, format="csr"))
    ]  # fmt: skip
    assert len(set(results)) == len(results)


def test_a_stripe_that_fails_names_itself(features):
    def narrow(x, block_info=None):
        return x[:, :-1] if block_info[0]["chunk-location"][0] == 1 else x

    broken = on_dask(features[0], ((10, 3, 24), (8,))).map_blocks(narrow, dtype=float, meta=np.empty((0, 0)))
    loss = fastce.dask.siglip_loss(broken, on_dask(features[1]), 1.0, 0.0, normalize=True)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (it is NumPy's)
        loss.compute()
    assert error.value.__notes__ == ["stripe 1 of siglip_loss: rows 10 to 13"]


@pytest.mark.parametrize(("wrong", "error", "match"), [
    ({"logit_scale": -1.0}, ValueError, "logit_scale must be positive"),
    ({"normalize": "yes"}, TypeError, "normalize must be True or False"),
    ({"reduction": "max"}, ValueError, "reduction must be one of"),
    ({"memory_budget": 0}, ValueError, "memory_budget must be a positive"),
    ({"n_threads": 0}, ValueError, "n_threads must be at least 1"),
    ({"progress": True}, ValueError, "progress must be None for Dask arrays"),
    ({"targets": np.full(N, N)}, IndexError, "targets in row 0 hold class index 37"),
    ({"targets": da.zeros(N)}, TypeError, "targets must be class indices"),
    ({"targets": da.zeros(N + 1, dtype=int)}, ValueError, "targets have shape"),
    ({"text_features": da.zeros((N, D + 1))}, ValueError, "differ in width"),
    ({"text_features": da.zeros((N + 1, D))}, ValueError, "as many image_features as text_features"),
    ({"image_features": da.zeros((N, D), dtype=complex)}, TypeError, "image_features must hold real numbers"),
    ({"image_features": da.zeros(N)}, ValueError, "image_features must have two dimensions"),
])  # fmt: skip
def test_arguments_are_checked_when_they_are_given(features, wrong, error, match):
    given = {"image_features": features[0], "text_features": on_dask(features[1]), "logit_scale": 1.0} | wrong
    with pytest.raises(error, match=match):
        fastce.dask.clip_loss_from_features_value_and_grad(**given)
    with pytest.raises(error, match=match):
        fastce.dask.siglip_loss(**given, logit_bias=0.0)


def test_unknown_chunks_are_refused(features):
    x = on_dask(features[0])
    with pytest.raises(ValueError, match=r"image_features has chunks of unknown size: call its compute_chunk_sizes"):
        fastce.dask.clip_loss_from_features(x[x[:, 0] > 0.0], x)


def test_targets_out_of_range_are_found_where_they_are(features):
    targets = da.from_array(np.r_[np.zeros(N - 1, int), N], chunks=5)
    with pytest.raises(IndexError, match="targets in row 36 hold class index 37"):
        fastce.dask.clip_loss_from_features(*features, targets=targets).compute()
