"""A small network in NumPy for the examples: matrices with ReLU between, the backward pass by hand, and Adam."""

from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float32]]


class MLP:
    def __init__(self, rng: np.random.Generator, *widths: int, learning_rate: float = 1e-3) -> None:
        self.learning_rate: float = learning_rate
        self.parameters: list[Array] = []  # the matrix and the bias of each layer in turn
        for inputs, outputs in pairwise(widths):
            self.parameters.append(rng.normal(scale=(2 / inputs) ** 0.5, size=(inputs, outputs)).astype(np.float32))
            self.parameters.append(np.zeros(outputs, np.float32))
        self.moments: list[list[Array]] = [[np.zeros_like(one) for one in self.parameters] for _ in range(2)]
        self.steps: int = 0

    def forward(self, inputs: Array) -> list[Array]:
        """What every layer gives, the inputs first and the outputs last."""
        layers = [inputs]
        for matrix, bias in zip(self.parameters[::2], self.parameters[1::2], strict=True):
            given = layers[-1] if len(layers) == 1 else np.maximum(layers[-1], 0)
            layers.append(given @ matrix + bias)
        return layers

    def step(self, layers: list[Array], grad: Array) -> None:
        """A step of Adam down the loss whose gradient with respect to the outputs is `grad`."""
        gradients = []
        for depth in range(len(layers) - 2, -1, -1):
            given = np.maximum(layers[depth], 0) if depth else layers[0]
            gradients += [grad.sum(axis=0), given.T @ grad]
            grad = (grad @ self.parameters[2 * depth].T) * (layers[depth] > 0)
        self.steps += 1
        rate = self.learning_rate * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for parameter, gradient, mean, square in zip(self.parameters, gradients[::-1], *self.moments, strict=True):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            parameter -= rate * mean / (np.sqrt(square) + 1e-8)
