"""What work comes to (chapter 10 from *Effect* on): branches, commits, claims, heads, what is pending.

Two more bounds that no history of the test can reach are left out: 1,000 branches, and 65 publications or evaluations of
one commit by an author whose chain forks.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from authority import CONTRIBUTOR, DELEGATE, MAINTAINER, NOBODY, READER, VERIFIER, ROLES, Authority
from encoding import (
    APPROVE, ATTEST, CREATE, DELETE, EVALUATE, GENESIS, GRANT, INVITE, PUBLISH, REFUTE, RENAME, RESOLVE, REVIEW,
    REVISION, REVOKE, Commit, text,
)  # fmt: skip

# How many own updates there may be in a row; how often a commit may be published, and reviewed or evaluated, by one
# author.
ROW, PUBLICATIONS, JUDGEMENTS = 64, 4, 16


def inputs(commit: Commit) -> list[bytes]:
    """The updates that a commit takes in."""
    if commit.kind == "step":
        return commit.fields["change"].get("external", {}).get("inputs", [])
    return commit.fields.get("inputs", [])


def merge(commit: Commit) -> dict[str, Any] | None:
    """What a commit merges, and how."""
    return commit.fields["change"].get("merge") if commit.kind == "step" else None


def recipe(commit: Commit) -> bool:
    """Whether others can check what a commit's model is."""
    return commit.kind == "aggregate" or merge(commit) is not None


class Work:
    """The effects of operations within any past of a history."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.ops = authority.ops
        self.commits: dict[bytes, Commit] = {}
        self.published: dict[bytes, list[int]] = defaultdict(list)
        self.creates: dict[bytes, int] = {}
        self.of_kind: dict[int, list[int]] = defaultdict(list)
        for x, one in enumerate(self.ops):
            self.of_kind[one.kind].append(x)
            if one.commit:
                self.commits[one.commit.id] = one.commit
                self.published[one.commit.id].append(x)
            if one.kind == CREATE:
                self.creates[one.id] = x
        self._effective: dict[tuple[int, int], bool] = {}
        self._accepts: dict[tuple[bytes, int], set[bytes]] = {}

    def effective(self, x: int, within: int) -> bool:
        """Whether x has an effect."""
        key = (x, within)
        if key not in self._effective:
            self._effective[key] = self._has_effect(x, within)
        return self._effective[key]

    def _has_effect(self, x: int, within: int) -> bool:
        one, authority = self.ops[x], self.authority
        if one.kind in (GENESIS, REVISION, APPROVE, RESOLVE):
            return authority.proper(x)
        rank = authority.rank(x, within)
        if rank in (NOBODY, READER):
            return False
        if one.kind in (GRANT, REVOKE):
            return authority.right(x, within)
        if one.kind == INVITE:
            return rank >= MAINTAINER and ROLES.index(one.body["role"]) < rank
        if one.kind in (CREATE, RENAME, DELETE):
            return rank >= MAINTAINER and self.allowed(x, within)
        if one.kind == REVIEW:
            least = VERIFIER if one.body["judgement"] == "comment" else MAINTAINER
            return rank >= least and self.allowed(x, within)
        if one.kind in (ATTEST, REFUTE, EVALUATE):
            return self.allowed(x, within)
        if rank < CONTRIBUTOR or not self.allowed(x, within):
            return False
        if one.commit.kind == "initial":
            return rank == DELEGATE and self._is_first(x, within)
        if one.commit.kind == "step":
            return authority.number[one.commit.fields["policy"]] in authority.chain(within)
        if one.commit.kind == "aggregate":
            enough = rank >= MAINTAINER or self._persons(x) >= self._needed(x)
            return enough and authority.number[one.commit.fields["policy"]] in authority.chain(within)
        return True

    def allowed(self, x: int, within: int) -> bool:
        """Whether what an operation asks of its own past is there, rank apart."""
        one, past = self.ops[x], self.authority.past[x]
        if one.kind == CREATE:
            return True
        if one.kind in (RENAME, DELETE):
            return self._open(one.body["branch"], x, within)
        if one.kind in (ATTEST, REFUTE):
            named = self.commits.get(one.body["commit"])
            return named is not None and recipe(named) and self.counts(named.id, past, within)
        if one.kind in (REVIEW, EVALUATE):
            counted = [y for y in self._alike(x) if one.kind == EVALUATE or self._judges(y)]
            return self._judges(x) and len(counted) < JUDGEMENTS
        commit = one.commit
        before = [y for y in self._own(x) if self.ops[y].commit and self.ops[y].commit.id == commit.id]
        if len(before) >= PUBLICATIONS or not self._open(commit.branch, x, within):
            return False
        if commit.kind == "initial":
            return True
        if commit.kind == "update":
            return self._update(x, commit, within)
        if not self._goes_on(x, commit, within):
            return False
        if commit.kind == "step":
            return self._changes(x, commit, within)
        return self._take_in(x, commit, within)

    def _judges(self, x: int) -> bool:
        """Whether what a review or evaluation names was published where it was signed, and is compared with its base."""
        one = self.ops[x]
        if not any(self.authority.past[x] >> y & 1 for y in self.published[one.body["commit"]]):
            return False
        return one.kind == REVIEW or one.body["base"] == self._base(self.commits[one.body["commit"]])

    def _alike(self, x: int) -> list[int]:
        """What its author said of the same commit before, in their own chain."""
        kind, about = self.ops[x].kind, self.ops[x].body["commit"]
        return [y for y in self._own(x) if self.ops[y].kind == kind and self.ops[y].body["commit"] == about]

    @staticmethod
    def _base(commit: Commit) -> bytes | None:
        """What a commit starts from."""
        return commit.fields.get("base", commit.fields.get("parent"))

    def _own(self, x: int) -> list[int]:
        """The operations before x in its author's own chain."""
        own = []
        while self.ops[x].prev is not None:
            x = self.authority.number[self.ops[x].prev]
            own.append(x)
        return own

    def _open(self, branch: bytes, x: int, within: int) -> bool:
        """Whether a branch exists and is not deleted where x was signed."""
        past, create = self.authority.past[x], self.creates.get(branch)
        if create is None or not past >> create & 1 or not self.effective(create, within):
            return False
        return not self.deleted(branch, past ^ (1 << x), within)

    def deleted(self, branch: bytes, among: int, within: int) -> bool:
        """Whether one of some operations deletes a branch."""
        return any(
            among >> y & 1 and self.ops[y].body["branch"] == branch and self.effective(y, within)
            for y in self.of_kind[DELETE]
        )

    def publications(self, commit: bytes, within: int) -> list[int]:
        """The publications of a commit that have an effect."""
        return [y for y in self.published[commit] if within >> y & 1 and self.effective(y, within)]

    def counts(self, commit: bytes, among: int, within: int) -> bool:
        """Whether one of some operations publishes a commit with effect."""
        return any(among >> y & 1 and self.effective(y, within) for y in self.published[commit])

    def _is_first(self, x: int, within: int) -> bool:
        """Whether x publishes the first commit of its branch, or publishes it again."""
        commit = self.ops[x].commit
        if self._from(commit.branch, within) is not None:
            return False
        for y in self.of_kind[PUBLISH]:
            if y >= x:
                return True
            other = self.ops[y].commit
            if other.kind == "initial" and other.branch == commit.branch and within >> y & 1:
                if self.effective(y, within):
                    return other.id == commit.id
        return True

    def _from(self, branch: bytes, within: int) -> bytes | None:
        """The commit that a branch was created from, if it is one that a branch can start from."""
        create = self.creates[branch]
        start = self.commits.get(self.ops[create].body["from"])
        if start is None or start.kind == "update" or not self.counts(start.id, self.authority.past[create], within):
            return None
        return start.id

    def root(self, branch: bytes, among: int, within: int) -> bytes | None:
        """The commit that a branch starts from, by what some operations say."""
        start = self._from(branch, within)
        if start is not None:
            return start
        for y in self.of_kind[PUBLISH]:
            commit = self.ops[y].commit
            if commit.kind == "initial" and commit.branch == branch and among >> y & 1:
                if self.effective(y, within):
                    return commit.id
        return None

    def _update(self, x: int, commit: Commit, within: int) -> bool:
        past = self.authority.past[x]
        base = self.commits.get(commit.fields["base"])
        if base is None:
            return False
        if base.kind == "update":
            alike = base.branch == commit.branch and base.fields["author"] == commit.fields["author"]
            if not alike or not self._stands(base.id, past, within) or self._row(commit) > ROW:
                return False
        elif not self.counts(base.id, past, within) or not self._of_branch(base, commit.branch, past, within):
            return False
        return self.architecture(commit) == self.architecture(base)

    def _stands(self, update: bytes, past: int, within: int) -> bool:
        """Whether an update is in a past, its author with standing there."""
        return any(
            past >> y & 1 and self.authority.rank(y, past) >= CONTRIBUTOR and self.allowed(y, within)
            for y in self.published[update]
        )

    def architecture(self, commit: Commit) -> bytes:
        """The architecture of a commit's model."""
        while commit.kind in ("aggregate", "step"):
            before = commit.fields["parent"]
            if commit.kind == "step":
                ((kind, change),) = commit.fields["change"].items()
                if kind == "migrate":
                    return change["architecture"]
                before = change["target"] if kind == "revert" else before
            commit = self.commits[before]
        return commit.fields["architecture"]

    def _of_branch(self, commit: Commit, branch: bytes, among: int, within: int) -> bool:
        """Whether something is a branch's root, or an aggregate or step of it."""
        made = commit.kind in ("aggregate", "step") and commit.branch == branch
        return made or commit.id == self.root(branch, among, within)

    def _row(self, commit: Commit) -> int:
        """How many updates stand on each other, up to this one."""
        row = 0
        while commit.kind == "update":
            row += 1
            commit = self.commits[commit.fields["base"]]
        return row

    def start(self, commit: bytes) -> bytes:
        """The aggregate, step or first commit that a chain of updates starts from."""
        while self.commits[commit].kind == "update":
            commit = self.commits[commit].fields["base"]
        return commit

    def line(self, commit: bytes) -> list[bytes]:
        """An aggregate or step and those before it, down to a first commit."""
        line = [commit]
        while "parent" in self.commits[line[-1]].fields:
            line.append(self.commits[line[-1]].fields["parent"])
        return line

    def staleness(self, update: bytes, parent: bytes) -> int | None:
        """How far an update is behind; none if it is foreign."""
        here, there = self.line(parent), self.line(self.start(update))
        common = next((commit for commit in here if commit in there), None)
        return None if common is None else here.index(common) + there.index(common)

    def taken(self, parent: bytes) -> set[bytes]:
        """What is taken in at or above an aggregate."""
        return {taken for one in self.line(parent) for taken in inputs(self.commits[one])}

    def _goes_on(self, x: int, commit: Commit, within: int) -> bool:
        """Whether an aggregate or step continues its branch, by a policy that is not older."""
        authority, past = self.authority, self.authority.past[x]
        policy = authority.number.get(commit.fields["policy"])
        chain = authority.chain(past)
        parent = self.commits.get(commit.fields["parent"])
        if policy not in chain or parent is None or not self.counts(parent.id, past, within):
            return False
        if not self._of_branch(parent, commit.branch, past, within):
            return False
        if "policy" in parent.fields:
            before = authority.number[parent.fields["policy"]]
            return before in chain and chain.index(before) <= chain.index(policy)
        return True

    def _changes(self, x: int, step: Commit, within: int) -> bool:
        """Whether what a step changes can be changed so."""
        parent, ((kind, change),) = self.commits[step.fields["parent"]], step.fields["change"].items()
        if kind == "revert":
            return change["target"] in self.line(parent.id)[1:]
        if kind == "migrate":
            return True
        if kind == "merge":
            return self._merges(x, change, parent, within)
        return change["architecture"] == self.architecture(parent) and self._take_in(x, step, within)

    def _merges(self, x: int, change: dict[str, Any], parent: Commit, within: int) -> bool:
        """Whether one commit can be merged into another."""
        other = self.commits.get(change["other"])
        if change["kernel"] != 1 or other is None or other.kind == "update":
            return False
        if not self.counts(other.id, self.authority.past[x], within):
            return False
        common = self.history(parent.id) & self.history(other.id)
        if not common:
            return False
        nearest = self.commits[max(common, key=lambda commit: (self.height(commit), commit))]
        alike = {self.architecture(one) for one in (parent, other, nearest)}
        return nearest is not other and len(alike) == 1

    def parents(self, commit: bytes) -> list[bytes]:
        """What an aggregate or step stands on: its parent, and of a merge what is merged."""
        one = self.commits[commit]
        merged = merge(one)
        first = [one.fields["parent"]] if "parent" in one.fields else []
        return first + ([merged["other"]] if merged else [])

    def history(self, commit: bytes) -> set[bytes]:
        """A commit and all that it stands on."""
        return {commit}.union(*(self.history(one) for one in self.parents(commit)))

    def height(self, commit: bytes) -> int:
        """How many commits are on the longest way up."""
        return max((1 + self.height(one) for one in self.parents(commit)), default=0)

    def _take_in(self, x: int, commit: Commit, within: int) -> bool:
        """Whether the inputs of an aggregate or external can go in."""
        authority, past = self.authority, self.authority.past[x]
        parent = self.commits[commit.fields["parent"]]
        rules = authority.revisions[authority.number[commit.fields["policy"]]].policy
        taken = self.taken(parent.id)
        named = inputs(commit)
        for one in named:
            update = self.commits.get(one)
            if update is None or update.kind != "update" or update.branch != commit.branch:
                return False
            if not self._stands(one, past, within) or one in taken:
                return False
            if update.fields["architecture"] != self.architecture(parent):
                return False
            base = update.fields["base"]
            if self.commits[base].kind == "update" and base not in taken and base not in named:
                return False
            behind = self.staleness(one, parent.id)
            if behind is None or behind > rules["aggregation"]["max_staleness"]:
                return False
            if not self.passes(one, rules, past):
                return False
        return True

    def _authors(self, inputs: list[bytes]) -> set[bytes]:
        return {self.commits[one].fields["author"] for one in inputs}

    def _persons(self, x: int) -> int:
        return len(self._authors(self.ops[x].commit.fields["inputs"]))

    def _needed(self, x: int) -> int:
        """Of how many persons an aggregate must take something in."""
        commit = self.ops[x].commit
        policy = self.authority.revisions[self.authority.number[commit.fields["policy"]]].policy
        every = policy["aggregation"]["every"]
        if every != "auto":
            return max(1, every["persons"])
        persons = self._authors(commit.fields["inputs"])
        before = [self.commits[one] for one in self.line(commit.fields["parent"])]
        took = [one for one in before if inputs(one) and one.branch == commit.branch]
        for one in took[:5]:
            persons |= self._authors(inputs(one))
        active = len(persons)
        return min(max(-(-3 * active // 4), 2), max(active, 1))

    @staticmethod
    def asked(policy: dict[str, Any], branch: bytes) -> int:
        """How many accepts a policy asks for on a branch."""
        return next((rule["accepts"] for rule in policy.get("branches", []) if rule["branch"] == branch), 0)

    def accepts(self, update: bytes, policy: dict[str, Any], within: int) -> int:
        """How many persons' last word on an update is an accept."""
        key = (update, within)
        if key not in self._accepts:
            last: dict[bytes, str] = {}
            for y in self.of_kind[REVIEW]:
                one = self.ops[y]
                if within >> y & 1 and one.body["commit"] == update and one.body["judgement"] != "comment":
                    if self.effective(y, within):
                        last[one.author] = one.body["judgement"]
            self._accepts[key] = {person for person, judgement in last.items() if judgement == "accept"}
        commit, persons = self.commits[update], self._accepts[key]
        if self.asked(policy, commit.branch) >= 2:
            persons = persons - {commit.fields["author"]}
        return len(persons)

    def passes(self, update: bytes, policy: dict[str, Any], within: int) -> bool:
        """Whether an update has the accepts and evaluations that its branch asks for."""
        branch = self.commits[update].branch
        if self.accepts(update, policy, within) < self.asked(policy, branch):
            return False
        rules = [rule.get("require", []) for rule in policy.get("branches", []) if rule["branch"] == branch]
        return all(self._meeting(update, one, within) >= one["from"] for rule in rules for one in rule)

    def _meeting(self, update: bytes, requirement: dict[str, Any], within: int) -> int:
        """How many persons' last word on what is required meets it."""
        last: dict[bytes, bool] = {}
        for y in self.of_kind[EVALUATE]:
            one = self.ops[y]
            if not within >> y & 1 or one.body["commit"] != update or not self.effective(y, within):
                continue
            for metric in one.body["metrics"]:
                if metric["name"] == requirement["metric"]:
                    bound = requirement["value"]
                    if requirement["base"]:
                        bound = metric["base"] + bound
                    least = requirement["bound"] == "at-least"
                    last[one.author] = metric["value"] >= bound if least else metric["value"] <= bound
        last.pop(self.commits[update].fields["author"], None)
        return sum(last.values())

    def accepted(self, step: bytes) -> bool:
        """Whether as many accepted a step as the policy that it names asks for."""
        whole, fields = self.authority.all, self.commits[step].fields
        by = {self.ops[x].author for x in self.publications(step, whole) if self._decides(x)}
        for x in self.of_kind[REVIEW]:
            one = self.ops[x].body
            if one["commit"] == step and one["judgement"] == "accept" and self.effective(x, whole):
                by.add(self.ops[x].author)
        policy = self.authority.revisions[self.authority.number[fields["policy"]]].policy
        needed = max(1, self.asked(policy, fields["branch"]))
        if needed >= 2:
            by.discard(fields["author"])
        return len(by) >= needed

    def _decides(self, x: int) -> bool:
        """Whether an operation was signed as a maintainer or delegate."""
        return self.authority.rank(x, self.authority.all) >= MAINTAINER

    def proposed(self, branch: bytes) -> list[bytes]:
        """The steps of a branch that lack accepts."""
        steps: dict[bytes, None] = {}
        for x in self.of_kind[PUBLISH]:
            commit = self.ops[x].commit
            if commit.kind == "step" and commit.branch == branch and self.effective(x, self.authority.all):
                steps[commit.id] = None
        return [step for step in steps if not self.accepted(step)]

    # What is read from the whole set.

    def names(self) -> dict[bytes, str]:
        """What branches are called."""
        whole = self.authority.all
        given = {}
        for x, one in enumerate(self.ops):
            if one.kind in (CREATE, RENAME) and self.effective(x, whole):
                given[one.id if one.kind == CREATE else one.body["branch"]] = one.body["name"]
        keeper: dict[str, bytes] = {}
        for branch in sorted(given):
            if not self.deleted(branch, whole, whole):
                keeper.setdefault(given[branch], branch)
        bare = {branch: keeper.get(name, branch) == branch for branch, name in given.items()}
        return {branch: name if bare[branch] else f"{name}~{text(branch)[:10]}" for branch, name in given.items()}

    def claims(self, commit: bytes) -> tuple[dict[str, bytes] | None, bool]:
        """An aggregate's result, and whether it is skipped."""
        words: dict[bytes, tuple[bool, dict[str, bytes]]] = {}
        for x, one in enumerate(self.ops):
            about = one.commit.id if one.commit else one.body.get("commit")
            if about == commit and one.kind in (PUBLISH, ATTEST, REFUTE) and self.effective(x, self.authority.all):
                against = one.kind == REFUTE
                words[one.author] = (not against, one.body["claimed" if against else "result"])
        supporters: dict[tuple[bytes, bytes], int] = defaultdict(int)
        refuters: dict[tuple[bytes, bytes], int] = defaultdict(int)
        for supports, outcome in words.values():
            (supporters if supports else refuters)[outcome["model"], outcome["state"]] += 1
        outcomes = sorted(
            supporters.keys() | refuters.keys(),
            key=lambda one: (supporters[one] == 0, refuters[one] - supporters[one], one),
        )
        if not outcomes:
            return None, False
        best = outcomes[0]
        result = {"model": best[0], "state": best[1]} if supporters[best] else None
        return result, refuters[best] > supporters[best]

    def vote(self, branch: bytes) -> dict[bytes, bytes]:
        """What each person's latest effective operation on a branch names."""
        votes = {}
        for x, one in enumerate(self.ops):
            if one.kind not in (PUBLISH, ATTEST, REFUTE):
                continue
            commit = one.commit or self.commits.get(one.body["commit"])
            if commit and commit.branch == branch and self.effective(x, self.authority.all):
                if one.kind == REFUTE:
                    votes[one.author] = commit.fields["parent"]
                else:
                    votes[one.author] = self.start(commit.id)
        return votes

    def path(self, branch: bytes) -> list[bytes]:
        """From the root of a branch to its head."""
        whole = self.authority.all
        root = self.root(branch, whole, whole)
        if root is None:
            return []
        children: dict[bytes, list[bytes]] = defaultdict(list)
        for commit in self.commits.values():
            made = commit.kind in ("aggregate", "step") and commit.branch == branch
            if made and self.publications(commit.id, whole):
                children[commit.fields["parent"]].append(commit.id)
        voted = self.vote(branch).values()

        def weight(commit: bytes) -> int:
            return sum(vote == commit for vote in voted) + sum(map(weight, children[commit]))

        path = [root]
        while True:
            ahead = [child for child in children[path[-1]] if self._may_follow(child)]
            if not ahead:
                return path
            path.append(min(ahead, key=lambda child: (self.commits[child].kind != "step", -weight(child), child)))

    def _may_follow(self, commit: bytes) -> bool:
        """Whether a path may go over an aggregate or step."""
        one = self.commits[commit]
        accepted = one.kind != "step" or self.accepted(commit)
        return accepted and not (recipe(one) and self.claims(commit)[1])

    def updates(self, branch: bytes, path: list[bytes]) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """What is pending, waiting and dropped on a branch."""
        whole = self.authority.all
        policy = self.authority.policy(whole)
        taken = self.taken(path[-1]) if path else set()
        deleted = self.deleted(branch, whole, whole)
        pending: list[bytes] = []
        waiting: list[bytes] = []
        dropped: list[bytes] = []
        first: dict[bytes, int] = {}
        for x in self.of_kind[PUBLISH]:
            commit = self.ops[x].commit
            if commit.kind == "update" and commit.branch == branch and self.effective(x, whole):
                first.setdefault(commit.id, x)
        for update in first:
            if update in taken:
                continue
            base = self.commits[update].fields["base"]
            behind = self.staleness(update, path[-1]) if path else None
            alone = self.commits[base].kind != "update"
            foreign = behind is None or self.commits[update].fields["architecture"] != self.architecture(
                self.commits[path[-1]]
            )
            if deleted or foreign or behind > policy["aggregation"]["max_staleness"]:
                dropped.append(update)
            elif not alone and base not in taken and base not in pending and base not in waiting:
                dropped.append(update)
            elif base in waiting or not self.passes(update, policy, whole):
                waiting.append(update)
            else:
                pending.append(update)
        return pending, waiting, dropped
