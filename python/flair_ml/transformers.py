"""Hugging Face Transformers: a callback that commits what `Trainer.train` changed.

from flair_ml.transformers import FlairCallback

callback = FlairCallback(repo, "site B", push=True)
trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])
with callback:
    trainer.train()
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import callback

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as missing:
    if missing.name != "transformers":
        raise
    raise ModuleNotFoundError(
        "Transformers is not installed: `pip install 'flair-ml[transformers]'`", name="transformers"
    ) from missing

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

#: Where a checkpoint's `trainer_state.json` says what was trained from.
_STATE = "flair"
#: What `Trainer` logs beside measurements of the model.
_ASIDE = ("epoch", "learning_rate", "total_flos", "num_input_tokens_seen")
_TIMES = ("_runtime", "_per_second")


class FlairCallback(callback.Committing, TrainerCallback):
    """Commits what `Trainer.train` changed, with its examples, epochs, steps and metrics.

    It begins where training does: the model must hold the weights of the folder's last draft or base, as with
    `Repo.train`. `Trainer` tells its callbacks of no exception, so the callback is a context manager: where the block
    fails or is interrupted nothing is committed, and the weights are kept in a file that the exception's notes name.
    Without the block, a training that never ended is kept when Python ends, and standard error tells where. A
    checkpoint says what it was trained from; `train(resume_from_checkpoint=…)` goes on from there. With several
    processes, only the first commits. A search for hyperparameters commits nothing.

    Args:
        repo: the repository.
        message: what is done.
        model: the part of the model that the repository holds; the whole of it where none is given.
        num_examples: examples trained on, the weight of the update; those of the data set where none are given.
        push: publish the update at the end.
        cast: commit in the repository's dtypes where the model has others.
        strip: take what wrappers put before names off them.
        check: compare the model with its base first.
        dp: differential privacy, `{"clip": 1, "noise": 4}`, as for `Repo.train`.

    Attributes:
        committed: the draft, once training has ended well.
        pushed: what left, where it was asked for.
    """

    _before = (0.0, 0)

    def __enter__(self) -> FlairCallback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._training.fail(error)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or state.is_hyper_param_search:
            return
        kept: Any = state.stateful_callbacks or {}
        stands = kept.get(_STATE, {}).get("attributes", {}).get("stands") if state.global_step else None
        run = self._training.begin(kwargs["model"], None if stands is None else (stands[0], stands[1]))
        # Goes into every checkpoint.
        kept[_STATE] = {"args": {}, "attributes": {"stands": list(run.stands)}}
        state.stateful_callbacks = kept
        run.seed = args.seed
        self._before = (0.0, 0) if self._training.continues else (state.epoch or 0.0, state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        taken = {
            name: value
            for name, value in logs.items()
            if isinstance(value, int | float) and name not in _ASIDE and not name.endswith(_TIMES)
        }
        self._training.log(taken, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        epochs, steps = (state.epoch or 0.0) - self._before[0], state.global_step - self._before[1]
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self._training.end(
            num_examples=callback.examples(getattr(kwargs.get("train_dataloader"), "dataset", None), steps * batch),
            epochs=round(epochs) or None,
            steps=steps,
        )
