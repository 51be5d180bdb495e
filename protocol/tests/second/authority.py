"""Who may do what (chapter 10 up to *Forked*), the way the document says it and no faster than it must be.

Operations are numbered in their order, (lamport, id). A set of operations is an integer whose bit `x` stands for
operation `x`; what the document judges "within H" takes such a set as `within`. Bounds that no history of the test can
reach (64 role changes of a person by one signer, 10,000 members) are left out, and so are levels above 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from encoding import APPROVE, GENESIS, GRANT, NOTHING, RESOLVE, REVISION, REVOKE, Operation, decode

READER, VERIFIER, CONTRIBUTOR, MAINTAINER, DELEGATE = range(5)
ROLES = ["reader", "verifier", "contributor", "maintainer", "delegate"]
NOBODY = -1


def members(of: int) -> Iterator[int]:
    """The operations in a set, in their order."""
    while of:
        lowest = of & -of
        yield lowest.bit_length() - 1
        of ^= lowest


@dataclass
class Revision:
    """A proper revision of the policy, or the genesis."""

    parent: int | None
    version: int
    policy: dict[str, Any]
    cuts: dict[bytes, list[bytes]]


class Authority:
    """Policy and roles within any past of a history."""

    def __init__(self, operations: list[Operation]) -> None:
        self.ops = sorted(operations, key=lambda one: (one.lamport, one.id))
        self.number = {one.id: x for x, one in enumerate(self.ops)}
        self.past: list[int] = []
        self.all = (1 << len(self.ops)) - 1
        # By author and by number: what they signed. By person: grants and revocations of theirs.
        self.signed: dict[bytes, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        self.changes: dict[bytes, list[int]] = defaultdict(list)
        for x, one in enumerate(self.ops):
            past = 1 << x
            for dep in one.deps:
                past |= self.past[self.number[dep]]
            self.past.append(past)
            self.signed[one.author][one.seq].append(x)
            if one.kind in (GRANT, REVOKE):
                self.changes[one.body["person"]].append(x)
        self.forks = {
            author: [(seq, sum(1 << x for x in same)) for seq, same in numbers.items() if len(same) > 1]
            for author, numbers in self.signed.items()
        }
        self.revisions: dict[int, Revision] = {}
        self.votes: dict[int, int] = {}
        self.about_policy = 0
        for x in range(len(self.ops)):
            self._policy_operation(x)
        self.sound = [self._sound(x) for x in range(len(self.ops))]
        self._chains: dict[int, tuple[list[int], list[int]]] = {}
        self._signer: dict[tuple[int, int], int] = {}
        self._right: dict[tuple[int, int], bool] = {}
        self._rank: dict[tuple[int, int], int] = {}

    def seen(self, x: int, y: int) -> bool:
        """Whether x has seen y."""
        return bool(self.past[x] >> y & 1)

    # The policy.

    def _policy_operation(self, x: int) -> None:
        """Notes x if it is a proper operation about the policy, or the genesis."""
        one = self.ops[x]
        if one.kind == GENESIS:
            self.revisions[x] = Revision(None, 0, one.body["policy"], {})
        elif one.kind == REVISION:
            parent = self.number.get(one.body["parent"])
            on = self.revisions.get(parent) if parent is not None and self.seen(x, parent) else None
            if not on or one.body["version"] != on.version + 1 or one.author not in on.policy["delegates"]:
                return
            cuts = {cut["person"]: cut["keep"] for cut in one.body["cuts"]}
            self.revisions[x] = Revision(parent, on.version + 1, decode(one.body["policy"]), cuts)
        elif one.kind in (APPROVE, RESOLVE):
            about = self.number.get(one.body["revision"])
            if about is None or not self.seen(x, about) or about not in self.revisions:
                return
            parent = self.revisions[about].parent
            if parent is None or one.author not in self.revisions[parent].policy["delegates"]:
                return
            self.votes[x] = about
        else:
            return
        self.about_policy |= 1 << x

    def proper(self, x: int) -> bool:
        """Whether x is a proper operation about the policy."""
        return bool(self.about_policy >> x & 1)

    def chain(self, within: int) -> list[int]:
        """The revisions passed, the one in force last."""
        return self._walk(within)[0]

    def frozen(self, within: int) -> list[int]:
        """The approved children among which nobody has chosen yet."""
        return self._walk(within)[1]

    def policy(self, within: int) -> dict[str, Any]:
        """The policy in force."""
        return self.revisions[self.chain(within)[-1]].policy

    def _walk(self, within: int) -> tuple[list[int], list[int]]:
        known = within & self.about_policy
        if known not in self._chains:
            self._chains[known] = self._step(known)
        return self._chains[known]

    def _step(self, known: int) -> tuple[list[int], list[int]]:
        chain = [0]
        while True:
            threshold = self.revisions[chain[-1]].policy["threshold"]
            approved = []
            for child in members(known):
                if child in self.revisions and self.revisions[child].parent == chain[-1]:
                    delegates = {self.ops[child].author}
                    for x in members(known):
                        if self.ops[x].kind == APPROVE and self.votes[x] == child:
                            delegates.add(self.ops[x].author)
                    if len(delegates) >= threshold:
                        approved.append(child)
            if len(approved) > 1:
                chosen = self._resolved(known, approved, threshold)
                if chosen is None:
                    return chain, approved
                approved = [chosen]
            if not approved:
                return chain, []
            chain.append(approved[0])

    def _resolved(self, known: int, approved: list[int], threshold: int) -> int | None:
        rounds: dict[int, dict[int, set[bytes]]] = defaultdict(lambda: defaultdict(set))
        for x in members(known):
            if self.ops[x].kind == RESOLVE and self.votes[x] in approved:
                rounds[self.ops[x].body["round"]][self.votes[x]].add(self.ops[x].author)
        for number in sorted(rounds, reverse=True):
            enough = [child for child, delegates in rounds[number].items() if len(delegates) >= threshold]
            if len(enough) == 1:
                return enough[0]
        return None

    def dismisses(self, revision: int, person: bytes) -> bool:
        """Whether a revision cuts somebody or no longer has them as a delegate."""
        this = self.revisions[revision]
        if person in this.cuts:
            return True
        if this.parent is None:
            return False
        return person in self.revisions[this.parent].policy["delegates"] and person not in this.policy["delegates"]

    def spares(self, revision: int, x: int) -> bool:
        """Whether a revision that dismisses the author of x leaves x alone."""
        keep = self.revisions[revision].cuts.get(self.ops[x].author)
        return self.seen(revision, x) if keep is None else self.under(keep, x)

    def under(self, keep: list[bytes], x: int) -> bool:
        """Whether x is at or under what is kept."""
        return any(one in self.number and self.seen(self.number[one], x) for one in keep)

    # Standing.

    def _sound(self, x: int) -> bool:
        """Whether the header names a revision that there is."""
        if self.ops[x].policy == NOTHING:
            return x == 0
        revision = self.number.get(self.ops[x].policy)
        return revision is not None and revision in self.revisions and self.seen(x, revision)

    def fork_seen(self, by: int, x: int) -> bool:
        """Whether a set holds two operations of one number, not above that of x, by the author of x."""
        one = self.ops[x]
        return any(seq <= one.seq and (same & by).bit_count() > 1 for seq, same in self.forks[one.author])

    def forked(self, x: int, role: int, within: int) -> bool:
        """Whether x loses its standing in a role to a fork."""
        if not self.fork_seen(within, x):
            return False
        return not any(not self.fork_seen(self.past[v], x) for v in self.vouchers(x, role, within))

    def vouchers(self, x: int, role: int, within: int) -> Iterator[int]:
        """Operations that have seen x, of others whose word counts above a role; of delegates without a fork for
        a delegate's."""
        author = self.ops[x].author
        for v in members(within >> (x + 1) << (x + 1)):
            if self.seen(v, x) and self.ops[v].author != author:
                if role == DELEGATE:
                    whole = all((same & within).bit_count() < 2 for _, same in self.forks[self.ops[v].author])
                    if whole and self.sound[v] and self._named(v, within):
                        yield v
                elif self.signer(v, within) > role:
                    yield v

    def _named(self, x: int, within: int) -> bool:
        """Whether the policy makes the author of x a delegate for it, forks apart."""
        here, there = self.chain(within), self.chain(self.past[x])
        common = 0
        while common < min(len(here), len(there)) and here[common] == there[common]:
            common += 1
        author = self.ops[x].author
        if author not in self.revisions[here[common - 1]].policy["delegates"]:
            return False
        return all(self.spares(later, x) for later in here[common:] if self.dismisses(later, author))

    def signer(self, x: int, within: int) -> int:
        """`DELEGATE` or `MAINTAINER` where x was signed as one, else `NOBODY`."""
        key = (x, within)
        if key not in self._signer:
            if not self.sound[x]:
                rank = NOBODY
            elif self._named(x, within) and not self.forked(x, DELEGATE, within):
                rank = DELEGATE
            elif self._granted(x, {MAINTAINER}, within) == MAINTAINER:
                rank = MAINTAINER
            else:
                rank = NOBODY
            self._signer[key] = rank
        return self._signer[key]

    def rank(self, x: int, within: int) -> int:
        """The highest role that x was signed in; `NOBODY` if it has no standing."""
        key = (x, within)
        if key not in self._rank:
            rank = self.signer(x, within)
            if rank == NOBODY and self.sound[x]:
                rank = self._granted(x, {READER, VERIFIER, CONTRIBUTOR}, within)
            self._rank[key] = rank
        return self._rank[key]

    def _granted(self, x: int, roles: set[int], within: int) -> int:
        """The highest of some roles that a grant gives the author of x."""
        best = NOBODY
        for g in self.changes[self.ops[x].author]:
            if self.ops[g].kind == GRANT and self.seen(x, g) and within >> g & 1:
                role = ROLES.index(self.ops[g].body["role"])
                if role in roles and role > best and self.right(g, within) and not self.ended(g, x, within):
                    if not self.forked(x, role, within):
                        best = role
        return best

    def right(self, y: int, within: int) -> bool:
        """Whether a grant or revocation was its signer's right."""
        key = (y, within)
        if key not in self._right:
            self._right[key] = self._is_right(y, within)
        return self._right[key]

    def _is_right(self, y: int, within: int) -> bool:
        one = self.ops[y]
        person = one.body["person"]
        if person in self.policy(self.past[y])["delegates"]:
            return False
        if one.kind == GRANT and ROLES.index(one.body["role"]) == MAINTAINER:
            # Only a delegate's word counts, and nothing that maintainers said need be known.
            return self.sound[y] and self._named(y, within) and not self.forked(y, DELEGATE, within)
        signer = self.signer(y, within)
        return signer == DELEGATE or (signer == MAINTAINER and not self._maintains(person, self.past[y]))

    def _maintains(self, person: bytes, within: int) -> bool:
        """Whether somebody holds a grant as a maintainer at the end of a past."""
        for g in self.changes[person]:
            if within >> g & 1 and self.ops[g].kind == GRANT and self.ops[g].body["role"] == ROLES[MAINTAINER]:
                if self.right(g, within) and self.end(g, within) is None:
                    return True
        return False

    def _enders(self, g: int, within: int) -> Iterator[int]:
        """Grants and revocations within a past that end a grant for whoever has seen them."""
        role = ROLES.index(self.ops[g].body["role"])
        for e in self.changes[self.ops[g].body["person"]]:
            if e != g and within >> e & 1 and self.seen(e, g):
                if role == MAINTAINER:
                    above = self.sound[e] and self._named(e, within) and not self.forked(e, DELEGATE, within)
                else:
                    above = self.signer(e, within) > role
                if above and self.right(e, within):
                    yield e

    def _cutters(self, g: int, within: int) -> Iterator[int]:
        """Revisions in force, one after the other, that cut somebody and have seen a grant of theirs."""
        person = self.ops[g].body["person"]
        for revision in self.chain(within):
            if person in self.revisions[revision].cuts and self.seen(revision, g):
                yield revision

    def end(self, g: int, within: int) -> int | None:
        """The last that ended a grant for who has seen all of a past."""
        return max([*self._enders(g, within), *self._cutters(g, within)], default=None)

    def ended(self, g: int, x: int, within: int) -> bool:
        """Whether a grant is ended for x."""
        role = ROLES.index(self.ops[g].body["role"])
        for e in self._enders(g, within):
            if self.seen(x, e):
                return True
            if self.ops[e].kind == REVOKE and not self.seen(e, x) and not self.under(self.ops[e].body["keep"], x):
                if not any(not self.seen(v, e) for v in self.vouchers(x, role, within)):
                    return True
        before = self.chain(self.past[x])
        return any(cut in before or not self.spares(cut, x) for cut in self._cutters(g, within))
