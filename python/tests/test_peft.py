"""Adapters: of a PEFT model only the adapter is committed, in files as PEFT has them."""

from pathlib import Path

import peft
import pytest
import torch
from torch import nn

import flair_ml as flair

# What this library warns of is its own.
pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


def adapted(seed: int = 0) -> peft.PeftModel:
    torch.manual_seed(seed)
    return peft.get_peft_model(Net(), peft.LoraConfig(r=2, target_modules=["first"], modules_to_save=["last"]))


def step(model: peft.PeftModel) -> None:
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.5)
    model(torch.ones(3, 8)).pow(2).sum().backward()
    optimizer.step()


def test_only_the_adapter_is_committed_and_peft_reads_it_back(home: Path, tmp_path: Path) -> None:
    model = adapted()
    repo = flair.init(model, tmp_path / "adapter", every=1)
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {path.name for path in repo.folder.iterdir()}
    names = set(repo.state_dict("main"))
    assert names and all("lora_" in name or ".last." in name for name in names), names
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with repo.train(model, "tuned") as run:
        step(model)
        run.num_examples = 300
    assert run.committed is not None and run.committed.total == len(names)
    commit = repo.push().commit
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all("lora_B" in name or "modules_to_save" in name for name in moved)
    # By Flair, into a model with an adapter of its own; by PEFT, from the folder and from what was exported.
    other = adapted(seed=5)
    repo.load(other, commit)
    repo.export(tmp_path / "out", commit)
    for back in [
        other,
        peft.PeftModel.from_pretrained(Net(), repo.folder),
        peft.PeftModel.from_pretrained(Net(), tmp_path / "out"),
    ]:
        assert torch.equal(back(torch.ones(3, 8)), model(torch.ones(3, 8)))
    with pytest.raises(flair.InvalidError, match="not in the repository's model"):
        repo.load(Net())
    with pytest.raises(flair.ConflictError, match="exists already"):
        flair.init(model, tmp_path / "adapter")


def test_adapters_with_a_common_half_are_aggregated(home: Path, tmp_path: Path) -> None:
    model = adapted()
    # Half of each pair is the same for all and stays: then the mean of the other halves is the mean of the products.
    roles = {name: "exact" if "lora_A" in name else "float" for name in flair.state(model) if "lora_" in name}
    repo = flair.init(model, tmp_path / "adapter", every=1, roles=roles)
    for name, value in model.named_parameters():
        value.requires_grad_(value.requires_grad and "lora_A" not in name)
    with repo.train(model, "tuned") as run:
        step(model)
        run.num_examples = 300
    repo.push()
    head = repo.wait(timeout=60).head
    together = adapted(seed=5)
    repo.load(together, "main")
    assert repo.log().entries[0].kind == "aggregate" and repo.log().entries[0].commit == head
    assert torch.equal(together(torch.ones(3, 8)), model(torch.ones(3, 8)))
    repo.pull()
    with pytest.raises(flair.InvalidError, match=r"lora_A.*must stay equal"), repo.train(together), torch.no_grad():
        together.base_model.model.first.lora_A["default"].weight += 1
