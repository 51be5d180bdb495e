"""Training with Opacus: what its accountant says is the update's claim."""

from pathlib import Path

import digits
import pytest
import torch
from conftest import drafts, kept, shift
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import flair_ml as flair

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*[Ss]ecure RNG.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:opacus.*"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
    pytest.mark.filterwarnings("ignore:.*non-full backward hook.*"),
    pytest.mark.filterwarnings("ignore:.*Optimal order is the largest alpha.*"),
]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def private(
    model: nn.Module,
) -> tuple[PrivacyEngine, nn.Module, torch.optim.Optimizer, DataLoader[tuple[torch.Tensor, ...]]]:
    (pixels, labels), _ = digits.load()
    loader = DataLoader(TensorDataset(pixels, labels), batch_size=64)
    engine = PrivacyEngine(accountant="rdp")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    wrapped, optimizer, loader = engine.make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=1.0, max_grad_norm=1.5
    )
    return engine, wrapped, optimizer, loader


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[tuple[torch.Tensor, ...]]) -> int:
    model.train()
    for pixels, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()
    return len(loader)


@pytest.fixture
def repo(home: Path, tmp_path: Path) -> flair.Repo:
    return flair.init(network(), tmp_path / "m", every=1)


def test_what_opacus_accounts_for_is_claimed_in_the_update_and_in_no_ledger(repo: flair.Repo) -> None:
    torch.manual_seed(0)
    model = network()
    repo.load(model)
    with repo.train(model, "two epochs of DP-SGD") as run:
        engine, wrapped, optimizer, loader = private(model)
        run.privacy(engine, optimizer, delta=1e-4)
        steps = sum(epoch(wrapped, optimizer, loader) for _ in range(2))
        run.num_examples = 1437
    assert run.committed is not None
    epsilon = engine.get_epsilon(1e-4)
    claim = run.committed.draft.privacy
    assert claim is not None and "per example (add-remove), dp-sgd" in claim and f"over {steps} steps" in claim
    assert "clipped at 1.5" in claim and "noise 1 each" in claim and "by opacus rdp" in claim
    assert epsilon <= float(claim.split("ε = ")[1].split(",")[0]) <= epsilon * 1.001
    assert any("not covered by the privacy claim" in words for words in run.committed.warnings)

    fields = {field.name: field.value for field in repo.push(dry_run=True).fields}
    assert fields["privacy.unit"] == "example" and fields["privacy.steps"] == str(steps)
    assert float(fields["privacy.sampling"]) == pytest.approx(1 / len(loader), rel=0.1)
    pushed = repo.push()
    repo.wait()
    repo.pull()
    assert repo.show(pushed.commit).entry.privacy == claim
    told = [entry.privacy for entry in repo.log().entries if entry.kind == "update"]
    assert told == [claim]
    assert repo.privacy().spent.releases == 0, "what is per example is not added to what is per site"

    # The wrapped model's own names are Opacus's.
    repo.load(wrapped, strip=True)
    with pytest.raises(flair.InvalidError, match="strip=True"):
        repo.load(wrapped)


def test_two_drafts_with_claims_add_up_and_one_without_is_refused(repo: flair.Repo) -> None:
    model = network()
    said = {"clip": 1, "noise": 1.1, "sampling": 0.1, "delta": 1e-5, "accountant": "mine"}
    for epsilon, steps in ((0.5, 10), (0.25, 5)):
        shift(model)
        repo.commit(model, "private", claim={**said, "epsilon": epsilon, "steps": steps})
    fields = {field.name: field.value for field in repo.push(dry_run=True).fields}
    assert (fields["privacy.epsilon"], fields["privacy.delta"], fields["privacy.steps"]) == ("0.75", "0.00002", "15")
    shift(model)
    with pytest.raises(flair.ConflictError, match="another does not"):
        repo.commit(model, "without")
    with pytest.raises(flair.ConflictError, match="in another way"):
        repo.commit(model, "other clip", claim={**said, "clip": 2, "epsilon": 1, "steps": 1})
    with pytest.raises(flair.InvalidError, match="update claims one"):
        repo.commit(model, "both", dp={"clip": 1, "noise": 1}, claim={**said, "epsilon": 1, "steps": 1})
    for wrong, told in (
        ({"epsilon": "inf"}, "not a positive number"),
        ({"sampling": 2}, "more than 1"),
        ({"unit": "site"}, "`example` or `person`"),
        ({"steps": 0}, "no number of steps"),
        ({"colour": "red"}, "claim has"),
    ):
        with pytest.raises(flair.InvalidError, match=told):
            repo.commit(model, "wrong", claim={**said, "epsilon": 1, "steps": 1, **wrong})
    assert drafts(repo) == 2


def test_a_training_that_opacus_did_not_count_claims_nothing_and_is_kept(repo: flair.Repo) -> None:
    model = network()
    engine, _, optimizer, _ = private(network())
    with repo.train(model) as run:
        with pytest.raises(flair.InvalidError, match="no PrivacyEngine"):
            run.privacy(object(), optimizer, delta=1e-5)
        with pytest.raises(flair.InvalidError, match="clips no gradients"):
            run.privacy(engine, torch.optim.SGD(model.parameters(), lr=1), delta=1e-5)
        shift(model)
    repo.reset(hard=True)
    repo.load(model)
    with pytest.raises(flair.InvalidError, match="counted no step"), repo.train(model, "by hand") as run:
        run.privacy(engine, optimizer, delta=1e-5)
        shift(model)
    assert drafts(repo) == 0 and len(kept(repo)) == 1
    repo.load(model)
    with repo.train(model, dp={"clip": 1, "noise": 1}) as run:
        with pytest.raises(flair.InvalidError, match="claims one thing"):
            run.privacy(engine, optimizer, delta=1e-5)
        shift(model)
    assert run.committed is not None and run.committed.privacy is not None


def test_statistics_of_the_data_are_refused_beside_a_claim(home: Path, tmp_path: Path) -> None:
    repo = flair.init(digits.network(), tmp_path / "b", every=1)
    model = digits.network()
    (pixels, labels), _ = digits.load()
    digits.train(model, (pixels[:100], labels[:100]), epochs=1, seed=0)
    said = {"clip": 1, "noise": 1, "sampling": 0.1, "steps": 9, "epsilon": 1, "delta": 1e-5, "accountant": "mine"}
    with pytest.raises(flair.InvalidError, match="statistics of the data"):
        repo.commit(model, "with a batch norm", claim=said)
    own = flair.init(digits.network(), tmp_path / "c", every=1, local=["1.running*"])
    own.commit(model, "statistics stay here", claim=said)
