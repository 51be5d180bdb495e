"""Trains a small network on digits that it draws itself, and shares what it learned by Flair.

    python train.py                  begins a repository in `model/`; the next time it trains on
    python train.py --site 1 --from flair…   works on somebody's, by the ticket that they gave out

Replace `draw` by your data and `network` by your model: what is left is how Flair is used.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import flair_ml as flair

FOLDER = Path("model")
#: Digits as a printer of 1980 had them: seven rows of five dots each.
FONT = [
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11111 00010 00100 00010 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
]


def draw(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws digits somewhere on 8 × 8 points, in more or less ink and with dirt: images, and what they show."""
    random = torch.Generator().manual_seed(seed)
    dots = torch.tensor([[[float(dot) for dot in row] for row in digit.split()] for digit in FONT])
    labels = torch.randint(10, (count,), generator=random)
    images = torch.zeros(count, 8, 8)
    for image, label in zip(images, labels, strict=True):
        down, right = torch.randint(2, (1,), generator=random), torch.randint(4, (1,), generator=random)
        ink = 0.5 + torch.rand(1, generator=random)
        image[down : down + 7, right : right + 5] = dots[label] * ink
    images += 0.25 * torch.randn(images.shape, generator=random)
    return images.flatten(1), labels


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10))


def epoch(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Trains on all images once, and gives the mean loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    losses = []
    for batch in torch.randperm(len(labels)).split(32):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    return (model(images).argmax(1) == labels).double().mean().item()


def repository(ticket: str | None) -> flair.Repo:
    """The repository in `model/`: as it is there, or somebody's, or a new one."""
    if (FOLDER / ".flair").is_dir():
        return flair.Repo(FOLDER)
    if ticket is not None:
        return flair.clone(ticket, FOLDER)
    # `every=1`: a new model as soon as one person has pushed. Leave it out, and Flair waits for most of you.
    return flair.init(network(), FOLDER, name="drawn-digits", message="untrained", every=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--site", type=int, default=0, help="which data are yours: every site draws others")
    parser.add_argument("--from", dest="ticket", help="the ticket of a repository to work on")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()

    images, labels = draw(2000, seed=arguments.site)
    unseen = draw(400, seed=1_000_000)
    repo, model = repository(arguments.ticket), network()
    # The newest model that everybody's training gave.
    repo.pull()
    repo.load(model)
    print(f"before: {accuracy(model, *unseen):.1%} of unseen digits are read rightly")

    with repo.train(model, message=f"site {arguments.site}") as run:
        for step in range(arguments.epochs):
            run.log({"train/loss": epoch(model, images, labels)}, step=step)
        run.log({"val/accuracy": (accuracy(model, *unseen), len(unseen[1]))})
        run.num_examples, run.epochs = len(labels), arguments.epochs
    print(f"trained: {accuracy(model, *unseen):.1%}")

    # What leaves this machine: `repo.push(dry_run=True)` lists it, and sends nothing.
    repo.push()
    repo.wait()
    repo.pull()
    repo.load(model)
    print(f"together: {accuracy(model, *unseen):.1%}, commit {repo.log().entries[0].commit[:10]}")


if __name__ == "__main__":
    main()
