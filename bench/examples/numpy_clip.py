"""Train CLIP's two projections in NumPy: find the docstring that belongs to a signature.

512 signatures of Python functions and their docstrings come with fastce as embeddings of 384 numbers. Two linear
projections to 32 numbers are trained by gradient descent on some of them: the loss falls, and of the pairs that were
held out more and more find each other. The whole backward pass is what fastce returns and two products.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np

import fastce
from bench import pictures

TRAINED, WIDTH, STEPS = 384, 32, 150
LEARNING_RATE, MOMENTUM, LOGIT_SCALE = 0.3, 0.9, 20.0


def main(folder):
    with np.load(files("fastce") / "data" / "docstring_pairs.npz") as pairs:
        signatures, docstrings = (pairs[name].astype(np.float32) for name in ("signature", "docstring"))
    losses, recalls = train(signatures, docstrings)
    draw(losses, recalls, Path(folder) / "numpy_clip.png")
    return {
        "first loss": losses[0],
        "last loss": losses[-1],
        "first recall": recalls[0],
        "last recall": recalls[-1],
    }


def train(signatures, docstrings):
    """(loss of each step, recall of the held-out pairs before each step and after the last)."""
    rng = np.random.default_rng(0)
    both = [signatures[:TRAINED], docstrings[:TRAINED]]
    held_out = [signatures[TRAINED:], docstrings[TRAINED:]]
    projections = [rng.normal(scale=384**-0.5, size=(384, WIDTH)).astype(np.float32) for _ in both]
    velocities = [np.zeros_like(projection) for projection in projections]
    losses, recalls = [], [recall(held_out, projections)]
    for _ in range(STEPS):
        projected = [inputs @ projection for inputs, projection in zip(both, projections, strict=True)]
        loss, *gradients, _ = fastce.clip_loss_from_features_value_and_grad(*projected, LOGIT_SCALE, normalize=True)
        for inputs, gradient, projection, velocity in zip(both, gradients, projections, velocities, strict=True):
            velocity *= MOMENTUM
            velocity -= LEARNING_RATE * (inputs.T @ gradient)
            projection += velocity
        losses.append(loss)
        recalls.append(recall(held_out, projections))
    return losses, recalls


def recall(both, projections):
    """The share of signatures whose most similar docstring is their own."""
    first, second = (inputs @ projection for inputs, projection in zip(both, projections, strict=True))
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    ranks = fastce.row_stats(first @ second.T, np.arange(len(first)), outputs=("target_rank",))["target_rank"]
    return float((ranks == 0).mean())


def draw(losses, recalls, path):
    figure = pictures.new_figure(7, 2.6)
    for axes, values, title in zip(
        figure.subplots(1, 2), (losses, recalls), ("loss of 384 pairs", "recall at 1 of 128 others"), strict=True
    ):
        axes.plot(values, color=pictures.COLOURS["fastce"])
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylim(bottom=0)
        pictures.quiet(axes, grid="y")
    pictures.save(figure, path)


if __name__ == "__main__":
    print(main(Path(__file__).parent))
