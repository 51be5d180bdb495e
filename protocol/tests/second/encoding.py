"""The bytes: CBOR, operations and commits (chapters 1 to 4). Whatever is not canonical is an error."""

from __future__ import annotations

import functools
import math
import struct
from dataclasses import dataclass, field
from typing import Any

import blake3

OPERATION = "flair operation id v1"
COMMIT = "flair/commit/1"
NOTHING = bytes(32)

GRANT, REVOKE, INVITE, REVISION, APPROVE, RESOLVE = 0x0101, 0x0102, 0x0103, 0x0104, 0x0105, 0x0106
GENESIS, CREATE, RENAME, DELETE = 0x0100, 0x0110, 0x0111, 0x0112
PUBLISH, ATTEST, REFUTE, REVIEW, EVALUATE = 0x0120, 0x0121, 0x0122, 0x0130, 0x0131

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


class Malformed(Exception):
    """Bytes that the format does not allow."""


def text(identifier: bytes) -> str:
    """An id as people see it: base32 in lower case without padding."""
    bits = int.from_bytes(identifier, "big") << 4
    return "".join(ALPHABET[(bits >> shift) & 31] for shift in range(255, -1, -5))


def decode(data: bytes) -> Any:
    """The one value that the bytes hold."""
    value, end = _value(data, 0)
    if end != len(data):
        raise Malformed("bytes after the value")
    return value


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Major type, argument, and where it ends; for anything but floats."""
    first = data[at]
    major, short = first >> 5, first & 31
    at += 1
    if short < 24:
        return major, short, at
    if short > 27:
        raise Malformed("indefinite length")
    size = 1 << (short - 24)
    argument = int.from_bytes(data[at : at + size], "big")
    if argument < (24 if size == 1 else 1 << (4 * size)):
        raise Malformed("an integer that is not the shortest")
    return major, argument, at + size


def _value(data: bytes, at: int) -> tuple[Any, int]:
    first = data[at]
    if first >= 0xE0:
        return _simple(data, at)
    major, argument, at = _head(data, at)
    if major == 0:
        return argument, at
    if major == 1:
        return -1 - argument, at
    if major in (2, 3):
        end = at + argument
        if end > len(data):
            raise Malformed("cut off")
        return (data[at:end] if major == 2 else data[at:end].decode()), end
    if major == 4:
        items = []
        for _ in range(argument):
            item, at = _value(data, at)
            items.append(item)
        return items, at
    if major != 5:
        raise Malformed("a tag")
    entries: dict[str, Any] = {}
    last = (-1, b"")
    for _ in range(argument):
        key, at = _value(data, at)
        rank = (len(key.encode()), key.encode())
        if rank <= last:
            raise Malformed("keys that are not ascending")
        last = rank
        entries[key], at = _value(data, at)
    return entries, at


def _simple(data: bytes, at: int) -> tuple[Any, int]:
    first = data[at]
    if first == 0xFB:
        number = struct.unpack_from(">d", data, at + 1)[0]
        if not math.isfinite(number):
            raise Malformed("a float that is not finite")
        return number, at + 9
    if first in (0xF4, 0xF5, 0xF6):
        return {0xF4: False, 0xF5: True, 0xF6: None}[first], at + 1
    raise Malformed("a simple value that is not allowed")


def encode(value: Any) -> bytes:
    """The canonical bytes of a value of texts, bytes, booleans, numbers, lists and maps."""
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return _prefix(0, value)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xFB, value)
    if isinstance(value, bytes):
        return _prefix(2, len(value)) + value
    if isinstance(value, str):
        raw = value.encode()
        return _prefix(3, len(raw)) + raw
    if isinstance(value, list):
        return _prefix(4, len(value)) + b"".join(map(encode, value))
    keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
    return _prefix(5, len(keys)) + b"".join(encode(key) + encode(value[key]) for key in keys)


def _prefix(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for short, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * size):
            return bytes([major << 5 | short]) + argument.to_bytes(size, "big")
    raise Malformed("a number above 64 bits")


@dataclass(frozen=True)
class Commit:
    """What a publish carries."""

    id: bytes
    kind: str
    fields: dict[str, Any]

    @property
    def branch(self) -> bytes:
        return self.fields["branch"]


@dataclass(frozen=True)
class Operation:
    """What somebody signed; the signature itself is not looked at here."""

    id: bytes
    author: bytes
    seq: int
    prev: bytes | None
    deps: tuple[bytes, ...]
    lamport: int
    policy: bytes
    kind: int
    body: dict[str, Any]
    commit: Commit | None = field(default=None)


HEADER = {
    "version", "repo", "author", "seq", "prev", "deps", "lamport", "policy", "kind", "body", "length", "time",
}  # fmt: skip


# Histories that begin alike share what they begin with.
@functools.lru_cache(maxsize=256)
def operation(data: bytes) -> Operation:
    """Decodes an operation and computes its id."""
    parts = decode(data)
    if parts.keys() != {"header", "signature", "body"}:
        raise Malformed("keys of an operation")
    header = decode(parts["header"])
    if header.keys() != HEADER or header["version"] != 1:
        raise Malformed("keys of a header")
    if header["deps"] != sorted(set(header["deps"])) or (header["prev"] is None) != (header["seq"] == 0):
        raise Malformed("place of an operation")
    if header["length"] != len(parts["body"]) or header["body"] != blake3.blake3(parts["body"]).digest():
        raise Malformed("another body than was signed")
    body = decode(parts["body"])
    return Operation(
        id=blake3.blake3(parts["header"], derive_key_context=OPERATION).digest(),
        author=header["author"],
        seq=header["seq"],
        prev=header["prev"],
        deps=tuple(header["deps"]),
        lamport=header["lamport"],
        policy=header["policy"],
        kind=header["kind"],
        body=body,
        commit=_commit(body["commit"]) if header["kind"] == PUBLISH else None,
    )


def _commit(data: bytes) -> Commit:
    tag, value = decode(data)
    if tag != COMMIT or len(value) != 1:
        raise Malformed("not a commit")
    ((kind, fields),) = value.items()
    return Commit(blake3.blake3(data).digest(), kind, fields)
