"""Evaluate a language model from its logits in a file of bfloat16, larger than memory if need be, padding left out.

Two models of the words in the docstrings of Python's library, one that knows the word before and one that does not,
write the logits of every next word to a file. Perplexity and how often the right word is among the first k are one read
of it; lines of text are padded to the same length, and what is padded has the target -100.
"""

import argparse
import ast
import inspect
import re
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

import fastce
from bench import pictures

PADDING = -100  # as ignore_index is by default
LENGTH, WORDS = 16, 1000  # of a line, in words; and how many words are known, less the one for all others
TOP = 20


def main(folder):
    lines = text()
    known, unseen = lines[::2], lines[1::2]
    before, targets = unseen[:, :-1].ravel(), np.where(unseen[:, 1:] < 0, PADDING, unseen[:, 1:]).ravel()
    ranks, figures = {}, {}
    with tempfile.TemporaryDirectory() as room:
        for name, logits in models(known).items():
            path = Path(room) / f"{name}.bfloat16"
            write(path, logits, before)
            in_file = np.memmap(path, ml_dtypes.bfloat16, "r", shape=(targets.size, WORDS))
            found = fastce.streaming.row_stats(in_file, targets, outputs=("target_log_prob", "target_rank"))
            counts = targets != PADDING
            ranks[name] = found["target_rank"][counts]
            figures[f"perplexity, {name}"] = float(np.exp(-found["target_log_prob"][counts].mean(dtype=np.float64)))
            figures[f"first of all, {name}"] = float(np.mean(ranks[name] < 1))
            figures[f"among five, {name}"] = float(np.mean(ranks[name] < 5))
            del in_file
    draw(ranks, Path(folder) / "perplexity.png")
    return figures


def text():
    """Lines of word numbers, padded with -1."""
    docstrings = [inspect.getdoc(node) for node in (argparse, ast, inspect, re, tempfile)]
    for module in (argparse, ast, inspect, re, tempfile):
        docstrings += [inspect.getdoc(member) for member in vars(module).values() if callable(member)]
    lines = [line for docstring in docstrings if docstring for line in re.split(r"\. ", docstring.lower())]
    sentences = [line.split() for line in dict.fromkeys(lines)]  # each once
    words, counts = np.unique(np.concatenate(sentences), return_counts=True)
    numbers = {word: k for k, word in enumerate(words[np.argsort(-counts, kind="stable")][: WORDS - 1])}
    lines = np.full((len(sentences), LENGTH + 1), -1)
    for line, sentence in zip(lines, sentences, strict=True):
        here = [numbers.get(word, WORDS - 1) for word in sentence[: LENGTH + 1]]
        line[: len(here)] = here
    return lines


def models(lines):
    """The logits of the next word for every word before it."""
    before, after = lines[:, :-1].ravel(), lines[:, 1:].ravel()
    single = np.bincount(after[after >= 0], minlength=WORDS) + 0.5
    pairs = np.zeros((WORDS, WORDS))
    np.add.at(pairs, (before[after >= 0], after[after >= 0]), 1.0)
    single /= single.sum()
    return {
        "no word before": np.log(np.broadcast_to(single, pairs.shape)),
        "one word before": np.log(pairs + 5 * single),
    }


def write(path, logits, before):
    """The logits of each row go to the file, some rows at a time."""
    out = np.memmap(path, ml_dtypes.bfloat16, "w+", shape=(before.size, WORDS))
    for start in range(0, before.size, 1024):
        rows = before[start : start + 1024]
        out[start : start + 1024] = logits[rows].astype(ml_dtypes.bfloat16)  # the last row, where there is no word
    out.flush()


def draw(ranks, path):
    figure = pictures.new_figure(5, 2.8)
    axes = figure.subplots()
    for (name, of_words), colour in zip(ranks.items(), ("torch", "fastce"), strict=True):
        shares = [np.mean(of_words < k) for k in range(1, TOP + 1)]
        axes.plot(range(1, TOP + 1), shares, color=pictures.COLOURS[colour], label=name)
    axes.set_title("share of words that are among the first k", fontsize=9, loc="left")
    axes.set_xlabel("k", fontsize=8)
    axes.set_ylim(0, None)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    pictures.quiet(axes, grid="y")
    pictures.save(figure, path)


if __name__ == "__main__":
    print(main(Path(__file__).parent))
