"""How answers look in a notebook. All of it may come from strangers, so all of it is escaped."""

from __future__ import annotations

import time
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .answers import Diff, Log, Status


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rest = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{first}</tr></thead><tbody>{rest}</tbody></table>"


def _day(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(milliseconds / 1000))


def status(shown: Status) -> str:
    """Where a repository stands."""
    rows = [
        ("branch", shown.branch),
        ("head", (shown.head or "none yet")[:10] + ("" if shown.head_verified else " (not checked here yet)")),
        ("role", shown.role),
        ("peers", shown.peers if shown.node else "no node runs"),
        ("next aggregate", f"{shown.persons} of {shown.needed} people"),
    ]
    if shown.work is not None:
        behind = "" if not shown.work.behind else f", {shown.work.behind} commits behind"
        rows.insert(2, ("folder", f"{shown.work.folder} on {shown.work.base[:10]}{behind}"))
        rows.append(("drafts", len(shown.work.drafts)))
    if shown.last_update is not None:
        rows.append(("last update", shown.last_update.words))
    return f"<b>{escape(shown.name)}</b>" + _table(["", ""], rows)


def log(shown: Log) -> str:
    """History, newest first."""
    rows = (
        (
            entry.commit[:10],
            entry.kind,
            entry.name or entry.author[-8:],
            _day(entry.time),
            entry.message,
            ", ".join(f"{metric.split}/{metric.name} {metric.value:.4g}" for metric in entry.metrics),
            entry.state,
        )
        for entry in shown.entries
    )
    return _table(["commit", "kind", "by", "time (UTC)", "message", "metrics", "state"], rows)


def diff(shown: Diff) -> str:
    """How two models differ."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    rows = (
        (row.name, row.dtype, row.shape, number(row.l2), number(row.relative), number(row.max), f"{row.changed:.1%}")
        for row in shown.rows
    )
    words = f"<p>{escape(shown.a)} and {escape(shown.b)}: {shown.same} tensors are equal</p>"
    return words + _table(["tensor", "dtype", "shape", "L2", "relative", "largest", "changed"], rows)
