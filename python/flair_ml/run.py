"""A training within a `with` block: it ends in one draft, or in nothing but kept weights."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsFloat

from . import opacus, weights
from .answers import Committed, Status
from .errors import ConflictError, FlairError, InvalidError, NotFoundError
from .weights import Model

if TYPE_CHECKING:
    import torch

    from .repo import Repo

#: What is said of kept weights, beside them.
_ABOUT = "kept.json"
#: The state that an optimiser was left in, in `.flair/local`.
_OPTIMISER = "optimizer.pt"


class Run:
    """A training that is under way: made by `Repo.train`, used as a context manager.

    Attributes:
        message: what is done; can be set until the block ends.
        num_examples: examples trained on: the weight of the update.
        steps: optimiser steps.
        epochs: passes over the data.
        seed: random seed of the training.
        metrics: the last value of each measurement that was logged.
        committed: the draft, once the block has ended well.
        resumed: whether the optimiser has the state that the last training left.
        last_step: the step that was logged last, in the training before too where this one resumes it.
    """

    def __init__(
        self,
        repo: Repo,
        model: Model,
        message: str,
        *,
        cast: bool,
        strip: bool,
        check: bool,
        optimizer: torch.optim.Optimizer | None,
        resume: bool,
        dp: Mapping[str, float] | None = None,
    ) -> None:
        self.message = message
        self.num_examples: int | None = None
        self.steps: int | None = None
        self.epochs: int | None = None
        self.seed: int | None = None
        self.metrics: dict[str, float | tuple[float, int]] = {}
        self.committed: Committed | None = None
        self._repo = repo
        self._model = model
        self._cast = cast
        self._strip = strip
        self._check = check
        self._optimizer = optimizer
        self._resume = resume
        self._dp = None if dp is None else dict(dp)
        self._private: tuple[Any, Any, float] | None = None
        self.resumed = False
        self.last_step: int | None = None
        self._files: list[weights.Header] = []
        # Tensors that are this site's own: no commit says what they must be.
        self._own: frozenset[str] = frozenset()
        self._stands = ("", "")
        self._curves: Path | None = None

    def __enter__(self) -> Run:
        repo = self._repo
        status = repo.status()
        work = repo._work(status)
        if work.changes:
            raise ConflictError(
                f"the folder holds training that is not committed: `{work.changes[0].file}` {work.changes[0].state}",
                "`repo.commit(message=…)` makes a draft of it, `repo.restore()` discards it",
            )
        self._files = repo._layout(work)
        aliases = (pair for file in self._files for pair in file.aliases.items())
        self._own = frozenset(work.local).union(alias for alias, kept in aliases if kept in work.local)
        tensors = self._tensors()
        weights.fit(tensors, self._files, cast=self._cast)
        weights.warn_of_trained_a(self._model)
        if self._check and not self._as_base(tensors):
            status = self._move(status, tensors)
        self._stands = standing(status)
        self._stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{self._stands[0][:10]}"
        if self._resume:
            self._go_on()
        return self

    @property
    def stands(self) -> tuple[str, str]:
        """What training began on: the folder's base, and its last draft or nothing."""
        return self._stands

    def _go_on(self) -> None:
        """Takes up the state and the curves of the training before."""
        state = self._repo.local / _OPTIMISER
        if self._optimizer is not None and state.is_file():
            import torch

            try:
                self._optimizer.load_state_dict(torch.load(state, map_location="cpu", weights_only=True))
            except (ValueError, KeyError) as error:
                raise InvalidError(
                    f"the state in {state} is that of another optimiser: {error}",
                    "delete the file, or train with the optimiser as it was",
                ) from error
            self.resumed = True
        curves = sorted((self._repo.local / "runs").glob("*.jsonl"))
        if curves:
            self._curves = curves[-1]
            steps = [json.loads(line)["step"] for line in self._curves.read_text().splitlines()]
            self.last_step = next((step for step in reversed(steps) if step is not None), None)

    def _leave_state(self) -> None:
        """Keeps the optimiser's state for a training that resumes this one."""
        if self._optimizer is not None:
            import torch

            with weights.staged(self._repo.local / _OPTIMISER) as temporary:
                torch.save(self._optimizer.state_dict(), temporary)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return weights.state(self._model, strip=self._strip)

    def _as_base(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether a model holds what the folder's files hold."""
        return self._differing(weights.read(self._files), tensors) is None

    def _differing(self, base: Mapping[str, torch.Tensor], model: Mapping[str, torch.Tensor]) -> str | None:
        """The first tensor of a model that is not as in its base, dtypes and what is this site's own apart."""
        for name, held in base.items():
            if name in self._own or name not in model:
                continue
            if not weights.same(held.to(model[name].dtype), model[name]):
                return name
        return None

    def _move(self, status: Status, tensors: Mapping[str, torch.Tensor]) -> Status:
        """Moves an untouched folder to the commit that was handed out last, if that is what the model holds."""
        repo = self._repo
        work = repo._work(status)
        handed = repo._handed
        if handed is not None and not work.drafts:
            with repo._exported(handed) as folder:
                held = weights.read(
                    weights.headers(folder) or [weights.header(p) for p in folder.glob("*.safetensors")]
                )
                as_handed = self._differing(held, tensors) is None
            if as_handed:
                repo.checkout(handed)
                return repo.status()
        name = self._differing(weights.read(self._files), tensors)
        stands = f"draft {work.drafts[-1].id[:10]}" if work.drafts else f"base {work.base[:10]}"
        raise ConflictError(
            f"the model does not hold the weights of the folder's {stands}: `{name}` differs",
            "load them first: `repo.load(model)`. An update of other weights would undo what the others did",
        )

    def log(self, metrics: Mapping[str, SupportsFloat | tuple[SupportsFloat, int]], step: int | None = None) -> None:
        """Notes measurements. The last value of each goes into the commit; all of them stay in `.flair/local/runs`.

        Args:
            metrics: values by name, `{"val/loss": 0.41}`, or `{"val/loss": (0.41, 200)}` when measured on 200 examples.
                A name without a split is one of training.
            step: the step or epoch that they belong to.
        """
        taken: dict[str, float | tuple[float, int]] = {}
        for name, value in metrics.items():
            taken[name] = (float(value[0]), value[1]) if isinstance(value, tuple) else float(value)
        self.metrics |= taken
        self.last_step = self.last_step if step is None else step
        if self._curves is None:
            folder = self._repo.local / "runs"
            folder.mkdir(exist_ok=True)
            self._curves = folder / f"{self._stamp}.jsonl"
        # JSON has no NaN: a value that is none is written as text.
        shown = {
            name: number if math.isfinite(number) else str(number)
            for name, value in taken.items()
            for number in [value[0] if isinstance(value, tuple) else value]
        }
        with self._curves.open("a") as file:
            file.write(json.dumps({"time": time.time(), "step": step, "metrics": shown}) + "\n")

    def privacy(self, engine: Any, optimizer: Any, *, delta: float) -> None:
        """Claims in the update what Opacus's accountant says of this training, when the block ends well.

        The unit is the example. All steps that the engine has counted are claimed, those before this block too. Nobody
        can check the claim; it is not added to the ledger of `dp`, whose unit is the site, nor compared with it.

        Args:
            engine: the `PrivacyEngine`.
            optimizer: the optimiser that `make_private` gave.
            delta: the δ at which ε is told; less than 1 / number of examples.

        Raises:
            InvalidError: this training is noised with `dp` already, or these are not Opacus's.
        """
        if self._dp is not None:
            raise InvalidError("this training is noised with `dp`, and an update claims one thing", "leave out `dp`")
        opacus.check(engine, optimizer)
        self._private = (engine, optimizer, delta)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._commit()
            return
        try:
            kept = self.abandon()
        except Exception as why:
            error.add_note(f"nothing was committed, and the weights trained until here could not be kept: {why}")
            return
        if kept is not None:
            error.add_note(f"nothing was committed; the weights trained until here are kept in {kept}")

    def abandon(self) -> Path | None:
        """Ends the training without a commit, as an exception in the block does. Gives where the weights are kept; none
        where training changed nothing.
        """
        tensors = self._tensors()
        if self._as_base_still(tensors):
            return None
        kept = self._keep(tensors)
        self._leave_state()
        return kept

    def _said(self) -> dict[str, Any]:
        finite = {
            name: value
            for name, value in self.metrics.items()
            if math.isfinite(value[0] if isinstance(value, tuple) else value)
        }
        return {
            "message": self.message,
            "num_examples": self.num_examples,
            "steps": self.steps,
            "epochs": self.epochs,
            "seed": self.seed,
            "metrics": finite,
            "cast": self._cast,
            "dp": self._dp,
            "claim": None if self._private is None else opacus.claim(*self._private),
        }

    def _keep(self, tensors: Mapping[str, torch.Tensor]) -> Path:
        """Writes the weights, and what is said of them, to `.flair/local/kept`. Gives their file, or the folder of
        several.
        """
        folder = self._repo.local / "kept"
        folder.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{self._stamp}-", dir=folder))
        try:
            weights.fit(tensors, self._files, cast=True)
            paths = weights.save_like(tensors, self._files, folder)
        except InvalidError:
            # Not this repository's model any more, but still somebody's work.
            paths = [folder / "model.safetensors"]
            weights.save(tensors, paths[0], {})
        try:
            said = self._said()
        except InvalidError:
            # Weights are kept whatever can be said of them.
            self._private, private = None, self._private
            said = self._said()
            self._private = private
        (folder / _ABOUT).write_text(json.dumps({"stands": self._stands, **said}))
        return paths[0] if len(paths) == 1 else folder

    def _commit(self) -> None:
        tensors = self._tensors()
        if self._as_base_still(tensors):
            raise ConflictError("nothing to commit: the model holds what it held before training")
        kept = self._keep(tensors)
        try:
            weights.fit(tensors, self._files, cast=self._cast)
            self._leave_state()
            self.committed = _publish(self._repo, kept, self._stands, self._said())
        except FlairError as error:
            help = f"the trained weights are kept in {kept}: `repo.recover()` commits them"
            error.help = help if error.help is None else f"{error.help}\n  {help}"
            raise
        except BaseException as error:
            error.add_note(f"the trained weights are kept in {kept}: `repo.recover()` commits them")
            raise
        _discard(kept)

    def _as_base_still(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether training changed nothing; not, if that can't be told any more."""
        return all(file.path.is_file() for file in self._files) and self._as_base(tensors)


def standing(status: Status) -> tuple[str, str]:
    """What a folder stands on: its base, and its last draft or nothing."""
    work = status.work
    if work is None:
        return ("", "")
    return (work.base, work.drafts[-1].id if work.drafts else "")


def _publish(repo: Repo, kept: Path, stands: tuple[str, str], said: Mapping[str, Any]) -> Committed:
    """Puts kept weights into the folder and makes a draft of them, if the folder still stands where training began."""
    status = repo.status()
    if standing(status) != stands:
        raise ConflictError(
            f"the folder has moved from {stands[0][:10]} to {standing(status)[0][:10]} while the model was trained",
            f"go back with `repo.checkout({stands[0][:10]!r})`, recover, then `repo.pull(rebase=True)`",
        )
    weights.replace(_files(kept), repo.folder)
    return repo.commit(**said)


def _files(kept: Path) -> list[Path]:
    folder = kept if kept.is_dir() else kept.parent
    return sorted(folder.glob("*.safetensors"))


def _discard(kept: Path) -> None:
    shutil.rmtree(kept if kept.is_dir() else kept.parent, ignore_errors=True)


def recover(repo: Repo, kept: Path | None) -> Committed:
    """See `Repo.recover`."""
    if kept is None:
        found = sorted((repo.local / "kept").glob(f"*/{_ABOUT}"))
        if not found:
            raise NotFoundError(f"no weights are kept in {repo.local}")
        kept = found[-1].parent
    folder = kept if kept.is_dir() else kept.parent
    if not (folder / _ABOUT).is_file():
        raise NotFoundError(f"{folder} holds no weights that were kept")
    said = json.loads((folder / _ABOUT).read_text())
    stands = tuple(said.pop("stands"))
    said["metrics"] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in said["metrics"].items()
    }
    status = repo.status()
    work = repo._work(status)
    ours = all(
        (there := repo.folder / path.name).is_file() and there.read_bytes() == path.read_bytes()
        for path in _files(folder)
    )
    if work.changes and not ours:
        raise ConflictError(
            f"the folder holds other training: `{work.changes[0].file}` {work.changes[0].state}",
            "commit it, or `repo.restore()` it, then recover",
        )
    if standing(status) != stands and not work.drafts and not stands[1] and not work.changes:
        repo.checkout(stands[0])
    committed = _publish(repo, folder, stands, said)
    _discard(folder)
    return committed
