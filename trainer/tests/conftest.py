"""Two people with nodes of their own on loopback, a model, and the programs that train it without Python."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

PATIENCE = 60


class Net(nn.Module):
    """Has what is easily got wrong: a tied weight, batch-norm with its counter, dropout, a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        self.second = nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
        self.register_buffer("mask", torch.ones(8), persistent=False)
        self.mask: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.second(torch.relu(self.first(x))) * self.mask)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A model's tensors as they are saved: a tied one under its first name."""
    return {name: value.contiguous() for name, value in model.state_dict().items() if name != "second.weight"}


def rows(path: Path, seed: int, count: int = 256) -> Path:
    """Writes data that can be learnt."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 8, generator=generator)
    save_file({"inputs": inputs, "targets": (inputs[:, 0] * inputs[:, 1] > 0).long()}, path)
    return path


@dataclass
class Person:
    """Somebody with a home and a folder to work in."""

    home: Path
    folder: Path

    def run(self, *words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs `flair` in the folder, and expects it to end with `status`."""
        command = ["flair", *map(str, words)]
        environment = os.environ | {"FLAIR_HOME": str(self.home)}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: object):
        return json.loads(self.run(*words, "--json").stdout)

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    def wait(self, reached: Callable[[], bool]) -> None:
        start = time.monotonic()
        while not reached():
            assert time.monotonic() - start < PATIENCE, self.run("status").stdout
            time.sleep(0.05)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path: a socket's has little room."""
    path = Path(tempfile.mkdtemp(prefix="fl"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def module(net: Net, place: Path) -> Path:
    """The module, as PyTorch exports it."""
    path = place / "model.ts"
    torch.jit.script(net).save(path)
    return path


@pytest.fixture
def ana(net: Net, place: Path) -> Person:
    """Ana has a repository of the model; no node runs."""
    person = Person(place / "ana", place / "digits")
    person.folder.mkdir()
    save_file(weights(net), person.model)
    person.run("init", "model.safetensors", "--name", "digits", "-m", "untrained", "--every", 2)
    return person


@pytest.fixture
def node(place: Path) -> Iterator[Callable[[Path], None]]:
    """Starts the node of a home; all are stopped at the end."""
    started = []

    def start(home: Path) -> None:
        subprocess.run(
            ["flair-node", "--home", home, "start", "--detach"], check=True, capture_output=True, timeout=120
        )
        started.append((home, (home / "lock").read_text().strip()))

    yield start
    for home, process in started:
        subprocess.run(["flair-node", "--home", home, "stop"], check=True, capture_output=True, timeout=60)
        while Path("/proc", process).exists():
            time.sleep(0.01)
