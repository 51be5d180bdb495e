"""Evaluations from Python: the figures of a function, of two models, signed; the data never leave."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import test_package
import torch
from torch import nn

import flair_ml as flair
from flair_ml.node import program


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(4, 2)


def measure(state: dict[str, torch.Tensor]) -> dict[str, float | torch.Tensor]:
    """What is measured, in the place of a model on a holdout."""
    return {"fit": state["bias"].sum(), "seconds": 0.5, "n": 412}


def shift(model: nn.Module) -> None:
    with torch.no_grad():
        model.bias += 1


@pytest.fixture
def holdout(tmp_path: Path) -> Path:
    file = tmp_path / "holdout.csv"
    file.write_text("id,finding\n1,yes\n2,no\n")
    return file


def test_others_updates_are_evaluated_on_data_that_stay(
    homes: Callable[[str], Path], tmp_path: Path, holdout: Path
) -> None:
    ana, ben = homes("ana"), homes("ben")
    model = network()
    repo = flair.init(model, tmp_path / "m", every=2, home=ana, person="Ana")
    theirs = flair.clone(repo.ticket("contributor").ticket, tmp_path / "ben", home=ben, person="Ben")
    with theirs.train(model, "up") as run:
        shift(model)
        run.num_examples = 300
    update = theirs.push().commit
    while not (waits := repo.to_evaluate()):
        time.sleep(0.05)
    while True:
        # Its operation comes before its tensors do.
        try:
            repo.state_dict(update)
            break
        except flair.NotFoundError:
            time.sleep(0.05)
    (waiting,) = waits
    assert (waiting.commit, waiting.by, waiting.base) == (update, "Ben", repo.status().head)
    options = {"data": holdout, "better": {"fit": "higher"}}
    tried = repo.evaluate(measure, waiting.commit, **options, dry_run=True)
    assert not tried.published and repo.show(update).entry.evaluations == []
    done = repo.evaluate(measure, waiting.commit, **options)
    assert done.published and (done.data, done.code) == (tried.data, tried.code) and done.code is not None
    (said,) = repo.show(update).entry.evaluations
    assert (said.by, said.set, said.n, said.base, said.data) == ("Ana", "holdout", 412, waiting.base, done.data)
    (fit,) = said.metrics
    assert (fit.name, fit.better) == ("fit", "higher") and fit.base is not None
    assert fit.value - fit.base == pytest.approx(2)
    assert repo.to_evaluate() == []
    left = (ana / "egress.jsonl").read_text()
    assert "metrics.0.value" in left and "seconds" not in left and "finding" not in left
    # Of a first commit, which has no base.
    first = repo.evaluate(measure, "main", **options, on="other")
    assert first.base is None and first.metrics[0].base is None and first.data != done.data
    assert len(repo.log().entries[-1].evaluations) == 1


def test_python_and_the_command_seal_alike(home: Path, tmp_path: Path, holdout: Path) -> None:
    repo = flair.init(network(), tmp_path / "m")
    code = tmp_path / "eval.py"
    code.write_text('print(\'{"fit": 1, "n": 2}\')\n')
    options = {"data": [holdout], "better": {"fit": "higher"}, "code": code}
    ours = repo.evaluate(measure, "main", **options, dry_run=True)
    settings = f'[evaluate.holdout]\ncommand = "python3 {code} {{model}}"\ndata = "{holdout}"\n'
    (repo.folder / ".flair" / "config.toml").write_text(settings + 'better = { fit = "higher" }\n')
    command = [program("flair"), "-C", repo.folder, "evaluate", "main", "--dry-run", "--json"]
    (theirs,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert (theirs["data"], theirs["code"]) == (ours.data, ours.code)
    holdout.write_text("id,finding\n1,yes\n")
    assert repo.evaluate(measure, "main", **options, dry_run=True).data != ours.data


def test_what_can_not_be_compared_is_not_signed(home: Path, tmp_path: Path, holdout: Path) -> None:
    model = network()
    repo = flair.init(model, tmp_path / "m", every=3)
    with repo.train(model, "up"):
        shift(model)
    update = repo.push().commit
    counts = iter([5, 6])
    for fn, options, why in [
        (measure, {"better": {"auc": "higher"}}, "did not give the metric `auc`"),
        (measure, {"better": {"fit": "up"}}, "`up` is no direction of fit"),
        (measure, {"better": {}}, "no metric is named"),
        (measure, {"data": tmp_path / "nothing"}, "nothing: No such file"),
        (measure, {"on": ""}, "name"),
        (lambda state: {"fit": float("nan")}, {}, "`fit` is nan"),
        (lambda state: {"fit": 1, "n": 0.5}, {}, "`n` is 0.5"),
        (lambda state: {"fit": 1, "n": next(counts)}, {}, "measured on 6 examples and its base on 5"),
    ]:
        with pytest.raises(flair.InvalidError, match=why):
            repo.evaluate(fn, update, **({"data": holdout, "better": {"fit": "higher"}} | options))
    assert repo.show(update).entry.evaluations == []


def test_the_documented_evaluation_runs(home: Path, tmp_path: Path, holdout: Path) -> None:
    (block,) = test_package.blocks(test_package.ROOT / "docs" / "pytorch.md", "## Evaluating")
    model = network()
    repo = flair.init(model, tmp_path / "m")
    around = {"repo": repo, "model": model, "accuracy": lambda model: 0.5, "labels": range(30)}
    exec(compile(block.replace("/data/holdout", os.fspath(holdout)), "docs", "exec"), around)
    (said,) = repo.log().entries[0].evaluations
    assert [(metric.name, metric.value, said.n) for metric in said.metrics] == [("accuracy", 0.5, 30)]
