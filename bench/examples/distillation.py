"""Train a student on a teacher's sparse top-k probabilities: with few digits it gets more right than by labels.

A teacher that has seen 1,000 digits keeps its three likeliest classes for each of the student's 60, as a sparse
matrix: this is how one stores what a language model says of a vocabulary. `fastce.cross_entropy_value_and_grad` takes
it as targets, and never makes it dense. Five students each, for the mean: python -m bench.examples.distillation
"""

from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from sklearn.datasets import load_digits

import fastce
from bench import pictures
from bench.mlp import MLP

TAUGHT, FEW, TOP, STEPS, BETWEEN, STUDENTS = 1000, 60, 3, 300, 10, 5
TEMPERATURE = 2.0


def main(folder):
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = (images[order] / 16).astype(np.float32), labels[order]
    teacher, _ = trained(0, images[:TAUGHT], labels[:TAUGHT])
    held_out = images[TAUGHT:], labels[TAUGHT:]
    few = images[:FEW]
    soft = top_probabilities(teacher.forward(few)[-1])
    curves = {
        name: np.mean([trained(seed, few, targets, scale, held_out)[1] for seed in range(1, STUDENTS + 1)], axis=0)
        for name, targets, scale in [
            ("hard labels", labels[:FEW], 1.0),
            (f"top {TOP} of the teacher", soft, 1 / TEMPERATURE),
        ]
    }
    draw(curves, Path(folder) / "distillation.png")
    return {name: float(curve[-1]) for name, curve in curves.items()}


def top_probabilities(logits):
    """The teacher's probabilities at the temperature, of the likeliest classes only, which are made to sum to 1."""
    classes = np.argpartition(logits, -TOP, axis=1)[:, -TOP:]
    probabilities = fastce.softmax(np.take_along_axis(logits, classes, axis=1) / TEMPERATURE, axis=1)
    starts = np.arange(0, classes.size + 1, TOP)
    return csr_array((probabilities.ravel(), classes.ravel(), starts), shape=logits.shape)


def trained(seed, images, targets, logit_scale=1.0, held_out=None):
    """(a network trained on all of the images at each step, its accuracies on those held out)."""
    network = MLP(np.random.default_rng(seed), 64, 128, 10)
    accuracies = []
    for step in range(STEPS + 1):
        if held_out is not None and step % BETWEEN == 0:
            accuracies.append((network.forward(held_out[0])[-1].argmax(axis=1) == held_out[1]).mean())
        layers = network.forward(images)
        _, grad = fastce.cross_entropy_value_and_grad(layers[-1], targets, logit_scale=logit_scale)
        network.step(layers, grad / logit_scale)
    return network, accuracies


def draw(curves, path):
    figure = pictures.new_figure(5, 2.8)
    axes = figure.subplots()
    for (name, curve), engine in zip(curves.items(), ("numpy", "fastce"), strict=True):
        label = f"{name}: {100 * curve[-1]:.1f} %"
        axes.plot(range(0, STEPS + 1, BETWEEN), 100 * curve, color=pictures.COLOURS[engine], label=label)
    axes.set_title(f"% right of 797, by students of {FEW} digits", fontsize=9, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylim(70, 100)
    axes.legend(fontsize=8, frameon=False)
    pictures.quiet(axes, grid="y")
    pictures.save(figure, path)


if __name__ == "__main__":
    print(main(Path(__file__).parent))
