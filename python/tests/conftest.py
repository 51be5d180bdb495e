"""Nodes on loopback, each with a home of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from flair_ml import Node, Repo
from flair_ml.node import program


def start(home: Path) -> None:
    """Starts a node, at any free port of loopback."""
    command = [program("flair-node"), "--home", home, "start", "--detach"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def kill(home: Path) -> None:
    """Ends the node of a home as a crash does, and returns when it is gone."""
    os.kill(int((home / "lock").read_text()), signal.SIGKILL)
    while Node.answers(home):
        time.sleep(0.01)


def stop(home: Path) -> None:
    """Stops the node of a home, if one runs, and returns when it is gone and writes no more."""
    if Node.answers(home):
        process = (home / "lock").read_text().strip()
        subprocess.run([program("flair-node"), "--home", home, "stop"], check=True, capture_output=True, timeout=60)
        while alive(process):
            time.sleep(0.01)


def alive(process: str) -> bool:
    """Whether a process is there and not a zombie, which it stays where nobody collects it."""
    try:
        return Path("/proc", process, "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def shift(model: nn.Module, by: float = 1) -> None:
    """Trains, in a way."""
    with torch.no_grad():
        for value in model.parameters():
            value += by


def drafts(repo: Repo) -> int:
    work = repo.status().work
    assert work is not None
    return len(work.drafts)


def kept(repo: Repo) -> list[Path]:
    """Weights of trainings that were not committed."""
    return sorted((repo.local / "kept").glob("*/*.safetensors"))


def holds(repo: Repo, revision: str | None, model: nn.Module) -> bool:
    """Whether a revision has a model's weights, bit for bit."""
    state = repo.state_dict(revision)
    return all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@pytest.fixture
def homes() -> Iterator[Callable[[str], Path]]:
    """Homes with running nodes, by name. Their paths are short: a socket's has little room."""
    root = Path(tempfile.mkdtemp(prefix="fl"))
    made: list[Path] = []

    def home(name: str) -> Path:
        path = root / name
        made.append(path)
        start(path)
        return path

    yield home
    for path in made:
        stop(path)
    shutil.rmtree(root)


@pytest.fixture
def home(homes: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a running node, which is the one that is used where none is named."""
    path = homes("home")
    monkeypatch.setenv("FLAIR_HOME", os.fspath(path))
    return path
