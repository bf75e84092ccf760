"""Arrays of other libraries in the memory of the CPU: what is read, what comes back, and what is said of the rest.

Libraries are imported by the tests that need them: some of them start threads, which tests of forks do without.
"""

import functools
import inspect
import re
import signal
import sys
from importlib import import_module

import numpy as np
import pytest
import scipy.special
from public_calls import CALLS as ALL_CALLS
from scripts import ROOT, run_script

import fastce
from fastce.arguments import libraries, words

NOT_OF_ARRAYS = {"LogSumExp", "deferred", "get_num_threads", "set_num_threads", "show_config", "threads", "warmup"}
CALLS = {name: given for name, given in ALL_CALLS.items() if name not in NOT_OF_ARRAYS}
OPTIONS = {"reduction": "none", "outputs": ("logsumexp", "argmax", "in_top_k")}  # that give arrays
FEW = ["logsumexp", "softmax", "cross_entropy_value_and_grad", "row_stats"]
LOGITS, LABELS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), np.array([0, 1, 2, 3, 0, 1])


def test_every_public_function_is_tried_here():
    assert set(CALLS) | NOT_OF_ARRAYS == set(fastce.__all__)


class OfDLPack:
    """An array that has no more than DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def on_cpu(array):
    jax = pytest.importorskip("jax")
    return jax.device_put(array, jax.devices("cpu")[0])


def of(library, name):
    """What makes arrays of a library, which need not be installed."""

    def make(array):
        return functools.reduce(getattr, name.split("."), pytest.importorskip(library))(array)

    return make


def frame_of(library):
    return lambda array: of(library, "Series" if array.ndim == 1 else "DataFrame")(array)


# What the table of `help(fastce)` says is read, what makes it, and the type of results.
KINDS = {
    "NumPy arrays, memmaps": [(lambda array: array.view(np.memmap), np.ndarray)],
    "Lists, buffers, DLPack": [
        (lambda array: [np.array(row) for row in array] if array.ndim > 1 else list(array), np.ndarray),
        (memoryview, np.ndarray),
        (OfDLPack, np.ndarray),
    ],
    "PyTorch, on the CPU": [(of("torch", "tensor"), "Tensor")],
    "JAX, on the CPU": [(on_cpu, "ArrayImpl")],
    "Array API standard": [(of("array_api_strict", "asarray"), "Array")],
    "pandas, polars": [(frame_of("pandas"), np.ndarray), (frame_of("polars"), np.ndarray)],
    "xarray": [(of("xarray", "DataArray"), np.ndarray)],
}
ELSEWHERE = {  # rows of the table that other tests are of
    "Numbers, no dimensions", "On an NVIDIA GPU", "Tensor, requires grad", "Traced by JAX", "Dask", "Dask in xarray",
    "LazyFrame of polars", "Masked, object, strings",
}  # fmt: skip
MAKERS = [pytest.param(*kind, id=f"{name} {k}") for name, kinds in KINDS.items() for k, kind in enumerate(kinds)]


def test_the_table_of_the_docs_is_that_of_these_tests():
    _, _, rows, *_ = re.split(r"^=+  =+  =+$", fastce.__doc__, flags=re.MULTILINE)
    first_column = {line[:23].strip() for line in rows.splitlines()}
    assert first_column - {""} == set(KINDS) | ELSEWHERE


def single(given):
    """The call in float32, which every library has, with results that are arrays if it has such."""
    return {k: v.astype(np.float32) if getattr(v, "dtype", None) == np.float64 else v for k, v in given.items()}


def call_of(name):
    function, given = getattr(fastce, name), single(CALLS[name])
    return function, given | {k: v for k, v in OPTIONS.items() if k in inspect.signature(function).parameters}


def parts_of(result):
    if isinstance(result, dict):
        return list(result.values())
    return list(result) if isinstance(result, tuple) else [result]


def assert_same(result, expected, kind):
    """The same bits, in arrays of the kind that is named or given; numbers of Python stay numbers."""
    assert type(result) is type(expected) or not isinstance(expected, (tuple, dict))
    for ours, theirs in zip(parts_of(result), parts_of(expected), strict=True):
        if isinstance(theirs, (np.ndarray, np.generic)):
            if isinstance(kind, str):
                assert type(ours).__name__ == kind
            else:
                assert isinstance(ours, (kind, np.generic))
            back = np.asarray(ours)
            assert back.dtype == theirs.dtype or (kind == "ArrayImpl" and back.dtype == np.int32)
            np.testing.assert_array_equal(back, theirs)
        else:
            assert type(ours) is type(theirs)
            assert ours == theirs


# ------------------------------------------------------------------------------------------------- read, and given back
@pytest.mark.parametrize(("make", "kind"), MAKERS)
@pytest.mark.parametrize("name", CALLS)
def test_arrays_are_read_and_results_are_of_the_kind_of_the_first(name, make, kind):
    function, given = call_of(name)
    made = {k: make(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    given = {k: np.asarray(made[k]) if hasattr(made[k], "__array__") else v for k, v in given.items()}  # as it lies
    expected = function(**given)
    assert_same(function(**made), expected, kind)
    first = next(iter(given))
    assert_same(function(**made | {first: given[first]}), expected, np.ndarray)
    assert_same(function(made[first], **{k: v for k, v in given.items() if k != first}), expected, kind)


@pytest.mark.parametrize("name", CALLS)
def test_results_keep_their_type_where_they_are_tuples_or_dictionaries(name):
    torch = pytest.importorskip("torch")
    function, given = call_of(name)
    made = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    assert type(function(**made)) in (type(function(**given)), torch.Tensor)


@pytest.mark.parametrize("name", CALLS)
def test_bfloat16_tensors_are_read_and_given(name):
    torch, ml_dtypes = pytest.importorskip("torch"), pytest.importorskip("ml_dtypes")
    function, given = call_of(name)
    floats = [k for k, value in given.items() if getattr(value, "dtype", None) == np.float32]
    half = given | {k: given[k].astype(ml_dtypes.bfloat16) for k in floats}
    made = given | {k: torch.tensor(given[k]).to(torch.bfloat16) for k in floats}
    for ours, theirs in zip(parts_of(function(**made)), parts_of(function(**half)), strict=True):
        if isinstance(theirs, (np.ndarray, np.generic)):
            assert ours.dtype == getattr(torch, theirs.dtype.name)
            np.testing.assert_array_equal(ours.to(torch.float64), theirs.astype(np.float64))
        else:
            assert ours == theirs


def test_tensors_and_dlpack_are_read_where_they_lie():
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64):
        tensor = torch.ones(6, 8).to(dtype)
        for view in (tensor, tensor.T, tensor[::2, 1:], tensor[3], tensor[0, 0], tensor[:, :0]):
            array = libraries.read(view, "x")
            assert array.shape == tuple(view.shape)
            assert array.dtype.name == str(dtype).removeprefix("torch.")
            assert array.strides == tuple(view.itemsize * step for step in view.stride()) or not array.size
            assert array.ctypes.data == view.data_ptr() or not array.size
    assert np.shares_memory(libraries.read(OfDLPack(LOGITS), "x"), LOGITS)


def test_a_tensor_in_any_layout_gives_what_its_copy_gives():
    torch = pytest.importorskip("torch")
    whole = torch.tensor(np.random.default_rng(1).normal(size=(8, 6, 5)))
    for x in (whole[..., 0], whole[:, 0].T, whole[0, ::2], whole.movedim(2, 1), whole[0, 0], torch.imag(whole * -1j)):
        targets = torch.zeros(x.shape[:1] + x.shape[2:] if x.ndim > 1 else (), dtype=torch.int32)
        value, grad = fastce.cross_entropy_value_and_grad(x, targets, reduction="none")
        copied = x.resolve_neg().numpy().copy()
        expected = fastce.cross_entropy_value_and_grad(copied, targets.numpy(), reduction="none")
        np.testing.assert_allclose(value.numpy(), expected.value, rtol=1e-14)
        np.testing.assert_allclose(grad.numpy(), expected.grad, rtol=1e-14, atol=1e-17)


def test_sparse_tensors_are_targets_as_those_of_scipy_are():
    torch = pytest.importorskip("torch")
    dense = np.array([[0, 0.5, 0.5, 0], [1, 0, 0, 0]] * 3)
    expected = fastce.cross_entropy(LOGITS, dense)
    assert fastce.cross_entropy(torch.tensor(LOGITS), torch.tensor(dense).to_sparse()) == pytest.approx(expected)
    for name, options in {"cross_entropy": {}, "softmax": {"axis": 1}}.items():
        given = {"targets": LABELS} if name == "cross_entropy" else {}
        with pytest.raises(TypeError, match="must hold real numbers"):
            getattr(fastce, name)(torch.tensor(LOGITS).to_sparse(), **given, **options)
    with pytest.raises(TypeError, match=r"^targets must be a matrix if it is sparse, got a tensor of shape"):
        fastce.cross_entropy(LOGITS, torch.zeros(2, 2, 2).to_sparse())


@pytest.mark.parametrize("dtype", ["Float32", "Float64", "Int64", "float32[pyarrow]"])
def test_columns_of_pandas_own_dtypes_are_numbers(dtype):
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(LOGITS > 0).astype(dtype)
    expected = fastce.softmax((LOGITS > 0).astype("f4" if "32" in dtype else "f8"), axis=1)
    np.testing.assert_array_equal(fastce.softmax(frame, axis=1), expected)
    frame.iloc[2, 1] = pandas.NA
    assert np.isnan(fastce.logsumexp(frame, axis=1)).nonzero()[0].tolist() == [2]
    assert fastce.cross_entropy(LOGITS, pandas.Series(LABELS, dtype="Int64", index=LABELS[::-1])) == pytest.approx(
        fastce.cross_entropy(LOGITS, LABELS)
    )


def test_a_missing_class_index_is_an_error():
    missing = [0, 1, None, 3, 0, 1]
    for library, options in {"pandas": {"dtype": "Int64"}, "polars": {}}.items():
        series = pytest.importorskip(library).Series(missing, **options)
        with pytest.raises(ValueError, match="class indices must be integers"):
            fastce.cross_entropy(LOGITS, series)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("logsumexp", {"b": LOGITS, "axis": 1}),
        ("cross_entropy", {"weight": LOGITS[0], "sample_weight": LOGITS[:, 0]}),
        (
            "cross_entropy_value_and_grad",
            {"reduction": "none", "grad_output": LOGITS[:, 1], "sample_weight": LOGITS[:, 0]},
        ),
        ("cross_entropy_grad_and_hess", {"weight": abs(LOGITS[0])}),
        ("nll_loss_value_and_grad", {"reduction": "none", "weight": LOGITS[0], "grad_output": LOGITS[:, 1]}),
        (
            "binary_cross_entropy_with_logits_value_and_grad",
            {"weight": LOGITS, "pos_weight": LOGITS[0], "grad_output": 2.0},
        ),
        ("linear_cross_entropy_value_and_grad", {"linear_bias": LOGITS[0], "weight": LOGITS[1]}),
    ],
)
def test_what_is_given_beside_the_logits_may_be_of_any_library(name, options):
    of_logits = {"logsumexp": [LOGITS], "linear_cross_entropy_value_and_grad": [LOGITS, LOGITS[:4], LABELS]}
    positional = of_logits.get(name, [LOGITS, LOGITS > 0 if "binary" in name else LABELS])
    expected = getattr(fastce, name)(*positional, **options)
    for make in (of("torch", "tensor"), on_cpu, of("xarray", "DataArray"), OfDLPack):
        made = {k: make(v.copy()) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        assert_same(getattr(fastce, name)(*positional, **made), expected, np.ndarray)


# ------------------------------------------------------------------------------------------------- out
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_tensor_receives_what_is_written_and_is_returned(dtype):
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    x = torch.tensor(LOGITS).to(getattr(torch, dtype))
    y = torch.tensor(LABELS)
    calls = [
        lambda x, out: fastce.softmax(x, 1, out=out),
        lambda x, out: fastce.log_softmax(x, axis=1, out=out),
        lambda x, out: fastce.cross_entropy_value_and_grad(x, y, out=out).grad,
        lambda x, out: fastce.nll_loss_value_and_grad(x, y, out=out).grad,
        lambda x, out: fastce.binary_cross_entropy_with_logits_value_and_grad(x, x > 0, out=out).grad,
        lambda x, out: fastce.clip_loss_value_and_grad(x[:4], out=None if out is None else out[:4]).grad,
    ]
    for call in calls:
        expected, out = call(x, None), torch.full_like(x, 7)
        result = call(x, out)
        assert result is out or result.shape != out.shape
        assert torch.equal(out[: len(expected)], expected)
        replaced = x.clone()
        assert torch.equal(call(replaced, replaced), expected)
        assert torch.equal(replaced[: len(expected)], expected)
    grad, hess = (torch.full_like(x, 7) for _ in range(2))
    for out in ((grad, hess), (None, hess), (grad, None)):
        results = fastce.cross_entropy_grad_and_hess(x, y, out=out)
        for ours, given, theirs in zip(results, out, fastce.cross_entropy_grad_and_hess(x, y), strict=True):
            assert given is None or ours is given
            assert torch.equal(ours, theirs)


def test_out_may_be_of_another_library_than_the_input():
    torch = pytest.importorskip("torch")
    tensor, array = torch.zeros(6, 4), np.zeros((6, 4), np.float32)
    assert fastce.softmax(LOGITS, axis=1, out=tensor) is tensor
    assert fastce.softmax(torch.tensor(LOGITS), axis=1, out=array) is array
    np.testing.assert_array_equal(tensor.numpy(), array)
    np.testing.assert_array_equal(array, fastce.softmax(LOGITS, axis=1))


def test_a_tensor_that_cannot_receive_is_refused_unwritten():
    torch = pytest.importorskip("torch")
    x = torch.tensor(LOGITS)
    shifted = torch.zeros(7, 4)
    for out, source, message in [
        (torch.full((4, 6), 7.0), x, r"out has shape \(4, 6\), expected \(6, 4\)"),
        (torch.full((6, 4), 7.0, dtype=torch.float64), x, "out has dtype float64, expected float32"),
        (torch.full((6, 4), 7.0, requires_grad=True), x, "out requires grad"),
        (shifted[1:], shifted[:-1], "out overlaps the input in part"),
        (torch.full((1, 4), 7.0).expand(6, 4), x, "out must not overlap itself"),
    ]:
        before = out.detach().clone()
        with pytest.raises((TypeError, ValueError), match=message):
            fastce.softmax(source, axis=1, out=out)
        assert torch.equal(out.detach(), before)
    targets = torch.softmax(x, 1)
    with pytest.raises(ValueError, match="out must not share memory with the targets"):
        fastce.cross_entropy_value_and_grad(x, targets, out=targets)


@pytest.mark.parametrize(
    "make", [on_cpu, of("pandas", "DataFrame"), of("polars", "DataFrame"), of("xarray", "DataArray")]
)
def test_what_cannot_be_written_in_place_is_no_out(make):
    with pytest.raises(TypeError, match="out must be a NumPy array or a tensor of PyTorch, got "):
        fastce.softmax(LOGITS, axis=1, out=make(LOGITS))


# ------------------------------------------------------------------------------------------------- no dimensions
@pytest.mark.parametrize("make", [np.float32, np.array, float, of("torch", "tensor"), on_cpu])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_arrays_without_dimensions_are_as_in_scipy(make, axis):
    x = make(2.5)
    for name in ("logsumexp", "softmax", "log_softmax"):
        ours, theirs = getattr(fastce, name)(x, axis=axis), getattr(scipy.special, name)(np.asarray(x), axis=axis)
        assert np.shape(ours) == np.shape(theirs) == ()
        np.testing.assert_allclose(np.asarray(ours), theirs)
    for options in ({"keepdims": True}, {"return_sign": True}, {"b": 2.0}):
        ours, theirs = (f(np.asarray(x), axis=axis, **options) for f in (fastce.logsumexp, scipy.special.logsumexp))
        for a, b in zip(parts_of(ours), parts_of(theirs), strict=True):
            assert np.shape(a) == np.shape(b)
            np.testing.assert_allclose(a, b)


def test_numbers_may_be_arrays_of_any_library():
    expected = fastce.cross_entropy(LOGITS, LABELS, logit_scale=2.0, label_smoothing=0.125)
    for make in (of("torch", "tensor"), on_cpu, of("array_api_strict", "asarray"), of("xarray", "DataArray"), OfDLPack):
        scale, smoothing = make(np.array(2.0, np.float32)), make(np.array([0.125], np.float32))
        assert fastce.cross_entropy(LOGITS, LABELS, logit_scale=scale, label_smoothing=smoothing) == expected


# ------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize("name", CALLS)
def test_arrays_traced_by_jax_are_refused_with_the_way_out(name):
    jax = pytest.importorskip("jax")
    function, given = getattr(fastce, name), single(CALLS[name])
    for argument in [k for k, v in given.items() if isinstance(v, (np.ndarray, float))]:
        for transform in (jax.jit, jax.grad, jax.vmap) if name in FEW else (jax.jit,):
            value = np.asarray(given[argument], np.float32 if transform is jax.grad else None)
            value = value[None] if transform is jax.vmap else value
            with pytest.raises(TypeError, match=rf"^{argument} is traced by JAX .*fastce\.jax .*jax\.pure_callback"):
                transform(lambda x, argument=argument: function(**given | {argument: x}))(value)


def test_the_way_out_of_a_traced_array_is_one():
    jax = pytest.importorskip("jax")
    shape = jax.ShapeDtypeStruct((), np.float32)

    def loss(x):
        return jax.pure_callback(lambda x: np.float32(fastce.cross_entropy(x, LABELS)), shape, x)

    assert jax.jit(loss)(on_cpu(LOGITS)) == np.float32(fastce.cross_entropy(LOGITS, LABELS))


OF_ONE_MACHINE = ("weight", "logit_scale", "logit_bias", "temperature")  # small, and needed when a call is made


@pytest.mark.parametrize("name", CALLS)
def test_arrays_of_dask_are_not_computed(name):
    """They go to their namesakes of fastce.dask, where there are such; else they are refused."""
    dask = pytest.importorskip("dask.array")
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("threadpoolctl")
    function, given = getattr(fastce, name), single(CALLS[name])

    def computed(block):
        raise AssertionError("computed")

    for argument in [k for k, v in given.items() if isinstance(v, (np.ndarray, float))]:
        array = np.asarray(given[argument])
        lazy = dask.from_array(array).map_blocks(computed, dtype=array.dtype, meta=np.empty(0, array.dtype))
        refused = [xarray.DataArray(lazy)]
        if hasattr(import_module("fastce.dask"), name) and argument not in OF_ONE_MACHINE:
            parts = parts_of(function(**given | {argument: lazy}))
            assert all(isinstance(part, dask.Array) for part in parts if part is not None)
        else:
            refused.append(lazy)
        for value in refused:
            with pytest.raises(TypeError, match=rf"^{argument} is computed by Dask.*map_blocks.*\.compute\(\)"):
                function(**given | {argument: value})


def test_the_way_out_of_an_array_of_dask_is_one():
    dask = pytest.importorskip("dask.array")
    blocks = dask.from_array(LOGITS, chunks=(2, 4))
    softmax = blocks.map_blocks(fastce.softmax, axis=1, dtype=np.float32).compute(scheduler="synchronous")
    np.testing.assert_array_equal(softmax, fastce.softmax(LOGITS, axis=1))


def test_the_parts_of_a_data_frame_of_dask_are_named():
    dask, pandas = pytest.importorskip("dask.dataframe"), pytest.importorskip("pandas")
    frame = dask.from_pandas(pandas.DataFrame(LOGITS), npartitions=2)
    with pytest.raises(TypeError, match=r"^logits is computed by Dask.*on its parts by map_partitions.*\.compute\(\)"):
        fastce.cross_entropy(frame, LABELS)


@pytest.mark.parametrize("library", ["PyTorch", "JAX", "Dask"])
def test_recipes_that_errors_name_are_in_the_readme(library):
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("the README is not installed with the package")
    assert words.recipe(library) == f"the README's recipe for {library} does"
    recipes = readme.read_text().partition("\n## Recipes\n")[2].partition("\n## ")[0]
    assert f"\n### {library}" in recipes


def test_lazy_frames_are_not_collected():
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"^x is a LazyFrame, which has no values yet: give x\.collect\(\)"):
        fastce.softmax(polars.DataFrame(LOGITS).lazy(), axis=1)


@pytest.mark.parametrize("name", FEW)
def test_tensors_without_readable_elements_are_refused_in_one_sentence(name):
    torch = pytest.importorskip("torch")
    fake = pytest.importorskip("torch._subclasses.fake_tensor").FakeTensorMode()
    function, given = call_of(name)
    first = next(iter(given))
    rest = {k: v for k, v in given.items() if k != first}
    x = torch.tensor(given[first])
    for value, message in [
        (x.to("meta"), "must hold real numbers in memory, got Tensor .* on meta"),
        (x.to(torch.float8_e4m3fn), "must hold real numbers in memory, got Tensor .* torch.float8_e4m3fn on cpu"),
        (fake.from_tensor(x), "is a tensor without elements in memory .*fastce.torch"),
    ]:
        with pytest.raises(TypeError, match=f"^{first} {message}"):
            function(value, **rest)
    with pytest.raises(TypeError, match=f"^{first} is a tensor without elements in memory"):
        torch.vmap(lambda x: function(x, **rest))(x[None])
    with pytest.raises(TypeError, match=f"^{first} requires grad"):
        torch.func.grad(lambda x: function(x, **rest))(x)


def test_the_way_out_of_a_tensor_that_requires_grad_is_one():
    torch = pytest.importorskip("torch")
    x, y = torch.tensor(LOGITS, requires_grad=True), torch.tensor(LABELS)
    (3 * fastce.torch.cross_entropy(x, y)).backward()
    expected = torch.autograd.grad(3 * torch.nn.functional.cross_entropy(x, y), x)[0]
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-7)


def test_without_ml_dtypes_bfloat16_names_it(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"^x holds bfloat16, for which NumPy needs the package ml_dtypes"):
        fastce.softmax(torch.zeros(3, dtype=torch.bfloat16))


def test_what_a_signal_handler_raises_while_a_tensor_is_read_comes_out(monkeypatch):
    torch = pytest.importorskip("torch")

    def handler(number, frame):
        raise RuntimeError("late")

    x = torch.tensor(LOGITS)
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(RuntimeError, match="late"):
            fastce.softmax(x, axis=1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_dlpack_that_numpy_does_not_read_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"^x must hold real numbers that NumPy can read by DLPack, got"):
        fastce.softmax(OfDLPack(torch.zeros(3, dtype=torch.bfloat16)))


def test_wrong_calls_with_other_arrays_are_told_as_by_the_function_itself():
    x = OfDLPack(LOGITS)
    with pytest.raises(TypeError, match=r"cross_entropy\(\) missing 1 required positional argument: 'targets'"):
        fastce.cross_entropy(x)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        fastce.cross_entropy(x, LABELS, 1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'weights'"):
        fastce.nll_loss(x, LABELS, weights=1)
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        fastce.softmax(x, x=x)


@pytest.mark.slow
def test_arrays_of_jax_spread_over_devices_are_read(tmp_path):
    pytest.importorskip("jax")
    out, _ = run_script(
        """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, numpy as np, fastce
x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
rows = jax.sharding.NamedSharding(jax.make_mesh((2,), ("rows",)), jax.sharding.PartitionSpec("rows"))
result = fastce.softmax(jax.device_put(x, rows), axis=1)
on_second = fastce.softmax(jax.device_put(x, jax.devices()[1]), axis=1)
assert np.array_equal(result, fastce.softmax(x, axis=1)) and np.array_equal(on_second, result)
print(type(result).__name__, on_second.devices() == {jax.devices()[1]})
""",
        tmp_path,
    )
    assert out.split() == ["ArrayImpl", "True"]
