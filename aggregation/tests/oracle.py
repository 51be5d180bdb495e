"""The rules once more, in numpy, written from the papers and from nothing else: what tests/main/papers.rs compares with.

    python3 oracle.py < cases.json > results.json

A case is a rule with its settings and some rounds. A round has persons, each with a movement (a vector), values (a
vector that is averaged and not moved), examples, steps and staleness. Movements are measured from a base that is zero,
so a person's model is its movement. The model starts at `parent`. A result is what the model and the values are after
each round.

Everything is written for whole vectors, the way the papers have it: no distances that follow from other distances,
no sorting networks, no running sums.
"""

import json
import sys

import numpy as np

# A rule's default settings, as the documentation lists them.
DEFAULTS = {
    "staleness": "polynomial:0.5", "cap": "2", "clip": "3", "dishonest": "0.3", "keep": "most", "iterations": "50",
    "radius": "median", "server": "none", "momentum": "0.9", "beta1": "0.9", "beta2": "0.99", "tau": "0.001",
}
SERVERS = {"fedavgm": "momentum", "fedadagrad": "adagrad", "fedadam": "adam", "fedyogi": "yogi"}
ETAS = {"none": "1", "momentum": "1", "adagrad": "0.1", "adam": "0.01", "yogi": "0.01"}


def discount(staleness, behind):
    """s(τ), Xie et al. 2019, section 5.2."""
    kind, _, numbers = staleness.partition(":")
    if kind == "constant":
        return np.ones_like(behind)
    if kind == "polynomial":
        return (1 + behind) ** -float(numbers)
    a, b = map(float, numbers.split(","))
    return np.where(behind <= b, 1.0, 1 / (a * (behind - b) + 1))


def dishonest(setting, persons, bound):
    """f of n, but no more than the rule can bear."""
    if "." in setting:
        part, whole = int(setting.split(".")[1]), 10 ** len(setting.split(".")[1])
        asked = persons * part // whole
    else:
        asked = int(setting)
    return max(0, min(asked, bound))


def reach(setting, distances):
    """A radius: a multiple of the median distance, or a norm."""
    if setting.startswith("median"):
        return float(setting[7:] or "1") * np.median(distances)
    return float(setting)


def krum_scores(vectors, f):
    """Blanchard et al. 2017, section 4."""
    gaps = ((vectors[:, None, :] - vectors[None, :, :]) ** 2).sum(axis=2)
    near = max(1, len(vectors) - f - 2)
    return np.array([np.sort(np.delete(row, i))[:near].sum() for i, row in enumerate(gaps)])


def krum(vectors, f, count):
    """Who is chosen: the persons with the lowest scores, earlier ones first."""
    if len(vectors) < 3:
        return np.arange(len(vectors))
    return np.sort(np.argsort(krum_scores(vectors, f), kind="stable")[:count])


def bulyan_selection(vectors, f):
    """El Mhamdi et al. 2018, section 4, step 1."""
    left, chosen = list(range(len(vectors))), []
    while len(chosen) < len(vectors) - 2 * f:
        best = int(np.argmin(krum_scores(vectors[left], f))) if len(left) > 1 else 0
        chosen.append(left.pop(best))
    return np.sort(np.array(chosen))


def around_median(vectors, count):
    """El Mhamdi et al. 2018, section 4, step 2."""
    ordered = np.sort(vectors, axis=0)
    nearest = np.argsort(np.abs(ordered - np.median(vectors, axis=0)), axis=0, kind="stable")[:count]
    return np.take_along_axis(ordered, nearest, axis=0).mean(axis=0)


def trimmed(vectors, f):
    """Yin et al. 2018, definition 2."""
    return np.sort(vectors, axis=0)[f:len(vectors) - f].mean(axis=0)


def core(vectors):
    """Who is in the middle: the person whose median distance to the others is the least, and that distance."""
    if len(vectors) == 1:
        return 0, 0.0
    apart = np.linalg.norm(vectors[:, None, :] - vectors[None, :, :], axis=2)
    medians = [np.sort(np.delete(row, i))[(len(row) - 2) // 2] for i, row in enumerate(apart)]
    return int(np.argmin(medians)), min(medians)


def near(vectors, reach_of):
    """Not documented in any paper: nobody ten thousand times as far from the middle as others are."""
    person, radius = core(vectors)
    limit = 1e4 * max(radius, reach_of(person))
    return np.linalg.norm(vectors - vectors[person], axis=1) <= limit


def geometric_median(vectors, iterations):
    """Pillutla et al. 2022, algorithm 2, from the mean; the smoothing is a millionth of the least median distance."""
    centre, smoothing = vectors.mean(axis=0), 1e-6 * core(vectors)[1]
    for _ in range(iterations if smoothing > 0 else 0):
        pull = 1 / np.maximum(smoothing, np.linalg.norm(vectors - centre, axis=1))
        centre = pull @ vectors / pull.sum()
    return centre


def centred_clipping(vectors, setting, iterations):
    """Karimireddy et al. 2021, section 4, from zero."""
    centre = np.zeros(vectors.shape[1])
    for _ in range(iterations):
        gaps = vectors - centre
        lengths = np.linalg.norm(gaps, axis=1)
        radius = reach(setting, lengths)
        shrink = np.where(lengths > radius, radius / np.where(lengths > 0, lengths, 1), 1.0)
        centre = centre + (gaps * shrink[:, None]).mean(axis=0)
    return centre


def capped(examples, cap):
    claimed = np.maximum(examples, 1)
    return claimed if cap == "none" else np.minimum(claimed, float(cap) * np.median(claimed))


def direction(rule, setting, movements, models, parent, values, examples, steps, behind, every):
    """What a rule makes of movements, and of values that are averaged."""
    n = len(movements)
    s = discount(setting("staleness"), behind)
    v = movements * s[:, None]
    if rule in ("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "fednova"):
        p = capped(examples, setting("cap"))
        if rule == "fednova":
            # Wang et al. 2020, equation 7.
            known = np.array([step for step in steps if step])
            middle = np.median(known) if len(known) else 1.0
            a = np.array([step or middle for step in steps])
            if setting("cap") != "none":
                a = np.clip(a, middle / float(setting("cap")), middle * float(setting("cap")))
            step = (p @ a / p.sum()) * ((p / a) @ v) / p.sum()
        else:
            # McMahan et al. 2017, algorithm 1.
            step = p @ v / p.sum()
        return step, (p * s) @ values / (p * s).sum()
    if rule == "fedbuff":
        # Nguyen et al. 2022, algorithm 1.
        return v.sum(axis=0) / max(n, every), s @ values / s.sum()
    if rule == "fedasync":
        # Xie et al. 2019, algorithm 1, averaged over who arrives together.
        return ((models - parent) * s[:, None]).mean(axis=0), s @ values / s.sum()
    if rule == "median":
        return np.median(v, axis=0), np.median(values, axis=0)
    if rule == "trimmed-mean":
        f = dishonest(setting("dishonest"), n, (n - 1) // 2)
        return trimmed(v, f), trimmed(values, f)
    if rule in ("krum", "multi-krum"):
        f = dishonest(setting("dishonest"), n, (n - 3) // 2)
        most = max(1, n - f - 2)
        count = 1 if rule == "krum" else most if setting("keep") == "most" else min(most, int(setting("keep")))
        chosen = krum(v, f, count)
        return v[chosen].mean(axis=0), s[chosen] @ values[chosen] / s[chosen].sum()
    if rule == "bulyan":
        f = dishonest(setting("dishonest"), n, (n - 3) // 4)
        chosen = bulyan_selection(v, f)
        return around_median(v[chosen], n - 4 * f), around_median(values[chosen], n - 4 * f)
    if rule == "geometric-median":
        kept = near(v, lambda person: 0)
        return geometric_median(v[kept], int(setting("iterations"))), np.median(values[kept], axis=0)
    if rule == "centred-clipping":
        kept = near(v, lambda person: np.linalg.norm(v[person]))
        centre = centred_clipping(v[kept], setting("radius"), int(setting("iterations")))
        return centre, np.median(values[kept], axis=0)
    if rule == "norm-clipping":
        # Sun et al. 2019, section 4.1.
        lengths = np.linalg.norm(v, axis=1)
        return (v / np.maximum(1, lengths / reach(setting("radius"), lengths))[:, None]).mean(axis=0), np.median(values, axis=0)
    raise ValueError(rule)


class Server:
    """The optimisers of Hsu et al. 2019 and of Reddi et al. 2021, algorithm 2."""

    def __init__(self, kind, setting):
        self.kind, self.setting = kind, lambda name: float(setting(name))
        self.m = 0.0
        self.v = None if kind in ("none", "momentum") else self.setting("tau") ** 2

    def step(self, d):
        if self.kind == "none":
            return d
        if self.kind == "momentum":
            self.m = self.setting("momentum") * self.m + d
            return self.m
        if self.kind == "adagrad":
            self.m, self.v = d, self.v + d**2
        else:
            self.m = self.setting("beta1") * self.m + (1 - self.setting("beta1")) * d
            if self.kind == "adam":
                self.v = self.setting("beta2") * self.v + (1 - self.setting("beta2")) * d**2
            else:
                self.v = self.v - (1 - self.setting("beta2")) * d**2 * np.sign(self.v - d**2)
        return self.m / (np.sqrt(self.v) + self.setting("tau"))


def run(case):
    rule, given = case["rule"], case["settings"]
    setting = lambda name: given.get(name, DEFAULTS.get(name))
    kind = SERVERS.get(rule, setting("server"))
    eta = float(given.get("eta", "0.6" if rule == "fedasync" and kind in ("none", "momentum") else ETAS[kind]))
    server = Server(kind, setting)
    parent, history, results = np.array(case["parent"], float), [], []
    for turn in case["rounds"]:
        persons = turn["persons"]
        column = lambda name: np.array([person[name] for person in persons], float)
        movements, values = column("movement"), column("values")
        measured = movements - parent if rule == "fedasync" else movements
        lengths = np.linalg.norm(measured, axis=1)
        known = [length for lengths in history[-5:] for length in lengths if length > 0]
        if setting("clip") != "none" and len(known) >= 5:
            limit = float(setting("clip")) * np.median(known)
            shrink = np.where(lengths > limit, limit / np.where(lengths > 0, lengths, 1), 1.0)
        else:
            shrink = np.ones_like(lengths)
        history.append(lengths)
        clipped = measured * shrink[:, None]
        models = parent + clipped
        steps = [person["steps"] for person in persons]
        d, averaged = direction(
            rule, setting, clipped, models, parent, values, column("examples"), steps, column("staleness"), turn["every"]
        )
        parent = parent + eta * server.step(d)
        results.append({"model": parent.tolist(), "values": averaged.tolist()})
    return results


if __name__ == "__main__":
    json.dump([run(case) for case in json.load(sys.stdin)], sys.stdout)
