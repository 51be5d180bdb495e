"""Evaluations of commits on people's own data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A metric of a commit's model and of its base's.

    Attributes:
        name: the metric.
        better: `higher` or `lower`.
        value: the commit's value.
        base: the base's value; none for a first commit, which has no base.
    """

    name: str
    better: str
    value: float
    base: float | None


@dataclass(frozen=True)
class Evaluation:
    """Somebody's evaluation of a commit.

    Attributes:
        operation: the operation.
        by: who measured, by name.
        person: their key.
        set: what they call the data. Figures of different sets, or persons, are never put together.
        n: examples; 0 when not said.
        base: what was compared with.
        metrics: the figures.
        data: salted hash of the data: the same for the same data of this person.
        code: hash of the code that measured, where it was named.
        time: milliseconds since 1970 by their clock.
    """

    operation: str
    by: str
    person: str
    set: str
    n: int
    base: str | None
    metrics: list[Measured]
    data: str
    code: str | None
    time: int


@dataclass(frozen=True)
class ToEvaluate:
    """A commit to be evaluated.

    Attributes:
        commit: the commit.
        by: its author's name; empty for an aggregate.
        base: an update's base, an aggregate's parent; none for a first commit.
    """

    commit: str
    by: str
    base: str | None


@dataclass(frozen=True)
class Sealed:
    """Hashes of data and code.

    Attributes:
        data: hash of the data with the home's salt, for this repository and set.
        code: hash of the code; none where no file is named.
    """

    data: str
    code: str | None
