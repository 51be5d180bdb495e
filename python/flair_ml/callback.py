"""What the callbacks for training frameworks have in common: a training that the framework begins and ends."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping
from typing import Any, SupportsFloat

from .answers import Committed, Pushed
from .errors import ConflictError
from .repo import Repo
from .run import Run, standing
from .weights import Model

#: Beginnings of names that tell on what was measured: `val_loss` is the loss on `val`.
_SPLITS = ("train", "val", "valid", "validation", "test", "eval")


class Training:
    """A training as a framework's hooks tell it. It promises what `Repo.train` does.

    Args:
        repo: the repository.
        message: what is done.
        model: the part of the framework's model that the repository holds; all of it where none is given.
        num_examples: examples trained on; counted where none are given.
        push: publish what was committed, at the end.
        options: what else `Repo.train` takes.
    """

    def __init__(
        self,
        repo: Repo,
        message: str,
        *,
        model: Model | None,
        num_examples: int | None,
        push: bool,
        **options: Any,
    ) -> None:
        self.repo = repo
        self.committed: Committed | None = None
        self.pushed: Pushed | None = None
        self._message = message
        self._part = model
        self._num_examples = num_examples
        self._push = push
        self._options = options
        self._run: Run | None = None
        self._model: Model | None = None
        self.continues = False

    @property
    def run(self) -> Run | None:
        """The training, while it goes on."""
        return self._run

    def begin(self, whole: Model, checkpoint: tuple[str, str] | None = None) -> Run:
        """Begins, or goes on with what the framework has interrupted.

        Args:
            whole: the framework's model.
            checkpoint: what the training stood on of whose checkpoint this one goes on.
        """
        model = self._part if self._part is not None else whole
        if self._run is not None:
            # Begun again by the framework, with a smaller batch say: what it changed so far belongs to it.
            if model is self._model:
                return self._run
            self.leave()
        self.continues = checkpoint is not None and checkpoint == standing(self.repo.status())
        options = self._options if not self.continues else self._options | {"check": False}
        run = self.repo.train(model, self._message, **options)
        try:
            run.__enter__()
        except ConflictError as error:
            if checkpoint is not None:
                base = checkpoint[0][:10]
                error.add_note(f"the checkpoint was trained from {base}: `repo.checkout({base!r})` moves there")
            raise
        self._run, self._model, self.committed, self.pushed = run, model, None, None
        atexit.register(self.leave)
        return run

    def log(self, metrics: Mapping[str, SupportsFloat], step: int | None) -> None:
        """Notes measurements, named as frameworks name them."""
        if self._run is not None and metrics:
            self._run.log({named(name): value for name, value in metrics.items()}, step=step)

    def end(self, *, num_examples: int | None, epochs: int | None, steps: int | None) -> None:
        """Commits, and publishes where it was asked for."""
        run = self._run
        if run is None:
            return
        run.num_examples = num_examples if self._num_examples is None else self._num_examples
        run.epochs, run.steps = epochs, steps
        self._close()
        run.__exit__(None, None, None)
        self.committed = run.committed
        if self._push:
            self.pushed = self.repo.push()

    def fail(self, error: BaseException) -> None:
        """Commits nothing and keeps the weights; a note of the exception tells where."""
        run = self._run
        if run is None:
            return
        self._close()
        before = len(getattr(error, "__notes__", []))
        run.__exit__(type(error), error, error.__traceback__)
        if not isinstance(error, Exception):
            # Frameworks end by themselves on Ctrl-C, and nobody sees the exception's notes.
            for note in getattr(error, "__notes__", [])[before:]:
                print(note, file=sys.stderr)

    def leave(self) -> None:
        """Keeps the weights of a training that the framework never ended."""
        run = self._run
        if run is None:
            return
        self._close()
        try:
            kept = run.abandon()
        except Exception as why:
            print(f"nothing was committed, and the trained weights could not be kept: {why}", file=sys.stderr)
            return
        if kept is not None:
            told = "nothing was committed: the training did not end. Its weights are kept in"
            print(f"{told} {kept}: `repo.recover()` commits them", file=sys.stderr)

    def _close(self) -> None:
        self._run = self._model = None
        atexit.unregister(self.leave)


class Committing:
    """What a callback is beside its framework's class: it commits what was trained, with the options that its own
    documentation tells.
    """

    def __init__(
        self,
        repo: Repo,
        message: str = "",
        *,
        model: Model | None = None,
        num_examples: int | None = None,
        push: bool = False,
        cast: bool = False,
        strip: bool = False,
        check: bool = True,
        dp: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        options = {"cast": cast, "strip": strip, "check": check, "dp": dp}
        self._training = Training(repo, message, model=model, num_examples=num_examples, push=push, **options)

    @property
    def committed(self) -> Committed | None:
        return self._training.committed

    @property
    def pushed(self) -> Pushed | None:
        return self._training.pushed


def named(name: str) -> str:
    """A measurement's name with the split that frameworks write before it: `val_loss` is `val/loss`."""
    if "/" in name:
        return name
    split, _, rest = name.partition("_")
    return f"{split}/{rest}" if split in _SPLITS and rest else name


def examples(dataset: object, seen: int | None) -> int | None:
    """Examples of a data set, or those that were seen of it where they are fewer.

    Args:
        dataset: a data set, which may not know its length.
        seen: how many examples were drawn in all; none where that is not known.
    """
    try:
        size = len(dataset)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return seen
    return size if seen is None else min(size, seen)
