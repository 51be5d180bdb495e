"""How tensors are treated: as the model's layers tell, as somebody said, and what every site keeps for itself."""

from collections.abc import Callable
from pathlib import Path

import digits
import pytest
import torch
from conftest import kept, shift
from torch import nn

import flair_ml as flair


class Renamed(nn.BatchNorm1d):
    """A batch norm whose statistics have other names."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("mean_of_all", torch.zeros(features))
        self.register_buffer("seen", torch.tensor(0))


class Packed(nn.Module):
    """A linear layer with 8-bit weights, their scales, and a bias that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.ones(4, 4, dtype=torch.int8))
        self.register_buffer("scales", torch.ones(4))
        self.bias = nn.Parameter(torch.zeros(4))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.odd = Renamed(4)
        self.instance = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
        self.packed = Packed()
        self.last = nn.Linear(4, 4)
        self.last.weight = self.first.weight


def test_layers_tell_roles_that_names_do_not() -> None:
    told = flair.roles(Net())
    assert told == {
        "odd.running_mean": "batch-norm",
        "odd.running_var": "batch-norm",
        "odd.num_batches_tracked": "counter",
        "odd.mean_of_all": "batch-norm",
        "odd.seen": "counter",
        "instance.running_mean": "batch-norm",
        "instance.running_var": "batch-norm",
        "instance.num_batches_tracked": "counter",
        "packed.qweight": "exact",
        "packed.scales": "exact",
    }
    assert flair.roles(Net().state_dict()) == {}
    wrapped = nn.Module()
    wrapped.module = nn.BatchNorm1d(2)
    assert set(flair.roles(wrapped, strip=True)) == {"running_mean", "running_var", "num_batches_tracked"}


def test_a_repository_begins_with_the_roles_that_layers_tell_and_tied_weights_once(home: Path, tmp_path: Path) -> None:
    repo = flair.init(Net(), tmp_path / "m", roles={"instance.*": "exact"})
    counts = {count.role: (count.tensors, count.example) for count in repo.roles}
    assert counts == {
        "batch-norm": (3, "odd.mean_of_all"),
        "counter": (2, "odd.num_batches_tracked"),
        "exact": (7, "instance.num_batches_tracked"),
        # The weight that two layers share counts once.
        "float": (6, "first.bias"),
    }
    with pytest.raises(flair.InvalidError, match="no tensor `norm"):
        flair.init(Net(), tmp_path / "n", roles={"norm*": "exact"})
    with pytest.raises(flair.InvalidError, match="two roles, exact and local"):
        flair.init(Net(), tmp_path / "n", roles={"odd*": "exact"}, local=["odd*"])
    assert not (tmp_path / "n" / "model.safetensors").exists()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


def test_what_a_site_keeps_for_itself_survives_everything_but_leaves_in_no_commit(home: Path, tmp_path: Path) -> None:
    model = network()
    repo = flair.init(model, tmp_path / "m", local=["1.*"], every=1)
    began = repo.state_dict()
    repo.load(model)
    with repo.train(model, "site A") as run:
        shift(model)
    assert run.committed is not None and run.committed.draft.changed == 2
    own = model.state_dict()["1.weight"].clone()
    assert not torch.equal(own, began["1.weight"])
    for revision in (None, "main"):
        assert torch.equal(repo.state_dict(revision)["1.weight"], own)
    update = repo.push().commit
    repo.wait()
    repo.pull()
    assert torch.equal(repo.state_dict("main")["1.weight"], own)
    status = repo.status()
    assert status.work is not None and status.work.local[0].startswith("1.") and not status.work.changes
    # In the commit it is what it was in the first, for anybody who asks.
    repo.export(tmp_path / "out.safetensors", update)
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "out.safetensors")["1.weight"], began["1.weight"])
    repo.export(tmp_path / "own.safetensors", update, local=True)
    assert torch.equal(load_file(tmp_path / "own.safetensors")["1.weight"], own)

    # A model in memory may have other ones and is trained all the same; what failed changes nothing.
    repo.load(model)
    with torch.no_grad():
        model[1].weight += 5
    with pytest.raises(ZeroDivisionError), repo.train(model, "fails"):
        shift(model)
        _ = 1 / 0
    assert len(kept(repo)) == 1
    assert torch.equal(repo.state_dict()["1.weight"], own)
    repo.recover()
    assert torch.equal(repo.state_dict()["1.weight"], own + 6)
    repo.reset(hard=True)
    assert torch.equal(repo.state_dict()["1.weight"], own + 6), "what was committed here stays here"


#: What each site's scanner does to the digits: brightness and contrast, which batch-norm's statistics take up.
SCANNERS = [(1.0, 0.0), (0.3, 1.5), (2.5, -1.0)]
ROUNDS = 4


def together(homes: Callable[[str], Path], root: Path, local: list[str]) -> list[float]:
    """Trains with sites whose digits look different, and gives each site's accuracy on digits from its own scanner."""
    images, held_out = digits.load()
    shares = list(zip(images[0].tensor_split(3), images[1].tensor_split(3), strict=True))
    seen = [
        (pixels * scale + offset, labels) for (pixels, labels), (scale, offset) in zip(shares, SCANNERS, strict=True)
    ]
    repos: list[flair.Repo] = []
    for site in range(3):
        place, home = root / f"site{site}", homes(f"{'own' if local else 'one'}{site}")
        if not repos:
            repos.append(flair.init(digits.network(), place, local=local, every=3, home=home))
        else:
            ticket = repos[0].ticket("contributor").ticket
            repos.append(flair.clone(ticket, place, person=f"site {site}", home=home))
    models = [digits.network() for _ in repos]
    for number in range(ROUNDS):
        for repo, model, share in zip(repos, models, seen, strict=True):
            repo.load(model)
            with repo.train(model, f"round {number}") as run:
                digits.train(model, share, epochs=1, seed=number)
                run.num_examples = len(share[1])
            repo.push()
        for repo in repos:
            repo.wait(timeout=120)
            repo.pull()
    scores = []
    for repo, model, (scale, offset) in zip(repos, models, SCANNERS, strict=True):
        repo.load(model)
        scores.append(digits.accuracy(model, (held_out[0] * scale + offset, held_out[1])))
    shared = [repo.state_dict() for repo in repos]
    assert all(torch.equal(state["0.weight"], shared[0]["0.weight"]) for state in shared)
    assert torch.equal(shared[0]["1.running_var"], shared[1]["1.running_var"]) == (not local)
    return scores


def test_batch_norms_of_their_own_help_sites_whose_data_look_different(
    homes: Callable[[str], Path], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    shared = together(homes, tmp_path / "one", [])
    own = together(homes, tmp_path / "own", ["1.*"])
    print(f"shared {shared}, own {own}")
    assert sum(own) / 3 > sum(shared) / 3 + 0.1
    assert min(own) > 0.8
