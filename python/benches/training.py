"""What Flair adds to a training in PyTorch, and a commit of a large model beside `torch.save` and `safetensors`:
seconds, processor time, memory. `docs/benchmarks.md` tells how to read it.

python python/benches/training.py [TIMES]
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import conftest
import digits
import torch
from torch import nn

import flair_ml as flair

#: Width of the hidden layers, and how many: what a model of about so many parameters has.
EPOCH = (1000, 10)
LARGE = (5000, 5)
MEGA = 1e6


def network(width: int, layers: int) -> nn.Module:
    torch.manual_seed(0)
    hidden = [module for _ in range(layers - 1) for module in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), *hidden, nn.Linear(width, 10))


class Process:
    """What a process uses from here on."""

    def __init__(self, number: int) -> None:
        self._place = Path("/proc", str(number))
        # Lets the peak begin at what is in use now.
        (self._place / "clear_refs").write_text("5")
        self._held = self._memory("VmRSS")
        self._spent = self._seconds()

    def _memory(self, name: str) -> int:
        (line,) = (line for line in (self._place / "status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024

    def _seconds(self) -> float:
        fields = (self._place / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def used(self) -> dict[str, float]:
        """Processor seconds, and megabytes at most beyond what was held at the start."""
        return {
            "cpu": self._seconds() - self._spent,
            "peak": (self._memory("VmHWM") - self._held) / MEGA,
        }


def measured(home: Path | None, work: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor seconds and memory of what is done here and in a home's node."""
    own = Process(os.getpid())
    node = None if home is None else Process(int((home / "lock").read_text()))
    began = time.perf_counter()
    work()
    wall = time.perf_counter() - began
    found = own.used()
    there = {"cpu": 0.0, "peak": 0.0} if node is None else node.used()
    return {"wall": wall, "cpu": found["cpu"], "peak": found["peak"], "node": there["cpu"], "node peak": there["peak"]}


def epoch(model: nn.Module) -> None:
    images, _ = digits.load()
    digits.train(model, images, epochs=1, seed=0)


def case(name: str, root: Path) -> dict[str, float]:
    """One row, measured in this process."""
    size = EPOCH if name.startswith("epoch") else LARGE
    model, home = network(*size), root / "home"
    if "Flair" not in name:
        # PyTorch reserves its threads' and kernels' memory at the first step.
        if name == "epoch, plain":
            saved = root / "saved.pt"
            torch.save(model.state_dict(), saved)

            def plain() -> None:
                model.load_state_dict(torch.load(saved, weights_only=True))
                epoch(model)
                torch.save(model.state_dict(), saved)

            return measured(None, plain)
        from safetensors.torch import save_file

        state = model.state_dict()
        if name == "torch.save":
            return measured(None, lambda: torch.save(state, root / "large.pt"))
        return measured(None, lambda: save_file(state, root / "large.safetensors"))
    os.environ["FLAIR_HOME"] = str(home)
    conftest.start(home)
    try:
        repo = flair.init(model, root / "model", every=1)
        if name == "epoch, with Flair":

            def train() -> None:
                repo.load(model)
                with repo.train(model, "an epoch"):
                    epoch(model)

            return measured(home, train)
        moved = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in model.parameters():
                # As far as a step of training moves weights.
                value += 1e-4 * torch.randn(value.shape, generator=moved)
        if name == "repo.commit, Flair":
            return measured(home, lambda: repo.commit(model, "all weights moved"))
        repo.commit(model, "all weights moved")
        return measured(home, repo.state_dict)
    finally:
        conftest.stop(home)


CASES = [
    "epoch, plain",
    "epoch, with Flair",
    "torch.save",
    "safetensors.save_file",
    "repo.commit, Flair",
    "repo.state_dict, Flair",
]


def main(times: str = "3") -> None:
    for size, what in ((EPOCH, "trained for an epoch of 1,437 digits"), (LARGE, "committed")):
        count = sum(value.numel() for value in network(*size).parameters())
        print(f"{count:,} parameters are {what}")
    print(f"{os.cpu_count()} processors, medians of {times}; load before each run in the last column")
    print("| | wall s | CPU s here | CPU s in the node | peak MB here | peak MB in the node | load |")
    print("|---|---|---|---|---|---|---|")
    for name in CASES:
        rows, loads = [], []
        for _ in range(int(times)):
            root = Path(tempfile.mkdtemp(prefix="fl"))
            loads.append(os.getloadavg()[0])
            try:
                command = [sys.executable, __file__, "--case", name, str(root)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            finally:
                shutil.rmtree(root, ignore_errors=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
        told = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        seconds = [f"{told[key]:.2f}" for key in ("wall", "cpu", "node")]
        memory = [f"{told[key]:.0f}" for key in ("peak", "node peak")]
        print(f"| {name} | {' | '.join(seconds + memory)} | {min(loads):.1f} to {max(loads):.1f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        torch.set_num_threads(1)
        print(json.dumps(case(sys.argv[2], Path(sys.argv[3]))))
    else:
        main(*sys.argv[1:])
