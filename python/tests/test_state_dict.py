"""A model's tensors come out as they went in, bit for bit; what does not fit is refused by name and shape."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import flair_ml as flair
from flair_ml import weights

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]


def patterns(dtype: torch.dtype, count: int) -> torch.Tensor:
    """Any bits at all, as far as they are finite numbers."""
    generator = torch.Generator().manual_seed(7)
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 256, (count * size,), dtype=torch.uint8, generator=generator).view(dtype)
    return torch.where(raw.isfinite(), raw, torch.zeros((), dtype=dtype)) if dtype.is_floating_point else raw


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(weights.same(one[name], other[name]) for name in one)


class Tied(nn.Module):
    """A language model in small: one matrix at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.head = nn.Linear(5, 11, bias=False)
        self.head.weight = self.embed.weight


def test_every_dtype_comes_back_bit_for_bit(home: Path, tmp_path: Path) -> None:
    state = {f"float.{dtype}": patterns(dtype, 1001).reshape(7, 11, 13) for dtype in FLOATS}
    state |= {f"int.{dtype}": patterns(dtype, 99) for dtype in INTEGERS}
    state |= {
        "mask": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5),
        "steps": torch.tensor(1 << 40),
        "nothing": torch.empty(0, 4),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "denormal": torch.tensor([1e-45, -0.0, 3.4e38]),
    }
    # Two views of one storage, neither of which is the other.
    both = torch.arange(8.0)
    state |= {"front": both[:5], "back": both[3:]}
    repo = flair.init(state, tmp_path / "m")
    assert equal(repo.state_dict("main"), state)
    changed = {name: value.clone() for name, value in state.items()}
    for name in ["float.torch.bfloat16", "float.torch.float16", "float.torch.float64", "scalar"]:
        changed[name] = (
            torch.nextafter(state[name], torch.ones((), dtype=state[name].dtype)) if name == "scalar" else -state[name]
        )
    repo.commit(changed, "all signs turned")
    assert equal(repo.state_dict(), changed)
    assert equal(repo.state_dict("main"), state)
    pushed = repo.push()
    assert equal(repo.state_dict(pushed.commit), changed)


def test_batch_norm_keeps_its_statistics_and_counts_in_integers(home: Path, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    repo = flair.init(model, tmp_path / "m")
    with repo.train(model, "five batches") as run:
        for _ in range(5):
            model(torch.rand(2, 1, 8, 8))
        run.num_examples = 10
    state = repo.state_dict()
    assert state["1.num_batches_tracked"].dtype == torch.int64 and state["1.num_batches_tracked"] == 5
    fresh = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    repo.load(fresh)
    assert equal(dict(fresh.state_dict()), dict(model.state_dict()))


def test_tied_weights_are_stored_once_and_come_back_under_both_names(home: Path, tmp_path: Path) -> None:
    model = Tied()
    repo = flair.init(model, tmp_path / "m")
    (file,) = weights.headers(repo.folder) or []
    assert set(file.tensors) == {"embed.weight"} and file.aliases == {"head.weight": "embed.weight"}
    state = repo.state_dict("main")
    assert set(state) == {"embed.weight", "head.weight"}
    assert state["embed.weight"].data_ptr() == state["head.weight"].data_ptr()
    with repo.train(model, "one step"), torch.no_grad():
        model.head.weight += 1
    fresh = Tied()
    repo.load(fresh)
    assert equal(dict(fresh.state_dict()), dict(model.state_dict()))
    apart = {name: value.clone() for name, value in model.state_dict().items()}
    apart["head.weight"] += 1
    with pytest.raises(flair.InvalidError, match="`head.weight` and `embed.weight` are one tensor"):
        repo.commit(apart)


def test_names_of_wrapped_models_are_told_and_taken_off_on_request(home: Path, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        bare = nn.Sequential(nn.Linear(3, 2))
        repo = flair.init(bare, tmp_path / "m")
        inner = nn.Sequential(nn.Linear(3, 2))
        for wrapped, prefix in [
            (nn.parallel.DistributedDataParallel(inner), "module."),
            (torch.compile(nn.Sequential(nn.Linear(3, 2))), "_orig_mod."),
        ]:
            assert all(name.startswith(prefix) for name in wrapped.state_dict())
            with pytest.raises(flair.InvalidError, match="pass strip=True"):
                repo.load(wrapped)
            repo.load(wrapped, "main", strip=True)
            assert equal(weights.state(wrapped, strip=True), dict(bare.state_dict()))
            with pytest.raises(flair.InvalidError, match=f"begin with {prefix}"):
                repo.commit(wrapped)
        with repo.train(wrapped, "compiled", strip=True) as run, torch.no_grad():
            for value in wrapped.parameters():
                value += 1
            run.num_examples = 100
        assert equal(repo.state_dict(), weights.state(wrapped, strip=True))
    finally:
        torch.distributed.destroy_process_group()


def test_what_does_not_fit_is_named_with_its_shapes(home: Path, tmp_path: Path) -> None:
    repo = flair.init({"fc.weight": torch.zeros(3, 2), "fc.bias": torch.zeros(3)}, tmp_path / "m")
    before = (repo.folder / "model.safetensors").read_bytes()
    wrong = {
        "fc.weight": torch.zeros(4, 2),
        "fc.bias": torch.zeros(3, dtype=torch.bfloat16),
        "head": torch.zeros(9),
    }
    with pytest.raises(flair.InvalidError) as error:
        repo.commit(wrong)
    text = str(error.value)
    assert "`fc.weight` has shape [4, 2], the repository has [3, 2]" in text
    assert "`fc.bias` is bfloat16, the repository has float32: pass cast=True" in text
    assert "`head` [9] is not in the repository's model" in text
    with pytest.raises(flair.InvalidError, match=r"`fc.bias` \[3\] is missing"):
        repo.commit({"fc.weight": torch.zeros(3, 2)})
    with pytest.raises(flair.InvalidError, match="`step` is a int, not a tensor"):
        repo.commit({"fc.weight": torch.zeros(3, 2), "step": 3})
    assert (repo.folder / "model.safetensors").read_bytes() == before, "a refused model touches no file"
    with pytest.raises(flair.InvalidError, match=r"`weight` \[1, 1\] is not in the repository's model"):
        repo.load(nn.Linear(1, 1))
    repo.commit({"fc.weight": torch.ones(3, 2).half(), "fc.bias": torch.ones(3)}, "in half", cast=True)
    assert repo.state_dict()["fc.weight"].dtype == torch.float32


def test_a_state_dict_is_mapped_and_nobody_elses(home: Path, tmp_path: Path) -> None:
    repo = flair.init({"w": torch.arange(1_000_000, dtype=torch.bfloat16)}, tmp_path / "m")
    state = repo.state_dict("main")
    maps = Path("/proc/self/maps").read_text()
    place = state["w"].data_ptr()
    spans = [line.split() for line in maps.splitlines()]
    (mapped,) = (s for s in spans if int(s[0].split("-")[0], 16) <= place < int(s[0].split("-")[1], 16))
    assert "model.safetensors" in mapped[-2], "the tensor is the file in memory, and no copy"
    assert not list(repo.local.glob("model-*")), "the file goes when the tensors go"
    state["w"].zero_()
    assert repo.state_dict("main")["w"][1] == 1


def test_a_malicious_checkpoint_is_never_run(home: Path, tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {proof}",)

    for name, save in [("new.pt", torch.save), ("old.ckpt", lambda o, p: p.write_bytes(pickle.dumps(o)))]:
        path = tmp_path / name
        save({"w": torch.zeros(2), "evil": Evil()}, path)
        with pytest.raises(flair.FlairError, match="holds code"):
            flair.init(path)
    assert not proof.exists()
    torch.load(tmp_path / "new.pt", weights_only=False)
    assert proof.exists(), "the checkpoint would have run its code"


def test_an_honest_checkpoint_begins_a_repository(home: Path, tmp_path: Path) -> None:
    model = Tied()
    (tmp_path / "m").mkdir()
    torch.save(model.state_dict(), tmp_path / "m" / "model.pt")
    repo = flair.init(tmp_path / "m" / "model.pt")
    assert equal(repo.state_dict("main"), dict(model.state_dict()))


def test_shards_stay_shards(home: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "m"
    folder.mkdir()
    save_file({"a": torch.zeros(3)}, folder / "one.safetensors")
    save_file({"b": torch.zeros(2)}, folder / "two.safetensors")
    repo = flair.init(folder)
    repo.commit({"a": torch.ones(3), "b": torch.ones(2)}, "both")
    assert equal(repo.state_dict(), {"a": torch.ones(3), "b": torch.ones(2)})
    assert list(load_file(folder / "one.safetensors")) == ["a"]


def test_importing_flair_imports_no_torch() -> None:
    code = "import sys, flair_ml; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'safetensors', 'flwr')))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_that_another_program_made_is_the_branchs_next_commit(home: Path, tmp_path: Path) -> None:
    repo = flair.init({"w": torch.zeros(4)}, tmp_path / "m")
    made = {"w": torch.full((4,), 0.25)}
    with pytest.raises(flair.InvalidError, match="engine"):
        repo.commit(made, "round 1", engine=" ")
    repo.commit(made, "round 1", engine="flower 1.41 FedAdam")
    pushed = repo.push()
    assert equal(repo.state_dict("main"), made)
    newest = repo.log().entries[0]
    assert (newest.kind, newest.commit) == ("external", pushed.commit)
    # Another layer is another architecture.
    repo.commit({"w": torch.ones(4)}, "trained")
    with pytest.raises(flair.ConflictError, match="stands alone"):
        repo.commit(message="wider", migrate=True)
