"""Commits, comparisons and aggregates."""

from __future__ import annotations

from dataclasses import dataclass

from .. import html
from .measures import Evaluation
from .people import Review
from .work import EgressField, Metric


@dataclass(frozen=True)
class AggregateInput:
    """One input of an aggregate.

    Attributes:
        commit: the update.
        person: key of the person.
        name: their name.
        staleness: aggregates behind.
        weight: its weight, where it was computed and the rule has one for the whole of it.
        norm: norm of its author's whole change, where it was computed.
        shortened: what that was multiplied by because it was far larger than is usual; none if it was not.
        skipped: why it was skipped.
    """

    commit: str
    person: str
    name: str
    staleness: int
    weight: float | None
    norm: float | None
    shortened: float | None
    skipped: str | None


@dataclass(frozen=True)
class LogEntry:
    """One commit in a list.

    Attributes:
        commit: the commit.
        kind: `initial`, `update` or `aggregate`.
        author: key of the author, or of an aggregate's first publisher.
        name: the name that member has.
        time: milliseconds since 1970 by the author's clock.
        message: the message; what an aggregate does, in words.
        parent: base or parent.
        inputs: an aggregate's inputs.
        examples: examples, as the author says.
        metrics: measurements, as the author says.
        privacy: what its author claims of privacy, in words; none where nothing is claimed.
        in_head: on the head's path (or an input of it).
        state: `head`, `in-head`, `pending`, `dropped`, `void`, `other-path`.
        attestations: persons who attest an aggregate's result.
        refutations: persons who refute it.
        evaluations: what people measured of it on their own data.
    """

    commit: str
    kind: str
    author: str
    name: str
    time: int
    message: str
    parent: str | None
    inputs: list[str]
    examples: int
    metrics: list[Metric]
    privacy: str | None
    in_head: bool
    state: str
    attestations: int
    refutations: int
    evaluations: list[Evaluation]


@dataclass(frozen=True)
class Log:
    """History, newest first.

    Attributes:
        branch: the branch.
        head: its head.
        entries: the entries.
    """

    branch: str
    head: str | None
    entries: list[LogEntry]

    def _repr_html_(self) -> str:
        return html.log(self)


@dataclass(frozen=True)
class TensorDiff:
    """How a tensor differs.

    Attributes:
        name: the tensor.
        dtype: its dtype.
        shape: its shape.
        l2: l2 norm of the difference.
        relative: the same divided by the first model's norm; none where that is 0.
        cosine: cosine of the two; none where one is 0.
        max: largest absolute difference.
        changed: share of elements that changed, 0 to 1.
        not_finite: elements that are a NaN or an infinity on either side, which the figures leave out.
    """

    name: str
    dtype: str
    shape: list[int]
    l2: float
    relative: float | None
    cosine: float | None
    max: float
    changed: float
    not_finite: int


@dataclass(frozen=True)
class DiffTotal:
    """How all tensors differ together.

    Attributes:
        l2: l2 norm of the difference.
        max: largest absolute difference.
        changed: share of all elements that changed, those of equal tensors counted, 0 to 1.
    """

    l2: float
    max: float
    changed: float


@dataclass(frozen=True)
class Diff:
    """How two models differ. Never raw numbers.

    Attributes:
        a: the first model.
        b: the second model.
        rows: a row for each tensor that differs.
        same: tensors that are equal.
        total: all tensors that differ, together; none where there are none.
        only_a: tensors that only the first model has.
        only_b: tensors that only the second model has.
        reshaped: tensors of another type or shape, in words.
        incompatible: why one can't be aggregated onto the other; none when it can.
    """

    a: str
    b: str
    rows: list[TensorDiff]
    same: int
    total: DiffTotal | None
    only_a: list[str]
    only_b: list[str]
    reshaped: list[str]
    incompatible: str | None

    def _repr_html_(self) -> str:
        return html.diff(self)


@dataclass(frozen=True)
class Claim:
    """A claimed result.

    Attributes:
        model: the model claimed.
        state: the state claimed.
        supporters: names of who attest it.
        refuters: names of who refute it.
    """

    model: str
    state: str
    supporters: list[str]
    refuters: list[str]


@dataclass(frozen=True)
class Shown:
    """One commit in full.

    Attributes:
        entry: as in the log.
        private: whether only who has a role may read the repository.
        model: the model, where it is known.
        branch: the branch.
        bytes: its size as files, in bytes.
        pack_bytes: bytes its pack takes.
        here: whether its blobs are here.
        verified: whether this node ran it itself.
        training: training as the author says, field and value.
        inputs: for an aggregate: each input, its weight and what became of it.
        claims: for an aggregate: claims, with who stands behind them.
        reviews: what people say of it.
        words: what became of it, in words.
    """

    entry: LogEntry
    private: bool
    model: str | None
    branch: str
    bytes: int
    pack_bytes: int
    here: bool
    verified: bool
    training: list[EgressField]
    inputs: list[AggregateInput]
    claims: list[Claim]
    reviews: list[Review]
    words: str


@dataclass(frozen=True)
class VerifyRow:
    """One recipe run again.

    Attributes:
        commit: the aggregate.
        claimed: the model that others claim.
        found: the model that came out.
        holds: whether they are the same.
        millis: milliseconds it took.
    """

    commit: str
    claimed: str
    found: str
    holds: bool
    millis: int


@dataclass(frozen=True)
class Verified:
    """What running recipes again gave.

    Attributes:
        rows: a row for each aggregate.
        holds: whether every claim holds.
        absent: aggregates that could not be run: what they are made of is not here.
    """

    rows: list[VerifyRow]
    holds: bool
    absent: int


@dataclass(frozen=True)
class Aggregated:
    """An aggregate, made or planned.

    Attributes:
        commit: the aggregate.
        branch: the branch.
        parent: its parent.
        inputs: its inputs.
        persons: persons among the inputs.
        needed: persons needed.
        withstands: dishonest persons among them that the rule withstands; none where it promises nothing of the kind.
        model: the resulting model; none for a dry run.
        published: whether it was published.
        rule: the rule in words.
    """

    commit: str
    branch: str
    parent: str
    inputs: list[AggregateInput]
    persons: int
    needed: int
    withstands: int | None
    model: str | None
    published: bool
    rule: str
