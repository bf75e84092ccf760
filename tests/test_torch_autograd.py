"""fastce.torch in autograd: what is computed and kept, when; what is refused, in words."""

import subprocess
import sys
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from checks import forget_plain_calls  # noqa: E402
from torch_calls import LOSSES, WHOLE  # noqa: E402

import fastce  # noqa: E402
import fastce.torch  # noqa: E402
from fastce.cpu import plain  # noqa: E402
from fastce.cpu.engine import Cpu  # noqa: E402
from fastce.torch import loss as machinery  # noqa: E402
from fastce.torch import plain as plain_calls  # noqa: E402

F = torch.nn.functional
CALLS = {**LOSSES, **WHOLE}


@pytest.fixture
def logits(rng):
    return torch.tensor(rng.normal(size=(40, 30)), dtype=torch.float32, requires_grad=True)


@pytest.fixture
def targets(rng):
    return torch.tensor(rng.integers(0, 30, 40))


@pytest.fixture
def as_usual(monkeypatch):
    """The way of calls that are not plain."""
    monkeypatch.setattr(plain, "LARGEST_PLAIN", 0)
    forget_plain_calls(monkeypatch)


@pytest.fixture
def runs(monkeypatch, as_usual):
    """Whether each call of a function of fastce was asked for gradients."""
    seen, run = [], machinery.run

    def spied(loss, inputs, options, wanted=()):
        seen.append(bool(wanted))
        return run(loss, inputs, options, wanted)

    monkeypatch.setattr(machinery, "run", spied)
    return seen


def gradient_of(function, x, *args, **options):
    x = x.detach().clone().requires_grad_()
    function(x, *args, **options).backward()
    return x.grad


# ------------------------------------------------------------------------------------------ what is computed
def test_value_and_gradient_come_from_one_call_forward(logits, targets, runs):
    loss = fastce.torch.cross_entropy(logits, targets)
    assert runs == [True]
    loss.backward()
    assert runs == [True]


def test_no_gradient_is_computed_where_none_is_needed(logits, targets, runs):
    fastce.torch.cross_entropy(logits.detach(), targets)
    with torch.no_grad():
        value = fastce.torch.cross_entropy(logits, targets)
    with torch.inference_mode():
        fastce.torch.cross_entropy(logits, targets)
    assert runs == [False] * 3
    assert not value.requires_grad


@pytest.mark.parametrize("name", LOSSES)
def test_each_tensor_may_be_the_only_one_that_requires_grad(name):
    call = LOSSES[name]
    together = call.leaves()
    call.function(*together).backward()
    for k, expected in enumerate(together):
        alone = [t.detach().requires_grad_(i == k) for i, t in enumerate(call.leaves())]
        call.function(*alone).backward()
        assert [t.grad is not None for t in alone] == [i == k for i in range(len(alone))]
        torch.testing.assert_close(alone[k].grad, expected.grad, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("largest", [plain.LARGEST_PLAIN, 0])
def test_the_gradient_is_handed_over_without_a_copy(logits, targets, monkeypatch, largest):
    places, from_numpy = [], torch.from_numpy

    def spied(gradient):
        result = from_numpy(gradient)
        places.append(result.data_ptr())  # not the tensor: autograd copies what somebody else holds
        return result

    monkeypatch.setattr(plain, "LARGEST_PLAIN", largest)
    forget_plain_calls(monkeypatch)
    monkeypatch.setattr(torch, "from_numpy", spied)
    fastce.torch.cross_entropy(logits, targets).backward()
    assert logits.grad.data_ptr() == places[0]  # not scaled
    logits.grad = None
    (3.0 * fastce.torch.cross_entropy(logits, targets)).backward()
    assert logits.grad.data_ptr() == places[1]  # scaled in place


def test_plain_calls_go_to_the_kernel_at_once(logits, targets, monkeypatch):
    read, plain_cross_entropy = [], plain_calls.plain_cross_entropy

    def spied(args, named, *, with_gradient):
        read.append((*(array.ctypes.data for array in args), with_gradient))
        return plain_cross_entropy(args, named, with_gradient=with_gradient)

    monkeypatch.setattr(plain_calls, "plain_cross_entropy", spied)
    monkeypatch.delattr(machinery, "run")
    fastce.torch.cross_entropy(logits, targets).backward()
    with torch.no_grad():
        fastce.torch.cross_entropy(logits, targets, reduction="none")
    fastce.torch.cross_entropy(logits.detach(), targets, label_smoothing=0.1)
    assert read == [(logits.data_ptr(), targets.data_ptr(), wanted) for wanted in (True, False, False)]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [30, 300])
def test_plain_calls_are_as_usual(rng, monkeypatch, reduction, classes):
    def results():
        x = torch.tensor(logits, requires_grad=True)
        losses = [
            fastce.torch.cross_entropy(given, targets, label_smoothing=0.1, reduction=reduction)
            for given in (x, x.detach(), x * 2.0, x.t().contiguous().t(), torch.nn.Parameter(x.detach()))
        ]
        sum(3.0 * loss.sum() for loss in losses[:4]).backward()
        return [*losses, losses[-1].requires_grad, x.grad]

    logits, targets = rng.normal(size=(40, classes)).astype(np.float32), torch.tensor(rng.integers(0, classes, 40))
    found = results()
    monkeypatch.setattr(plain, "LARGEST_PLAIN", 0)
    forget_plain_calls(monkeypatch)
    torch.testing.assert_close(found, results(), rtol=0.0, atol=0.0)


def test_logits_are_read_where_they_lie(logits, targets, monkeypatch, as_usual):
    read = []
    value_and_grad = fastce.torch.rows._CROSS_ENTROPY.value_and_grad

    def spied(logits, targets, **options):
        read.extend([logits.ctypes.data, targets.ctypes.data])
        return value_and_grad(logits, targets, **options)

    spy = fastce.torch.rows._CROSS_ENTROPY._replace(value_and_grad=spied)
    monkeypatch.setattr(fastce.torch.rows, "_CROSS_ENTROPY", spy)
    fastce.torch.cross_entropy(logits, targets)
    assert read == [logits.data_ptr(), targets.data_ptr()]


# ------------------------------------------------------------------------------------------ again and again
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_graph_that_is_kept_gives_the_same_gradients_again(name, reduction):
    call = LOSSES[name]
    if name == "clip_loss, targets" and reduction == "none":
        pytest.skip("losses of rows and columns go together only by the diagonal")
    tensors = call.leaves()
    loss = 3.0 * call.function(*tensors, reduction=reduction).sum()
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    for gradient in first:
        gradient.zero_()  # what was given is the caller's
    second = torch.autograd.grad(loss, tensors, retain_graph=True)
    again = torch.autograd.grad(5.0 * loss, tensors)
    assert all(gradient.any() for gradient in second)
    for one, five in zip(second, again, strict=True):
        torch.testing.assert_close(5.0 * one, five, rtol=1e-13, atol=1e-13)


def test_without_a_kept_graph_a_second_backward_is_pytorchs_error(logits, targets):
    loss = fastce.torch.cross_entropy(logits, targets)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradients_add_up_in_leaves(logits, targets):
    for _ in range(2):
        fastce.torch.cross_entropy(logits, targets).backward()
    torch.testing.assert_close(logits.grad, 2 * gradient_of(F.cross_entropy, logits, targets), rtol=1e-5, atol=1e-7)
    twice = logits.detach().requires_grad_()
    (fastce.torch.cross_entropy(twice, targets) + fastce.torch.cross_entropy(twice, targets)).backward()
    torch.testing.assert_close(twice.grad, logits.grad)


def test_the_way_goes_on_to_what_made_the_logits(rng, targets):
    layer, head = torch.nn.Linear(8, 16), torch.nn.Linear(16, 30)
    x = torch.tensor(rng.normal(size=(40, 8)), dtype=torch.float32)
    gradients = []
    for function in (fastce.torch.cross_entropy, F.cross_entropy):
        loss = function(head(layer(x).tanh()), targets, label_smoothing=0.1) / 7.0
        gradients.append(torch.autograd.grad(loss, layer.weight)[0])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_logits_that_are_changed_before_a_late_gradient_are_pytorchs_error(logits, targets):
    changed = logits * 1.0
    loss = fastce.torch.cross_entropy(changed, targets, reduction="none")
    with torch.no_grad():
        changed.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()


def test_checkpoints_compute_anew(logits, targets):
    from torch.utils.checkpoint import checkpoint

    loss = checkpoint(fastce.torch.cross_entropy, 1.0 * logits, targets, use_reentrant=False)
    loss.backward()
    torch.testing.assert_close(logits.grad, gradient_of(F.cross_entropy, logits, targets), rtol=1e-5, atol=1e-7)


def test_gradients_of_no_single_loss_are_refused(rng):
    images = torch.tensor(rng.normal(size=(4, 3)), requires_grad=True)
    losses = fastce.torch.clip_loss_from_features(images, images.detach(), reduction="none")
    with pytest.raises(RuntimeError, match=r'clip_loss_from_features with reduction="none" has the gradient of a sum'):
        (losses * torch.arange(4)).sum().backward()


# ------------------------------------------------------------------------------------------ threads
def test_eight_threads_at_once(logits, targets):
    expected = gradient_of(fastce.torch.cross_entropy, logits, targets)
    found = [None] * 8

    def work(k):
        found[k] = gradient_of(fastce.torch.cross_entropy, logits, targets)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(gradient, expected) for gradient in found)


def test_backward_from_another_thread_than_forward(logits, targets):
    losses = fastce.torch.cross_entropy(logits, targets, reduction="none")  # whose gradient is computed backward
    thread = threading.Thread(target=losses.mean().backward)
    thread.start()
    thread.join()
    torch.testing.assert_close(logits.grad, gradient_of(F.cross_entropy, logits, targets), rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------------------------------ layouts
LAYOUTS = {
    "transposed": lambda x: x.T.contiguous().T,
    "every second column": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "rows of a larger matrix": lambda x: torch.cat([x, x], 1)[:, :30],
    "expanded rows": lambda x: x[:1].expand(40, 30),
    "backwards, as a view of NumPy's": lambda x: torch.flip(x, [0]),
    "of half the rows": lambda x: x.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_layouts(logits, targets, name, reduction):
    x = LAYOUTS[name](logits.detach()).requires_grad_()
    y = x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    ours, theirs = (
        fastce.torch.cross_entropy(x, targets, reduction=reduction),
        F.cross_entropy(y, targets, reduction=reduction),
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_images_of_classes(rng, memory_format):
    logits = torch.tensor(rng.normal(size=(2, 5, 4, 3)), dtype=torch.float32).to(memory_format=memory_format)
    targets = torch.tensor(rng.integers(0, 5, (2, 4, 3)))
    gradient = gradient_of(fastce.torch.cross_entropy, logits, targets)
    torch.testing.assert_close(gradient, gradient_of(F.cross_entropy, logits, targets), rtol=1e-5, atol=1e-7)


def test_nothing_is_something(rng):
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = fastce.torch.cross_entropy(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.isnan()
    assert logits.grad.shape == (0, 5)


def test_sparse_targets(logits, rng):
    soft = torch.tensor(np.where(rng.random((40, 30)) < 0.1, 1.0, 0.0), dtype=torch.float32)
    sparse = gradient_of(fastce.torch.cross_entropy, logits, soft.to_sparse())
    torch.testing.assert_close(sparse, gradient_of(F.cross_entropy, logits, soft), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------ dtypes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_dtypes_are_those_of_pytorch_within_autocast_and_without(logits, targets, dtype):
    pytest.importorskip("ml_dtypes")
    x = logits.detach().to(dtype).requires_grad_()
    assert fastce.torch.cross_entropy(x, targets).dtype == F.cross_entropy(x, targets).dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = fastce.torch.cross_entropy(x, targets), F.cross_entropy(x, targets)
    assert ours.dtype == theirs.dtype == torch.float32
    ours.backward()
    assert x.grad.dtype == dtype


def test_a_model_within_autocast(rng, targets):
    pytest.importorskip("ml_dtypes")
    head, x = torch.nn.Linear(8, 30), torch.tensor(rng.normal(size=(40, 8)), dtype=torch.float32)
    gradients = []
    for function in (fastce.torch.cross_entropy, F.cross_entropy):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = function(head(x), targets)
        gradients.append(torch.autograd.grad(loss, head.weight)[0])
    torch.testing.assert_close(*gradients, rtol=0.02, atol=1e-4)


# ------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize("name", CALLS)
def test_second_derivatives_are_refused_by_the_name_of_the_function(name):
    tensors = CALLS[name].leaves()
    value = CALLS[name].function(*tensors).sum()
    with pytest.raises(RuntimeError, match=r"fastce\.torch\.\w+ has no second derivatives"):
        torch.autograd.grad(value, tensors, create_graph=True)


@pytest.mark.parametrize("kind", ["linear", "cross_entropy"])
def test_a_learned_scale_alone_has_the_gradient_of_autograd(rng, kind):
    features, weight = (torch.tensor(rng.normal(size=shape), dtype=torch.float32) for shape in ((50, 8), (300, 8)))
    targets = torch.tensor(rng.integers(0, 300, 50))
    log_scale = torch.tensor(0.7, requires_grad=True)
    if kind == "linear":
        loss = fastce.torch.linear_cross_entropy(features, weight, targets, logit_scale=log_scale.exp())
    else:
        loss = fastce.torch.cross_entropy(features @ weight.T, targets, logit_scale=log_scale.exp())
    loss.backward()
    exact = torch.tensor(0.7, dtype=torch.float32).double().requires_grad_()
    F.cross_entropy(exact.exp() * (features.double() @ weight.double().T), targets).backward()
    assert log_scale.grad.item() == pytest.approx(exact.grad.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_learned_scale_of_halves(rng, dtype, reduction):
    logits, targets = torch.tensor(rng.normal(size=(20, 9))).to(dtype), torch.tensor(rng.integers(0, 9, 20))
    weights = torch.tensor(rng.normal(size=20), dtype=torch.float32) if reduction == "none" else 3.0
    ours, theirs = (torch.tensor([1.7], requires_grad=True) for _ in range(2))
    of_halves = fastce.torch.cross_entropy(logits, targets, logit_scale=ours, reduction=reduction)
    (of_halves.float() * weights).sum().backward()
    (F.cross_entropy(theirs * logits.float(), targets, reduction=reduction) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-2, atol=1e-2)  # of weights that come back in halves


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_products_of_frozen_sides_of_a_layer_are_not_computed(monkeypatch, frozen):
    products, multiply = [], Cpu.multiply

    def counted(self, a, b, out, **options):
        products.append(out.shape)
        multiply(self, a, b, out, **options)

    monkeypatch.setattr(Cpu, "multiply", counted)
    shapes = {0: (7, 3), 1: (5, 3), 2: (1, 5)}  # of the gradients of features, weight and bias
    tensors = [torch.ones(shape) for shape in ((7, 3), (5, 3), (5,))]
    scale = torch.tensor(2.0, requires_grad=True)
    for k, tensor in enumerate(tensors):
        tensor.requires_grad_(k not in frozen)
    features, weight, bias = tensors
    targets = torch.zeros(7, dtype=torch.int64)
    fastce.torch.linear_cross_entropy(features, weight, targets, linear_bias=bias, logit_scale=scale).backward()
    assert sorted(products) == sorted([(7, 5), *(shape for k, shape in shapes.items() if k not in frozen)])
    assert scale.grad is not None


FROZEN = [  # which tensors are, and how many products are multiplied into gradients then
    ("clip_loss_from_features", (0,), 1),
    ("clip_loss_from_features", (1,), 1),
    ("clip_loss_from_features, normalized", (0, 1), 1),
    ("clip_loss_from_features", (), 2),
    ("siglip_loss", (0,), 1),
    ("siglip_loss, normalized", (1,), 1),
    ("siglip_loss", (0, 1), 1),
    ("info_nce", (1,), 1),
    ("info_nce, negatives", (1, 2), 1),
    ("info_nce, negatives", (1,), 2),
]


@pytest.mark.parametrize(("name", "frozen", "number"), FROZEN)
def test_products_of_frozen_features_are_not_computed(monkeypatch, name, frozen, number):
    call = LOSSES[name]
    together, leaves = call.leaves(), call.leaves()
    call.function(*together).backward()
    widths, multiply = [], Cpu.multiply

    def counted(self, a, b, out, **options):
        widths.append(out.shape[1])
        multiply(self, a, b, out, **options)

    monkeypatch.setattr(Cpu, "multiply", counted)
    for k in frozen:
        leaves[k].requires_grad_(False)
    call.function(*leaves).backward()
    assert widths.count(4) == number  # as wide as features, not as a tile
    for k, (leaf, expected) in enumerate(zip(leaves, together, strict=True)):
        if k not in frozen:
            torch.testing.assert_close(leaf.grad, expected.grad, rtol=1e-13, atol=1e-15)


def test_gradients_that_are_not_there_are_refused(logits, targets):
    weight = torch.ones(30, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"weight requires grad, but fastce\.torch\.cross_entropy has no gradient"):
        fastce.torch.cross_entropy(logits, targets, weight)
    soft = torch.softmax(logits, 1)
    with pytest.raises(RuntimeError, match=r"give targets\.detach\(\)"):
        fastce.torch.cross_entropy(logits.detach(), soft)
    with torch.no_grad():
        fastce.torch.cross_entropy(logits, soft, weight)


def test_functional_transforms_are_refused(logits, targets):
    with pytest.raises(RuntimeError, match=r"fastce\.torch\.cross_entropy cannot be computed within torch\.func"):
        torch.func.grad(fastce.torch.cross_entropy)(logits, targets)
    with pytest.raises(RuntimeError, match=r"fastce\.torch\.softmax cannot be computed within torch\.func"):
        torch.func.vmap(lambda x: fastce.torch.softmax(x, 0))(logits.detach())


@pytest.mark.parametrize("given", [[1.0, 2.0], np.zeros((3, 4)), None])
def test_other_things_than_tensors_are_refused(given):
    with pytest.raises(TypeError, match=r"first argument of fastce\.torch\.cross_entropy must be a tensor"):
        fastce.torch.cross_entropy(given, torch.tensor([0]))


def test_wrong_targets_are_the_errors_of_fastce(logits, targets):
    with pytest.raises(ValueError, match="reduction must be one of"):
        fastce.torch.cross_entropy(logits, targets, reduction="average")
    targets[3] = 30
    with pytest.raises(IndexError, match="targets in row 3 hold class index 30"):
        fastce.torch.cross_entropy(logits, targets)


def test_tensors_elsewhere_are_refused(targets):
    with pytest.raises(TypeError, match="meta"):
        fastce.torch.cross_entropy(torch.zeros(40, 30, device="meta"), targets)


def test_plain_functions_name_the_differentiable_ones(logits, targets):
    with pytest.raises(TypeError, match=r"logits requires grad.*fastce\.torch"):
        fastce.cross_entropy(logits, targets)


def test_importing_fastce_does_not_import_torch():
    code = "import fastce, sys; fastce.cross_entropy([0.0, 1.0], 0); assert 'torch' not in sys.modules; fastce.torch"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
