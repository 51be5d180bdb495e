"""`flair train` and `flair eval` on modules that PyTorch exported."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import PATIENCE, Net, Person, rows, weights
from safetensors.torch import load_file, save_file
from torch import nn


def test_two_people_train_and_one_sees_what_the_other_measured(ana, net, module, place, node):
    node(ana.home)
    ticket = ana.json("ticket", "--role", "contributor", "--uses", 1)["ticket"]
    ben = Person(place / "ben", place / "theirs")
    node(ben.home)
    here = Person(ben.home, place)
    here.run("clone", ticket, "theirs")
    private = {}
    for person, seed in ((ana, 1), (ben, 2)):
        private[seed] = rows(place / f"private{seed}.safetensors", seed)
        person.run(
            "train",
            "--module",
            module,
            "--data",
            private[seed],
            "--epochs",
            3,
            "--lr",
            0.1,
            "--hold-out",
            0.1,
            "--seed",
            seed,
            "-m",
            f"site {seed}",
        )
        person.run("push")

    # What was said of the training is in the commit, and of the data nothing else.
    pushed = ana.json("log")["entries"]
    mine = next(entry for entry in pushed if entry["message"] == "site 1")
    assert mine["examples"] == 230
    said = {field["name"]: field["value"] for field in ana.json("show", mine["commit"])["training"]}
    assert (said["steps"], said["epochs"], said["seed"]) == ("24", "3", "1")
    assert {metric["name"] for metric in mine["metrics"]} == {"loss", "accuracy", "auc"}
    for seed, file in private.items():
        row = load_file(file)["inputs"][0].numpy().tobytes()
        for home in (ana.home, ben.home):
            for kept in home.rglob("*"):
                assert not kept.is_file() or row not in kept.read_bytes(), f"a row of {seed} is in {kept}"

    def aggregated(person):
        head = person.json("status")["head"]
        return any(entry["commit"] == head and entry["kind"] == "aggregate" for entry in person.json("log")["entries"])

    for person in (ana, ben):
        person.wait(lambda person=person: aggregated(person))
        person.wait(
            lambda person=person: person.run("pull") is not None and person.json("status")["work"]["behind"] == 0
        )

    # The aggregate of what tch trained is a model that PyTorch loads, and both compute the same.
    holdout = rows(place / "holdout.safetensors", 3)
    net.load_state_dict(load_file(ben.model), strict=False)
    net.eval()
    data = load_file(holdout)
    with torch.no_grad():
        outputs = net(data["inputs"])
    told = ben.json("eval", "--module", module, "--data", holdout)
    assert told["n"] == 256
    assert told["loss"] == pytest.approx(float(nn.functional.cross_entropy(outputs, data["targets"])), rel=1e-5)
    assert told["accuracy"] == pytest.approx(float((outputs.argmax(1) == data["targets"]).float().mean()))

    # Ben's figures of the head, signed, are in Ana's log.
    ben.run("eval", "--module", module, "--data", holdout, "main")
    head = ben.json("status")["head"]

    def seen():
        entry = next(entry for entry in ana.json("log")["entries"] if entry["commit"] == head)
        return entry["evaluations"]

    ana.wait(lambda: bool(seen()))
    (evaluation,) = seen()
    values = {metric["name"]: metric["value"] for metric in evaluation["metrics"]}
    assert values["accuracy"] == pytest.approx(told["accuracy"])
    # A second time nothing is written, and another module under that name is refused.
    config = (ben.folder / ".flair/config.toml").read_text()
    ben.run("eval", "--module", module, "--data", holdout, "main", "--dry-run")
    assert (ben.folder / ".flair/config.toml").read_text() == config
    refused = ben.run("eval", "--module", module, "--data", private[2], "main", status=2)
    assert "[evaluate.holdout]" in refused.stderr


def reference(net: Net, data: Path, optimizer: torch.optim.Optimizer) -> None:
    """An epoch as PyTorch trains it, in one batch: the order does not matter."""
    net.train()
    held = load_file(data)
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(held["inputs"]), held["targets"]).backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_step_is_that_of_pytorch_also_for_tied_weights_and_statistics(ana, net, module, place, name):
    net.body[3].p = 0.0
    torch.jit.script(net).save(module)
    data = rows(place / "private.safetensors", 1)
    made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    reference(net, data, made(net.parameters(), lr=0.01))
    ana.run("train", "--module", module, "--data", data, "--batch-size", 256, "--optimizer", name, "--no-commit")
    trained = load_file(ana.model)
    for tensor, value in weights(net).items():
        # Batch-norm takes away what a bias before it adds: its gradient is rounding, which Adam makes a whole step of.
        if tensor == "body.0.bias":
            continue
        torch.testing.assert_close(trained[tensor], value, rtol=1e-4, atol=2e-5, msg=tensor)
    assert trained["body.1.num_batches_tracked"] == 1


def test_one_thread_and_a_seed_give_the_same_bytes(ana, module, place):
    data = rows(place / "private.safetensors", 1)
    before = ana.model.read_bytes()

    def train(seed):
        ana.model.write_bytes(before)
        ana.run(
            "train", "--module", module, "--data", data, "--epochs", 2, "--seed", seed, "--threads", 1, "--no-commit"
        )
        return ana.model.read_bytes()

    first = train(7)
    assert first == train(7)
    assert first != train(8)
    # The header is the one that was there.
    length = 8 + int.from_bytes(before[:8], "little")
    assert first[:length] == before[:length]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_stay_as_they_are(place, module, dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)).to(dtype)
    person = Person(place / "home", place / "model")
    person.folder.mkdir()
    save_file(net.state_dict(), person.model)
    torch.jit.script(net).save(module)
    data = rows(place / "private.safetensors", 1)
    person.run("train", "--module", module, "--data", data, "--lr", 0.5, "--no-commit")
    trained = load_file(person.model)
    assert all(value.dtype == dtype for value in trained.values())
    assert not torch.equal(trained["0.weight"], net.state_dict()["0.weight"])


def test_ctrl_c_leaves_the_model_and_says_where_the_weights_are(ana, module, place):
    data = rows(place / "private.safetensors", 1)
    before = ana.model.read_bytes()
    command = ["flair", "train", "--module", module, "--data", data, "--epochs", "1000000"]
    environment = os.environ | {"FLAIR_HOME": str(ana.home)}
    with subprocess.Popen(command, cwd=ana.folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("epoch 1/"):
            pass
        process.send_signal(signal.SIGINT)
        # Whatever else it had to say must not stop it.
        said = process.stderr.read()
        assert process.wait(PATIENCE) == 130, said
    assert ana.model.read_bytes() == before
    assert ana.json("status")["work"]["drafts"] == []
    kept = Path(said.strip().rsplit(" ", 1)[-1]) / "model.safetensors"
    assert load_file(kept).keys() == load_file(ana.model).keys()
    assert kept.read_bytes() != before
    # They are the user's to take.
    ana.model.write_bytes(kept.read_bytes())
    ana.run("commit", "-m", "until Ctrl-C", "--examples", 256)


def test_a_commit_that_is_refused_gives_the_model_back(ana, module, place):
    (ana.folder / ".flair/config.toml").write_text("[privacy]\nrequire = true\n")
    before = ana.model.read_bytes()
    data = rows(place / "private.safetensors", 1)
    done = subprocess.run(
        ["flair", "train", "--module", module, "--data", data],
        cwd=ana.folder,
        capture_output=True,
        text=True,
        env=os.environ | {"FLAIR_HOME": str(ana.home)},
        timeout=300,
    )
    assert done.returncode != 0
    assert "are kept in" in done.stderr
    assert ana.model.read_bytes() == before
    assert [path.name for path in ana.folder.iterdir() if path.name.startswith(".flair-train")] == []


def test_what_does_not_fit_is_named_before_anything_is_trained(ana, net, module, place):
    data = rows(place / "private.safetensors", 1)
    before = ana.model.read_bytes()

    def refused(*words, module=module, data=data):
        said = ana.run("train", "--module", module, "--data", data, *words, status=2).stderr
        assert ana.model.read_bytes() == before
        assert not (ana.folder / ".flair/local/kept").exists()
        return said

    net.body[0] = nn.Linear(8, 32)
    net.body[1] = nn.BatchNorm1d(32)
    net.body[4] = nn.Sequential(nn.Linear(32, 2))
    other = place / "other.ts"
    torch.jit.script(net).save(other)
    said = refused(module=other)
    assert "`body.0.weight` is [16, 8] in the model's file and [32, 8] in the module" in said
    assert "`body.4.weight` [2, 16] is not in the module" in said
    assert "`body.4.0.weight` [2, 32] is not in the model's file" in said
    double = place / "half.ts"
    torch.jit.script(Net().half()).save(double)
    assert "is F32 in the model's file and F16 in the module" in refused(module=double)

    junk = place / "junk"
    for content in (b"", b"junk", b"PK\3\4junk", module.read_bytes()[:2000]):
        junk.write_bytes(content)
        assert "TorchScript" in refused(module=junk), content[:8]
    for content, named in (
        (b"", "too short"),
        (b"\xff" * 16, "safetensors"),
        ((1 << 20).to_bytes(8, "little") + b"{}", "cut"),
        (header({"inputs": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}) + b"1234", "inputs"),
        (header({"inputs": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}), "cut or damaged"),
    ):
        junk.write_bytes(content)
        assert named in refused(data=junk), content[:8]
    x, y = torch.randn(4, 8), torch.tensor([0, 1, 0, 1])
    for tensors, named in (
        ({"inputs": x}, "no tensor `targets`"),
        ({"inputs": x, "targets": y[:3]}, "4 rows"),
        ({"inputs": x[:0], "targets": y[:0]}, "no rows"),
        ({"inputs": x * float("nan"), "targets": y}, "NaN"),
        ({"inputs": x, "targets": y + 1}, "2 classes"),
        ({"inputs": x, "targets": y.float()}, "whole numbers"),
        ({"inputs": x[:, :5].contiguous(), "targets": y}, "[4, 5]"),
    ):
        save_file(tensors, junk)
        assert named in refused(data=junk), named
    assert "--inputs: targets, inputs" in refused("--inputs", "x")
    assert "not a file" in refused(data=place)


def header(tensors) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


def test_the_other_losses_learn(place, module):
    person = Person(place / "home", place / "model")
    person.folder.mkdir()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    torch.jit.trace(net, torch.ones(2, 8)).save(module)
    x = torch.randn(256, 8)
    for loss, targets in (("mse", x.sum(1)), ("bce", (x[:, 0] > 0).float())):
        save_file(net.state_dict(), person.model)
        data = place / f"{loss}.safetensors"
        save_file({"x": x, "y": targets}, data)
        common = ("--module", module, "--data", data, "--inputs", "x", "--targets", "y", "--loss", loss)
        before = person.json("eval", *common)
        told = person.json("train", *common, "--epochs", 20, "--optimizer", "adam", "--no-commit")
        after = person.json("eval", *common)
        assert after["loss"] < before["loss"] / 1.5
        assert told["libtorch"] == torch.__version__.split("+")[0]
        assert ("auc" in after) == (loss == "bce")
        if loss == "bce":
            assert after["auc"] > 0.95
