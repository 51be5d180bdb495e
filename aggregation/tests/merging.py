"""The methods of merging once more, in numpy, written from the papers: what tests/main/merging.rs compares with.

    python3 merging.py < cases.json > results.json

A case is a method with its settings and the vectors of base, first and second; under dare also which elements of either
task vector are dropped, which is chance's affair and not the method's. A result is the merged vector.
"""

import json
import sys

import numpy as np


def linear(base, models, setting, _):
    """Wortsman et al. 2022: a convex combination of weights."""
    return np.average(models, axis=0, weights=[1 - setting("weight"), setting("weight")])


def task(base, models, setting, _):
    """Ilharco et al. 2023, section 3."""
    return base + setting("lambda") * sum(model - base for model in models)


def ties(base, models, setting, _):
    """Yadav et al. 2023, algorithm 1."""
    trimmed = []
    for vector in models - base:
        keep = int(np.ceil(setting("density") * len(vector)))
        least = np.sort(np.abs(vector))[::-1][keep - 1]
        trimmed.append(np.where(np.abs(vector) >= least, vector, 0.0))
    trimmed = np.array(trimmed)
    elected = np.sign(trimmed.sum(axis=0))
    agree = (np.sign(trimmed) == elected) & (elected != 0)
    mean = np.where(agree, trimmed, 0.0).sum(axis=0) / np.maximum(1, agree.sum(axis=0))
    return base + setting("lambda") * mean


def dare(base, models, setting, dropped):
    """Yu et al. 2024, section 3.2, with task arithmetic."""
    deltas = (1 - np.array(dropped, float)) * (models - base) / (1 - setting("drop"))
    return base + setting("lambda") * deltas.sum(axis=0)


METHODS = {"linear": linear, "task": task, "ties": ties, "dare": dare}


def run(case):
    base, models = np.array(case["base"]), np.array([case["first"], case["second"]])
    setting = lambda name: float(case["settings"][name])
    return METHODS[case["method"]](base, models, setting, case.get("dropped")).tolist()


if __name__ == "__main__":
    json.dump([run(case) for case in json.load(sys.stdin)], sys.stdout)
