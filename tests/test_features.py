"""What all losses from features have in common: dtypes, layouts, normalisation, numbers that are hard, faults."""

import calls
import dense
import numpy as np
import pytest
from checks import NAMES, REDUCTIONS, dtype_of
from covering import covering
from scripts import run_script

import fastce

INF, NAN = np.inf, np.nan
every_loss = pytest.mark.parametrize("form", calls.ALL)
every_contrastive_loss = pytest.mark.parametrize("form", calls.CONTRASTIVE)


def check(form, features, **options):
    rest = calls.rest_of(form, len(features[0]))
    return dense.check(calls.name_of(form), *features, *rest, **(calls.options_of(form) | options))


# ---------------------------------------------------------------------------------------- finite differences
@every_loss
def test_gradients_of_all_arguments_are_the_slopes_of_the_value(rng, form):
    features = calls.features_of(form, rng, 4, 3, np.float64)
    arguments, options = [*features, *calls.rest_of(form, 4)], calls.options_of(form)
    ours = calls.call(form, features)
    for at, gradient in zip([*range(len(features)), *options], [g for g in ours[1:] if g is not None], strict=True):
        slope = dense.differences(calls.name_of(form), *arguments, at=at, **options)
        np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-9)


# --------------------------------------------------------------------------------------------------- layouts
def spread(a):
    big = np.full([3 * n for n in a.shape], 99, a.dtype)
    view = big[tuple(slice(1, None, 3) for _ in a.shape)]
    view[...] = a
    return view


def padded(a):
    """Rows as a matrix product takes them, with something between them."""
    view = np.full((*a.shape[:-1], a.shape[-1] + 5), 99, a.dtype)[..., 2:-3]
    view[...] = a
    return view


def misaligned(a):
    view = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "fortran": np.asfortranarray,
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "rows reversed": lambda a: a[::-1].copy()[::-1],
    "spread": spread,
    "padded": padded,
    "misaligned": misaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": read_only,
}


@covering({"form": calls.ALL, "layout": LAYOUTS}, quick=1)
def test_any_layout_gives_the_bits_of_a_plain_copy(small_tiles, rng, layout, form):
    features = calls.features_of(form, rng, 39, 77)
    for options in ({"normalize": True}, {"normalize": False}) if form in calls.CONTRASTIVE else ({},):
        plain = calls.call(form, features, **options)
        ours = calls.call(form, [LAYOUTS[layout](a) for a in features], **options)
        assert dense.bits(ours) == dense.bits(plain)
        half = [a.astype(np.float16) for a in features]
        ours = calls.call(form, [LAYOUTS[layout](a) for a in half], **options)
        assert dense.bits(ours) == dense.bits(calls.call(form, half, **options))


@covering({"form": calls.ALL, "dtype": [np.float32, np.float64]}, quick=1)
def test_no_layout_changes_the_way_in_which_whole_tiles_are_multiplied(rng, dtype, form):
    features = calls.features_of(form, rng, 150, 77, dtype)
    options = {"normalize": False} if form in calls.CONTRASTIVE else {}
    plain = dense.bits(calls.call(form, features, **options))
    for layout in ("fortran", "padded", "byte-swapped"):
        assert dense.bits(calls.call(form, [LAYOUTS[layout](a) for a in features], **options)) == plain


@covering({"form": calls.ALL, "axis": [0, 1]}, quick=1)
def test_zero_strides_give_the_bits_of_a_plain_copy(small_tiles, rng, axis, form):
    features = calls.features_of(form, rng, 39)
    stretched = [np.broadcast_to(np.take(a, [0], axis), a.shape) for a in features]
    ours, plain = calls.call(form, stretched), calls.call(form, [a.copy() for a in stretched])
    assert dense.bits(ours) == dense.bits(plain)


@every_loss
def test_memmaps_subclasses_and_lists_give_the_bits_of_arrays(rng, tmp_path, form):
    features = calls.features_of(form, rng, 9)
    plain = calls.call(form, features)
    mapped = []
    for k, a in enumerate(features):
        a.tofile(tmp_path / str(k))
        mapped.append(np.memmap(tmp_path / str(k), a.dtype, "r", shape=a.shape))
    ours = calls.call(form, mapped)
    assert dense.bits(ours) == dense.bits(plain)
    assert all(type(part) in (float, np.ndarray) for part in ours if part is not None)
    wide = [a.astype(float) for a in features]
    expected = dense.bits(calls.call(form, wide))
    assert dense.bits(calls.with_gradients(form)(
        *(a.tolist() for a in wide), *(a.tolist() for a in calls.rest_of(form, 9)), **calls.options_of(form)
    )) == expected  # fmt: skip
    if all(a.ndim == 2 for a in features):
        assert dense.bits(calls.call(form, [a.view(np.matrix) for a in features])) == dense.bits(plain)


@covering({"form": calls.ALL, "name": NAMES}, quick=1)
def test_inputs_are_not_written_to_and_results_are_new(small_tiles, rng, name, form):
    features = [a.astype(dtype_of(name)) for a in calls.features_of(form, rng, 20)]
    before = [a.tobytes() for a in features]
    for reduction in REDUCTIONS:
        ours = calls.call(form, features, reduction=reduction)
        for part in ours:
            assert not any(np.shares_memory(part, a) for a in features if isinstance(part, np.ndarray))
    assert [a.tobytes() for a in features] == before


@covering(
    {"form": ["clip_loss_from_features", "siglip_loss", "nt_xent", "info_nce"], "normalize": [False, True]}, quick=1
)
def test_both_sides_may_be_the_same_array(small_tiles, rng, normalize, form):
    same = calls.features_of(form, rng, 39, dtype=np.float64)[0]
    check(form, [same, same], normalize=normalize)


# --------------------------------------------------------------------------------------------- normalisation
@covering({"form": calls.CONTRASTIVE, "name": NAMES, "zero": [[0], [8], [3, 4], range(9)]}, quick=1)
def test_a_row_of_length_zero_stays_zero_and_has_no_gradient(small_tiles, rng, zero, name, form):
    features = [a.astype(dtype_of(name)) for a in calls.features_of(form, rng)]
    for side in range(len(features)):
        some = [a.copy() for a in features]
        some[side][[k for k in zero if k < len(some[side])]] = 0
        ours = check(form, some, normalize=True)
        gradient = [g for g in ours[1:] if isinstance(g, np.ndarray)][side]
        assert np.all(gradient[[k for k in zero if k < len(some[side])]] == 0)
        assert all(np.all(np.isfinite(np.asarray(part, float))) for part in ours if part is not None)


@covering(
    {
        "form": calls.CONTRASTIVE,
        "name, size": [
            ("float32", 1e20),
            ("float32", 1e-20),
            ("float32", 1e38),
            ("float32", 1e-36),
            ("float64", 1e200),
            ("float64", 1e-200),
            ("float64", 1e-300),
            ("float64", 1.7e308),
            ("float16", 6e4),
            ("bfloat16", 1e30),
            ("bfloat16", 1e-30),
        ],
    },
    quick=1,
)
def test_lengths_of_any_size_are_divided_away(small_tiles, rng, name, size, form):
    features = [np.clip(a / 4, -1, 1) for a in calls.features_of(form, rng)]
    check(form, [(a.astype(float) * size).astype(dtype_of(name)) for a in features], normalize=True)


@every_contrastive_loss
def test_rows_of_subnormal_numbers_are_rows_like_others(small_tiles, rng, form):
    for dtype, smallest in ((np.float32, 2.0**-149), (np.float64, 2.0**-1074)):
        plain = [np.rint(100 * a).astype(dtype) for a in calls.features_of(form, rng)]
        tiny = [(a.astype(np.float64) * smallest).astype(dtype) for a in plain]
        ours, expected = (calls.value(form, x, normalize=True, reduction="none") for x in (tiny, plain))
        np.testing.assert_allclose(ours, expected, rtol=dense.TOLERANCE[np.dtype(dtype).name])


@every_contrastive_loss
def test_one_huge_row_leaves_the_others_as_they_are(small_tiles, rng, form):
    features = calls.features_of(form, rng)
    for size in (1e37, 1e-42):
        features[0][2] *= np.float32(size)
        check(form, features, normalize=True, reductions=["mean"])


# ----------------------------------------------------------------------------------------------- hard numbers
@covering(
    {"form": calls.ALL, "dtype": [np.float32, np.float64], "bad": [NAN, INF, -INF], "normalize": [False, True]},
    strength=1,
)
def test_what_is_not_finite_makes_the_mean_nan_without_a_word(small_tiles, rng, normalize, bad, dtype, form):
    options = {"normalize": normalize} if form in calls.CONTRASTIVE else {}
    for side in range(len(calls.features_of(form, rng))):
        for at in ((0, 0), (5, 2)):
            features = calls.features_of(form, rng, 20, dtype=dtype)
            features[side][at] = bad
            for reduction in REDUCTIONS:
                ours = calls.call(form, features, reduction=reduction, **options)
                assert dense.bits(ours.value) == dense.bits(calls.value(form, features, reduction=reduction, **options))
            if np.isnan(bad) or normalize:
                assert np.isnan(ours.value)


@covering({"form": calls.ALL, "dtype": [np.float32, np.float64]}, quick=1)
def test_products_beyond_the_largest_number_end_without_a_word(small_tiles, rng, dtype, form):
    size = np.sqrt(np.finfo(dtype).max)
    features = [a * dtype(size) for a in calls.features_of(form, rng, 20, dtype=dtype)]
    options = {"normalize": False} if form in calls.CONTRASTIVE else {}
    for reduction in REDUCTIONS:
        ours = calls.call(form, features, reduction=reduction, **options)
        assert dense.bits(ours.value) == dense.bits(calls.value(form, features, reduction=reduction, **options))


@covering({"form": calls.CONTRASTIVE, "dtype": [np.float32, np.float64], "power": [20, 30, 42, 45, 60, 100]}, quick=1)
def test_logits_beyond_all_measure_are_right(rng, power, dtype, form):
    features = [np.clip(np.rint(2 * a), -3, 3).astype(dtype) for a in calls.features_of(form, rng, 20)]  # exact
    name = next(iter(calls.options_of(form)))
    options = calls.options_of(form) | {name: 2.0**power if name == "logit_scale" else 2.0**-power}
    rest, call = calls.rest_of(form, 20), {"normalize": False, "reduction": "none"}
    expected = getattr(dense, calls.name_of(form))(*features, *rest, **(options | call)).value
    losses = calls.value(form, features, **(options | call))
    np.testing.assert_allclose(losses, expected.astype(float), rtol=dense.TOLERANCE[losses.dtype.name])
    assert dense.bits(calls.call(form, features, **(options | call)).value) == dense.bits(losses)


@covering({"form": calls.ALL, "normalize": [False, True]}, quick=1)
def test_features_without_width_are_all_alike(rng, normalize, form):
    features = [np.ones((*a.shape[:-1], 0)) for a in calls.features_of(form, rng)]
    ours = calls.call(form, features, **({"normalize": normalize} if form in calls.CONTRASTIVE else {}))
    assert [part.shape for part in ours if isinstance(part, np.ndarray)] == [a.shape for a in features]
    choices = {"nt_xent": 17, "sup_con": 8, "info_nce, shared negatives": 8, "info_nce, own negatives": 6}.get(form, 9)
    if form != "siglip_loss":
        assert ours.value == pytest.approx(np.log(choices), rel=1e-14)


@covering({"form": calls.CONTRASTIVE, "dtype": [np.float32, np.float64]}, quick=1)
def test_products_that_vanish_leave_everyone_alike(small_tiles, rng, dtype, form):
    features = [a * dtype(np.finfo(dtype).tiny) for a in calls.features_of(form, rng, 20, dtype=dtype)]
    check(form, features, normalize=False)


# ----------------------------------------------------------------------------------------------------- errors
TWO_SIDES = ["clip_loss_from_features", "siglip_loss", "nt_xent", "info_nce"]


@pytest.mark.parametrize("form", TWO_SIDES)
@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ((3, 4), (3, 5), "width"),
        ((3,), (3, 4), "two dimensions"),
        ((3, 4), (4,), "two dimensions"),
        ((3, 4), (3, 4, 1), "two dimensions"),
        ((), (3, 4), "two dimensions"),
        ((3, 4), (2, 4), "3.*2"),
    ],
)
def test_features_whose_shapes_do_not_fit(form, a, b, words):
    for function in (calls.with_gradients(form), calls.function_of(form)):
        with pytest.raises(ValueError, match=words):
            function(np.ones(a), np.ones(b), **calls.options_of(form))


BAD_ARRAYS = {
    "complex": np.ones((9, 6), complex),
    "object": np.ones((9, 6), object),
    "strings": np.full((9, 6), "1"),
    "dates": np.zeros((9, 6), "M8[s]"),
    "masked": np.ma.masked_equal(np.eye(9, 6), 0),
    "structured": np.zeros((9, 6), [("x", float)]),
    "longdouble": np.ones((9, 6), np.longdouble),
}


@covering(
    {"form": calls.ALL, "kind": [k for k in BAD_ARRAYS if k != "longdouble" or np.longdouble(0).itemsize > 8]}, quick=1
)
def test_features_that_are_no_real_numbers(rng, kind, form):
    features = calls.features_of(form, rng)
    for side in range(min(len(features), 2)):
        bad = [BAD_ARRAYS[kind] if k == side else a for k, a in enumerate(features)]
        with pytest.raises(TypeError):
            calls.call(form, bad)


@covering({"form": calls.ALL, "value": [0, 0.0, -1.0, NAN, INF, -INF, "1", None, [1.0], 1j, True, b"2"]}, quick=1)
def test_scales_and_temperatures_that_make_no_sense(rng, value, form):
    features, options = calls.features_of(form, rng), calls.options_of(form) or {"logit_scale": 1.0}
    name = next(iter(options))
    expected = ValueError if isinstance(value, (int, float)) and value is not True else TypeError
    for function in (calls.call, calls.value):
        with pytest.raises(expected, match=name):
            function(form, features, **{name: value})


def test_a_temperature_whose_inverse_is_too_large():
    for form in ("nt_xent", "sup_con", "info_nce"):
        with pytest.raises(ValueError, match="temperature"):
            calls.call(form, [np.ones((3, 2))] * (1 if form == "sup_con" else 2), temperature=5e-324)


@pytest.mark.parametrize("value", [NAN, INF, "1", None, [0.0]])
def test_a_bias_of_siglip_that_makes_no_sense(value):
    expected = ValueError if isinstance(value, float) else TypeError
    with pytest.raises(expected, match="logit_bias"):
        fastce.siglip_loss_value_and_grad(np.eye(3), np.eye(3), 1.0, value)


@covering(
    {
        "form": calls.ALL,
        "error, options": [
            (ValueError, {"memory_budget": 0}),
            (ValueError, {"memory_budget": -1}),
            (TypeError, {"memory_budget": 1e6}),
            (TypeError, {"memory_budget": "256 MiB"}),
            (TypeError, {"memory_budget": None}),
            (TypeError, {"progress": 1}),
            (TypeError, {"progress": "bar"}),
            (ValueError, {"reduction": "average"}),
            (ValueError, {"reduction": None}),
            (ValueError, {"n_threads": 0}),
            (TypeError, {"n_threads": 1.5}),
        ],
    },
    quick=1,
)
def test_options_that_make_no_sense(rng, error, options, form):
    features = calls.features_of(form, rng)
    for function in (calls.call, calls.value):
        with pytest.raises(error, match=next(iter(options))):
            function(form, features, **options)


@pytest.mark.parametrize("form", ["clip_loss_from_features", "siglip_loss"])
@pytest.mark.parametrize(
    ("error", "targets", "words"),
    [
        (IndexError, [0, 4, 9], r"row 1\b.*\b4\b"),
        (IndexError, [0, -1, 1], r"row 1\b.*-1\b"),
        (IndexError, np.array([0, 1, 2**63 + 5], np.uint64), r"row 2\b"),
        (ValueError, [0, 1], "targets"),
        (ValueError, np.zeros((3, 4), int), "targets"),
        (TypeError, np.eye(3, 4), "targets"),
        (TypeError, np.array([True, False, True]), "targets"),
        (TypeError, ["0", "1", "2"], "targets"),
    ],
)
def test_targets_that_make_no_sense(form, error, targets, words):
    for function in (calls.call, calls.value):
        with pytest.raises(error, match=words):
            function(form, [np.ones((3, 5)), np.ones((4, 5))], targets=targets)


@pytest.mark.parametrize("form", ["clip_loss_from_features", "siglip_loss"])
def test_sparse_targets_that_make_no_sense(form):
    import scipy.sparse

    for error, matrix in ((ValueError, np.eye(4, 3)), (ValueError, -np.eye(3, 4)), (TypeError, 1j * np.eye(3, 4))):
        with pytest.raises(error, match="targets"):
            calls.call(form, [np.ones((3, 5)), np.ones((4, 5))], targets=scipy.sparse.csr_array(matrix))
    broken = scipy.sparse.csr_array(np.eye(3, 4))
    broken.indices[1] = 7
    with pytest.raises(IndexError, match=r"row 1\b.*\b7\b"):
        calls.call(form, [np.ones((3, 5)), np.ones((4, 5))], targets=broken)


def test_clip_refuses_losses_of_rows_that_columns_do_not_match():
    with pytest.raises(ValueError, match="reduction"):
        fastce.clip_loss_from_features(np.ones((3, 5)), np.ones((4, 5)), targets=[0, 1, 2], reduction="none")
    for smoothing in (-0.1, 1.1, NAN):
        with pytest.raises(ValueError, match="label_smoothing"):
            fastce.clip_loss_from_features(np.ones((3, 5)), np.ones((3, 5)), label_smoothing=smoothing)


@pytest.mark.parametrize(
    ("error", "labels"),
    [
        (TypeError, [0.0, 1.0, 0.0]),
        (TypeError, [True, False, True]),
        (TypeError, ["a", "b", "a"]),
        (TypeError, np.ma.masked_equal([0, 1, 0], 1)),
        (ValueError, [0, 1]),
        (ValueError, [[0], [1], [0]]),
        (ValueError, 0),
    ],
)
def test_labels_that_make_no_sense(error, labels):
    for function in (fastce.sup_con, fastce.sup_con_value_and_grad):
        with pytest.raises(error, match="labels"):
            function(np.ones((3, 4)), labels)


@pytest.mark.parametrize("shape", [(4,), (2, 5), (3, 2, 5), (2, 2, 4), (1, 3, 2, 4)])
def test_negative_keys_whose_shape_does_not_fit(shape):
    with pytest.raises(ValueError, match="negative_keys"):
        fastce.info_nce(np.ones((3, 4)), np.ones((3, 4)), np.ones(shape))


@pytest.mark.parametrize(
    ("error", "words", "make"),
    [
        (IndexError, r"row 1\b.*\b7\b", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 7, 9])),
        (IndexError, r"row 0\b.*-1\b", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [-1, 0, 9])),
        (ValueError, "targets", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1])),
        (ValueError, "targets", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), np.ones((3, 4)))),
        (TypeError, "targets", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), ["a", "b", "c"])),
        (ValueError, "width", lambda f: f(np.ones((3, 4)), np.ones((5, 3)), [0, 1, 2])),
        (ValueError, "two dimensions", lambda f: f(np.ones((3, 4)), np.ones(4), [0, 1, 2])),
        (ValueError, "scalar", lambda f: f(np.float64(3), np.ones((5, 4)), 0)),
        (ValueError, "classes", lambda f: f(np.ones((3, 4)), np.ones((0, 4)), [0, 0, 0])),
        (ValueError, "linear_bias", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1, 2], linear_bias=np.ones(4))),
        (ValueError, "linear_bias", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1, 2], linear_bias=1.0)),
        (TypeError, "linear_bias", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1, 2], linear_bias=["1"] * 5)),
        (ValueError, "weight", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1, 2], weight=np.ones(4))),
        (ValueError, "weight", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1, 2], weight=np.full(5, np.inf))),
        (ValueError, "sample_weight", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1, 2], sample_weight=[1, 2])),
        (ValueError, "label_smoothing", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1, 2], label_smoothing=2)),
        (ValueError, "softcap", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1, 2], softcap=-1.0)),
        (ValueError, "z_loss", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1, 2], z_loss=-1.0)),
        (ValueError, "smoothing_over", lambda f: f(np.ones((3, 4)), np.ones((5, 4)), [0, 1, 2], smoothing_over="x")),
    ],
)
def test_what_linear_cross_entropy_refuses_and_why(error, words, make):
    for function in (fastce.linear_cross_entropy, fastce.linear_cross_entropy_value_and_grad):
        with pytest.raises(error, match=words):
            make(function)


def test_nothing_is_compiled_after_warmup(tmp_path):
    source = """
import numpy as np
import fastce
from fastce.cpu._vectors.compiler import Kernel

fastce.warmup(functions=["clip_loss_from_features_value_and_grad", "sup_con_value_and_grad"])

def refuse(self, dtype):
    raise AssertionError(self.function.__name__)

Kernel._compile = refuse
x = np.eye(9, 4, dtype=np.float32) + 1
for smoothing in (0.0, 0.1):
    fastce.clip_loss_from_features_value_and_grad(x, x, 2.0, label_smoothing=smoothing, normalize=True)
fastce.sup_con_value_and_grad(x, np.arange(9) // 3)
print("nothing")
"""
    assert run_script(source, tmp_path, timeout=500)[0].strip() == "nothing"
