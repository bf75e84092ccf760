"""LightGBM and XGBoost with fastce's objective, their own, and one in NumPy: python -m bench.boosters FILE

Training takes turns; a library that is not installed is left out. See redraw.py.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np

import fastce
from bench.tiny import IS_TINY
from fastce.profile.machine import busy, machine
from fastce.profile.measure import Turn, times_in_turns

ROWS, CLASSES, FEATURES, TREES = (2000, 10, 4, 1) if IS_TINY else (500_000, 10, 4, 3)
ROUNDS = 2 if IS_TINY else 3
OWN, OURS, NUMPY = "its own objective", "fastce.objectives.softmax", "NumPy"
TITLES = {"lightgbm": "LightGBM", "xgboost": "XGBoost"}


def in_numpy(factor):
    """An objective as the libraries' guides have it, vectorised: h = factor * p * (1 - p)."""

    def objective(scores, dataset):
        labels = dataset.get_label().astype(int)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        hess = factor * p * (1 - p)
        p[np.arange(len(labels)), labels] -= 1
        return p, hess

    return objective


def objectives(factor):
    """Objective by name; None is the library's own."""
    return {OWN: None, OURS: fastce.objectives.softmax(CLASSES), NUMPY: in_numpy(factor)}


def of_lightgbm(features, labels):
    """Name -> a call that trains."""
    import lightgbm

    data = lightgbm.Dataset(features, label=labels, free_raw_data=False).construct()
    settings = {"num_class": CLASSES, "num_threads": fastce.get_num_threads(), "verbose": -1}

    def train(objective):
        lightgbm.train({**settings, "objective": objective or "multiclass"}, data, TREES)

    return {name: lambda o=o: train(o) for name, o in objectives(CLASSES / (CLASSES - 1)).items()}


def of_xgboost(features, labels):
    """Name -> a call that trains."""
    import xgboost

    data = xgboost.QuantileDMatrix(features, label=labels)
    settings = {"num_class": CLASSES, "nthread": fastce.get_num_threads(), "verbosity": 0}

    def train(objective):
        own = {"objective": "multi:softprob"} if objective is None else {}
        xgboost.train({**settings, **own}, data, TREES, obj=objective)

    return {name: lambda o=o: train(o) for name, o in objectives(2.0).items()}


class Labelled:
    """What an objective asks of a dataset."""

    def __init__(self, labels):
        self.labels = labels

    def get_label(self):
        return self.labels

    def get_weight(self):
        return None


def alone(labels, scores, factor):
    """Name -> a call of the objective."""
    data = Labelled(labels.astype(np.float32))
    calls = {name: objective for name, objective in objectives(factor).items() if objective}
    return {name: lambda objective=objective: objective(scores, data) for name, objective in calls.items()}


def jobs():
    """Library -> name -> call, and what is timed without one: the objectives alone, on scores of either layout."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, FEATURES))
    labels = (features @ rng.normal(size=(FEATURES, CLASSES)) + rng.gumbel(size=(ROWS, CLASSES))).argmax(axis=1)
    makers = {"lightgbm": of_lightgbm, "xgboost": of_xgboost}
    there = {name: make for name, make in makers.items() if importlib.util.find_spec(name)}
    result = {TITLES[name]: make(features, labels) for name, make in there.items()}
    scores = rng.normal(size=(ROWS, CLASSES))
    result["objective alone, LightGBM's scores"] = alone(labels, np.asfortranarray(scores), CLASSES / (CLASSES - 1))
    if "xgboost" in there:  # which tells its convention
        result["objective alone, XGBoost's scores"] = alone(labels, scores.astype(np.float32), 2.0)
    return result


def measured():
    """The record: the least of the times of each job."""
    calls = {(part, name): call for part, named in jobs().items() for name, call in named.items()}
    for call in calls.values():
        call()
    times, _ = times_in_turns([Turn(call, ROUNDS) for call in calls.values()])
    ms = {}
    for (part, name), of_job in zip(calls, times, strict=True):
        ms.setdefault(part, {})[name] = 1e3 * min(of_job)
    return {
        "machine": machine(fastce.get_num_threads()),
        "shape": [ROWS, CLASSES, FEATURES, TREES],
        "absent": [title for name, title in TITLES.items() if not importlib.util.find_spec(name)],
        "notes": busy(),
        "ms": ms,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="written")
    path = parser.parse_args(argv).json
    record = measured()
    path.write_text(json.dumps(record, indent=1) + "\n")
    for part, named in record["ms"].items():
        for name, ms in named.items():
            print(f"{part:36s} {name:28s} {ms:8.1f} ms")
    for title in record["absent"]:
        print(f"{title} is not installed")


if __name__ == "__main__":
    main()
