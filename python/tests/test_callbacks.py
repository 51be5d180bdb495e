"""Lightning's and Transformers' trainers commit as `repo.train` does: one draft, or none and kept weights."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as lightning
import pytest
import test_package
import torch
import transformers
from conftest import drafts, holds, kept
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import flair_ml as flair
from flair_ml.lightning import FlairCallback as ForLightning
from flair_ml.transformers import FlairCallback as ForTransformers

# What these libraries warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

EXAMPLES, BATCH = 120, 10


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def data() -> TensorDataset:
    torch.manual_seed(1)
    return TensorDataset(torch.rand(EXAMPLES, 4), torch.randint(0, 2, (EXAMPLES,)))


@pytest.fixture
def repo(home: Path, tmp_path: Path) -> flair.Repo:
    return flair.init(network(), tmp_path / "m", every=1)


def figures(entry: flair.LogEntry) -> set[str]:
    return {f"{metric.split}/{metric.name}" for metric in entry.metrics}


def training(repo: flair.Repo, commit: str | None) -> dict[str, str]:
    return {field.name: field.value for field in repo.show(commit).training}


class Module(lightning.LightningModule):
    """A network in a Lightning module; the repository holds the network."""

    def __init__(self, fails_at: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self.net = network()
        self.fails_at, self.error = fails_at, error

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        if self.error is not None and self.global_step == self.fails_at:
            raise self.error
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(callbacks: list[lightning.Callback], **options: object) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return lightning.Trainer(
        accelerator="cpu", callbacks=callbacks, enable_checkpointing=checkpoints, **quiet, **options
    )


def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(data(), batch_size=BATCH)


def test_a_fit_becomes_an_update_with_all_that_lightning_knows(repo: flair.Repo) -> None:
    lightning.seed_everything(11)
    module = Module()
    repo.load(module.net)
    callback = ForLightning(repo, "site B", model=module.net, push=True)
    trainer([callback], max_epochs=2).fit(module, loader(), loader())
    assert callback.committed is not None and callback.pushed is not None
    assert holds(repo, callback.pushed.commit, module.net) and not kept(repo)
    entry = repo.show(callback.pushed.commit).entry
    assert (entry.message, entry.examples) == ("site B", EXAMPLES)
    assert figures(entry) == {"train/loss", "val/loss"}
    said = training(repo, callback.pushed.commit)
    assert (said["epochs"], said["steps"], said["seed"]) == ("2", str(2 * EXAMPLES // BATCH), "11")
    (curves,) = (repo.local / "runs").iterdir()
    lines = [json.loads(line) for line in curves.read_text().splitlines()]
    assert [line["step"] for line in lines] == [12, 24]
    assert lines[0]["metrics"]["train/loss"] > lines[1]["metrics"]["train/loss"]
    # A second fit stands on the first.
    repo.wait()
    repo.pull()
    repo.load(module.net)
    again = ForLightning(repo, "part of an epoch", model=module.net)
    trainer([again], max_epochs=1, limit_train_batches=3).fit(module, loader())
    assert again.committed is not None and again.committed.draft.examples == 3 * BATCH and again.pushed is None
    trainer([again], fast_dev_run=True).fit(module, loader())
    assert drafts(repo) == 1


def test_a_fit_that_fails_commits_nothing_and_keeps_its_weights(repo: flair.Repo) -> None:
    module = Module(fails_at=4, error=ZeroDivisionError("batch"))
    callback = ForLightning(repo, "to be", model=module.net)
    with pytest.raises(ZeroDivisionError) as error:
        trainer([callback], max_epochs=2).fit(module, loader())
    (file,) = kept(repo)
    assert str(file) in error.value.__notes__[0]
    assert drafts(repo) == 0 and callback.committed is None and repo.status().work.changes == []
    assert repo.recover().draft.message == "to be" and holds(repo, None, module.net)


def test_a_model_that_was_not_loaded_is_not_fitted(repo: flair.Repo) -> None:
    module = Module()
    with torch.no_grad():
        module.net[0].bias += 1
    before = module.net[0].bias.clone()
    with pytest.raises(flair.ConflictError, match="does not hold the weights"):
        trainer([ForLightning(repo, model=module.net)], max_epochs=1).fit(module, loader())
    assert torch.equal(module.net[0].bias, before) and not kept(repo)
    # Without `model`, the repository would have to hold the whole module.
    with pytest.raises(flair.InvalidError, match=r"`net.0.weight` \[3, 4\] is not in the repository's model"):
        trainer([ForLightning(repo)], max_epochs=1).fit(module, loader())


def test_a_fit_goes_on_from_a_checkpoint_on_the_base_that_it_began_with(repo: flair.Repo, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Module(fails_at=20, error=ZeroDivisionError())
    saved = ModelCheckpoint(tmp_path / "saved", save_last=True)
    with pytest.raises(ZeroDivisionError):
        trainer([ForLightning(repo, model=module.net), saved], max_epochs=2).fit(module, loader())
    last = tmp_path / "saved" / "last.ckpt"
    module = Module()
    callback = ForLightning(repo, "resumed", model=module.net)
    trainer([callback], max_epochs=3).fit(module, loader(), ckpt_path=last)
    said = training(repo, repo.push().commit)
    assert (said["epochs"], said["steps"]) == ("3", "36"), "what the checkpoint had trained counts"
    # From another base, its changes would undo what came between.
    with pytest.raises(flair.ConflictError, match="does not hold the weights") as error:
        trainer([ForLightning(repo, model=module.net)], max_epochs=4).fit(module, loader(), ckpt_path=last)
    assert "the checkpoint was trained from" in error.value.__notes__[0]


# Whoever runs the tests in the background lets them ignore Ctrl-C, and what they start too.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[2])
from test_callbacks import *
class Slow(Module):
    def training_step(self, batch, index):
        if self.global_step == 3:
            print("trained", flush=True)
        return super().training_step(batch, index)
repo = flair.Repo(sys.argv[1])
module = Slow()
trainer([ForLightning(repo, "long", model=module.net)], max_epochs=10**6).fit(module, loader())
"""


def test_ctrl_c_in_a_fit_tells_where_the_weights_are(repo: flair.Repo) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, repo.folder, Path(__file__).parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "trained\n"
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=120)
    assert child.returncode == 1
    (file,) = kept(repo)
    assert str(file) in told and drafts(repo) == 0


class Net(nn.Module):
    """A network that gives its loss, as `Trainer` asks for it."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.net = network()
        self.fails_at, self.calls = fails_at, 0

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise ZeroDivisionError("batch")
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def rows() -> list[dict[str, torch.Tensor]]:
    return [{"x": x, "labels": label} for x, label in data()]


def arguments(folder: Path, **options: object) -> transformers.TrainingArguments:
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "logging_steps": 5, "save_strategy": "no"}
    sizes = {"per_device_train_batch_size": BATCH, "num_train_epochs": 2, "learning_rate": 0.05}
    return transformers.TrainingArguments(folder, **(quiet | sizes | options))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    yield


def test_a_trainer_becomes_an_update_with_all_that_it_knows(repo: flair.Repo, tmp_path: Path) -> None:
    model = Net()
    callback = ForTransformers(repo, "site C", model=model.net, push=True)
    options = {"eval_strategy": "epoch", "seed": 5}
    tuned = transformers.Trainer(
        model, arguments(tmp_path / "out", **options), train_dataset=rows(), eval_dataset=rows(), callbacks=[callback]
    )
    with callback:
        tuned.train()
    assert callback.pushed is not None and holds(repo, callback.pushed.commit, model.net)
    entry = repo.show(callback.pushed.commit).entry
    assert (entry.message, entry.examples) == ("site C", EXAMPLES)
    assert figures(entry) == {"train/loss", "train/grad_norm", "eval/loss"}
    said = training(repo, callback.pushed.commit)
    assert (said["epochs"], said["steps"], said["seed"]) == ("2", "24", "5")
    assert not kept(repo) and drafts(repo) == 0


def test_a_trainer_that_fails_commits_nothing_and_keeps_its_weights(repo: flair.Repo, tmp_path: Path) -> None:
    model = Net(fails_at=5)
    callback = ForTransformers(repo, "to be", model=model.net)
    tuned = transformers.Trainer(model, arguments(tmp_path / "out"), train_dataset=rows(), callbacks=[callback])
    with pytest.raises(ZeroDivisionError) as error, callback:
        tuned.train()
    (file,) = kept(repo)
    assert str(file) in error.value.__notes__[-1] and drafts(repo) == 0
    repo.recover()
    assert holds(repo, None, model.net)


def test_a_trainer_goes_on_from_a_checkpoint(repo: flair.Repo, tmp_path: Path) -> None:
    model = Net(fails_at=20)
    options = arguments(tmp_path / "out", save_strategy="epoch")
    callback = ForTransformers(repo, model=model.net)
    tuned = transformers.Trainer(model, options, train_dataset=rows(), callbacks=[callback])
    with pytest.raises(ZeroDivisionError), callback:
        tuned.train()
    model = Net()
    callback = ForTransformers(repo, "resumed", model=model.net)
    tuned = transformers.Trainer(model, options, train_dataset=rows(), callbacks=[callback])
    with callback:
        tuned.train(resume_from_checkpoint=True)
    said = training(repo, repo.push().commit)
    assert (said["epochs"], said["steps"]) == ("2", "24") and holds(repo, None, model.net)


ENDS = """
import sys
sys.path.insert(0, sys.argv[2])
from test_callbacks import *
repo = flair.Repo(sys.argv[1])
model = Net(fails_at=5)
callback = ForTransformers(repo, "to be", model=model.net)
transformers.Trainer(model, arguments(Path(sys.argv[3])), train_dataset=rows(), callbacks=[callback]).train()
"""


def test_without_the_block_weights_are_kept_when_python_ends(repo: flair.Repo, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", ENDS, repo.folder, Path(__file__).parent, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (file,) = kept(repo)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr and str(file.parent) in done.stderr
    assert drafts(repo) == 0 and repo.recover().draft.message == "to be"


@pytest.mark.parametrize("library", ["lightning", "transformers"])
def test_what_is_not_installed_is_named(library: str) -> None:
    code = f"import sys; sys.modules['{library}'] = sys.modules['pytorch_lightning'] = None; import flair_ml.{library}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert f"pip install 'flair-ml[{library}]'" in told


def test_the_documented_trainings_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = test_package.blocks(test_package.ROOT / "docs" / "pytorch.md", "## In Lightning and Transformers")
    module = Module()
    repo = flair.init(module.net, tmp_path / "one", every=3)
    exec(compile(first, "lightning", "exec"), {"repo": repo, "module": module, "loader": loader()})
    assert repo.log().entries[0].commit in capsys.readouterr().out
    model = Net()
    repo = flair.init(model, tmp_path / "two", every=3)
    exec(compile(second, "transformers", "exec"), {"repo": repo, "model": model, "rows": rows()})
    assert [(entry.kind, entry.examples) for entry in repo.log().entries] == [("update", EXAMPLES), ("initial", 0)]


def test_both_commit_with_noise_where_they_are_asked_to(repo: flair.Repo, tmp_path: Path) -> None:
    dp = {"clip": 1, "noise": 1}
    module = Module()
    repo.load(module.net)
    callback = ForLightning(repo, "with noise", model=module.net, dp=dp)
    trainer([callback], max_epochs=1).fit(module, loader())
    assert callback.committed is not None and callback.committed.privacy is not None
    assert not holds(repo, None, module.net)
    model = Net()
    repo.load(model.net)
    other = ForTransformers(repo, "with noise", model=model.net, dp=dp)
    with other:
        transformers.Trainer(model, arguments(tmp_path / "out"), train_dataset=rows(), callbacks=[other]).train()
    assert other.committed is not None and other.committed.privacy is not None
    assert other.committed.privacy.spent.releases == 2
