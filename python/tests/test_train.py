"""`with repo.train(…)` ends in one draft, or in none and kept weights: whatever happens between."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import conftest
import pytest
import torch
from conftest import drafts, holds, kept, shift
from torch import nn

import flair_ml as flair


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.fixture
def repo(home: Path, tmp_path: Path) -> flair.Repo:
    return flair.init(network(), tmp_path / "m", every=1)


def test_a_training_becomes_one_draft_with_what_was_said(repo: flair.Repo) -> None:
    model = network()
    repo.load(model)
    with repo.train(model, message="site B") as run:
        for epoch in range(3):
            shift(model)
            run.log({"train/loss": torch.tensor(1 / (epoch + 1)), "val/accuracy": (0.5 + epoch / 10, 40)}, step=epoch)
            run.log({"train/gradient": float("nan")})
        run.num_examples, run.epochs, run.steps, run.seed = 120, 3, 12, 9
    assert run.committed is not None and run.committed.draft.changed == 4
    assert holds(repo, None, model) and not kept(repo)
    pushed = repo.push()
    shown = repo.show(pushed.commit)
    assert shown.entry.message == "site B" and shown.entry.examples == 120
    said = {f"{m.split}/{m.name}": (m.value, m.n) for m in shown.entry.metrics}
    assert said == {"train/loss": (pytest.approx(1 / 3), 0), "val/accuracy": (0.7, 40)}
    (curves,) = (repo.local / "runs").iterdir()
    lines = [json.loads(line) for line in curves.read_text().splitlines()]
    assert next(line["metrics"]["train/loss"] for line in lines if line["step"] is not None) == 1
    assert "runs" not in json.dumps([blob.what for blob in pushed.blobs])


def test_an_exception_commits_nothing_and_keeps_the_weights(repo: flair.Repo) -> None:
    model = network()
    with pytest.raises(ZeroDivisionError) as error, repo.train(model, "to be") as run:
        shift(model)
        run.log({"val/loss": 0.25})
        1 / 0  # noqa: B018
    (file,) = kept(repo)
    assert str(file) in error.value.__notes__[0]
    assert drafts(repo) == 0 and repo.status().work.changes == []
    assert repo.recover().draft.message == "to be"
    assert holds(repo, None, model) and not kept(repo)


def test_an_exception_before_any_training_keeps_nothing(repo: flair.Repo) -> None:
    with pytest.raises(ZeroDivisionError) as error, repo.train(network()):
        1 / 0  # noqa: B018
    assert not kept(repo) and not hasattr(error.value, "__notes__")


# Whoever runs the tests in the background lets them ignore Ctrl-C, and what they start too.
SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import torch
import flair_ml as flair
sys.path.insert(0, sys.argv[2])
from test_train import network, shift
repo = flair.Repo(sys.argv[1])
model = network()
repo.load(model)
with repo.train(model, "long") as run:
    shift(model)
    print("trained", flush=True)
    while True:
        time.sleep(0.01)
"""


def test_ctrl_c_commits_nothing_and_keeps_the_weights(repo: flair.Repo) -> None:
    command = [sys.executable, "-c", SCRIPT, repo.folder, Path(__file__).parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "trained\n"
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in told
    (file,) = kept(repo)
    assert str(file) in told
    assert drafts(repo) == 0 and repo.status().work.changes == []
    model = network()
    shift(model)
    repo.recover(file)
    assert holds(repo, None, model)


def test_a_node_that_dies_in_the_middle_loses_no_training(repo: flair.Repo, home: Path) -> None:
    model = network()
    with pytest.raises(flair.OfflineError) as error, repo.train(model, "through the crash"):
        shift(model)
        conftest.kill(home)
    (file,) = kept(repo)
    assert str(file) in str(error.value) and "repo.recover()" in str(error.value)
    conftest.start(home)
    assert drafts(repo) == 0 and repo.status().work.changes == []
    assert repo.recover().draft.message == "through the crash"
    assert holds(repo, None, model) and drafts(repo) == 1


def test_a_node_that_python_started_is_started_again(tmp_path: Path, homes: Callable[[str], Path]) -> None:
    home = homes("own")
    conftest.stop(home)
    model = network()
    repo = flair.init(model, tmp_path / "m", home=home)
    assert repo.node.running()
    with repo.train(model, "through the crash"):
        shift(model)
        conftest.kill(home)
    assert drafts(repo) == 1 and holds(repo, None, model)


def test_weights_of_a_diverged_training_are_refused_by_name_and_kept(repo: flair.Repo) -> None:
    model = network()
    with pytest.raises(flair.InvalidError, match=r"`0.bias` holds a NaN") as error, repo.train(model), torch.no_grad():
        model[0].bias[1] = torch.nan
    assert str(kept(repo)[0]) in str(error.value) and drafts(repo) == 0


def test_a_folder_that_moved_meanwhile_is_not_committed_to(repo: flair.Repo) -> None:
    model, other = network(), network()
    with pytest.raises(flair.ConflictError, match="has moved from") as error, repo.train(model, "slow"):
        shift(model)
        with repo.train(other, "fast"):
            shift(other, 2)
        repo.push()
        repo.wait()
        repo.pull()
    assert str(kept(repo)[0]) in str(error.value)
    assert holds(repo, "main", other) and drafts(repo) == 0
    repo.recover()
    assert holds(repo, None, model)
    repo.pull(rebase=True)
    both = network()
    shift(both, 3)
    assert all(torch.allclose(repo.state_dict()[name], value) for name, value in both.state_dict().items())


def test_a_model_that_was_not_loaded_is_refused(repo: flair.Repo) -> None:
    model = network()
    shift(model)
    with pytest.raises(flair.ConflictError, match=r"does not hold the weights .* `0\.") as error, repo.train(model):
        pytest.fail("it was let through")
    assert "repo.load(model)" in str(error.value)
    with repo.train(model, "from elsewhere", check=False):
        pass
    assert drafts(repo) == 1


def test_a_training_begins_where_state_dict_was_taken(repo: flair.Repo) -> None:
    model, other = network(), network()
    with repo.train(other, "first"):
        shift(other)
    repo.push()
    repo.wait()
    # The folder stands on an older commit.
    repo.checkout(repo.log().entries[-1].commit)
    model.load_state_dict(repo.state_dict("main"))
    with repo.train(model, "second"):
        shift(model)
    work = repo.status().work
    assert work is not None and work.base == repo.status().head and len(work.drafts) == 1


def test_other_training_in_the_folder_is_not_overwritten(repo: flair.Repo) -> None:
    from safetensors.torch import save_file

    model = network()
    changed = network()
    shift(changed)
    save_file(changed.state_dict(), repo.folder / "model.safetensors")
    with pytest.raises(flair.ConflictError, match="not committed: `model.safetensors`"), repo.train(model):
        pytest.fail("it was let through")
    repo.commit(message="by hand")
    assert holds(repo, None, changed)
    with repo.train(changed, "on top"):
        shift(changed)
    assert drafts(repo) == 2


def test_training_that_changes_nothing_says_so(repo: flair.Repo) -> None:
    with pytest.raises(flair.ConflictError, match="nothing to commit"), repo.train(network()):
        pass
    assert not kept(repo)


def test_what_the_command_can_do_python_can(home: Path, tmp_path: Path) -> None:
    repo = flair.init(network(), tmp_path / "m", name="letters", every=2, person="Ana")
    model = network()
    repo.load(model)
    with repo.train(model, "one step") as run:
        shift(model)
        run.num_examples = 400
    listed = repo.push(dry_run=True)
    assert listed.commit is None and {field.name for field in listed.fields} >= {"message", "training.examples"}
    pushed = repo.push()
    assert pushed.commit is not None
    assert repo.status().last_update == flair.UpdateNote(
        commit=pushed.commit, state="pending", words=repo.status().last_update.words
    )
    with pytest.raises(flair.ConflictError, match="not in the head after 0 s"):
        repo.wait(timeout=0)
    planned = repo.aggregate(dry_run=True)
    assert (planned.persons, planned.needed, planned.published) == (1, 2, False)
    with pytest.raises(flair.ConflictError):
        repo.aggregate("main")
    made = repo.aggregate("main", flush=True)
    assert made.published and [put.commit for put in made.inputs] == [pushed.commit]
    assert repo.pull().to == made.commit == repo.wait().head
    assert repo.verify().holds
    (row, *_) = repo.diff("main", repo.log().entries[-1].commit).rows
    assert row.dtype == "f32" and row.max == pytest.approx(0.5)
    repo.branch("bold", "main")
    assert {branch.name for branch in repo.branches()} == {"main", "bold"}
    assert repo.checkout("bold").branch == "bold"
    repo.review(pushed.commit, "accept", "looks sane")
    assert [said.text for said in repo.show(pushed.commit).reviews] == ["looks sane"]
    assert repo.reviews() == [] and repo.peers() == []
    (me,) = repo.members()
    assert me.name == "Ana" and me.role == "delegate" and me.me
    assert repo.ticket("contributor", uses=2, label="Site B").uses == 2
    repo.export(tmp_path / "copy", pushed.commit)
    assert (tmp_path / "copy" / "model.safetensors").is_file()
    with pytest.raises(flair.NotFoundError, match="nowhere") as error:
        repo.state_dict("nowhere")
    assert error.value.help
    with pytest.raises(flair.NotFoundError, match="working folder"):
        flair.Repo(tmp_path)


def test_without_a_node_python_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(flair.OfflineError, match="flair-node start"):
        flair.Repo(tmp_path, home=tmp_path / "none", start=False)
    assert not (tmp_path / "none").exists()


def test_a_training_resumes_with_its_optimiser_and_curves(repo: flair.Repo) -> None:
    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).pow(2).sum().backward()
            optimizer.step()

    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)

    straight = network()
    steps(straight, adam(straight), 10)
    model = network()
    optimizer = adam(model)
    with repo.train(model, "half", optimizer=optimizer, resume=True) as run:
        assert not run.resumed and run.last_step is None
        steps(model, optimizer, 5)
        run.log({"loss": 1}, step=4)
    model = network()
    repo.load(model)
    optimizer = adam(model)
    with pytest.raises(KeyboardInterrupt), repo.train(model, "more", optimizer=optimizer, resume=True) as run:
        assert run.resumed and run.last_step == 4
        steps(model, optimizer, 3)
        run.log({"loss": 0.5}, step=7)
        raise KeyboardInterrupt
    repo.recover()
    model = network()
    repo.load(model)
    optimizer = adam(model)
    with repo.train(model, "the rest", optimizer=optimizer, resume=True) as run:
        assert run.last_step == 7
        steps(model, optimizer, 2)
    assert holds(repo, None, straight), "three parts give what one training gives, bit for bit"
    assert len(list((repo.local / "runs").iterdir())) == 1
    listed = repo.push(dry_run=True)
    assert "optimizer" not in str(listed.blobs)
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    repo.load(model)
    with pytest.raises(flair.InvalidError, match="another optimiser"), repo.train(model, optimizer=other, resume=True):
        pytest.fail("it was let through")


def test_notebooks_show_what_strangers_wrote_as_text(home: Path, tmp_path: Path) -> None:
    model = network()
    repo = flair.init(model, tmp_path / "m", name="letters", every=2)
    with repo.train(model, "<script>alert(1)</script>") as run:
        shift(model)
        run.log({"val/loss": 0.125})
    repo.push()
    for shown in [
        repo,
        repo.status(),
        repo.log(),
        repo.diff(repo.log().entries[-1].commit, repo.log().entries[0].commit),
    ]:
        page = shown._repr_html_()
        assert "<table>" in page and "<script" not in page
    assert "&lt;script&gt;" in repo.log()._repr_html_() and "val/loss 0.125" in repo.log()._repr_html_()
