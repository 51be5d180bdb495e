"""What Flower's messages carry in place of weights, and weights as Flower's apps have them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

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
    """

    repo: str
    base: str
    arrays: str
    examples: str


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
    said = _fields(content, Stamp)
    return None if said is None else Stamp(**said)


def answer(content: RecordDict) -> Answer | None:
    """What a site says; none where it says nothing.

    Raises:
        InvalidError: it is not what this version reads.
    """
    said = _fields(content, Answer)
    return None if said is None else Answer(**said)


def _fields(content: RecordDict, kind: type[Stamp] | type[Answer]) -> dict[str, str] | None:
    record = content.get(KEY)
    if record is None:
        return None
    if not isinstance(record, ConfigRecord) or record.get("version") != _VERSION:
        raise InvalidError(
            "the message holds a record of Flair that this version does not know",
            "install the same version of `flair-ml` at the server and at the sites",
        )
    found = {}
    for name in kind.__dataclass_fields__:
        value = record.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= _NAME:
            raise InvalidError(f"the message's record of Flair has no proper `{name}`")
        if name in ("base", "commit") and not _ID.fullmatch(value):
            raise InvalidError(f"the message's record of Flair has a `{name}` that is no commit's id")
        found[name] = value
    return found


def arrays(tensors: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """Tensors as Flower's apps have them, bit for bit.

    Raises:
        InvalidError: Flower has no such dtype; the tensor is named.
    """
    made = {}
    for name, tensor in tensors.items():
        try:
            made[name] = Array.from_numpy_ndarray(tensor.detach().cpu().numpy())
        except TypeError as error:
            raise InvalidError(
                f"`{name}` is {dtype_name(tensor)}, which Flower's ArrayRecord does not have",
                "train such a model with `repo.train`, without Flower",
            ) from error
    record = ArrayRecord()
    for name, array in made.items():
        record[name] = array
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
        for name, value in _flat(record):
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


def _flat(record: MetricRecord) -> list[tuple[str, Any]]:
    return list(record.items())
