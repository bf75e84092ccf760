"""Calibrate a classifier that is too sure of itself: one temperature, found on examples that it has not seen.

A logistic regression learns 200 of scikit-learn's digits by heart. A temperature found on 600 others makes its
probabilities what they say; the reliability diagram, of the last 997, shows how often those of a probability are right.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import fastce
from bench import pictures

BINS = 10


def main(folder):
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    known, validation, test = np.split(order, [200, 800])
    noisy = images + np.random.default_rng(1).normal(0, 6, images.shape)  # digits are too easy without
    model = LogisticRegression(C=1e4, max_iter=2000).fit(noisy[known], digits[known])
    logits = model.decision_function(noisy)
    found = fastce.calibrate_temperature(logits[validation], digits[validation])
    diagrams = {
        "before": reliability(logits[test], digits[test]),
        "after": reliability(logits[test] / found.temperature, digits[test]),
    }
    draw(diagrams, Path(folder) / "calibration.png")
    return {
        "temperature": found.temperature,
        **{f"loss {name}": loss_at(logits[test], digits[test], t) for name, t in (("before", 1), ("after", found[0]))},
        **{f"error {name}": expected_error(*diagram) for name, diagram in diagrams.items()},
    }


def loss_at(logits, targets, temperature):
    return fastce.cross_entropy(logits, targets, logit_scale=1 / temperature)


def reliability(logits, targets):
    """(confidence, share that is right, share of all) of examples in bins of the largest probability."""
    confidence = fastce.softmax(logits, axis=1).max(axis=1)
    is_right = logits.argmax(axis=1) == targets
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    of_bins = [bins == k for k in range(BINS) if (bins == k).any()]
    return tuple(np.array([[confidence[b].mean(), is_right[b].mean(), b.mean()] for b in of_bins]).T)


def expected_error(confidence, right, share):
    """The expected calibration error: how far confidence is from the share that is right, on average."""
    return float(np.sum(share * np.abs(confidence - right)))


def draw(diagrams, path):
    figure = pictures.new_figure(5, 2.8)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for (name, (confidence, right, _)), colour in zip(diagrams.items(), ("torch", "fastce"), strict=True):
        axes.plot(confidence, right, "o-", color=pictures.COLOURS[colour], markersize=3, label=f"{name} calibration")
    axes.set_title("share that is right, by confidence", fontsize=9, loc="left")
    axes.set_xlabel("confidence", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    pictures.quiet(axes, grid="y")
    pictures.save(figure, path)


if __name__ == "__main__":
    print(main(Path(__file__).parent))
