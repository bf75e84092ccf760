"""The worked examples of the articles this package answers to: the exact figures, to 10 digits."""

import json
from pathlib import Path

import numpy as np
import pytest

import fastce

EXAMPLES = {
    example["id"]: example
    for example in json.loads((Path(__file__).parent / "worked_examples.json").read_text())["examples"]
}
TEN_DIGITS = {"rtol": 5e-11, "atol": 0}


def assert_losses(example, logits, **options):
    losses = fastce.cross_entropy(logits, example["targets"], reduction="none", **options)
    np.testing.assert_allclose(losses, example["exact_row_losses"], **TEN_DIGITS)
    loss = fastce.cross_entropy(logits, example["targets"], **options)
    np.testing.assert_allclose(loss, example["exact_loss"], **TEN_DIGITS)


@pytest.mark.parametrize("name", ["softmax-3x6", "smoothing-others-3x6", "smoothing-all-2x3"])
def test_cross_entropy_with_and_without_smoothing(name):
    example = EXAMPLES[name]
    options = {key: example[key] for key in ("label_smoothing", "smoothing_over") if key in example}
    assert_losses(example, np.array(example["similarity"], float), **options)


@pytest.mark.parametrize("name", ["ce-2x3", "ce-1x3", "nll-2x3"])
def test_cross_entropy_of_logits(name):
    assert_losses(EXAMPLES[name], np.array(EXAMPLES[name]["logits"], float))


def test_nll_loss_of_log_softmax():
    example = EXAMPLES["nll-2x3"]
    log_probs = fastce.log_softmax(np.array(example["logits"], float), axis=1)
    losses = fastce.nll_loss(log_probs, example["targets"], reduction="none")
    np.testing.assert_allclose(losses, example["exact_row_losses"], **TEN_DIGITS)
    np.testing.assert_allclose(fastce.nll_loss(log_probs, example["targets"]), example["exact_loss"], **TEN_DIGITS)


def test_binary_cross_entropy():
    example = EXAMPLES["bce"]
    loss = fastce.binary_cross_entropy_with_logits(np.array(example["logits"]), np.array(example["targets"]))
    np.testing.assert_allclose(loss, example["exact_loss"], **TEN_DIGITS)


def test_what_a_probability_costs():
    example = EXAMPLES["confidence"]
    p = np.array(example["probabilities"])
    log_probs = np.log(np.stack([p, 1 - p], axis=1))
    losses = fastce.nll_loss(log_probs, np.zeros(4, int), reduction="none")
    np.testing.assert_allclose(losses, example["exact_loss_of_each"], **TEN_DIGITS)
    losses = fastce.cross_entropy(log_probs, np.zeros(4, int), reduction="none")  # p sums to 1: the same
    np.testing.assert_allclose(losses, example["exact_loss_of_each"], **TEN_DIGITS)


def test_the_cat():
    example = EXAMPLES["cat"]
    log_probs = np.log(np.array([example["probabilities"]]))
    for loss in (fastce.nll_loss, fastce.cross_entropy):
        np.testing.assert_allclose(loss(log_probs, example["targets"]), example["exact_loss"], **TEN_DIGITS)


@pytest.mark.parametrize("name", ["clip-step", "clip-4x4"])
def test_the_clip_loss_and_its_rows(name):
    example = EXAMPLES[name]
    similarity = np.array(example["similarity"])
    assert_losses(example, similarity)
    np.testing.assert_allclose(fastce.clip_loss(similarity), example["exact_clip_loss"], **TEN_DIGITS)
    np.testing.assert_allclose(
        fastce.clip_loss(similarity, example["targets"]), example["exact_clip_loss"], **TEN_DIGITS
    )


def test_a_step_of_gradient_descent_on_the_first_row():
    example = EXAMPLES["clip-step"]
    row, target = np.array(example["similarity"][0]), example["targets"][0]
    loss, gradient = fastce.cross_entropy_value_and_grad(row, target)
    np.testing.assert_allclose(loss, example["exact_row_losses"][0], **TEN_DIGITS)
    np.testing.assert_allclose(gradient, example["exact_first_row_gradient"], **TEN_DIGITS)
    after = row - example["learning_rate"] * gradient
    np.testing.assert_allclose(after, example["exact_first_row_after_step"], **TEN_DIGITS)
    np.testing.assert_allclose(fastce.cross_entropy(after, target), example["exact_first_row_loss_after"], **TEN_DIGITS)
