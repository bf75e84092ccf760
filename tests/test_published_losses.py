"""The losses as their authors published them: written out densely, line by line, for NumPy and for PyTorch.

Values are compared with NumPy's float64; gradients with PyTorch's automatic ones, in float64 too, where it is
installed.
"""

import numpy as np
import pytest
from covering import covering

import fastce
from fastce.profile.pairs import load_pairs

LARGE_NUM = 1e9
TOLERANCE = {"float32": 3e-5, "float64": 1e-12}


# ------------------------------------------------------------------------------------------------- pieces
def eye(xp, n):
    return xp.eye(n, dtype=xp.float64)


def l2_normalize(xp, x):
    return x / xp.sqrt((x * x).sum(1))[:, None]


def log_softmax(xp, x):
    x = x - xp.amax(x, 1)[:, None]
    return x - xp.log(xp.exp(x).sum(1))[:, None]


def softmax_cross_entropy(xp, one_hot, logits):
    return -(one_hot * log_softmax(xp, logits)).sum(1)


def log_sigmoid(xp, x):
    return -xp.log1p(xp.exp(-x))


# -------------------------------------------------------------------------------------------- as published
def open_clip(xp, image_features, text_features, logit_scale):
    """ClipLoss of open_clip, one device."""
    logits_per_image = logit_scale * image_features @ text_features.T
    logits_per_text = logit_scale * text_features @ image_features.T
    labels = eye(xp, len(logits_per_image))
    image_loss = softmax_cross_entropy(xp, labels, logits_per_image).mean()
    return (image_loss + softmax_cross_entropy(xp, labels, logits_per_text).mean()) / 2


def siglip(xp, zimg, ztxt, t, b):
    """The pseudocode of Zhai et al. 2023, and big_vision's."""
    zimg, ztxt = l2_normalize(xp, zimg), l2_normalize(xp, ztxt)
    logits = (zimg @ ztxt.T) * t + b
    m1_diag1 = -xp.ones_like(logits) + 2 * eye(xp, len(logits))
    loglik = log_sigmoid(xp, m1_diag1 * logits)
    return -loglik.sum(1).mean()


def simclr(xp, hidden1, hidden2, temperature):
    """add_contrastive_loss of SimCLR; it adds up both views where the paper has the mean over all 2 N of them."""
    hidden1, hidden2 = l2_normalize(xp, hidden1), l2_normalize(xp, hidden2)
    masks = eye(xp, len(hidden1))
    labels = xp.concatenate([masks, 0 * masks], 1)
    logits_aa = hidden1 @ hidden1.T / temperature - masks * LARGE_NUM
    logits_bb = hidden2 @ hidden2.T / temperature - masks * LARGE_NUM
    logits_ab = hidden1 @ hidden2.T / temperature
    logits_ba = hidden2 @ hidden1.T / temperature
    loss_a = softmax_cross_entropy(xp, labels, xp.concatenate([logits_ab, logits_aa], 1))
    loss_b = softmax_cross_entropy(xp, labels, xp.concatenate([logits_ba, logits_bb], 1))
    return (loss_a + loss_b).mean() / 2


def sup_contrast(xp, features, labels, temperature):
    """SupConLoss of SupContrast, contrast_mode "all", with base_temperature the temperature."""
    features = l2_normalize(xp, features)
    mask = xp.asarray(np.equal.outer(labels, labels).astype(float))
    anchor_dot_contrast = features @ features.T / temperature
    logits = anchor_dot_contrast - xp.amax(anchor_dot_contrast, 1)[:, None]
    logits_mask = 1 - eye(xp, len(features))
    mask = mask * logits_mask
    exp_logits = xp.exp(logits) * logits_mask
    log_prob = logits - xp.log(exp_logits.sum(1))[:, None]
    return -((mask * log_prob).sum(1) / mask.sum(1)).mean()


def moco(xp, q, k, queue, temperature):
    """The pseudocode of He et al. 2020; the queue has its keys in rows here."""
    q, k, queue = l2_normalize(xp, q), l2_normalize(xp, k), l2_normalize(xp, queue)
    logits = xp.concatenate([(q * k).sum(1)[:, None], q @ queue.T], 1) / temperature
    return -log_softmax(xp, logits)[:, 0].mean()


def linear(xp, features, weight, bias, labels):
    """A layer and its softmax."""
    return -log_softmax(xp, features @ weight.T + bias)[xp.arange(len(features)), labels].mean()


# ------------------------------------------------------------------------------------------------ the cases
def cases(dtype):
    """name: (the published loss, its inputs, ours with gradients for those)."""
    images, texts = (side[:90].astype(dtype) for side in load_pairs())
    rng = np.random.default_rng(7)
    first = rng.normal(size=(33, 10))
    first, second = first.astype(dtype), (first + rng.normal(size=(33, 10))).astype(dtype)
    classes = np.arange(90) % 4
    f = fastce
    return {
        "open_clip": (open_clip, (images, texts, 50.0), f.clip_loss_from_features_value_and_grad),
        "open_clip, random": (open_clip, (first / 3, second / 3, 1.0), f.clip_loss_from_features_value_and_grad),
        "siglip": (siglip, (images, texts, 10.0, -10.0), normalized(f.siglip_loss_value_and_grad)),
        "siglip, random": (siglip, (first, second, 3.0, 0.5), normalized(f.siglip_loss_value_and_grad)),
        "simclr": (simclr, (images, texts, 0.1), with_temperature(f.nt_xent_value_and_grad)),
        "simclr, random": (simclr, (first, second, 0.5), with_temperature(f.nt_xent_value_and_grad)),
        "sup_contrast": (sup_contrast, (images, classes, 0.1), with_temperature(f.sup_con_value_and_grad)),
        "sup_contrast, two each": (
            sup_contrast,
            (np.concatenate([first, second]), np.tile(np.arange(33), 2), 0.07),
            with_temperature(f.sup_con_value_and_grad),
        ),
        "moco": (moco, (images[:50], texts[:50], texts[50:], 0.07), with_temperature(f.info_nce_value_and_grad)),
        "linear": (linear, (first, second[:20], second[:20, 0], np.arange(33) % 20), linear_of_ours),
    }


def normalized(function):
    return lambda *inputs: function(*inputs, normalize=True)


def with_temperature(function):
    return lambda *inputs: function(*inputs[:-1], temperature=inputs[-1])


def linear_of_ours(features, weight, bias, labels):
    return fastce.linear_cross_entropy_value_and_grad(features, weight, labels, linear_bias=bias)


def widened(x):
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


@covering({"name": cases("float64"), "dtype": TOLERANCE})
def test_values_are_those_of_the_published_formula(name, dtype):
    published, inputs, ours = cases(dtype)[name]
    expected = published(np, *map(widened, inputs))
    assert ours(*inputs).value == pytest.approx(float(expected), rel=TOLERANCE[dtype])


@covering({"name": cases("float64"), "dtype": TOLERANCE}, quick=1)
def test_gradients_are_the_automatic_ones_of_the_published_formula(name, dtype):
    torch = pytest.importorskip("torch")
    published, inputs, ours = cases(dtype)[name]
    tensors = [
        x if isinstance(x, np.ndarray) and x.dtype.kind == "i" else torch.tensor(widened(x), dtype=torch.float64)
        for x in inputs
    ]
    variables = [t.requires_grad_() for t in tensors if isinstance(t, torch.Tensor)]
    value = published(torch, *tensors)
    result = ours(*inputs)
    assert result.value == pytest.approx(float(value.detach()), rel=TOLERANCE[dtype])
    gradients = [gradient for gradient in result[1:] if gradient is not None]
    for gradient, expected in zip(gradients, torch.autograd.grad(value, variables), strict=True):
        expected = expected.numpy()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=TOLERANCE[dtype] * np.abs(expected).max())
