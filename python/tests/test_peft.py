"""Adapters: of a PEFT model only the adapter is committed, in files as PEFT has them."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import flair_ml as flair
from flair_ml.node import program

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


def step(model: peft.PeftModel, data: torch.Tensor | None = None) -> None:
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.05)
    optimizer.zero_grad()
    model(torch.ones(3, 8) if data is None else data).pow(2).sum().backward()
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


def freeze(model: peft.PeftModel) -> None:
    """The line of the documentation."""
    for name, value in model.named_parameters():
        value.requires_grad_(value.requires_grad and "lora_A" not in name)


def product(model: peft.PeftModel) -> torch.Tensor:
    """What the adapter adds to the layer."""
    return model.base_model.model.first.get_delta_weight("default").detach()


def test_of_pairs_a_stays_and_the_mean_of_b_is_the_mean_of_the_products(
    homes: Callable[[str], Path], tmp_path: Path
) -> None:
    model = adapted()
    home = homes("ana")
    ana = flair.init(model, tmp_path / "ana", every=2, home=home)
    explain = [program("flair"), "--home", home, "policy", "explain"]
    said = subprocess.run(explain, cwd=ana.folder, check=True, capture_output=True, text=True, timeout=60).stdout
    assert "Of LoRA pairs A stays as in the branch's first commit" in said
    invite = ana.ticket("contributor").ticket
    ben = flair.clone(invite, tmp_path / "ben", home=homes("ben"))
    products = []
    for repo, seed in [(ana, 1), (ben, 2)]:
        own = adapted(seed=5)
        repo.load(own, "main")
        freeze(own)
        with repo.train(own, "tuned") as run:
            torch.manual_seed(seed)
            step(own, torch.randn(3, 8))
            step(own, torch.randn(3, 8))
            run.num_examples = 300
        assert run.committed is not None
        repo.push()
        products.append(product(own))
    ana.wait(timeout=120)
    together = adapted(seed=7)
    ana.load(together, "main")
    assert ana.log().entries[0].kind == "aggregate"
    assert not torch.allclose(products[0], products[1], atol=1e-3)
    assert torch.allclose(product(together), (products[0] + products[1]) / 2, atol=1e-6)


def test_a_changed_a_is_refused_with_the_line_that_freezes_it(home: Path, tmp_path: Path) -> None:
    model = adapted()
    repo = flair.init(model, tmp_path / "adapter", every=1)
    with (
        pytest.raises(flair.InvalidError, match=r"lora_A.*A stays as in the first commit") as refused,
        pytest.warns(UserWarning, match="A stays as in the first commit"),
        repo.train(model),
    ):
        step(model)
        step(model)
    assert 'requires_grad_(value.requires_grad and "lora_A" not in name)' in str(refused.value.help)
    with pytest.raises(flair.InvalidError, match="averaged apart, which is not averaging their product"):
        flair.init(
            adapted(), tmp_path / "both", roles={name: "float" for name in flair.state(model) if "lora_" in name}
        )
    with pytest.raises(flair.InvalidError, match="averaging A and B apart is not averaging BA"):
        flair.init(adapted(), tmp_path / "asked", settings={"lora": "average"})


def test_an_adapter_is_merged_into_its_model_and_the_branch_goes_on_as_that(home: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    save_file(Net().state_dict(), base / "model.safetensors")
    model = adapted()
    repo = flair.init(model, tmp_path / "adapter", every=1)
    freeze(model)
    with repo.train(model, "tuned") as run:
        step(model)
        step(model)
        run.num_examples = 300
    repo.push()
    repo.wait(timeout=60)
    repo.pull()
    repo.export(tmp_path / "merged", "main", onto=base)
    together = adapted(seed=5)
    repo.load(together, "main")
    data = torch.randn(5, 8)
    expected = together(data)
    whole = Net()
    whole.load_state_dict(load_file(tmp_path / "merged" / "model.safetensors"))
    assert not torch.allclose(Net()(data), expected, atol=1e-2)
    assert torch.allclose(whole(data), expected, atol=1e-6)
    # PEFT's own merge, to the last bits of `float32`.
    plain = together.merge_and_unload().state_dict()
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, plain[name], atol=1e-7), name
    with pytest.raises(flair.InvalidError, match="is no adapter|has no tensor"):
        repo.export(tmp_path / "wrong", "main", onto=repo.folder)
    (repo.folder / "adapter_model.safetensors").unlink()
    (repo.folder / "adapter_config.json").unlink()
    shutil.copy(tmp_path / "merged" / "model.safetensors", repo.folder)
    for words in [["commit", "-m", "merged", "--migrate"], ["push"]]:
        command = [program("flair"), "--home", home, *words]
        subprocess.run(command, cwd=repo.folder, check=True, capture_output=True, timeout=60)
    entry = repo.log().entries[0]
    assert "merged" in entry.message and entry.in_head, entry
    repo.load(whole, "main")


def test_an_adapter_is_for_the_model_that_was_pinned(home: Path, tmp_path: Path) -> None:
    save_file(Net().state_dict(), tmp_path / "net.safetensors")
    model = adapted()
    repo = flair.init(model, tmp_path / "adapter", external_base=tmp_path / "net.safetensors")
    assert repo.external_base().checked and "external_base.json" in {path.name for path in repo.folder.iterdir()}
    peft.PeftModel.from_pretrained(Net(), repo.folder)
    other = {name: value + 1 if name == "last.bias" else value for name, value in Net().state_dict().items()}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(flair.InvalidError, match="`last.bias` holds other numbers"):
        repo.external_base(tmp_path / "other.safetensors")
    assert repo.external_base().path == str(tmp_path / "net.safetensors")
    (tmp_path / "other.safetensors").replace(tmp_path / "net.safetensors")
    assert not repo.external_base().checked
    with pytest.raises(flair.InvalidError, match="is not the external base"), repo.train(model) as run:
        step(model)
        run.num_examples = 300
    with pytest.raises(flair.InvalidError, match="is not a folder"):
        flair.init(Net(), tmp_path / "whole", external_base=tmp_path / "net.safetensors")
