"""What FlairMod and FlairStrategy make of servers, sites and apps that are not as they should be.

Apps, messages, strategies and nodes are real; only Flower's network between them is a call.
"""

import contextlib
import json
import logging
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx, Krum
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

import flair_ml as flair
from flair_ml.flower import FlairMod, FlairStrategy, records
from flair_ml.node import program

SITES = 2


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def app(site: int, *, mods: list[Any], change: Callable[[dict[str, torch.Tensor]], Any] | None = None) -> ClientApp:
    """An app that moves all weights by its site's number and one; or as `change` does."""
    made = ClientApp(mods=mods)

    @made.train()
    def train(message: Message, context: Context) -> Message:
        assert "flair" not in message.content or not mods, "the app hears nothing of Flair"
        assert list(message.content["arrays"]) == list(network().state_dict()), "in the order that the app has"
        tensors = message.content["arrays"].to_torch_state_dict()
        tensors = {name: value + (site + 1) for name, value in tensors.items()} if change is None else change(tensors)
        measured = {"loss": 1.0 + site, "nan": float("nan"), "curve": [1.0, 2.0], "num-examples": 100 * (site + 1)}
        content = {"arrays": ArrayRecord(tensors), "metrics": MetricRecord(measured)}
        return Message(RecordDict(content), reply_to=message)

    @made.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        total = sum(float(array.numpy().sum()) for array in message.content["arrays"].values())
        return Message(RecordDict({"m": MetricRecord({"total": total, "num-examples": 1})}), reply_to=message)

    return made


class Call(Grid):
    """A grid whose nodes are apps in this process, run as a SuperNode runs them."""

    def __init__(self) -> None:
        self.apps: dict[int, tuple[ClientApp, Context]] = {}
        #: Changes replies on the way back.
        self.meddle: Callable[[Message], Message] = lambda reply: reply
        self.sent: list[Message] = []
        self.back: list[Message] = []
        #: What went over the wire, both ways.
        self.carried: list[dict[str, Any]] = []

    def set_run(self, run: Any) -> None: ...

    run = property(lambda self: None)

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = []
        # The inner strategy draws nodes in any order.
        for message in sorted(messages, key=lambda message: message.metadata.dst_node_id):
            self.sent.append(message)
            called, context = self.apps[message.metadata.dst_node_id]
            # As on the wire: the content is another one at each site.
            given = Message(
                RecordDict(dict(message.content)),
                dst_node_id=message.metadata.dst_node_id,
                message_type=message.metadata.message_type,
            )
            try:
                reply = called(given, context)
            except Exception as error:
                reply = Message(Error(1, f"{type(error)}:<'{error}'>"), reply_to=given)
            reply = self.meddle(reply)
            self.back.append(reply)
            self.carried += [dict(message.content), dict(reply.content) if reply.has_content() else {}]
            replies.append(reply)
        return replies


class Study:
    """A server and sites, each with a node of its own."""

    def __init__(self, root: Path, homes: Callable[[str], Path], every: int = SITES) -> None:
        self.root, self.grid = root, Call()
        self.server = homes("server")
        self.repo = flair.init(network(), root / "server", every=every, home=self.server, person="Server")
        ticket = self.repo.ticket("contributor", uses=SITES).ticket
        self.folders = [root / f"site{site}" for site in range(SITES)]
        self.homes = [homes(f"site{site}") for site in range(SITES)]
        for site in range(SITES):
            flair.clone(ticket, self.folders[site], person=f"Site {site}", home=self.homes[site])
            self.put(site)

    def put(self, site: int, made: ClientApp | None = None, **context: Any) -> None:
        """Puts an app onto a site."""
        config = {"flair-folder": str(self.folders[site]), "flair-home": str(self.homes[site])}
        around = Context(
            run_id=7, node_id=10 + site, node_config=config | context, state=RecordDict(), run_config={}
        )  # fmt: skip
        self.grid.apps[10 + site] = (made or app(site, mods=[FlairMod(patience=60)]), around)

    def strategy(self, **settings: Any) -> FlairStrategy:
        settings = {"patience": 60} | settings
        return FlairStrategy(settings.pop("inner", None), self.root / "server", home=self.server, **settings)

    def run(self, rounds: int = 1, **settings: Any) -> Any:
        arrays = ArrayRecord(network().state_dict())
        return self.strategy(**settings).start(self.grid, arrays, num_rounds=rounds, timeout=60)

    def aggregates(self) -> int:
        (branch,) = self.repo.branches()
        return branch.aggregates

    def site(self, number: int) -> flair.Repo:
        return flair.Repo(self.folders[number], home=self.homes[number])


@pytest.fixture
def study(homes: Callable[[str], Path], tmp_path: Path) -> Iterator[Study]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 1
    yield Study(tmp_path, homes)


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def arrived(repo: flair.Repo, commit: str) -> None:
    """Returns when a commit is at a node."""
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(flair.NotFoundError):
            if repo.show(commit).here:
                return
        assert time.monotonic() < end
        time.sleep(0.05)


def untouched(repo: flair.Repo) -> bool:
    work = repo.status().work
    return work is not None and not work.changes and not work.drafts


def test_weights_travel_by_flair_and_ids_by_flower(study: Study) -> None:
    seen: list[tuple[int, float]] = []

    def evaluated(number: int, arrays: ArrayRecord) -> MetricRecord:
        seen.append((number, float(arrays["0.bias"].numpy()[0])))
        return MetricRecord({"first": seen[-1][1]})

    strategy = study.strategy(inner=FedProx(proximal_mu=0.5))
    result = strategy.start(
        study.grid, ArrayRecord(network().state_dict()), num_rounds=2, timeout=60, evaluate_fn=evaluated
    )
    assert len(study.grid.carried) == 16
    for carried in study.grid.carried:
        assert not [record for record in carried.values() if isinstance(record, ArrayRecord)]
    trained = [message for message in study.grid.sent if message.metadata.message_type == "train"]
    assert trained[0].content["config"]["proximal-mu"] == 0.5
    # Everybody counts the same: the mean of what moved by 1 and by 2.
    begun = network().state_dict()
    held = study.repo.state_dict("main")
    assert torch.allclose(held["2.weight"], begun["2.weight"] + 3)
    assert held["1.num_batches_tracked"] == 4, "a counter is the largest"
    tensors = result.arrays.to_torch_state_dict()
    assert list(tensors) == list(begun) and all(torch.equal(tensors[name], value) for name, value in held.items())
    assert [number for number, _ in seen] == [0, 1, 2] and seen[2][1] == pytest.approx(seen[0][1] + 3)
    assert result.train_metrics_clientapp[2]["loss"] == pytest.approx((1 * 100 + 2 * 200) / 300)
    total = sum(float(value.sum()) for value in held.values())
    assert result.evaluate_metrics_clientapp[2]["total"] == pytest.approx(total, rel=1e-5)
    updates = [entry for entry in study.repo.log().entries if entry.kind == "update"]
    assert {(entry.name, entry.examples) for entry in updates} == {("Site 0", 100), ("Site 1", 200)}
    assert all([metric.name for metric in entry.metrics] == ["loss"] for entry in updates), "no NaN, no list"


def test_the_inner_strategy_makes_the_model_where_it_is_asked_to(homes: Callable[[str], Path], tmp_path: Path) -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 1
    study = Study(tmp_path, homes, every=1000)
    result = study.run(rounds=2, model="inner")
    # Flower's mean is weighed by examples: moved by 1 on 100 and by 2 on 200 of them.
    begun, held = network().state_dict(), study.repo.state_dict("main")
    assert torch.allclose(held["2.weight"], begun["2.weight"] + 2 * 5 / 3, atol=1e-5)
    assert held["1.num_batches_tracked"].dtype == torch.int64 and held["1.num_batches_tracked"] == 4
    tensors = result.arrays.to_torch_state_dict()
    assert all(torch.equal(tensors[name], value) for name, value in held.items())
    entries = study.repo.log().entries
    externals = [entry for entry in entries if entry.kind == "external"]
    assert [entry.name for entry in externals] == ["Server", "Server"]
    assert all(entry.state == "in-head" for entry in entries if entry.kind == "update"), entries
    shown = study.repo.show(externals[0].commit)
    assert {row.name for row in shown.inputs} == {"Site 0", "Site 1"}
    assert study.aggregates() == 0 and untouched(study.repo), "nodes made none"
    # A rule of Flower's own, from where the other left off: a site has the same bytes.
    study.run(rounds=1, model="inner", inner=FedAdam(eta=0.01), resume=False)
    newest = study.repo.log().entries[0]
    assert newest.kind == "external" and "FedAdam" in newest.message
    arrived(study.site(0), newest.commit)
    held = study.repo.state_dict("main")
    site = study.site(0).state_dict(newest.commit)
    assert all(torch.equal(site[name], value) for name, value in held.items())


def test_what_the_inner_strategy_makes_of_updates_that_nobody_accepted_is_not_published(
    homes: Callable[[str], Path], tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 1
    study = Study(tmp_path, homes, every=1000)
    protect = ["-C", str(study.repo.folder), "--home", str(study.server), "branch", "protect", "main", "--accepts", "1"]
    subprocess.run([program("flair"), *protect], check=True, stdout=subprocess.DEVNULL)
    before = study.repo.status().head
    result = study.run(model="inner", patience=5)
    assert study.repo.status().head == before and untouched(study.repo), log.text
    assert "what FedAvg made is not published" in log.text
    assert result.arrays.to_torch_state_dict().keys() == network().state_dict().keys()


def test_noise_that_another_mod_adds_is_in_the_commit(study: Study) -> None:
    study.put(0, app(0, mods=[FlairMod(), LocalDpMod(1e-3, 1e-3, 1e9, 1e-5)]))
    study.run(flush=True)
    begun = network().state_dict()
    update = next(entry for entry in study.repo.log().entries if entry.name == "Site 0" and entry.kind == "update")
    held = study.repo.state_dict(update.commit)
    moved = sum(
        float((held[name] - begun[name]).double().pow(2).sum()) for name in begun if begun[name].is_floating_point()
    )
    assert 0 < moved < 1e-4, "clipped, though the app moved every weight by 1"


def test_a_reply_that_is_not_what_it_says_is_left_out_and_the_round_goes_on(
    study: Study, log: pytest.LogCaptureFixture
) -> None:
    study.run()
    old = next(entry for entry in study.repo.log().entries if entry.kind == "update" and entry.name == "Site 1")
    mine = next(entry for entry in study.repo.log().entries if entry.kind == "update" and entry.name == "Site 0")
    me, other = old.author, mine.author
    unknown = "a" * 52
    (initial,) = [entry.commit for entry in study.repo.log().entries if entry.kind == "initial"]
    head = study.repo.status().head
    last: dict[str, Any] = {}
    cases: list[tuple[dict[str, Any] | None, str]] = [
        ({"commit": unknown}, "did not arrive in 10 s: the round goes on without it"),
        ({"base": initial}, f"it trained from {initial[:10]}"),
        ({"commit": old.commit, "person": me}, f"stands on {initial[:10]}, not on"),
        ({"commit": mine.commit, "person": me}, "is signed by Site 0, not by whom the site says"),
        ({"commit": head, "person": me}, "is no update"),
        ({"commit": "as node 10", "person": other}, "as node 10 does"),
        ({"commit": "../../etc"}, "`commit` that is no commit's id"),
        ({"commit": unknown[:8]}, "`commit` that is no commit's id"),
        ({"commit": 5}, "no proper `commit`"),
        ({"version": 2}, "does not know"),
        (None, "it names no commit: its app has no `FlairMod`"),
    ]
    for place, (said, words) in enumerate(cases):
        # Only the first is asked in earnest: what the second trained must not get into the way of the next case.
        study.put(1, app(1, mods=[]))

        def meddle(reply: Message, said: dict[str, Any] | None = said) -> Message:
            if reply.has_content() and "flair" in reply.content:
                last.update(reply.content["flair"])
            if reply.metadata.src_node_id == 11 and reply.metadata.message_type == "train":
                metrics = MetricRecord({"loss": 9.0, "nan": 1.0, "curve": [1.0, 2.0], "num-examples": 1})
                content = RecordDict({"metrics": metrics})
                if said is not None:
                    base = study.repo.status().head
                    right = {"version": 1, "repo": "r", "base": base, "commit": unknown, "person": me}
                    copied = {"commit": last["commit"]} if said.get("commit") == "as node 10" else {}
                    content["flair"] = ConfigRecord(right | said | copied)
                reply = Message(content, reply_to=Message(RecordDict(), 11, "train"))
            return reply

        study.grid.meddle = meddle
        log.clear()
        before = study.aggregates()
        result = study.run(flush=True, patience=10 if "did not arrive" in words else 60)
        assert words in log.text, (said, log.text)
        assert study.aggregates() == before + 1 == place + 2, "the other's update made the model"
        assert result.train_metrics_clientapp[1]["loss"] == 1.0


def test_two_sites_with_one_key_are_one_person(study: Study, log: pytest.LogCaptureFixture) -> None:
    twin = study.root / "twin"
    flair.clone(study.repo.ticket().ticket, twin, home=study.homes[0])
    study.put(1, **{"flair-folder": str(twin), "flair-home": str(study.homes[0])})
    result = study.run(flush=True)
    assert "the update of node 11 is left out: it is signed with the key of node 10" in log.text
    assert result.train_metrics_clientapp[1]["loss"] == 1.0


def test_with_too_few_persons_updates_wait_and_nothing_is_lost(study: Study, log: pytest.LogCaptureFixture) -> None:
    def refuse(tensors: dict[str, torch.Tensor]) -> Any:
        raise OSError("no GPU")

    study.put(1, app(1, mods=[FlairMod()], change=refuse))
    first = study.repo.status().head
    study.run()
    assert study.repo.status().head == first and study.repo.status().pending == 1
    assert "no GPU" in log.text and "updates by 1 of the 2 persons that an aggregate needs are pending" in log.text
    (waiting,) = [entry for entry in study.repo.log().entries if entry.kind == "update"]
    study.put(1)
    arrived(study.site(1), waiting.commit)
    study.run()
    assert study.aggregates() == 1
    assert waiting.commit in study.repo.log().entries[0].inputs, "what had waited is in it"


def test_a_node_that_is_down_is_started_again(study: Study) -> None:
    conftest.kill(study.homes[0])
    study.run()
    assert study.aggregates() == 1


def test_a_server_without_flair_gets_no_weights(study: Study, log: pytest.LogCaptureFixture) -> None:
    arrays = ArrayRecord(network().state_dict())
    FedAvg(fraction_evaluate=0).start(study.grid, arrays, num_rounds=1, timeout=60)
    assert len(study.grid.back) == SITES and all(reply.has_error() for reply in study.grid.back)
    assert "the server runs without `FlairStrategy`" in log.text
    assert study.repo.log().entries[0].kind == "initial"


def test_sites_without_the_mod_get_weights_where_the_server_says_so(
    study: Study, log: pytest.LogCaptureFixture
) -> None:
    study.put(1, app(1, mods=[]))
    made = study.run(weights=True, flush=True)
    assert "the reply of node 11 is left out: it names no commit" in log.text
    assert study.aggregates() == 1 and made.evaluate_metrics_clientapp[1]["total"] is not None
    assert not [reply for reply in study.grid.back if reply.has_error()]


def test_a_folder_with_somebodys_own_training_is_not_touched(study: Study, log: pytest.LogCaptureFixture) -> None:
    repo = study.site(0)
    model = network()
    with repo.train(model, "mine"), torch.no_grad():
        model[0].bias += 1
    study.run(flush=True)
    assert "holds training that was not pushed: draft" in log.text
    work = repo.status().work
    assert work is not None and [draft.message for draft in work.drafts] == ["mine"]
    assert study.aggregates() == 1


def test_weights_that_do_not_fit_are_refused_and_the_folder_is_as_it_was(study: Study) -> None:
    cases: list[tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = [
        (lambda tensors: {**tensors, "0.bias": tensors["0.bias"] * float("nan")}, "`0.bias` holds a NaN"),
        (lambda tensors: {name: value.double() for name, value in tensors.items()}, "pass cast=True"),
        (lambda tensors: {**tensors, "0.bias": torch.zeros(9)}, r"`0.bias` has shape \[9\]"),
        (lambda tensors: [value.numpy() for value in tensors.values()], "have no names"),
        (lambda tensors: tensors, "nothing"),
    ]
    for place, (change, words) in enumerate(cases):
        study.put(0, app(0, mods=[FlairMod()], change=change))
        study.grid.back.clear()
        study.run(flush=True)
        (reply,) = [reply for reply in study.grid.back if reply.has_error()]
        assert re.search(words, reply.error.reason), reply.error.reason
        assert untouched(study.site(0)) and study.aggregates() == place + 1
    study.put(0)
    study.run()
    assert study.repo.log().entries[0].inputs[1:], "both are in it again"


def test_a_commit_that_was_cut_short_is_put_back(study: Study, log: pytest.LogCaptureFixture) -> None:
    repo = study.site(0)
    repo.commit({name: value + 1 for name, value in repo.state_dict().items()}, "half")
    (repo.local / "flower-site.json").write_text(json.dumps({"base": repo.status().head}))
    (repo.folder / "model.safetensors").write_bytes(b"torn")
    study.run()
    assert "where a round ended before its commit was pushed" in log.text
    assert study.aggregates() == 1 and untouched(repo)


def test_what_cant_be_done_is_refused(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAIR_FOLDER", raising=False)
    with pytest.raises(flair.InvalidError, match="FedAdam makes the model by a rule of its own"):
        study.strategy(inner=FedAdam())
    with pytest.raises(flair.InvalidError, match="Krum makes the model"):
        study.strategy(inner=Krum())
    with pytest.raises(flair.InvalidError, match="asks for updates of 2 persons"):
        study.run(model="inner")
    with pytest.raises(flair.InvalidError, match="'outer'"):
        study.strategy(model="outer")
    with pytest.raises(flair.InvalidError, match="no working folder of Flair"):
        FlairStrategy(FedAvg())
    other = nn.Linear(4, 2)
    with pytest.raises(flair.InvalidError, match="`weight` is only in `initial_arrays`"):
        study.strategy().start(study.grid, ArrayRecord(other.state_dict()), num_rounds=1)

    def refused(**context: Any) -> str:
        study.put(0, **context)
        study.grid.back.clear()
        study.run(flush=True)
        return next(reply.error.reason for reply in study.grid.back if reply.has_error())

    apart = flair.init(network(), tmp_path / "apart", home=study.homes[0])
    assert "the server asks for repository" in refused(**{"flair-folder": str(apart.folder)})
    assert "no working folder of Flair is configured" in refused(**{"flair-folder": ""})


def test_a_model_that_does_not_reach_a_site_is_waited_for_in_vain(study: Study) -> None:
    """The server names a commit that the site's node can't get."""
    study.put(0, app(0, mods=[FlairMod(patience=2)]))
    unknown = records.Stamp(study.repo.status().repo, "b" * 52, "arrays", "num-examples")
    content = RecordDict({"config": ConfigRecord({})})
    records.write(content, unknown)
    (reply,) = study.grid.send_and_receive([Message(content, 10, "train")])
    assert "did not arrive in 2 s: it is not known here" in reply.error.reason
    update = next((entry for entry in study.repo.log().entries if entry.kind == "update"), None)
    assert update is None


def test_tensors_that_numpy_lacks_are_named() -> None:
    with pytest.raises(flair.InvalidError, match="`w` is bfloat16, which Flower's ArrayRecord does not have"):
        records.arrays({"w": torch.zeros(2, dtype=torch.bfloat16)}, [])


def test_a_run_that_was_broken_off_is_gone_on_with(study: Study, log: pytest.LogCaptureFixture) -> None:
    class Stop(Exception):
        pass

    def stop(number: int, arrays: ArrayRecord) -> None:
        if number == 2:
            raise Stop

    arrays = ArrayRecord(network().state_dict())
    with pytest.raises(Stop):
        study.strategy().start(study.grid, arrays, num_rounds=3, timeout=60, evaluate_fn=stop)
    assert study.aggregates() == 2
    study.grid.sent.clear()
    result = study.run(rounds=3)
    assert "2 of its 3 rounds are done" in log.text and study.aggregates() == 3
    rounds = [message.content["config"]["server-round"] for message in study.grid.sent]
    assert rounds == [3] * 4 and list(result.train_metrics_clientapp) == [3]
    # Another number of rounds is another run.
    with pytest.raises(Stop):
        study.strategy().start(study.grid, arrays, num_rounds=2, timeout=60, evaluate_fn=stop)
    log.clear()
    study.run(rounds=1)
    assert "broken off" not in log.text and study.aggregates() == 6


def test_any_members_clone_takes_the_lost_servers_place(study: Study) -> None:
    study.run()
    first = study.repo.status().head
    address = study.site(0).node.get("/v1/node")["addresses"][0]
    study.site(1).node.post("/v1/peer", {"connect": address, "lift": None})
    conftest.kill(study.server)
    strategy = FlairStrategy(FedAvg(), study.folders[1], home=study.homes[1])
    strategy.start(study.grid, ArrayRecord(network().state_dict()), num_rounds=1, timeout=60)
    (head, *others) = study.site(0).log().entries
    assert head.kind == "aggregate" and len(head.inputs) == SITES
    assert others[2].commit == first


def test_a_later_run_takes_over_from_one_that_hangs(study: Study) -> None:
    arrays = ArrayRecord(network().state_dict())

    def another(number: int, arrays: ArrayRecord) -> None:
        if number == 1 and study.aggregates() == 1:
            study.run(rounds=2)

    with pytest.raises(flair.ConflictError, match="another run of Flower has begun with this folder since"):
        study.strategy().start(study.grid, arrays, num_rounds=2, timeout=60, evaluate_fn=another)
    assert study.aggregates() == 2, "the later run did the round that was missing, and the first none"
