"""Plain calls skip what there is to decide: results, errors and silence are those of the usual way."""

import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from checks import forget_plain_calls

import fastce
from fastce.cpu import plain
from fastce.cpu._kernels.few_sums import MOST, sum_of_few

SHAPES = [
    (32, 10), (1, 2), (3, 1), (1, 1), (17, 256), (5, 257), (7, 1000), (1, 16384), (16, 1025), (200, 3), (0, 4), (4, 0),
    (7,), (300,), (1,), (), (2, 3, 4), (2, 1, 300),
]  # fmt: skip
ODD_ELEMENTS = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, 1e6, 90.0, -800.0]
LAYOUTS = [
    lambda x: x,
    np.asfortranarray,
    lambda x: np.repeat(x, 2, -1)[..., ::2] if x.ndim else x,
    lambda x: x.astype(x.dtype.newbyteorder()),
    lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),  # misaligned, read-only
    np.ndarray.tolist,
]
OPTIONS = {
    "ignore_index": [-100, 3, 0, 3, -1, 2**64 - 100, 1.0, True, np.int64(2), 2**70],
    "label_smoothing": [0.0, 0.1, 1.0, 0, True, np.nan, 2.0, 1e-30, np.float32(0.1), "0.1"],
    "smoothing_over": ["all", "others", "none"],
    "logit_scale": [1.0, 20.0, 2, 1e5, 1e-5, 1e-30, 1e30, 0.0, np.array(2.0), np.array([2.0])],
    "softcap": [None, 30.0, 1e5, 1e-30, 1e30, 0.0],
    "z_loss": [0.0, 1e-4, 1e30, -1.0],
    "reduction": ["mean", "sum", "none", "average", None],
    "weight": [None, 1.0],
    "sample_weight": [None, 2.0],
    "n_threads": [None, 1, 3, 0, -1, True, 1.0, np.int64(1)],
}
AXES = [-1, None, 0, 1, -2, True, 1.0, (1,), (-1,), (0, 1), 5]


def chosen(rng, values, usual=0.9):
    """Mostly the first."""
    return values[0] if rng.random() < usual else values[rng.integers(len(values))]


def random_logits(rng):
    shape = SHAPES[rng.integers(10 if rng.random() < 0.9 else len(SHAPES))]
    dtype = chosen(rng, [[np.float32, np.float64][rng.integers(2)], np.float16, np.int64])
    x = np.array(rng.normal(size=shape) * chosen(rng, [3.0, 100.0]))
    if x.size and rng.random() < 0.3:
        x[tuple(rng.integers(0, shape))] = rng.choice(ODD_ELEMENTS)
    if x.ndim and len(x) and rng.random() < 0.1:
        x[rng.integers(len(x))] = rng.choice(ODD_ELEMENTS)
    with np.errstate(all="ignore"):
        return chosen(rng, LAYOUTS)(x.astype(dtype))


def random_targets(rng, logits):
    shape = np.shape(logits)
    lead = shape[:1] if len(shape) == 2 else chosen(rng, [shape[:1] + shape[2:], shape[:-1], (3,)])
    classes = shape[1] if len(shape) == 2 else 2
    targets = np.asarray(rng.integers(0, max(classes, 1), lead))
    if targets.size and rng.random() < 0.1:
        targets.flat[rng.integers(targets.size)] = rng.choice([classes, -1, 2**40, -(2**63)])
    if targets.size and rng.random() < 0.3:
        targets.flat[rng.integers(targets.size, size=rng.choice([1, targets.size]))] = rng.choice([-100, -100, 3])
    dtype = chosen(rng, [np.int64, np.int32, np.uint8, np.uint64, np.float64, bool], 0.8)
    targets = chosen(rng, [targets, *(layout(targets) for layout in LAYOUTS[2:])])
    return targets.astype(dtype) if isinstance(targets, np.ndarray) else targets


def random_out(rng, logits):
    """None, an array, the logits themselves, or what is refused."""
    if not isinstance(logits, np.ndarray):
        return None
    dtype = logits.dtype if logits.dtype.kind == "f" else np.float64
    fresh = np.zeros(logits.shape, dtype)
    read_only = fresh.view()
    read_only.flags.writeable = False
    outs = [None, fresh, logits, np.asfortranarray(fresh), fresh.astype(np.float16), fresh[..., None], read_only, [0.0]]
    if logits.ndim and len(logits) > 1:
        outs.append(logits[::-1])  # overlaps
    return chosen(rng, outs, 0.5)


def outcome(function, args, options):
    """What a call gives or raises, and what it leaves in its arguments, as plain values; no warning is allowed."""

    def plain(value):
        if isinstance(value, (np.ndarray, np.generic)):
            return type(value), value.dtype, value.shape, value.strides, value.tobytes()
        return (type(value), *map(plain, value)) if isinstance(value, tuple) else (type(value), repr(value))

    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        try:
            result = plain(function(*args, **options))
        except Exception as error:
            result = type(error), str(error)
    return result, [plain(value) for value in (*args, *options.values())]


def check(monkeypatch, function, prepare):
    """The same of a call of any kind, and of one that is not taken for plain."""
    args, options = prepare()
    found = outcome(function, args, options)
    args, options = prepare()
    with monkeypatch.context() as patch:
        patch.setattr(plain, "LARGEST_PLAIN", 0)
        forget_plain_calls(patch)
        expected = outcome(function, args, options)
    assert found == expected


@pytest.mark.parametrize("seed", range(4))
def test_cross_entropy_is_as_usual(monkeypatch, seed):
    for number in range(500):

        def prepare(number=number):
            rng = np.random.default_rng([seed, number])
            logits = random_logits(rng)
            options = {name: chosen(rng, values) for name, values in OPTIONS.items() if rng.random() < 0.5}
            if rng.random() < 0.5:
                options["axis"] = chosen(rng, AXES, 0.7)
            if number % 2:
                options |= {"out": random_out(rng, logits), "grad_output": chosen(rng, [None, 2.0], 0.9)}
            return (logits, random_targets(rng, logits)), options

        function = fastce.cross_entropy_value_and_grad if number % 2 else fastce.cross_entropy
        check(monkeypatch, function, prepare)


def random_weights(rng, shape):
    """None, weights of a call, zeros and negative ones among them, or what is refused or far from 1."""
    weights = np.array(rng.random(shape) * chosen(rng, [1.0, 1e-30, 1e30, 1e-80, 1e300], 0.8))
    if weights.size and rng.random() < 0.3:
        weights.flat[rng.integers(weights.size)] = rng.choice([0.0, -0.5, np.nan, np.inf, 1e-300])
    with np.errstate(all="ignore"):
        weights = weights.astype(chosen(rng, [np.float32, np.float64, np.float16, np.int64], 0.6))
    others = [None, weights[..., None], weights[:0], 2.0, *(layout(weights) for layout in LAYOUTS[1:])]
    return chosen(rng, [weights, *others], 0.8)


@pytest.mark.parametrize("seed", range(4))
def test_weights_probabilities_and_other_axes_are_as_usual(monkeypatch, seed):
    shapes = [
        (32, 10),
        (10, 32),
        (2, 10, 4, 4),
        (3, 5, 7),
        (2, 3),
        (1, 4, 1),
        (3, 2, 1),
        (1, 5),
        (5, 1),
        (200, 3),
        (2, 300),
    ]
    for number in range(200):

        def prepare(number=number):
            rng = np.random.default_rng([seed, number])
            shape = tuple(map(int, rng.permutation(shapes[rng.integers(len(shapes))])))
            axis = int(rng.integers(-len(shape), len(shape)))
            lead, classes = tuple(np.delete(shape, axis)), shape[axis]
            x = (rng.normal(size=shape) * chosen(rng, [3.0, 100.0])).astype([np.float32, np.float64][rng.integers(2)])
            if rng.random() < 0.2:
                x.flat[rng.integers(x.size)] = rng.choice(ODD_ELEMENTS)
            x = chosen(
                rng, [x, x[::-1], np.asfortranarray(x), np.repeat(x, 2, 0)[::2], *(f(x) for f in LAYOUTS[:3])], 0.5
            )
            targets = np.asarray(rng.integers(-(rng.random() < 0.1), classes + (rng.random() < 0.1), lead))
            targets[rng.random(lead) < 0.1 * (rng.random() < 0.5)] = chosen(rng, [-100, 1])
            if rng.random() < 0.3:
                targets = np.moveaxis(rng.dirichlet(np.ones(classes), lead), -1, axis)
                targets = chosen(rng, [targets.astype(x.dtype), targets, np.asfortranarray(targets)], 0.7)
            options = {name: chosen(rng, values, 0.8) for name, values in OPTIONS.items() if rng.random() < 0.3}
            options |= {"axis": axis} if axis != 1 or rng.random() < 0.5 else {}
            options |= {"weight": random_weights(rng, (classes,))} if rng.random() < 0.5 else {}
            options |= {"sample_weight": random_weights(rng, lead)} if rng.random() < 0.4 else {}
            if number % 2:
                options |= {"out": random_out(rng, x)} if rng.random() < 0.4 else {}
                options |= {"grad_output": 2.0} if rng.random() < 0.1 else {}
            return (x, targets), options

        function = fastce.cross_entropy_value_and_grad if number % 2 else fastce.cross_entropy
        check(monkeypatch, function, prepare)


@pytest.mark.parametrize("seed", range(4))
def test_softmax_is_as_usual(monkeypatch, seed):
    for number in range(500):
        function = [fastce.logsumexp, fastce.softmax, fastce.log_softmax][number % 3]

        def prepare(number=number, function=function):
            rng = np.random.default_rng([seed, number])
            logits, options = random_logits(rng), {"axis": chosen(rng, AXES, 0.6)}
            options["n_threads"] = chosen(rng, OPTIONS["n_threads"])
            if function is not fastce.logsumexp:
                options["out"] = random_out(rng, logits)
            elif rng.random() < 0.5:
                options |= {
                    "keepdims": chosen(rng, [True, False, 1, 2], 0.6),
                    "return_sign": chosen(rng, [False, True]),
                }
                options["b"] = chosen(rng, [None, 2.0])
            return (logits,), options

        check(monkeypatch, function, prepare)


@pytest.mark.parametrize("seed", range(4))
def test_binary_cross_entropy_is_as_usual(monkeypatch, seed):
    for number in range(300):

        def prepare(number=number):
            rng = np.random.default_rng([seed, number])
            logits = random_logits(rng)
            dtype = np.asarray(logits).dtype
            targets = rng.random(np.shape(logits)).astype(chosen(rng, [dtype, np.float64, np.int64, bool], 0.8))
            if targets.size and rng.random() < 0.2:
                targets.flat[rng.integers(targets.size)] = rng.choice([0.0, 1.0, -2.0])
            targets = chosen(rng, [targets, logits, targets[..., None], *(layout(targets) for layout in LAYOUTS[1:])])
            options = {name: chosen(rng, OPTIONS[name], 0.6) for name in ("reduction", "n_threads")}
            options |= {name: chosen(rng, [None, 2.0, 0.0]) for name in ("weight", "pos_weight")}
            if number % 2:
                options |= {"out": random_out(rng, logits), "grad_output": chosen(rng, [None, 2.0])}
                options["out"] = chosen(rng, [options["out"], targets])
            return (logits, targets), options

        twin = fastce.binary_cross_entropy_with_logits_value_and_grad
        check(monkeypatch, twin if number % 2 else fastce.binary_cross_entropy_with_logits, prepare)


@pytest.mark.parametrize("seed", range(4))
def test_nll_loss_is_as_usual(monkeypatch, seed):
    for number in range(300):

        def prepare(number=number):
            rng = np.random.default_rng([seed, number])
            logits = random_logits(rng)
            targets = random_targets(rng, logits)
            names = "ignore_index", "reduction", "n_threads", "weight", "sample_weight"
            options = {name: chosen(rng, OPTIONS[name], 0.8) for name in names}
            options["axis"] = chosen(rng, AXES[1:], 0.6)
            if number % 2:
                options |= {"out": random_out(rng, logits), "grad_output": chosen(rng, [None, 2.0])}
            return (logits, targets), options

        check(monkeypatch, fastce.nll_loss_value_and_grad if number % 2 else fastce.nll_loss, prepare)


@pytest.mark.parametrize("seed", range(4))
def test_row_stats_are_as_usual(monkeypatch, seed):
    def plainly(*args, **options):
        return tuple(itertools.chain.from_iterable(fastce.row_stats(*args, **options).items()))

    for number in range(300):

        def prepare(number=number):
            rng = np.random.default_rng([seed, number])
            names = ["argmax", "max", "logsumexp", *(["entropy"] if rng.random() < 0.1 else [])]
            several = tuple(chosen(rng, names, 0.5) for _ in range(rng.integers(4)))
            options = {"outputs": chosen(rng, [several, *names, [*several], ("mean",), ([],)], 0.6)}
            options |= {"top_k": chosen(rng, [5, 0, 1.0, True]), "axis": chosen(rng, [None, *AXES], 0.5)}
            options |= {name: chosen(rng, OPTIONS[name]) for name in ("ignore_index", "n_threads")}
            logits = random_logits(rng)
            return (logits, chosen(rng, [None, random_targets(rng, logits)], 0.5)), options

        check(monkeypatch, plainly, prepare)


@pytest.fixture
def many_runs(small_blocks, monkeypatch):
    """Calls of more than 64 KiB are cut for threads, in runs of 4 KiB at least; their gradients go past the cache."""
    monkeypatch.setattr("fastce.cpu.threads.SMALLEST_RUN_BYTES", 1 << 12)
    monkeypatch.setattr("fastce.cpu.layout.PAST_CACHE_BYTES", 1 << 16)


@pytest.mark.parametrize("seed", range(4))
def test_many_rows_are_as_usual_on_any_number_of_threads(monkeypatch, many_runs, seed):
    for number in range(60):

        def prepare(number=number):
            rng = np.random.default_rng([seed, number])
            shape = [(300, 300), (64, 1031), (3, 30_000)][rng.integers(3)]
            logits = rng.normal(0, 4, shape).astype(chosen(rng, [np.float32, np.float64], 0.5))
            if rng.random() < 0.3:
                logits[rng.integers(shape[0])] *= chosen(rng, [1e30, np.nan, 1e300])
            names = "ignore_index", "label_smoothing", "z_loss", "reduction"
            options = {name: chosen(rng, OPTIONS[name], 0.7) for name in names if rng.random() < 0.5}
            options["n_threads"] = [None, 1, 2, 3, 16][rng.integers(5)]
            if number % 2:
                options["out"] = random_out(rng, logits)
            return (logits, random_targets(rng, logits)), options

        function = fastce.cross_entropy_value_and_grad if number % 2 else fastce.cross_entropy
        with np.errstate(all="ignore"):
            check(monkeypatch, function, prepare)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [10, 300])
def test_the_usual_way_is_not_asked(monkeypatch, classes, dtype):
    def asked(*_, **__):
        raise AssertionError("the usual way")

    general = "cross_entropy.cross_entropy_call", "softmax.logsumexp_over", "softmax.softmax_over", "statistics.Rows"
    for name in (*general, "binary.fill_losses_and_gradient", "nll.run"):
        monkeypatch.setattr(f"fastce.losses.{name}", asked)
    x, targets = np.random.default_rng(0).normal(size=(32, classes)).astype(dtype), np.arange(32) % classes
    fastce.cross_entropy(x, targets)
    fastce.cross_entropy(x, targets.astype(np.int32), axis=-1, label_smoothing=0.1, reduction="none")
    softcap = 30.0 if dtype == np.float64 or classes <= 256 else None  # which float32 is computed in float64 for
    fastce.cross_entropy_value_and_grad(x, targets, logit_scale=20, softcap=softcap, z_loss=1e-4, reduction="sum")
    fastce.cross_entropy_value_and_grad(x, targets, out=x.copy())
    fastce.cross_entropy_value_and_grad(x, np.where(targets % 3, targets, -100))
    fastce.cross_entropy(x, targets, ignore_index=3)
    fastce.cross_entropy(targets=targets, logits=x)
    fastce.logsumexp(x, axis=1, n_threads=1)
    fastce.logsumexp(x[0])
    fastce.logsumexp(x.reshape(4, 8, classes), -1, keepdims=True)
    fastce.softmax(x, axis=1, out=x.copy())
    fastce.log_softmax(x[0])
    fastce.binary_cross_entropy_with_logits(x, x, n_threads=1)
    fastce.binary_cross_entropy_with_logits_value_and_grad(x, x, reduction="none", out=x.copy())
    fastce.nll_loss(x, targets, axis=-1, n_threads=1)
    fastce.nll_loss_value_and_grad(x, targets, reduction="none", out=x.copy())
    if classes > 256:
        fastce.cross_entropy_value_and_grad(np.tile(x, (100, 1)), np.tile(targets, 100))
    weight, sample_weight, image = np.ones(classes), np.arange(32.0), x.reshape(2, 4, 4, classes)
    others = [
        lambda: fastce.cross_entropy_value_and_grad(x, targets, weight=weight, out=x.copy()),
        lambda: fastce.cross_entropy(x, targets, sample_weight=sample_weight, ignore_index=3),
        lambda: fastce.cross_entropy(x, np.full_like(x, 1.0 / classes), label_smoothing=0.1, weight=weight),
        lambda: fastce.cross_entropy_value_and_grad(image.swapaxes(1, 3).copy(), targets.reshape(2, 4, 4)),
        lambda: fastce.cross_entropy(image, targets.reshape(2, 4, 4), axis=-1),
        lambda: fastce.cross_entropy(x.T, targets, axis=0),
        lambda: fastce.cross_entropy(x.T.copy(), targets, axis=-2, softcap=30.0),
        lambda: fastce.cross_entropy_value_and_grad(x[::2], targets[::2]),
        lambda: fastce.logsumexp(x.T, axis=0, keepdims=True),
        lambda: fastce.row_stats(x, outputs=("argmax", "max")),
        lambda: fastce.softmax(x.T.copy(), axis=0),
        lambda: fastce.log_softmax(image.swapaxes(1, 3).copy(), axis=1),
    ]
    for other in others:
        if classes <= 256:
            other()
            continue
        with pytest.raises(AssertionError, match="the usual way"):
            other()
    with pytest.raises(AssertionError, match="the usual way"):
        fastce.softmax(x.T, axis=1)


@pytest.mark.parametrize(
    "shape", [(6553, 20), (6554, 20), (65536, 2), (1024, 256), (510, 257), (512, 1024), (513, 1024)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_up_to_the_largest(monkeypatch, rng, shape, dtype):
    x, targets = rng.normal(0, 4, shape).astype(dtype), rng.integers(0, shape[1], shape[0])
    for some in (targets, np.where(targets % 3, targets, -100)):
        for reduction in ("mean", "sum", "none"):
            options = {"label_smoothing": 0.1, "reduction": reduction}
            check(monkeypatch, fastce.cross_entropy_value_and_grad, lambda given=(x, some), o=options: (given, o))
    check(monkeypatch, fastce.logsumexp, lambda: ((x, 1), {}))
    check(monkeypatch, fastce.softmax, lambda: ((x, 1), {}))
    check(monkeypatch, fastce.binary_cross_entropy_with_logits_value_and_grad, lambda: ((x, x), {}))


@pytest.mark.parametrize("named", [{"out": None}, {"grad_output": None}, {"n_thread": 1}, {"logits": None}])
def test_a_name_that_the_function_does_not_have_is_refused(named):
    with pytest.raises(TypeError, match=next(iter(named))):
        fastce.cross_entropy(np.zeros((2, 3)), np.array([0, 1]), **named)


@pytest.mark.parametrize("named", [{"axis": 1}, {"n_threads": 1}, {"out": None}])
def test_so_is_one_that_pytorch_does_not_have(named):
    torch = pytest.importorskip("torch")
    import fastce.torch

    with pytest.raises(TypeError, match=next(iter(named))):
        fastce.torch.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), **named)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, ">i8"])
@pytest.mark.parametrize("shape", [(4, 10, 32), (3, 4, 5, 6), (2, 3, 4, 5, 6)])
def test_class_indices_of_images_may_lie_in_any_order(rng, shape, dtype):
    x, lead = rng.normal(size=shape), shape[:1] + shape[2:]
    targets = rng.integers(0, shape[1], lead)
    expected = fastce.cross_entropy_value_and_grad(x, targets, reduction="none")
    for layout in (
        np.asfortranarray,
        lambda a: a.T.copy().T[::-1, ::-1].copy("K")[::-1, ::-1],
        lambda a: a[..., ::-1].copy()[..., ::-1],
    ):
        found = fastce.cross_entropy_value_and_grad(x, layout(targets.astype(dtype)), reduction="none")
        assert np.array_equal(found.value, expected.value)
        assert np.array_equal(found.grad, expected.grad)


def test_rows_without_classes_are_refused():
    with pytest.raises(ValueError, match="no classes"):
        fastce.cross_entropy(np.zeros((4, 0)), np.zeros(4, int))


@pytest.mark.parametrize("classes", [10, 300])
def test_threads_do_not_share_what_calls_keep(rng, classes):
    calls = [(rng.normal(size=(32, classes)).astype(np.float32), rng.integers(0, classes, 32)) for _ in range(8)]
    expected = [fastce.cross_entropy_value_and_grad(*call) for call in calls]

    def agrees(call, one):
        for _ in range(300):
            value, grad = fastce.cross_entropy_value_and_grad(*call)
            if value != one.value or not np.array_equal(grad, one.grad):
                return False
        return True

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(agrees, calls, expected))


def test_the_sum_of_a_few_has_the_bits_of_numpys(rng):
    kernel = sum_of_few.compiled(np.dtype(np.float64))
    for count in range(1, MOST + 1):
        terms = rng.normal(size=count) * 10.0 ** rng.integers(-8, 8, count)
        assert kernel(terms) == np.add.reduce(terms)
