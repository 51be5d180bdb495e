"""JSON to answers."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


@cache
def _fields(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def answer(kind: type[T], value: Any) -> T:
    """Reads an answer; what a newer node says beside what is known here is left out."""
    return typing.cast(T, _read(kind, value))


def _read(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (part for part in typing.get_args(kind) if part is not type(None))
        return None if value is None else _read(inner, value)
    if origin is list:
        (inner,) = typing.get_args(kind)
        return [_read(inner, item) for item in value]
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        make: Any = kind
        return make(**{name: _read(hint, value.get(name.rstrip("_"))) for name, hint in _fields(make).items()})
    if kind is float and value is not None:
        return float(value)
    return value
