"""Commits with differential privacy: the folder and the next training have the noised weights, and a budget holds."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import conftest
import pytest
import torch
from conftest import shift
from torch import nn

import flair_ml as flair

DP = {"clip": 1, "noise": 1}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture
def repo(home: Path, tmp_path: Path) -> flair.Repo:
    return flair.init(network(), tmp_path / "m", every=1)


def test_a_private_training_leaves_the_noised_model_and_goes_on_from_it(repo: flair.Repo) -> None:
    model = network()
    repo.load(model)
    with repo.train(model, "site B", dp=DP) as run:
        shift(model)
    assert run.committed is not None
    private = run.committed.privacy
    assert private is not None and private.epsilon == "4.378" and private.factor < 1
    noised = repo.state_dict()
    assert not any(torch.equal(noised[name], value) for name, value in model.state_dict().items())
    with pytest.raises(flair.ConflictError, match="does not hold the weights"), repo.train(model, dp=DP):
        pass
    pushed = repo.push()
    entry = repo.show(pushed.commit).entry
    assert entry.privacy is not None and "per site (zero-out)" in entry.privacy
    # What was trained is still in memory, and is not published by mistake.
    with pytest.raises(flair.DeniedError, match="undo its noise"):
        repo.commit(model, "the same without noise")
    repo.restore()
    repo.load(model)
    with repo.train(model, "without") as run:
        shift(model)
    assert run.committed is not None and run.committed.privacy is None


def test_a_budget_is_told_and_not_passed(repo: flair.Repo, home: Path, tmp_path: Path) -> None:
    (home / "config.toml").write_text("[privacy]\nepsilon = 6\nrequire = true\n")
    model = network()
    shift(model)
    with pytest.raises(flair.DeniedError, match="need differential privacy"):
        repo.commit(model)
    repo.commit(model, dp=DP, keep_clean=tmp_path / "trained")
    assert (tmp_path / "trained" / "model.safetensors").is_file()
    with pytest.raises(flair.DeniedError, match=r"ε = 4.378 of 6 is spent"):
        repo.commit(model, dp=DP)
    ledger = repo.privacy()
    assert ledger.require and ledger.spent.budget == "6" and len(ledger.releases) == 1
    for wrong in ({"clip": 1}, {"clip": 1, "noise": 0}):
        with pytest.raises(flair.InvalidError):
            repo.commit(model, dp=wrong)
    with pytest.raises(flair.InvalidError, match="keep_clean"):
        repo.commit(model, keep_clean=tmp_path / "other")


def test_a_noised_model_is_in_the_ledger_whenever_the_node_is_killed(home: Path, tmp_path: Path) -> None:
    model = nn.Linear(512, 512)
    repo = flair.init(model, tmp_path / "m", every=1)
    file = repo.folder / "model.safetensors"
    base = file.read_bytes()
    for instant in (0, 0.02, 0.05, 0.1, 0.2, 0.4, 5):
        before = len(repo.privacy().releases)
        shift(model, 0.5)
        thread = threading.Thread(target=attempt, args=(repo, model))
        thread.start()
        while thread.is_alive() and file.read_bytes() == base:
            time.sleep(0.001)
        trained = file.read_bytes()
        thread.join(instant)
        conftest.kill(home)
        thread.join()
        conftest.start(home)
        repo = flair.Repo(repo.folder, home=home)
        spent = len(repo.privacy().releases) - before
        if spent == 0:
            assert file.read_bytes() in (trained, base), "nothing is noised that is not in the ledger"
        else:
            assert spent == 1
            repo.reset(hard=True)
            with pytest.raises(flair.DeniedError, match="undo its noise"):
                repo.commit(model)
        repo.reset(hard=True)
        assert file.read_bytes() == base
    assert spent == 1, "the last kill came after the commit"


def attempt(repo: flair.Repo, model: nn.Module) -> None:
    with suppress(flair.FlairError):
        repo.commit(model, dp=DP)
