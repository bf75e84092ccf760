"""LightGBM is too sure of its classes: the same trees with smoothed labels and balanced class weights, by fastce.

The validation loss of both beside each other, on scikit-learn's digits of which two classes are rare. `main(folder)`
draws boosting.png there and returns the losses: python -m bench.examples.boosting
"""

from pathlib import Path

import lightgbm
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastce

CLASSES, ROUNDS, RARE = 10, 40, 12  # of the digits 8 and 9 so many rows are left to train
SETTINGS = {"num_class": CLASSES, "num_leaves": 15, "learning_rate": 0.2, "verbose": -1, "num_threads": 1, "seed": 0}


def parts():
    """(features, labels) to train and to validate."""
    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    train, valid = order[:900], order[900:]
    rare = [train[labels[train] == digit][RARE:] for digit in (8, 9)]
    train = np.setdiff1d(train, np.concatenate(rare))
    return [(features[part], labels[part]) for part in (train, valid)]


def validation_losses(objective, train, valid):
    """The mean loss of the validation rows after every round; all classes start at 0."""
    start, other_start = (np.zeros((len(labels), CLASSES)) for _, labels in (train, valid))
    data = lightgbm.Dataset(train[0], label=train[1], init_score=start)
    others = data.create_valid(valid[0], label=valid[1], init_score=other_start)
    log = {}
    is_own = isinstance(objective, str)  # its metric is the same: the log loss
    lightgbm.train(
        {**SETTINGS, "objective": objective, **({"metric": "multi_logloss"} if is_own else {})},
        data,
        ROUNDS,
        valid_sets=[others],
        feval=None if is_own else fastce.objectives.softmax(CLASSES).metric,
        callbacks=[lightgbm.record_evaluation(log)],
    )
    (losses,) = log["valid_0"].values()
    return losses


def main(folder=Path(__file__).parent):
    """Train three times, draw the losses of every round, and return them by name."""
    train, valid = parts()
    counts = np.bincount(train[1], minlength=CLASSES)
    balanced = (len(train[1]) / (CLASSES * counts)) ** 0.5
    objectives = {
        "LightGBM's own": "multiclass",
        "fastce, the same": fastce.objectives.softmax(CLASSES),
        "fastce, smoothed and weighted": fastce.objectives.softmax(
            CLASSES, label_smoothing=0.05, class_weight=balanced
        ),
    }
    losses = {name: validation_losses(objective, train, valid) for name, objective in objectives.items()}
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, style in zip(losses, ("-", ":", "-"), strict=True):
        axes.plot(range(1, ROUNDS + 1), losses[name], style, label=f"{name}: {losses[name][-1]:.3f}")
    axes.set(xlabel="rounds", ylabel="validation log loss", yscale="log")
    axes.legend()
    figure.savefig(Path(folder, "boosting.png"), dpi=120)
    plt.close(figure)
    return losses


if __name__ == "__main__":
    for name, of_rounds in main().items():
        print(f"{name:30s} {of_rounds[-1]:.4f}")
