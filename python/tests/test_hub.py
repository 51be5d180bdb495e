"""A module that saves, loads and pushes itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import flair_ml as flair


class Net(nn.Module, flair.FlairHubMixin):
    def __init__(self, width: int = 4, *, sizes: tuple[int, ...] = (3,), act: object = None) -> None:
        super().__init__()
        self.act = act
        self.body = nn.Linear(width, sizes[0])


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_a_model_comes_back_as_it_was_made(tmp_path: Path) -> None:
    model = Net(5, sizes=(2,))
    model.save_pretrained(tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == {"width": 5, "sizes": [2], "act": None}
    back = Net.from_pretrained(tmp_path / "m")
    assert same(model, back) and not back.training and back.repo is None
    with pytest.raises(flair.InvalidError, match=r"`body.weight` has shape \[2, 6\], the repository has \[2, 5\]"):
        Net.from_pretrained(tmp_path / "m", width=6)
    with pytest.raises(flair.InvalidError, match="can't be written"):
        Net(act=object()).save_pretrained(tmp_path / "n")


def test_a_model_goes_round_through_a_repository(
    homes: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ana, ben = homes("ana"), homes("ben")
    model = Net(7)
    with pytest.raises(flair.InvalidError, match="of no repository yet"):
        model.push_to_flair()
    assert model.push_to_flair("untrained", folder=tmp_path / "net", home=ana, every=1) is None
    assert model.repo is not None
    ticket = model.repo.ticket("contributor").ticket

    theirs = Net.from_pretrained(ticket, folder=tmp_path / "ben", home=ben, person="Ben")
    assert same(model, theirs) and theirs.repo is not None
    with torch.no_grad():
        theirs.body.bias += 1
    pushed = theirs.push_to_flair("bias up", num_examples=300, metrics={"val/loss": 0.5})
    assert pushed is not None and pushed.commit is not None
    theirs.repo.wait()
    shown = theirs.repo.show(pushed.commit).entry
    assert (shown.message, shown.examples, shown.metrics[0].value) == ("bias up", 300, 0.5)
    theirs.repo.pull()
    with torch.no_grad():
        theirs.body.bias += 1
    with pytest.raises(flair.ConflictError, match="has moved since"):
        theirs.push_to_flair("on an old base")
    again = Net.from_pretrained(tmp_path / "ben", home=ben)
    assert torch.equal(again.body.bias, model.body.bias + 1)
    first = theirs.repo.log().entries[-1].commit
    assert same(Net.from_pretrained(tmp_path / "ben", home=ben, revision=first), model)
