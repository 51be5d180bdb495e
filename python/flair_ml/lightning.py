"""Lightning: a callback that commits what `Trainer.fit` changed.

from flair_ml.lightning import FlairCallback

trainer = Trainer(max_epochs=2, callbacks=[FlairCallback(repo, "site B", push=True)])
trainer.fit(module, loader)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import callback

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError as missing:
    if missing.name not in ("lightning", "lightning.pytorch"):
        raise
    try:
        from pytorch_lightning import Callback  # type: ignore[import-not-found, no-redef, unused-ignore]
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Lightning is not installed: `pip install 'flair-ml[lightning]'`", name="lightning"
        ) from missing

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class FlairCallback(callback.Committing, Callback):
    """Commits what `Trainer.fit` changed, with its examples, epochs, steps and metrics.

    It begins where `fit` does: the model must hold the weights of the folder's last draft or base, as with
    `Repo.train`. Where `fit` fails or is interrupted nothing is committed, and the weights are kept in a file that the
    exception's notes name. A checkpoint says what it was trained from; `fit(…, ckpt_path=…)` goes on from there. With
    several processes, only the one of rank 0 commits. `fast_dev_run` commits nothing.

    Args:
        repo: the repository.
        message: what is done.
        model: the part of the Lightning module that the repository holds, `module.net` say; the whole module where none
            is given.
        num_examples: examples trained on, the weight of the update; those of the loader where none are given.
        push: publish the update at the end.
        cast: commit in the repository's dtypes where the model has others.
        strip: take what wrappers put before names off them.
        check: compare the model with its base first.
        dp: differential privacy, `{"clip": 1, "noise": 4}`, as for `Repo.train`.

    Attributes:
        committed: the draft, once `fit` has ended well.
        pushed: what left, where it was asked for.
    """

    _checkpoint: tuple[str, str] | None = None
    _before = (0, 0)
    _data: tuple[Any, int | None] = (None, None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            run = self._training.begin(pl_module, self._checkpoint)
            # Where `seed_everything` notes it.
            run.seed = int(seed) if (seed := os.environ.get("PL_GLOBAL_SEED")) else None
        self._checkpoint = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # What a checkpoint had trained before counts where its changes do.
        self._before = (0, 0) if self._training.continues else (trainer.current_epoch, trainer.global_step)
        loader: Any = trainer.train_dataloader
        size = getattr(loader, "batch_size", None)
        limit: float | None = trainer.limit_train_batches
        # The integer 1 is a batch, and 1.0 all of them.
        whole = limit is None or (isinstance(limit, float) and limit == 1)
        seen = None if whole or size is None else int(trainer.num_training_batches) * size * trainer.world_size
        self._data = (getattr(loader, "dataset", None), seen)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training.log(_measured(trainer), trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = self._training.run
        if run is None:
            return
        # What was measured after the last epoch's end.
        run.metrics |= {callback.named(name): value for name, value in _measured(trainer).items()}
        self._training.end(
            num_examples=callback.examples(*self._data),
            epochs=trainer.current_epoch - self._before[0],
            steps=trainer.global_step - self._before[1],
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._training.fail(exception)

    def state_dict(self) -> dict[str, Any]:
        run = self._training.run
        return {} if run is None else {"stands": list(run.stands)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "stands" in state_dict:
            base, draft = state_dict["stands"]
            self._checkpoint = (base, draft)


def _measured(trainer: Trainer) -> dict[str, float]:
    """What was logged, without the parts that Lightning keeps beside a whole."""
    values = trainer.callback_metrics
    parts = {f"{name}_{part}" for name in values for part in ("step", "epoch")}
    return {name: float(value) for name, value in values.items() if name not in parts}
