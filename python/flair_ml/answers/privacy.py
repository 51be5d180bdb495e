"""Differential privacy: what a commit was made private with, what was spent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PrivacySpent:
    """What was spent in a repository.

    Attributes:
        epsilon: ε of all releases together, rounded up.
        delta: the δ with which.
        budget: the budget; none where none is set.
        noise: the least noise with which another release fits; none without a budget, or where nothing is left.
        releases: how many.
    """

    epsilon: str
    delta: str
    budget: str | None
    noise: str | None
    releases: int


@dataclass(frozen=True)
class PrivateDraft:
    """What a commit was made private with, and what that costs.

    Attributes:
        norm: L2 norm of what training changed. It stays on this machine.
        factor: by what it was multiplied to be within the clipping norm.
        deviation: standard deviation of the noise in each number.
        numbers: numbers that are noised.
        epsilon: ε of this release alone, rounded up.
        kept: tensors that keep the base's value.
        spent: what was spent in this repository, with this release.
    """

    norm: float
    factor: float
    deviation: float
    numbers: int
    epsilon: str
    kept: list[str]
    spent: PrivacySpent


@dataclass(frozen=True)
class PrivacyRelease:
    """A change that was noised.

    Attributes:
        number: its number; none for one that only the repository's history knows of.
        time: milliseconds since 1970.
        base: the published commit it is about.
        clip: the clipping norm.
        noise: the noise multiplier.
        epsilon: ε of it alone, rounded up.
        commit: the update that it became; none where it was not published from here.
    """

    number: int | None
    time: int
    base: str
    clip: str
    noise: str
    epsilon: str
    commit: str | None


@dataclass(frozen=True)
class PrivacyLedger:
    """What was spent in a repository, release by release.

    Attributes:
        repo: the repository.
        name: its name.
        spent: all together.
        require: whether commits and pushes without differential privacy are refused.
        words: the unit, the neighbouring relation, the mechanism and the accountant, in words.
        releases: the releases, oldest first.
    """

    repo: str
    name: str
    spent: PrivacySpent
    require: bool
    words: str
    releases: list[PrivacyRelease]
