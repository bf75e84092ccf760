"""Fine-tune a tiny language model in PyTorch on a CPU, where the logits of its head would be most of the memory.

The model reads the docstrings of Python's standard library, whose 4,000 commonest words are its vocabulary, and tells
the next word from the eight before it. It is trained, then fine-tuned on the docstrings of NumPy, by
`fastce.torch.linear_cross_entropy`: the loss of text that was held out falls, and NumPy's anew once it is fine-tuned.
`main(folder)` draws tiny_language_model.png there and returns the losses.
"""

import importlib
import re
from collections import Counter
from pathlib import Path

import numpy as np

from bench import pictures

LIBRARY = ["argparse", "ast", "asyncio", "collections", "concurrent.futures", "configparser", "datetime", "decimal",
           "difflib", "email.message", "fractions", "functools", "http.client", "inspect", "itertools", "json",
           "logging", "multiprocessing", "os", "pathlib", "pickle", "random", "re", "shutil", "socket", "sqlite3",
           "statistics", "string", "subprocess", "tarfile", "tempfile", "threading", "unittest", "urllib.parse",
           "uuid", "xml.etree.ElementTree", "zipfile"]  # fmt: skip
CONTEXT, VOCABULARY, WIDTH, BATCH = 8, 4000, 64, 512
STEPS, MORE_STEPS, EVERY = 200, 100, 20


def words_of(modules):
    """The words of the docstrings of what these modules define, in order."""
    texts = {}
    for module in map(importlib.import_module, modules):
        for owner in (module, *(value for value in vars(module).values() if isinstance(value, type))):
            for value in (owner, *vars(owner).values()):
                if isinstance(doc := getattr(value, "__doc__", None), str):
                    texts[doc] = None
    return [word for text in texts for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower())]


def numbered(words, vocabulary):
    """The numbers of words; 0 for those that the vocabulary lacks."""
    return np.array([vocabulary.get(word, 0) for word in words])


def windows(numbers):
    """(to train, held out): rows of so many words and the next one; every tenth stretch is held out."""
    import torch

    rows = np.lib.stride_tricks.sliding_window_view(numbers, CONTEXT + 1)
    held_out = np.arange(len(rows)) // 500 % 10 == 9
    return torch.tensor(rows[~held_out]), torch.tensor(rows[held_out][:4000])


def new_model():
    """Embeddings of the words before, a hidden layer, and a head that shares the embeddings' weights."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
            self.hidden = torch.nn.Sequential(torch.nn.Linear(CONTEXT * WIDTH, 4 * WIDTH), torch.nn.GELU(),
                                              torch.nn.Linear(4 * WIDTH, WIDTH))  # fmt: skip
            torch.nn.init.normal_(self.embedding.weight, std=0.1)

        def forward(self, words):
            return self.hidden(self.embedding(words).flatten(1))

    return Model()


def loss_of(model, rows):
    """The mean loss of next words; logits of the whole vocabulary exist a panel of rows at a time."""
    import fastce.torch

    return fastce.torch.linear_cross_entropy(model(rows[:, :-1]), model.embedding.weight, rows[:, -1])


def train(model, rows, steps, learning_rate, evaluate):
    """Steps of Adam on random rows."""
    import torch

    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for step in range(steps):
        if step % EVERY == 0:
            evaluate(model)
        optimizer.zero_grad()
        loss_of(model, rows[torch.randint(len(rows), (BATCH,))]).backward()
        optimizer.step()


def main(folder):
    """Train, fine-tune, draw the losses of what was held out, and return the first and the last ones."""
    import torch

    torch.manual_seed(0)
    texts = {"standard library": words_of(LIBRARY), "NumPy": words_of(["numpy", "numpy.linalg", "numpy.random"])}
    common = Counter(texts["standard library"] + texts["NumPy"]).most_common(VOCABULARY - 1)
    vocabulary = {word: number for number, (word, _) in enumerate(common, start=1)}
    parts = {name: windows(numbered(words, vocabulary)) for name, words in texts.items()}
    losses = {name: [] for name in texts}

    def evaluate(model):
        with torch.no_grad():
            for name, (_, held_out) in parts.items():
                losses[name].append(loss_of(model, held_out).item())

    model = new_model()
    train(model, parts["standard library"][0], STEPS, 3e-3, evaluate)
    train(model, parts["NumPy"][0], MORE_STEPS, 1e-3, evaluate)
    evaluate(model)
    draw(losses, Path(folder) / "tiny_language_model.png")
    before = STEPS // EVERY
    return {
        "first loss": losses["standard library"][0],
        "loss of NumPy's docstrings before fine-tuning": losses["NumPy"][before],
        "and after": losses["NumPy"][-1],
    }


def draw(losses, path):
    figure = pictures.new_figure(5, 2.8)
    axes = figure.subplots()
    for (name, values), colour in zip(losses.items(), (pictures.GREY, pictures.COLOURS["fastce"]), strict=True):
        axes.plot(np.arange(len(values)) * EVERY, values, color=colour, label=f"docstrings of {name}")
    axes.axvline(STEPS, color=pictures.GREY, linewidth=0.8, linestyle=":")
    axes.set_title("held-out loss of the next word; fine-tuned from the dotted line on", fontsize=9, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    pictures.quiet(axes, grid="y")
    pictures.save(figure, path)


if __name__ == "__main__":
    for name, loss in main(Path(__file__).parent).items():
        print(f"{name:45s} {loss:.4f}")
