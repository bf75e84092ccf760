"""fastce.torch within torch.compile: no break of the graph, and what eager mode gives."""

import shutil

import pytest

torch = pytest.importorskip("torch")

from torch_calls import LOSSES, WHOLE, matrix  # noqa: E402

import fastce.torch  # noqa: E402

CALLS = {**LOSSES, **WHOLE}
# Of PyTorch's compiler, and what it imports.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


@pytest.fixture(autouse=True)
def anew():
    torch._dynamo.reset()


def value_and_gradients(function, tensors):
    value = function(*tensors)
    return value, torch.autograd.grad((2.5 * value).sum(), tensors)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", CALLS)
def test_every_function_is_traced_as_a_whole(name, reduction):
    call = CALLS[name]
    if reduction == "none" and (name in WHOLE or name == "clip_loss, targets"):
        pytest.skip("there is no such reduction")
    options = {} if name in WHOLE else {"reduction": reduction}

    def function(*tensors):
        return 2.0 * call.function(*tensors, **options)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    value, gradients = value_and_gradients(compiled, call.leaves())
    expected, expected_gradients = value_and_gradients(function, call.leaves())
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-15)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*call.tensors), expected.detach(), rtol=1e-14, atol=1e-15)


class Head(torch.nn.Module):
    """A small model that ends in a loss."""

    def __init__(self, loss):
        super().__init__()
        self.body = torch.nn.Linear(8, 6)
        self.head = torch.nn.Linear(6, 11)
        self.log_scale = torch.nn.Parameter(torch.tensor(1.0))
        self.loss = loss

    def forward(self, x, targets):
        return self.loss(self, torch.tanh(self.body(x)), targets)


def of_logits(model, hidden, targets):
    return fastce.torch.cross_entropy(model.head(hidden), targets, label_smoothing=0.1)


def of_linear(model, hidden, targets):
    return fastce.torch.linear_cross_entropy(hidden, model.head.weight, targets, linear_bias=model.head.bias)


def of_pairs(model, hidden, targets):
    texts = torch.nn.functional.normalize(model.head(hidden)[:, :6], dim=1)
    return fastce.torch.clip_loss_from_features(hidden, texts, model.log_scale.exp(), normalize=True)


@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch's compiler needs one of C++")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", [of_logits, of_linear, of_pairs])
def test_a_compiled_model_learns_as_it_does_without(loss, dtype):
    torch.manual_seed(0)
    model = Head(loss).to(dtype)
    twin = Head(loss).to(dtype)
    twin.load_state_dict(model.state_dict())
    compiled = torch.compile(model, fullgraph=True)
    tolerance = 8 * torch.finfo(dtype).eps
    for seed in range(2):
        x, targets = matrix(seed, 9, 8).to(dtype), torch.arange(9)
        ours, theirs = compiled(x, targets), twin(x, targets)
        assert ours.dtype == theirs.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        ours.backward()
        theirs.backward()
        for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
            if q.grad is None:
                assert p.grad is None, name
            else:
                torch.testing.assert_close(p.grad, q.grad, rtol=tolerance, atol=tolerance)


def test_other_numbers_and_shapes_need_no_other_code():
    compiled = torch.compile(fastce.torch.cross_entropy, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (3, 7, 12):
        x = matrix(rows, rows, 5).requires_grad_()
        y = x.detach().clone().requires_grad_()
        options = {"label_smoothing": 0.01 * rows, "logit_scale": 1.0 / rows}
        compiled(x, torch.arange(rows) % 5, **options).backward()
        fastce.torch.cross_entropy(y, torch.arange(rows) % 5, **options).backward()
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize(
    "layout", [lambda x: x.T.contiguous().T, lambda x: x.repeat_interleave(2, 1)[:, ::2], lambda x: x[:1].expand(6, 5)]
)
def test_layouts_are_as_promised(layout):
    x = layout(matrix(0, 6, 5)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    compiled = torch.compile(lambda x: fastce.torch.cross_entropy(x, torch.arange(6) % 5), fullgraph=True)
    compiled(x).backward()
    fastce.torch.cross_entropy(y, torch.arange(6) % 5).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-14, atol=1e-16)


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own tests
def test_the_operators_keep_the_rules_of_pytorch():
    x, targets = matrix(0, 6, 5).requires_grad_(), torch.arange(6) % 5
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    names, words = "logits logit_scale targets", "reduction=mean"
    for wanted in ("logits", "logit_scale", "logits logit_scale"):
        arguments = ("cross_entropy", [x, scale, targets], names, [0.1], "label_smoothing", words, wanted)
        torch.library.opcheck(torch.ops.fastce.loss.default, arguments, test_utils=tests)
    for name in ("logsumexp", "softmax", "log_softmax"):
        torch.library.opcheck(torch.ops.fastce.along.default, (name, x, [1], False), test_utils=tests)


def test_what_has_no_gradient_is_refused_here_too():
    soft = torch.softmax(matrix(0, 6, 5), 1).requires_grad_()
    compiled = torch.compile(fastce.torch.cross_entropy, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"targets requires grad, but fastce\.torch\.cross_entropy has no gradient"):
        compiled(matrix(1, 6, 5), soft)
