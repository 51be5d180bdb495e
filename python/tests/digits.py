"""The UCI handwritten digits, a network for them, and one site that trains it together with others.

python digits.py TICKET ROUNDS SITES SITE FOLDER HOME
"""

import gzip
import sys
from pathlib import Path

import torch
from torch import nn

import flair_ml as flair

FILE = Path(__file__).parents[2] / "testnet" / "data" / "digits.csv.gz"
#: Images nobody trains on.
HELD_OUT = 360

#: Images (n × 64, 0 to 1) and the digits they show (n).
Images = tuple[torch.Tensor, torch.Tensor]


def load() -> tuple[Images, Images]:
    """All images, as those to train on and those held out."""
    with gzip.open(FILE, "rt") as file:
        rows = torch.tensor([[float(cell) for cell in line.split(",")] for line in file])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    pixels, labels = rows[:, :64] / 16, rows[:, 64].long()
    return (pixels[HELD_OUT:], labels[HELD_OUT:]), (pixels[:HELD_OUT], labels[:HELD_OUT])


def deal(images: Images, sites: int) -> list[Images]:
    """Deals images out, each digit by its own draw (Dirichlet, 0.5), so that every site has too much of some digits."""
    torch.manual_seed(4)
    pixels, labels = images
    shares: list[list[torch.Tensor]] = [[] for _ in range(sites)]
    for digit in range(10):
        places = (labels == digit).nonzero().flatten()
        parts = torch.distributions.Dirichlet(torch.full((sites,), 0.5)).sample()
        cuts = (parts.cumsum(0)[:-1] * len(places)).long().tolist()
        for share, part in zip(shares, places.tensor_split(cuts), strict=True):
            share.append(part)
    return [(pixels[torch.cat(share)], labels[torch.cat(share)]) for share in shares]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def train(model: nn.Module, images: Images, epochs: int, seed: int) -> float:
    """Trains a network and gives the last epoch's mean loss."""
    torch.manual_seed(seed)
    pixels, labels = images
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    for _ in range(epochs):
        total, batches = 0.0, torch.randperm(len(labels)).split(32)
        for batch in batches:
            if len(batch) < 2:
                continue
            loss = nn.functional.cross_entropy(model(pixels[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item()
    return total / len(batches)


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    model.eval()
    return (model(images[0]).argmax(1) == images[1]).double().mean().item()


def main(ticket: str, rounds: str, sites: str, site: str, folder: str, home: str) -> None:
    torch.set_num_threads(1)
    images, held_out = load()
    share = deal(images, int(sites))[int(site)]
    repo = flair.clone(ticket, folder, person=f"site {site}", home=home)
    model = network()
    for number in range(int(rounds)):
        repo.load(model, "main")
        with repo.train(model, f"round {number}") as run:
            run.log({"train/loss": train(model, share, epochs=2, seed=number)}, step=number)
            run.num_examples, run.epochs = len(share[1]), 2
        repo.push()
        repo.wait(timeout=120)
        repo.pull()
    repo.load(model, "main")
    print(accuracy(model, held_out))


if __name__ == "__main__":
    main(*sys.argv[1:])
