"""Several persons train in PyTorch, each in a process and on a node of their own, and nobody sends data."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import digits
import torch

import flair_ml as flair

SITES = 3
ROUNDS = 8


def test_three_that_share_the_digits_unevenly_come_within_two_points_of_one(
    homes: Callable[[str], Path], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    images, held_out = digits.load()
    shares = digits.deal(images, SITES)
    largest = [max(torch.bincount(labels, minlength=10) / len(labels)) for _, labels in shares]
    assert max(largest) > 0.2, "the digits are dealt out unevenly"

    central = digits.network()
    digits.train(central, images, epochs=2 * ROUNDS, seed=1)
    together = digits.network()
    founder = homes("founder")
    repo = flair.init(together, tmp_path / "founder", every=SITES, home=founder)
    ticket = repo.ticket("contributor", uses=SITES).ticket

    command = [sys.executable, Path(__file__).with_name("digits.py"), ticket, str(ROUNDS), str(SITES)]
    sites = []
    for site in range(SITES):
        homes(f"site{site}")
    try:
        for site in range(SITES):
            arguments = [str(site), tmp_path / f"site{site}", founder.parent / f"site{site}"]
            sites.append(subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True))
        scores = [float(site.communicate(timeout=240)[0].split()[-1]) for site in sites]
        assert [site.returncode for site in sites] == [0] * SITES
    finally:
        for site in sites:
            site.kill()
            site.wait()

    alone = [digits.network() for _ in range(SITES)]
    for model, share in zip(alone, shares, strict=True):
        digits.train(model, share, epochs=2 * ROUNDS, seed=1)
    repo.pull()
    repo.load(together)
    best, shared = digits.accuracy(central, held_out), digits.accuracy(together, held_out)
    single = [digits.accuracy(model, held_out) for model in alone]
    print(f"central {best:.3f}, together {shared:.3f}, alone {single}")
    assert scores == [shared] * SITES, "every site holds the very same model"
    assert shared > best - 0.02
    assert shared > max(single)
    (branch,) = repo.branches()
    assert branch.aggregates == ROUNDS
    log = repo.log().entries
    assert sum(entry.kind == "update" for entry in log) == SITES * ROUNDS
    assert all(entry.attestations >= 1 for entry in log if entry.kind == "aggregate")
    assert repo.verify().holds
