"""Learn features of digits without labels, by SimCLR in NumPy: a linear probe with few labels then gets more right.

Each image is seen twice, shifted and with noise, and a small network learns to tell which two views are of one image:
`fastce.nt_xent_value_and_grad` is the loss and where the backward pass begins. Every few epochs linear layers
are trained on what the network makes of 50 labelled images each, and tried on 797 others:
python -m bench.examples.simclr_digits
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import fastce
from bench import pictures
from bench.mlp import MLP

TRAINED, LABELLED, BATCH, EPOCHS, BETWEEN = 1000, 50, 250, 60, 10
TEMPERATURE, NOISE, PROBES = 0.2, 0.15, 10


def main(folder):
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    losses, accuracies = train((images[order] / 16).astype(np.float32), labels[order])
    draw(losses, accuracies, Path(folder) / "simclr_digits.png")
    return {
        "first loss": losses[0],
        "last loss": losses[-1],
        "accuracy untrained": accuracies[0],
        "accuracy trained": accuracies[-1],
    }


def train(images, labels):
    """(mean loss of each epoch, accuracy of the probe before the first epoch and after every tenth)."""
    rng = np.random.default_rng(1)
    network = MLP(rng, 64, 256, 128, 32)
    losses, accuracies = [], [probe(network, images, labels)]
    for epoch in range(1, EPOCHS + 1):
        of_batches = []
        for batch in rng.permutation(TRAINED).reshape(-1, BATCH):
            views = np.concatenate([augmented(images[batch], rng), augmented(images[batch], rng)])
            layers = network.forward(views)
            loss, first, second, _ = fastce.nt_xent_value_and_grad(*np.split(layers[-1], 2), temperature=TEMPERATURE)
            network.step(layers, np.concatenate([first, second]))
            of_batches.append(loss)
        losses.append(float(np.mean(of_batches)))
        if epoch % BETWEEN == 0:
            accuracies.append(probe(network, images, labels))
    return losses, accuracies


def augmented(images, rng):
    """Each image moved by up to one pixel in both directions, with noise."""
    padded = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    down, right = rng.integers(0, 3, (2, len(images), 1, 1))
    rows, columns = np.arange(8)[:, None] + down, np.arange(8) + right
    moved = padded[np.arange(len(images))[:, None, None], rows, columns].reshape(images.shape)
    return moved + NOISE * rng.standard_normal(moved.shape, dtype=np.float32)


def probe(network, images, labels):
    """The share of images not trained on of which a linear layer on the features is right: the mean of several layers.

    Each has labels of its own; of so few it depends on which.
    """
    features = network.forward(images)[-2]  # before the last layer, as in SimCLR
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    shares = []
    for few in np.arange(PROBES * LABELLED).reshape(PROBES, LABELLED):
        layer = MLP(np.random.default_rng(2), features.shape[1], 10, learning_rate=1e-2)
        for _ in range(100):
            layers = layer.forward(features[few])
            _, grad = fastce.cross_entropy_value_and_grad(layers[-1], labels[few])
            layer.step(layers, grad)
        guesses = layer.forward(features[TRAINED:])[-1].argmax(axis=1)
        shares.append((guesses == labels[TRAINED:]).mean())
    return float(np.mean(shares))


def draw(losses, accuracies, path):
    figure = pictures.new_figure(7, 2.6)
    left, right = figure.subplots(1, 2)
    left.plot(losses, color=pictures.COLOURS["fastce"])
    left.set_title("SimCLR's loss", fontsize=9, loc="left")
    right.plot(range(0, EPOCHS + 1, BETWEEN), accuracies, marker=".", color=pictures.COLOURS["fastce"])
    right.set_title(f"right of 797, by probes of {LABELLED} labels", fontsize=9, loc="left")
    for axes in (left, right):
        axes.set_xlabel("epoch", fontsize=8)
        pictures.quiet(axes, grid="y")
    pictures.save(figure, path)


if __name__ == "__main__":
    print(main(Path(__file__).parent))
