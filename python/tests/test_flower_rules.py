"""Every rule that Flower has too, beside Flower's own: the same models round after round, within what `float32` rounds.

Where Flower does otherwise than the paper that both name, the test says what and takes it out, so that the rest is
compared: docs/flower.md lists these differences.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy.multikrum import select_multikrum
from flwr.supercore.task_identity import TaskIdentity

WEIGHTS = 5000
ROUNDS = 5
#: What every case has: nothing that Flower has not.
PLAIN = {"clip": "none", "staleness": "constant"}

Vector = np.ndarray[Any, np.dtype[np.float32]]
Case = dict[str, Any]


def program() -> Path:
    """The example `rounds` of the crate that aggregates, which `.ci/stages python` builds."""
    root = Path(__file__).parents[2]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    return root / target / "debug" / "examples" / "rounds"


def crowd(persons: int, far: int, seed: int, *, equal: bool) -> list[list[dict[str, Any]]]:
    """Rounds of persons around a common direction; the last `far` of them go elsewhere. Seldom two are equally near."""
    random = np.random.default_rng(seed)
    rounds = []
    for _ in range(ROUNDS):
        common = random.normal(0, 0.02, WEIGHTS)
        people = []
        for index in range(persons):
            own = random.normal(0, 0.01 * (1 + index / persons), WEIGHTS)
            movement = common + own if index < persons - far else -5 * common + 3 * own
            examples = 100 if equal else int(random.integers(20, 400))
            people.append({"movement": movement.astype(np.float32).tolist(), "examples": examples})
        rounds.append(people)
    return rounds


def case(rule: str, settings: dict[str, str], persons: int = 5, far: int = 0, *, equal: bool = False) -> Case:
    parent = np.random.default_rng(1).normal(0, 0.1, WEIGHTS).astype(np.float32)
    rounds = crowd(persons, far, persons, equal=equal)
    return {"rule": rule, "settings": PLAIN | settings, "every": 1, "parent": parent.tolist(), "rounds": rounds}


def ours(cases: list[Case]) -> list[list[dict[str, Any]]]:
    """What Flair makes of the cases: the model after each round, and who was left out."""
    done = subprocess.run([program()], input=json.dumps(cases), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answers: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return answers


def theirs(given: Case, strategy: flower.FedAvg, before: Callable[[Any, int], None] | None = None) -> list[Vector]:
    """What a strategy of Flower's makes of it, given replies as they come from its network."""
    weights = np.array(given["parent"], np.float32)
    results = []
    for turn, people in enumerate(given["rounds"], start=1):
        if hasattr(strategy, "current_arrays") and (strategy.current_arrays is None or not _keeps(strategy)):
            # What `configure_train` does, which asks a network for nodes after that.
            arrays = ArrayRecord({"w": Array(weights)})
            strategy.current_arrays = arrays if _keeps(strategy) else {"w": weights}
        if before is not None:
            before(strategy, turn)
        replies = []
        for index, person in enumerate(people, start=1):
            trained = weights + np.array(person["movement"], np.float32)
            content = {
                "arrays": ArrayRecord({"w": Array(trained)}),
                "metrics": MetricRecord({"num-examples": person["examples"]}),
            }
            asked = Message(RecordDict({"config": ConfigRecord()}), dst_node_id=index, message_type=MessageType.TRAIN)
            replies.append(Message(RecordDict(content), reply_to=asked))
        record, _ = strategy.aggregate_train(turn, replies)
        assert record is not None
        # Its results are `float64` where a `numpy` scalar met them: the next round's model is what a site would load.
        weights = record["w"].numpy().astype(np.float32)
        results.append(weights)
    return results


def _keeps(strategy: flower.FedAvg) -> bool:
    """Whether a strategy goes on from the model that it made itself."""
    return isinstance(strategy, flower.FedAvgM)


def from_tau(strategy: flower.FedAdam, turn: int) -> None:
    """Starts v at τ², as the paper does, where Flower starts it at zero."""
    if turn == 1:
        strategy.v_t = {"w": np.full(WEIGHTS, strategy.tau**2, np.float32)}


def uncorrected(strategy: flower.FedAdam, turn: int) -> None:
    """Takes Flower's bias correction, of which the paper has none, out of η too."""
    from_tau(strategy, turn)
    strategy.eta = 0.01 * (1 - strategy.beta_1 ** (turn + 1)) / np.sqrt(1 - strategy.beta_2 ** (turn + 1))


def one_by_one(replies: list[RecordDict], liars: int, count: int) -> list[RecordDict]:
    """Bulyan's choice as in its paper, made of Flower's Krum: one after the other, among those who are left."""
    left, chosen = list(replies), []
    while len(chosen) < count:
        best = select_multikrum(left, liars, 1)[0] if len(left) > 1 else left[0]
        chosen.append(best)
        left = [reply for reply in left if reply is not best]
    return chosen


ADAPTIVE = {"cap": "none", "tau": "0.001"}
CASES: dict[str, tuple[Case, Callable[[], flower.FedAvg], Callable[[Any, int], None] | None]] = {
    "fedavg": (case("fedavg", {"cap": "none"}), flower.FedAvg, None),
    "fedbuff, everybody alike": (case("fedbuff", {}, equal=True), flower.FedAvg, None),
    "fedavgm": (
        case("fedavgm", {"cap": "none", "momentum": "0.9", "eta": "0.5"}),
        lambda: flower.FedAvgM(server_learning_rate=0.5, server_momentum=0.9),
        None,
    ),
    "fedadagrad": (
        case("fedadagrad", {**ADAPTIVE, "eta": "0.1"}),
        lambda: flower.FedAdagrad(eta=0.1, tau=0.001),
        from_tau,
    ),
    "fedadam": (
        case("fedadam", {**ADAPTIVE, "eta": "0.01", "beta1": "0.9", "beta2": "0.99"}),
        lambda: flower.FedAdam(eta=0.01, beta_1=0.9, beta_2=0.99, tau=0.001),
        uncorrected,
    ),
    "fedyogi": (
        case("fedyogi", {**ADAPTIVE, "eta": "0.01", "beta1": "0.9", "beta2": "0.99"}),
        lambda: flower.FedYogi(eta=0.01, beta_1=0.9, beta_2=0.99, tau=0.001),
        from_tau,
    ),
    "median, odd": (case("median", {}, 7, 2), flower.FedMedian, None),
    "median, even": (case("median", {}, 8, 3), flower.FedMedian, None),
    "trimmed-mean": (case("trimmed-mean", {"dishonest": "2"}, 10, 2), lambda: flower.FedTrimmedAvg(beta=0.2), None),
    "krum": (case("krum", {"dishonest": "2"}, 9, 2), lambda: flower.Krum(num_malicious_nodes=2), None),
    "multi-krum": (
        case("multi-krum", {"dishonest": "2", "keep": "4"}, 9, 2, equal=True),
        lambda: flower.MultiKrum(num_malicious_nodes=2, num_nodes_to_select=4),
        None,
    ),
    "bulyan": (
        case("bulyan", {"dishonest": "2"}, 11, 2),
        lambda: flower.Bulyan(num_malicious_nodes=2, selection_rule=one_by_one),
        None,
    ),
}


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's programs set before they make a message."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="module")
def answers() -> dict[str, list[dict[str, Any]]]:
    given = [given for given, _, _ in CASES.values()]
    return dict(zip(CASES, ours(given), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_rule_gives_what_flower_gives(name: str, answers: dict[str, list[dict[str, Any]]]) -> None:
    given, strategy, before = CASES[name]
    before_it = np.array(given["parent"], np.float32)
    for turn, (own, other) in enumerate(zip(answers[name], theirs(given, strategy(), before), strict=True), start=1):
        model = np.array(own["model"], np.float32)
        # Both go on from their own models: rounding adds up over the rounds, and is small beside what a step moves. An
        # optimiser divides by as little as τ, so what a difference of two models was rounded by counts η / τ times.
        moved = float(np.abs(model - before_it).max())
        worst = float(np.abs(model - other).max())
        grown = float(given["settings"].get("eta", 1)) / float(given["settings"].get("tau", 1)) / 10
        assert worst < 3e-7 * turn * max(1, grown), f"round {turn}: {worst} apart"
        assert moved > 1e-3, f"round {turn} moved nothing"
        before_it = model


def test_what_flower_does_otherwise_shows(answers: dict[str, list[dict[str, Any]]]) -> None:
    """The differences that were taken out above are there: if Flower mends one, the documentation is to follow."""

    def apart(name: str, strategy: flower.FedAvg, before: Callable[[Any, int], None] | None = None) -> float:
        other = theirs(CASES[name][0], strategy, before)
        model = np.array(answers[name][-1]["model"], np.float32)
        return float(np.abs(model - other[-1]).max())

    assert apart("fedadam", flower.FedAdam(eta=0.01)) > 1e-3
    assert apart("fedadam", flower.FedAdam(eta=0.01), from_tau) > 1e-3, "the bias correction alone"
    assert apart("fedyogi", flower.FedYogi(eta=0.01)) > 1e-5, "v from zero"
    # Its sums depend on who answers first.
    given = CASES["fedavg"][0]
    turned = {**given, "rounds": [people[::-1] for people in given["rounds"][:1]]}
    one, two = theirs({**given, "rounds": given["rounds"][:1]}, flower.FedAvg()), theirs(turned, flower.FedAvg())
    assert float(np.mean(one[0] != two[0])) > 0.2 and float(np.abs(one[0] - two[0]).max()) < 3e-7
