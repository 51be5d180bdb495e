"""Members, branches, reviews, tickets, peers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Approval:
    """What allows somebody to take part.

    Attributes:
        reference: what it is called.
        document: BLAKE3 of the document, where one was given.
        by: who says so, by name: who granted the role.
    """

    reference: str
    document: str | None
    by: str


@dataclass(frozen=True)
class Member:
    """A member.

    Attributes:
        person: key of the person.
        name: their name.
        role: their role; `none` once revoked.
        updates: updates published.
        me: whether it is this person.
        approval: what allows them to take part, as who granted the role says.
    """

    person: str
    name: str
    role: str
    updates: int
    me: bool
    approval: Approval | None


@dataclass(frozen=True)
class Branch:
    """A branch.

    Attributes:
        id: its id.
        name: its name.
        head: its head.
        model: the head's model.
        aggregates: aggregates on the head's path.
        pending: updates that wait.
        current: whether the folder is on it.
    """

    id: str
    name: str
    head: str | None
    model: str | None
    aggregates: int
    pending: int
    current: bool


@dataclass(frozen=True)
class Review:
    """A review.

    Attributes:
        by: who says it.
        judgement: `accept`, `reject` or `comment`.
        text: why.
        time: milliseconds since 1970 by their clock.
    """

    by: str
    judgement: str
    text: str
    time: int


@dataclass(frozen=True)
class Reviewed:
    """An update that waits for accepts.

    Attributes:
        commit: the commit.
        kind: its kind.
        branch: its branch.
        by: its author's name.
        message: its message.
        accepts: accepts that count.
        needed: accepts that the branch asks for.
        mine: whether this person's judgement can still help.
        evaluations: requirements of the branch that too few others have measured it to meet, in words.
        reviews: what was said of it.
    """

    commit: str
    kind: str
    branch: str
    by: str
    message: str
    accepts: int
    needed: int
    mine: bool
    evaluations: list[str]
    reviews: list[Review]


@dataclass(frozen=True)
class TicketMade:
    """A ticket was made.

    Attributes:
        ticket: the one string.
        name: the repository's name.
        private: whether only who has a role may read the repository.
        role: the invite's role.
        uses: the invite's uses.
        addresses: addresses in the ticket.
        warnings: what to mind: no node runs, say, so the ticket names no address.
    """

    ticket: str
    name: str
    private: bool
    role: str | None
    uses: int | None
    addresses: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Joined:
    """How a join request stands.

    Attributes:
        role: the role now.
        waiting: whether the request still waits for a delegate.
        words: in words.
    """

    role: str
    waiting: bool
    words: str


@dataclass(frozen=True)
class Peer:
    """A peer.

    Attributes:
        key: its key.
        name: the name it has as a member somewhere.
        addresses: its addresses.
        connected: whether it is connected now.
        banned: whether it was banned for provably wrong messages.
        score: its score; below 0 is bad.
    """

    key: str
    name: str | None
    addresses: list[str]
    connected: bool
    banned: bool
    score: int
