"""How far a run has come: kept beside the server's working folder, so that the next one goes on after a crash."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import weights
from ..errors import ConflictError
from ..repo import Repo

_VERSION = 1


@dataclass
class Progress:
    """A run's progress.

    Attributes:
        rounds: how many rounds were asked for.
        done: rounds that are done.
        base: the commit that the next round trains from.
        run: drawn when a run begins: a later run in the same folder takes over from one that still hangs.
    """

    rounds: int
    done: int
    base: str
    run: str
    _path: Path

    @classmethod
    def begin(cls, repo: Repo, rounds: int, head: str, *, resume: bool) -> Progress:
        """The progress of a run that begins, or of the one that was broken off, where it asked for as many rounds."""
        path = repo.local / "flower-run.json"
        progress = cls(rounds, 0, head, secrets.token_hex(8), path)
        told = _read(path) if resume else None
        if told is not None and told.get("version") == _VERSION and told.get("rounds") == rounds:
            done = told.get("done")
            # What sites had pushed when the run broke off, the nodes have aggregated by themselves since.
            progress.done = min(rounds, (done if isinstance(done, int) else 0) + (told.get("base") != head))
        progress._write()
        return progress

    def step(self, done: int, base: str) -> None:
        """Notes that rounds are done, and where the next one begins.

        Raises:
            ConflictError: a later run has begun in this folder.
        """
        if not self._own():
            raise ConflictError(
                "another run of Flower has begun with this folder since, and goes on from here: this one ends",
                "give two runs at the same time a folder each: `flair clone`",
            )
        self.done, self.base = done, base
        self._write()

    def end(self) -> None:
        """The run is over."""
        if self._own():
            self._path.unlink()

    def _own(self) -> bool:
        told = _read(self._path)
        return told is not None and told.get("run") == self.run

    def _write(self) -> None:
        told = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        with weights.staged(self._path) as temporary:
            temporary.write_text(json.dumps({"version": _VERSION, **told}))


def _read(path: Path) -> dict[str, Any] | None:
    """What is noted; none where nothing is, or nothing that can be read."""
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None
