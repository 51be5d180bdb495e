"""What Flower's messages carry in place of weights, and weights as Flower's apps have them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from ..errors import InvalidError
from ..weights import dtype_name

if TYPE_CHECKING:
    import torch

#: The record's name in a message.
KEY = "flair"
#: The version of these records. Another one is refused.
_VERSION = 1
#: Longest name of a record, in characters.
_NAME = 200
#: What a commit may hold: measurements, and bytes of a measurement's name.
_METRICS, _METRIC_NAME = 64, 100
_ID = re.compile(r"[a-z2-7]{52}")


@dataclass(frozen=True)
class Stamp:
    """What the server says to a site: train from, or evaluate, this commit.

    Attributes:
        repo: the repository.
        base: the commit.
        arrays: the name of the record in which the app looks for the weights.
        examples: the name of the metric that tells the number of examples.
        order: the order in which the app has the model's tensors: of each, its place among the sorted names. Some mods
            ask for it. Nothing where the server does not know it.
    """

    repo: str
    base: str
    arrays: str
    examples: str
    order: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """What a site says to the server: this is my update.

    Attributes:
        repo: the repository.
        base: the commit that was trained from.
        commit: the update.
        person: key of the person who signed it.
    """

    repo: str
    base: str
    commit: str
    person: str


def write(content: RecordDict, said: Stamp | Answer) -> None:
    """Puts a record into a message's content."""
    content[KEY] = ConfigRecord({"version": _VERSION, **asdict(said)})


def stamp(content: RecordDict) -> Stamp | None:
    """What the server says; none where it says nothing.

    Raises:
        InvalidError: it is not what this version reads.
    """
    record = _record(content)
    if record is None:
        return None
    order = record.get("order")
    if not isinstance(order, list) or not all(isinstance(place, int) for place in order):
        raise InvalidError("the message's record of Flair has no proper `order`")
    places = [place for place in order if isinstance(place, int)]
    said = {name: _text(record, name) for name in ("repo", "base", "arrays", "examples")}
    return Stamp(**said, order=places)


def answer(content: RecordDict) -> Answer | None:
    """What a site says; none where it says nothing.

    Raises:
        InvalidError: it is not what this version reads.
    """
    record = _record(content)
    if record is None:
        return None
    return Answer(**{name: _text(record, name) for name in ("repo", "base", "commit", "person")})


def _record(content: RecordDict) -> ConfigRecord | None:
    record = content.get(KEY)
    if record is None:
        return None
    if not isinstance(record, ConfigRecord) or record.get("version") != _VERSION:
        raise InvalidError(
            "the message holds a record of Flair that this version does not know",
            "install the same version of `flair-ml` at the server and at the sites",
        )
    return record


def _text(record: ConfigRecord, name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _NAME:
        raise InvalidError(f"the message's record of Flair has no proper `{name}`")
    if name in ("base", "commit") and not _ID.fullmatch(value):
        raise InvalidError(f"the message's record of Flair has a `{name}` that is no commit's id")
    return value


def ordered(names: Iterable[str], order: list[int]) -> list[str]:
    """Names in an app's order; sorted, where that is not an order of so many."""
    known = sorted(names)
    return [known[place] for place in order] if sorted(order) == list(range(len(known))) else known


def order(names: Iterable[str]) -> list[int]:
    """What puts the sorted names back into this order."""
    given = list(names)
    places = {name: place for place, name in enumerate(sorted(given))}
    return [places[name] for name in given]


def arrays(tensors: Mapping[str, torch.Tensor], places: list[int]) -> ArrayRecord:
    """Tensors as Flower's apps have them, bit for bit and in the app's order.

    Raises:
        InvalidError: Flower has no such dtype; the tensor is named.
    """
    record = ArrayRecord()
    for name in ordered(tensors, places):
        try:
            record[name] = Array.from_numpy_ndarray(tensors[name].detach().cpu().numpy())
        except TypeError as error:
            raise InvalidError(
                f"`{name}` is {dtype_name(tensors[name])}, which Flower's ArrayRecord does not have",
                "train such a model with `repo.train`, without Flower",
            ) from error
    return record


def tensors(record: ArrayRecord) -> dict[str, torch.Tensor]:
    """An app's arrays as tensors.

    Raises:
        InvalidError: they have no names, or hold something else than numbers.
    """
    import torch

    if len(record) > 1 and list(record) == [str(place) for place in range(len(record))]:
        raise InvalidError(
            "the app's arrays have no names, and Flair keeps tensors by name",
            "reply with `ArrayRecord(net.state_dict())`, not with a list of arrays",
        )
    try:
        return {name: torch.from_numpy(array.numpy()) for name, array in record.items()}
    except (TypeError, ValueError) as error:
        raise InvalidError(f"the app's arrays can't be read: {error}") from error


def model(content: RecordDict, name: str) -> str:
    """The name of the record that holds the model in an app's reply.

    Raises:
        InvalidError: there is none, or it can't be told which it is.
    """
    found = list(content.array_records)
    if name in found:
        return name
    if len(found) == 1:
        return found[0]
    raise InvalidError(
        f"the app replied with {len(found)} records of arrays, none of them named `{name}`",
        f'put the trained weights into one: `RecordDict({{"{name}": ArrayRecord(net.state_dict()), …}})`',
    )


def measured(content: RecordDict, examples: str) -> tuple[int | None, dict[str, float], list[str]]:
    """What an app measured: the number of examples, measurements as a commit states them, and the names of those that
    a commit does not take (lists, values that are not finite, names that are too long, more than there is room for).
    """
    count: int | None = None
    kept: dict[str, float] = {}
    left: list[str] = []
    for record in content.metric_records.values():
        for name, value in record.items():
            if name == examples and isinstance(value, (int, float)) and math.isfinite(value) and value >= 0:
                count = int(value)
            elif (
                isinstance(value, (int, float))
                and math.isfinite(value)
                and len(name.encode()) <= _METRIC_NAME
                and len(kept) < _METRICS
            ):
                kept[name] = float(value)
            else:
                left.append(name)
    return count, kept, left
