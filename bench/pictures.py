"""What all pictures of the bench have in common: one colour and one name for each library, quiet axes."""

import warnings
from pathlib import Path
from typing import Any

COLOURS = {
    "fastce": "#d1495b",
    "torch.compile": "#edae49",
    "jax": "#66a182",
    "torch": "#30638e",
    "sklearn": "#8d6a9f",
    "numpy": "#8d99ae",
    "scipy": "#5c6b73",
}
NAMES = {
    "torch.compile": "torch.compile",
    "jax": "JAX",
    "torch": "PyTorch",
    "sklearn": "scikit-learn",
    "numpy": "NumPy",
    "scipy": "SciPy",
}
GREY = "#6b7280"


def new_figure(width: float, height: float) -> Any:
    """A figure whose parts find their own room; needs matplotlib, which is imported here."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def quiet(axes: Any, grid: str = "x") -> None:
    """No frame; light lines along one axis, behind what is drawn."""
    axes.spines[["top", "right", "left"] if grid == "x" else ["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=8, colors="#374151")


def save(figure: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # text that found no room
        figure.savefig(path, dpi=150, metadata={"Software": None})


def name_of(engine: str) -> str:
    return NAMES.get(engine, engine)


def multiple(number: float) -> str:
    """Two digits of what is below ten, and whole numbers."""
    return f"{number:.1f}" if number < 9.95 else f"{number:.0f}"
