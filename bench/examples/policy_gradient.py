"""Learn from rewards alone, by policy gradient with signed weights: an agent guesses digits and is told right or wrong.

A contextual bandit: the agent sees an image, draws a class, and gets 1 if it was right, else 0; what would have been
right it never learns. The loss is the cross entropy of the drawn classes, each weighted with its advantage, how much
its reward was above the mean, so `sample_weight` is negative where the guess was wrong:
python -m bench.examples.policy_gradient
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import fastce
from bench import pictures
from bench.mlp import MLP

BATCH, STEPS, SMOOTHED = 128, 1500, 50


def main(folder):
    images, labels = load_digits(return_X_y=True)
    returns = train((images / 16).astype(np.float32), labels)
    draw(returns, Path(folder) / "policy_gradient.png")
    return {
        "first mean return": float(returns[:SMOOTHED].mean()),
        "last mean return": float(returns[-SMOOTHED:].mean()),
    }


def train(images, labels):
    """The mean return of each step."""
    rng = np.random.default_rng(0)
    policy = MLP(rng, 64, 128, 10)
    returns = []
    for _ in range(STEPS):
        batch = rng.integers(len(labels), size=BATCH)
        layers = policy.forward(images[batch])
        logits = layers[-1]
        actions = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from the softmax
        rewards = (actions == labels[batch]).astype(np.float32)
        advantages = rewards - rewards.mean()
        _, grad = fastce.cross_entropy_value_and_grad(logits, actions, sample_weight=advantages, reduction="sum")
        policy.step(layers, grad / BATCH)
        returns.append(float(rewards.mean()))
    return np.array(returns)


def draw(returns, path):
    figure = pictures.new_figure(5, 2.6)
    axes = figure.subplots()
    axes.plot(returns, color=pictures.COLOURS["numpy"], linewidth=0.5)
    smoothed = np.convolve(returns, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
    axes.plot(range(SMOOTHED - 1, STEPS), smoothed, color=pictures.COLOURS["fastce"])
    axes.set_title(f"mean return of {BATCH} guesses, and of the last {SMOOTHED} steps", fontsize=9, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylim(0, 1)
    pictures.quiet(axes, grid="y")
    pictures.save(figure, path)


if __name__ == "__main__":
    print(main(Path(__file__).parent))
