"""The working folder: status, drafts, push, pull and the other moves."""

from __future__ import annotations

from dataclasses import dataclass

from .. import html
from .privacy import PrivateDraft


@dataclass(frozen=True)
class Metric:
    """One measurement.

    Attributes:
        split: the split, `val` say.
        name: the metric, `loss` say.
        value: its value.
        n: on how many examples; 0 when not said.
    """

    split: str
    name: str
    value: float
    n: int


@dataclass(frozen=True)
class Change:
    """A file that differs.

    Attributes:
        file: the file.
        state: `modified`, `missing`, or why it can't be committed.
        tensors: names of tensors that differ, at most 20.
        count: how many differ.
        total: of how many.
    """

    file: str
    state: str
    tensors: list[str]
    count: int
    total: int


@dataclass(frozen=True)
class RoleCount:
    """Tensors of one role.

    Attributes:
        role: the role.
        tensors: how many have it.
        elements: how many numbers they hold.
        example: one of them.
        treatment: what aggregation does with them, in words.
    """

    role: str
    tensors: int
    elements: int
    example: str
    treatment: str


@dataclass(frozen=True)
class Draft:
    """A local commit that was not pushed.

    Attributes:
        id: the draft's id.
        message: its message.
        examples: its examples.
        changed: tensors that it changes.
        privacy: what it claims of privacy, in words; none where it claims nothing.
        time: milliseconds since 1970.
    """

    id: str
    message: str
    examples: int
    changed: int
    privacy: str | None
    time: int


@dataclass(frozen=True)
class UpdateNote:
    """An update and what became of it.

    Attributes:
        commit: the update.
        state: `in-head`, `pending`, `skipped`, `dropped`, `void`, `queued`.
        words: in words, with the reason.
    """

    commit: str
    state: str
    words: str


@dataclass(frozen=True)
class JoinWaiting:
    """Somebody asks to join.

    Attributes:
        person: who.
        name: what they call themselves.
        time: milliseconds since 1970 by their clock.
    """

    person: str
    name: str
    time: int


@dataclass(frozen=True)
class WorkStatus:
    """The folder's side of the status.

    Attributes:
        folder: the working folder.
        base: the commit the folder stands on.
        behind: commits (aggregates and steps) the base is behind the head; none when it is not on the head's path.
        local: names of the tensors that are this site's own (role `local`): no commit has their values.
        changes: files and tensors that differ from base and drafts.
        drafts: drafts, oldest first.
        queued: updates that are signed and wait for a peer.
    """

    folder: str
    base: str
    behind: int | None
    local: list[str]
    changes: list[Change]
    drafts: list[Draft]
    queued: list[str]


@dataclass(frozen=True)
class Status:
    """Where folder and repository stand.

    Attributes:
        repo: the repository.
        name: its name.
        private: whether only who has a role may read the repository.
        role: this person's role.
        node: whether a node is running.
        peers: peers connected for this repository.
        branch: the branch (of the folder, else `main`).
        head: the branch's head.
        head_verified: whether the head is here, run by this node or taken over as attested and not contradicted.
        head_attested: who attests the head, where it was taken over and not run.
        trust: what this node takes as others attest it, and how the head came here; none where it runs everything.
        history: from where on history is here, in words; none where all of it is, or will be.
        work: the folder's side of things; none without a folder.
        last_update: this person's last update, and what became of it.
        pending: updates that wait for the next aggregate.
        persons: persons among them.
        needed: persons the next aggregate needs.
        joins: join requests that wait for this person.
        proposed: steps of the branch that wait for accepts, in words.
        asked: what else waits for this person: reviews, changes of the policy.
        privacy: privacy spent, in words.
        warnings: anything wrong, in words.
    """

    repo: str
    name: str
    private: bool
    role: str
    node: bool
    peers: int
    branch: str
    head: str | None
    head_verified: bool
    head_attested: list[str]
    trust: str | None
    history: str | None
    work: WorkStatus | None
    last_update: UpdateNote | None
    pending: int
    persons: int
    needed: int
    joins: list[JoinWaiting]
    proposed: list[str]
    asked: list[str]
    privacy: str
    warnings: list[str]

    def _repr_html_(self) -> str:
        return html.status(self)


@dataclass(frozen=True)
class Committed:
    """A draft was made.

    Attributes:
        draft: the draft.
        total: tensors in the model.
        privacy: what it was made private with; none where it was not.
        warnings: what to mind before pushing.
    """

    draft: Draft
    total: int
    privacy: PrivateDraft | None
    warnings: list[str]


@dataclass(frozen=True)
class EgressBlob:
    """A blob that leaves.

    Attributes:
        id: its id.
        bytes: its size in bytes.
        what: what it holds, in words.
    """

    id: str
    bytes: int
    what: str


@dataclass(frozen=True)
class EgressField:
    """A field that leaves.

    Attributes:
        name: the field.
        value: its value as text.
    """

    name: str
    value: str


@dataclass(frozen=True)
class Pushed:
    """What left, or would leave.

    Attributes:
        commit: the update; none for a dry run.
        base: its base.
        peers: peers that were told; 0 means it waits for the next connection.
        blobs: every blob.
        fields: every stated field.
        bytes: bytes of all blobs.
        warnings: what to mind.
    """

    commit: str | None
    base: str
    peers: int
    blobs: list[EgressBlob]
    fields: list[EgressField]
    bytes: int
    warnings: list[str]


@dataclass(frozen=True)
class Moved:
    """Where the folder stands after a move.

    Attributes:
        branch: the branch.
        from_: the commit it stood on.
        to: the commit it stands on.
        model: the model it holds.
        files: files that were written.
        words: in words.
        warnings: what to mind.
    """

    branch: str
    from_: str
    to: str
    model: str
    files: list[str]
    words: str
    warnings: list[str]


@dataclass(frozen=True)
class ExternalBase:
    """The model that an adapter is for.

    Attributes:
        name: what it is called where it was pinned.
        tensors: how many it has.
        path: where this machine has it, as far as it was told.
        checked: whether its files there were compared, and did not change since.
    """

    name: str
    tensors: int
    path: str | None
    checked: bool


@dataclass(frozen=True)
class ResetDone:
    """Drafts were undone.

    Attributes:
        undone: the drafts that were undone.
        left: drafts that are left.
        restored: whether files were written.
    """

    undone: list[Draft]
    left: int
    restored: bool


@dataclass(frozen=True)
class Done:
    """Something was done.

    Attributes:
        words: in words, a sentence each.
    """

    words: list[str]
