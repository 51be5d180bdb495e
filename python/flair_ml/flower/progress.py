"""How far a run has come: kept beside the server's working folder, so that the next one goes on after a crash."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import weights
from ..repo import Repo

_VERSION = 1


@dataclass
class Progress:
    """A run's progress.

    Attributes:
        rounds: how many rounds were asked for.
        done: rounds that are done.
        base: the commit that the next round trains from.
    """

    rounds: int
    done: int
    base: str
    _path: Path

    @classmethod
    def begin(cls, repo: Repo, rounds: int, head: str, *, resume: bool) -> Progress:
        """The progress of a run that begins, or of the one that was broken off, where it asked for as many rounds."""
        path = repo.local / "flower-run.json"
        progress = cls(rounds, 0, head, path)
        if resume and path.is_file():
            try:
                told = json.loads(path.read_text())
                same = told["version"] == _VERSION and told["rounds"] == rounds
                done, base = int(told["done"]), str(told["base"])
            except (ValueError, LookupError, TypeError):
                same = False
            if same:
                # What sites had pushed when the run broke off, the nodes have aggregated by themselves since.
                progress.done = min(rounds, done + (base != head))
        progress._write()
        return progress

    def step(self, done: int, base: str) -> None:
        """Notes that rounds are done, and where the next one begins."""
        self.done, self.base = done, base
        self._write()

    def end(self) -> None:
        """The run is over."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        told = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        with weights.staged(self._path) as temporary:
            temporary.write_text(json.dumps({"version": _VERSION, **told}))
