"""`flair new`: what it writes runs, as its own README says."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import flair_ml as flair


def run(command: str, folder: Path, home: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"FLAIR_HOME": os.fspath(home), "OMP_NUM_THREADS": "1", "PATH": path}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def accuracies(out: str) -> dict[str, float]:
    return {when: float(figure) for when, figure in re.findall(r"^(\w+): ([\d.]+)%", out, re.MULTILINE)}


def test_the_example_runs_as_its_readme_says_alone_and_with_another_person(
    homes: Callable[[str], Path], tmp_path: Path
) -> None:
    ana, ben = homes("ana"), homes("ben")
    made = flair.new("pytorch", tmp_path / "ana")
    assert sorted(path.name for path in made.iterdir()) == ["README.md", "train.py"]
    text = (tmp_path / "ana" / "README.md").read_text()
    outputs = [run(block, tmp_path / "ana", ana) for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)]
    first, history, second, ticket = outputs
    assert accuracies(first)["before"] < 20 < 70 < accuracies(first)["together"]
    assert accuracies(second)["before"] == accuracies(first)["together"]
    assert "drawn-digits" in history and "site 0" in history

    (others,) = re.findall(r"```\n(python train.py .*?)```", text, re.DOTALL)
    flair.new("pytorch", tmp_path / "ben")
    given = next(word for word in ticket.split() if word.startswith("flair") and len(word) > 100)
    out = run(others.replace("flair…", given), tmp_path / "ben", ben)
    assert accuracies(out)["before"] > 70 and accuracies(out)["together"] > 70
    log = flair.Repo(tmp_path / "ben" / "model", home=ben).log().entries
    assert sorted(entry.message for entry in log if entry.kind == "update") == ["site 0", "site 1", "site 2"]


def test_nothing_is_overwritten_and_an_unknown_example_names_the_known(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(flair.ConflictError, match="exists already"):
        flair.new("pytorch", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"] and (
        tmp_path / "README.md"
    ).read_text() == "mine"
    with pytest.raises(flair.NotFoundError) as caught:
        flair.new("tensorflow", tmp_path / "x")
    assert "known examples: pytorch" in str(caught.value) + str(caught.value.help)
