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

from flair_ml import Node
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
