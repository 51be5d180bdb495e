"""A second evaluator, written from docs/protocol.md and from nothing else: what tests/main/second.rs compares with.

    python3 evaluator.py < histories > verdicts

A history is a number of operations and then the operations, each with its length before it (numbers of four
little-endian bytes). A verdict is what they mean, a fact a line, and an empty line. Nothing here is fast: every rule is
asked anew within every past that it is asked in, and only answers are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import blake3

from authority import NOBODY, ROLES, Authority
from encoding import GRANT, INVITE, Operation, encode, operation, text
from work import Work, recipe

EXPORT = "flair/state-export/2"


def evaluate(operations: list[Operation]) -> tuple[dict[str, Any], dict[bytes, list[bytes]]]:
    """What the fingerprint is of, and each branch's path from its root to its head."""
    authority = Authority(operations)
    work = Work(authority)
    whole, ops = authority.all, authority.ops
    paths = {branch: work.path(branch) for branch, x in sorted(work.creates.items()) if work.effective(x, whole)}
    others = [x for x in range(len(ops)) if not authority.proper(x)]
    void = [x for x in others if authority.rank(x, whole) == NOBODY]
    idle = [x for x in others if authority.rank(x, whole) != NOBODY and not work.effective(x, whole)]
    export = {
        "repo": ops[0].id,
        "name": ops[0].body["name"],
        "policy": authority.policy(whole),
        "chain": [ops[x].id for x in authority.chain(whole)],
        "frozen": sorted(ops[x].id for x in authority.frozen(whole)),
        "members": list(members(authority)),
        "invites": list(invites(work)),
        "branches": list(branches(work, paths)),
        "commits": [commit(work, one) for one in sorted(work.commits)],
        "void": sorted(ops[x].id for x in void),
        "idle": sorted(ops[x].id for x in idle),
        "above": [],
        "equivocations": list(equivocations(authority)),
    }
    return export, paths


def members(authority: Authority) -> Iterator[dict[str, Any]]:
    """Everybody who has or had a role."""
    whole, ops = authority.all, authority.ops
    chain = authority.chain(whole)
    once = {person for revision in chain for person in authority.revisions[revision].policy["delegates"]}
    for person in sorted(authority.changes.keys() | once):
        grants = [g for g in authority.changes[person] if ops[g].kind == GRANT and authority.right(g, whole)]
        held = [g for g in grants if authority.end(g, whole) is None]
        role, granted, revoked = "delegate", None, None
        if person in authority.policy(whole)["delegates"]:
            pass
        elif held:
            granted = max(held, key=lambda g: (ROLES.index(ops[g].body["role"]), g))
        elif grants:
            granted = grants[-1]
            revoked = authority.end(granted, whole)
        elif person in once:
            revoked = [revision for revision in chain if authority.dismisses(revision, person)][-1]
        else:
            continue
        if granted is not None:
            role = ops[granted].body["role"]
        name = ops[grants[-1]].body["name"] if grants else ""
        yield {
            "person": person,
            "role": role,
            "name": ops[0].body["founder"] if person == ops[0].author else name,
            "granted": None if granted is None else ops[granted].id,
            "revoked": None if revoked is None else ops[revoked].id,
        }


def invites(work: Work) -> Iterator[dict[str, Any]]:
    """Invites, and how many persons they let in."""
    whole, ops = work.authority.all, work.ops
    for x in sorted(work.of_kind[INVITE], key=lambda x: ops[x].id):
        if work.effective(x, whole):
            grants = [ops[g].body for g in work.of_kind[GRANT] if work.effective(g, whole)]
            used = {grant["person"] for grant in grants if grant["invite"] == ops[x].id}
            yield {"id": ops[x].id, "role": ops[x].body["role"], "uses": ops[x].body["uses"], "used": len(used)}


def branches(work: Work, paths: dict[bytes, list[bytes]]) -> Iterator[dict[str, Any]]:
    """Branches, and the updates that go, wait to go, or do not go into their next aggregate."""
    whole, names = work.authority.all, work.names()
    for branch, path in paths.items():
        pending, waiting, dropped = work.updates(branch, path)
        proposed = work.proposed(branch)
        yield ({"proposed": proposed} if proposed else {}) | {
            "id": branch,
            "name": names[branch],
            "root": path[0] if path else None,
            "head": path[-1] if path else None,
            "pending": pending,
            "waiting": waiting,
            "dropped": dropped,
            "deleted": work.deleted(branch, whole, whole),
        }


def commit(work: Work, one: bytes) -> dict[str, Any]:
    """A commit and what people say of it."""
    result, skipped = work.claims(one) if recipe(work.commits[one]) else (None, False)
    effective = [work.ops[x].id for x in work.publications(one, work.authority.all)]
    return {"id": one, "result": result, "skipped": skipped, "effective": effective}


def equivocations(authority: Authority) -> Iterator[dict[str, Any]]:
    """Of everybody who used a number twice, the lowest such number, and the two lowest ids that have it."""
    for author, numbers in sorted(authority.signed.items()):
        twice = [seq for seq, same in numbers.items() if len(same) > 1]
        if twice:
            ids = sorted(authority.ops[x].id for x in numbers[min(twice)])
            yield {"author": author, "seq": min(twice), "operations": ids[:2]}


def lines(export: dict[str, Any], paths: dict[bytes, list[bytes]]) -> Iterator[str]:
    """A verdict as text, for whoever looks for a difference, and its fingerprint."""

    def joined(ids: Iterable[bytes | None]) -> str:
        return "".join(f" {'none' if one is None else text(one)}" for one in ids)

    for name in ("chain", "frozen", "void", "idle", "above"):
        yield name + joined(export[name])
    for one in export["members"]:
        said = joined([one["granted"], one["revoked"]])
        yield f"member {text(one['person'])} {one['role']}{said} {one['name']}".rstrip()
    for one in export["branches"]:
        yield f"branch {text(one['id'])} {one['name']}{' deleted' if one['deleted'] else ''}"
        yield f"  path{joined(paths[one['id']])}"
        for name in ("pending", "waiting", "dropped", "proposed"):
            yield f"  {name}{joined(one.get(name, []))}"
    for one in export["commits"]:
        result = one["result"]
        yield f"commit {text(one['id'])}{joined(one['effective'])}"
        outcome = joined([result["model"], result["state"]]) if result else " none"
        yield f"  result{outcome}{' skipped' if one['skipped'] else ''}"
    for one in export["equivocations"]:
        yield f"equivocation {text(one['author'])} {one['seq']}{joined(one['operations'])}"
    yield f"fingerprint {text(blake3.blake3(encode([EXPORT, export])).digest())}"


def number(source: BinaryIO) -> int | None:
    """A number of four bytes; none at the end."""
    raw = source.read(4)
    return int.from_bytes(raw, "little") if len(raw) == 4 else None


def main() -> None:
    """Answers one history after the other."""
    source = sys.stdin.buffer
    while (count := number(source)) is not None:
        operations = [operation(source.read(number(source))) for _ in range(count)]
        print("\n".join(lines(*evaluate(operations))), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
