"""A contrastive similarity matrix of any size, from the 512 real embedding pairs that the package ships."""

from importlib.resources import files
from typing import Any

import numpy as np

from fastce.profile.problem import Array

PAIRS = 512
LOGIT_SCALE = 50.0
NOISE = 0.3  # length of the noise added to a unit vector: once for both sides of a copy, once for each side
SEED = 20240229

_BLOCK_ELEMENTS = 1 << 24

ORIGIN = f"{LOGIT_SCALE:g} * A B^T of {PAIRS} real pairs (signatures and docstrings of Python functions)"


def origin(rows: int, classes: int) -> str:
    """Where `similarity_matrix` of this shape comes from, in words."""
    if max(rows, classes) <= PAIRS:
        return ORIGIN
    return f"{ORIGIN}, tiled to {rows} x {classes} with Gaussian noise of length {NOISE:g} and normalised again"


def load_pairs() -> tuple[Array, Array]:
    """The shipped pairs.

    Returns
    -------
    signature, docstring : ndarray of float16, shape (512, 384)
        Unit vectors; row i of one belongs to row i of the other. See ``fastce/data/README.md``.
    """
    with (files("fastce") / "data" / "docstring_pairs.npz").open("rb") as file, np.load(file) as pairs:
        return pairs["signature"], pairs["docstring"]


def similarity_matrix(rows: int, classes: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Similarities of tiled pairs, the same at every call.

    Row i and column j carry pair number ``i % classes`` and ``j``; pair number k is the shipped pair
    ``k % 512``, with noise from the second copy on. Part of the noise is common to the two sides of a copy,
    so that a copy is nearer to its own partner than to the other copies, as pairs of a real batch are;
    without it every row would have several columns that are equally right.

    Returns
    -------
    similarity : ndarray of `dtype`, shape (rows, classes)
    targets : ndarray of int64, shape (rows,)
        The column that belongs to each row.
    """
    signature, docstring = (side.astype(np.float32) for side in load_pairs())
    rng = np.random.default_rng(SEED)
    width = signature.shape[1]
    targets = np.arange(rows, dtype=np.int64) % classes
    column_pairs = np.arange(classes)
    common = _noise(rng, classes, width)
    texts = _noisy(docstring, column_pairs, column_pairs >= PAIRS, common + _noise(rng, classes, width))
    similarity = np.empty((rows, classes), dtype)
    block_rows = max(1, _BLOCK_ELEMENTS // classes)
    for start in range(0, rows, block_rows):
        pairs = targets[start : start + block_rows]
        is_copy = np.arange(start, start + len(pairs)) >= PAIRS
        images = _noisy(signature, pairs, is_copy, common[pairs] + _noise(rng, len(pairs), width))
        similarity[start : start + len(pairs)] = (LOGIT_SCALE * images) @ texts.T
    return similarity, targets


def paired_features(batch: int) -> tuple[Array, Array]:
    """The features behind `similarity_matrix` of a square: unit vectors of float32, shape (batch, 384) each."""
    signature, docstring = (side.astype(np.float32) for side in load_pairs())
    rng = np.random.default_rng(SEED)
    pairs = np.arange(batch)
    common = _noise(rng, batch, signature.shape[1])
    texts = _noisy(docstring, pairs, pairs >= PAIRS, common + _noise(rng, *common.shape))
    return _noisy(signature, pairs, pairs >= PAIRS, common + _noise(rng, *common.shape)), texts


def similarity_of(first: Array, second: Array, dtype: np.dtype[Any]) -> Array:
    """Similarities of features given by the user: rows normalised, times the logit scale."""
    images, texts = (normalised(side.astype(np.float32)) for side in (first, second))
    similarity = np.empty((len(images), len(texts)), dtype)
    block_rows = max(1, _BLOCK_ELEMENTS // max(1, len(texts)))
    for start in range(0, len(images), block_rows):
        similarity[start : start + block_rows] = (LOGIT_SCALE * images[start : start + block_rows]) @ texts.T
    return similarity


def _noise(rng: np.random.Generator, count: int, width: int) -> Array:
    """Gaussian vectors of about the length `NOISE`."""
    return rng.standard_normal((count, width), np.float32) * np.float32(NOISE / np.sqrt(width))


def _noisy(features: Array, pairs: Array, is_copy: Array, noise: Array) -> Array:
    return normalised(features[pairs % PAIRS] + noise * is_copy[:, None])


def normalised(vectors: Array) -> Array:
    """Rows divided by their lengths; those of length 0 as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, np.float32(1)))
