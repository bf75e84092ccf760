"""Where calls are computed, with arrays that only say that they are on a GPU: none of these tests needs one."""

import ast
import inspect
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from scripts import run_script

import fastce
from fastce import engine
from fastce.arguments import places

ON_DEVICES = (
    ["logsumexp", "softmax", "log_softmax"]
    + [name + ending
       for name in ("cross_entropy", "clip_loss", "clip_loss_from_features", "siglip_loss", "info_nce", "nt_xent",
                    "sup_con", "linear_cross_entropy")
       for ending in ("", "_value_and_grad")]
)  # fmt: skip


class OfInterface:
    """An array that has no more than the CUDA array interface."""

    __cuda_array_interface__ = {"shape": (2, 3), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


class OfDLPack:
    """An array that has no more than DLPack."""

    def __init__(self, kind=2, device=0, ndim=2):
        self.where, self.ndim = (kind, device), ndim

    def __dlpack_device__(self):
        return self.where


class OfTorch:
    """A tensor that requires grad, or is sparse: its interfaces raise."""

    def __init__(self, device):
        self.device = device
        self.is_cuda = device is not None

    def get_device(self):
        return self.device

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("requires grad")

    def __dlpack_device__(self):
        raise RuntimeError("Unimplemented backend")

    def __array__(self, dtype=None, copy=None):
        return np.zeros((2, 3))


class OfNumba:
    """An array of Numba."""

    __cuda_ndarray__ = True

    def __init__(self, device):
        context = types.SimpleNamespace(device=types.SimpleNamespace(id=device))
        self.gpu_data = types.SimpleNamespace(context=context)


class SpreadOverDevices:
    def __dlpack_device__(self):
        raise BufferError("more than one device")


def sparse_on_device(device):
    return types.SimpleNamespace(tocsr=None, data=OfDLPack(2, device))


@pytest.fixture
def calls(monkeypatch):
    """What the CUDA functions were called with."""
    seen = []

    def namesake(function):
        return lambda *args, **kwargs: seen.append((function.__name__, args, kwargs)) or "from the GPU"

    functions = types.SimpleNamespace(namesake=namesake, taking_device_arrays=namesake)
    monkeypatch.setattr(engine, "cuda_functions", lambda: functions)
    return seen


# ------------------------------------------------------------------------------------------------ where an array is
@pytest.mark.parametrize(
    ("value", "device"),
    [
        (OfInterface(), places.UNKNOWN_DEVICE),
        (OfDLPack(2, 1), 1),
        (OfDLPack(13, 3), 3),  # managed memory
        (OfDLPack(1), None),
        (OfDLPack(3), None),  # pinned memory of the CPU
        (OfDLPack(10), None),  # ROCm
        (OfTorch(2), 2),
        (OfTorch(None), None),
        (OfNumba(4), 4),
        (sparse_on_device(5), 5),
        (sparse.eye_array(3).tocsr(), None),
        (SpreadOverDevices(), None),
        (np.zeros(3).view(np.memmap), None),
        (np.float16(1), None),
        (np.zeros(3), None),
        ([1.0], None),
        ("mean", None),
        (None, None),
        (print, None),
        (range(3), None),
    ],
)
def test_an_array_is_found_where_it_lies(value, device):
    assert places.device_of(value) == device
    assert places.is_on_device(value) == (device is not None)


def test_tensors_of_the_cpu_are_on_no_device():
    torch = pytest.importorskip("torch")
    for tensor in (torch.zeros(3), torch.zeros(3, requires_grad=True), torch.zeros(3, device="meta")):
        assert not places.is_on_device(tensor)
    assert fastce.logsumexp(torch.zeros(4, dtype=torch.float64)) == np.log(4)


# ------------------------------------------------------------------------------------------------ which one is called
@pytest.mark.parametrize("name", ON_DEVICES)
def test_a_function_goes_where_its_arrays_are(calls, name):
    arguments = (OfDLPack(), OfInterface(), 1.0, 0.0)[: 1 if "soft" in name or name == "logsumexp" else 4]
    if name.startswith(("cross_entropy", "clip_loss", "nt_xent", "sup_con", "info_nce")):
        arguments = arguments[:2]
    if name.startswith("linear"):
        arguments = (OfDLPack(), OfDLPack(), OfDLPack())
    assert getattr(fastce, name)(*arguments, n_threads=2) == "from the GPU"
    assert calls == [(name, arguments, {"n_threads": 2})]


def test_keyword_arguments_and_out_decide_too(calls):
    logits, out = OfDLPack(), OfDLPack()
    fastce.cross_entropy_value_and_grad(targets=OfInterface(), logits=logits, out=out)
    fastce.softmax(logits, (0, 1), out=out)  # a tuple of axes is no array
    fastce.clip_loss(OfNumba(1), sparse_on_device(1))
    assert [name for name, _, _ in calls] == ["cross_entropy_value_and_grad", "softmax", "clip_loss"]


def test_numbers_may_be_anywhere(calls, rng):
    features, scale = rng.normal(size=(4, 3)), OfDLPack(2, 1, ndim=0)
    with pytest.raises(TypeError, match="must be a number"):  # so the CPU's function was called
        fastce.clip_loss_from_features(features, features, scale)
    fastce.clip_loss_from_features(OfDLPack(2, 0), OfDLPack(2, 0), scale)
    fastce.clip_loss_from_features(OfDLPack(2, 0), OfDLPack(2, 0), np.array(2.0))
    fastce.cross_entropy(OfDLPack(), OfDLPack(), reduction="sum", softcap=None, logit_scale=np.float32(2))
    fastce.logsumexp(scale)
    assert len(calls) == 4


@pytest.mark.parametrize(
    "targets",
    [np.zeros(2, int), [0, 1], (0, 1), sparse.eye_array(2).tocsr(), OfTorch(None), np.zeros(2).view(np.memmap)],
)
def test_arrays_in_two_places_are_refused(calls, targets):
    kind = type(targets).__name__
    with pytest.raises(
        TypeError, match=f"logits is on a GPU but targets is not: it is a {kind} in the memory of the CPU"
    ):
        fastce.cross_entropy(OfDLPack(), targets)
    with pytest.raises(TypeError, match="targets is on a GPU but logits is not: it is a ndarray"):
        fastce.cross_entropy(np.zeros((2, 3)), OfInterface())
    with pytest.raises(TypeError, match="out is on a GPU but x is not"):
        fastce.softmax(np.zeros((2, 3)), axis=1, out=OfDLPack())
    assert calls == []


def test_arrays_on_two_gpus_are_refused(calls):
    with pytest.raises(TypeError, match="logits is on GPU 0 but weight is on GPU 1: all arrays of a call"):
        fastce.cross_entropy(OfDLPack(2, 0), OfInterface(), weight=OfTorch(1))
    assert calls == []


def test_what_is_computed_on_the_cpu_only_says_so():
    for value in (OfInterface(), OfDLPack(), OfTorch(0), OfNumba(0)):
        with pytest.raises(TypeError, match=r"^logits is on a GPU; this function computes on the CPU only: copy it"):
            fastce.streaming.row_stats([value])


def test_without_numba_cuda_the_extra_is_named(monkeypatch):
    engine.cuda_functions.cache_clear()
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install fastce\[cuda12\] or fastce\[cuda13\]"):
        fastce.logsumexp(OfDLPack())


# ------------------------------------------------------------------------------------------------ what stays as it was
@pytest.mark.parametrize("name", ON_DEVICES)
def test_functions_keep_their_name_signature_and_pickle(name):
    function = getattr(fastce, name)
    assert function.__name__ == function.__qualname__ == name
    assert inspect.signature(function) == inspect.signature(inspect.unwrap(function))
    assert "n_threads" in inspect.signature(function).parameters
    assert pickle.loads(pickle.dumps(function)) is function
    assert inspect.getmodule(function) is sys.modules[function.__module__]  # by which doctest finds it


def test_wrong_calls_are_told_as_by_the_function_itself():
    with pytest.raises(TypeError, match=r"cross_entropy\(\) missing 1 required positional argument: 'targets'"):
        fastce.cross_entropy(np.zeros((2, 3)))
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        fastce.cross_entropy(np.zeros((2, 3)), np.zeros(2, int), range(2))


@pytest.mark.slow
def test_arrays_of_the_cpu_import_nothing_of_a_gpu_or_of_another_library(tmp_path):
    out, _ = run_script(
        """
import sys
import numpy as np
before = set(sys.modules)  # an installed package may have part of itself imported at every start of Python
import fastce
x = np.ones((4, 3), np.float32)
fastce.cross_entropy_value_and_grad(x, [0, 1, 2, 0], weight=np.ones(3).view(np.memmap))
fastce.softmax(x.view(np.memmap), axis=1)
fastce.clip_loss_from_features(x, x)
fastce.nll_loss(memoryview(x), [0, 1, 2, 0])
others = {"torch", "cupy", "jax", "ml_dtypes", "pandas", "polars", "xarray", "dask"}
print(*(({"numba.cuda", "numba_cuda", "cuda", "fastce.cuda"} | others) & set(sys.modules) - before))
""",
        tmp_path,
    )
    assert out.split() == []


# ------------------------------------------------------------------------------------------------ show_config
def test_show_config_never_fails_for_a_broken_installation(monkeypatch, capsys):
    from fastce import configuration

    monkeypatch.setattr(configuration, "_version", lambda package: "9.9")
    monkeypatch.setitem(sys.modules, "numba.cuda", None)  # importing it raises
    monkeypatch.delattr("numba.cuda", raising=False)
    fastce.show_config()
    assert "CUDA: numba-cuda 9.9, no device" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(configuration, "_version", lambda package: "not installed")
    fastce.show_config()
    assert "CUDA: numba-cuda is not installed" in capsys.readouterr().out


# ------------------------------------------------------------------------- what losses of products ask of an engine
def methods_of(module, name):
    """The public methods of a class, and their parameters: read, as a GPU's cannot be imported everywhere."""
    tree = ast.parse((Path(fastce.__file__).parent / f"{module}.py").read_text())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    defined = [node for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    methods = [node for node in defined if "property" not in map(ast.unparse, node.decorator_list)]
    return {m.name: [a.arg for a in (*m.args.args, *m.args.kwonlyargs)] for m in methods}


@pytest.mark.parametrize(("module", "name"), [("cpu/engine", "Cpu"), ("cuda/engine", "Gpu")])
def test_both_engines_offer_the_same_methods_with_the_same_parameters(module, name):
    assert methods_of(module, name) == methods_of("products/engine", "Engine")
