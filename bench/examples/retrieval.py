"""Measure a retrieval: how often the right docstring is among the first k of all docstrings, and the other way round.

512 signatures of Python functions and their docstrings come with fastce as embeddings of 384 numbers. Recall at 1, 5
and 10 in both directions, and at every k for the picture, are one call each; the matrix of similarities is never there.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np

import fastce
from bench import pictures

MOST = 50


def main(folder):
    with np.load(files("fastce") / "data" / "docstring_pairs.npz") as pairs:
        signatures, docstrings = pairs["signature"], pairs["docstring"]
    recalls = {
        "docstring of a signature": recall(signatures, docstrings),
        "signature of a docstring": recall(docstrings, signatures),
    }
    draw(recalls, Path(folder) / "retrieval.png")
    return {name: {k: of_k[k] for k in (1, 5, 10)} for name, of_k in recalls.items()}


def recall(query, keys):
    """The share of queries whose own key is among the first k, for each k."""
    return fastce.recall_at_k(query, keys, k=range(1, MOST + 1), normalize=True).recall


def draw(recalls, path):
    figure = pictures.new_figure(5, 2.8)
    axes = figure.subplots()
    for (name, recall), colour in zip(recalls.items(), ("fastce", "torch"), strict=True):
        axes.plot(*zip(*recall.items(), strict=True), color=pictures.COLOURS[colour], label=name)
    axes.set_title("recall at k of 512 pairs", fontsize=9, loc="left")
    axes.set_xlabel("k", fontsize=8)
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    pictures.quiet(axes, grid="y")
    pictures.save(figure, path)


if __name__ == "__main__":
    print(main(Path(__file__).parent))
