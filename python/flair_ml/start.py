"""How one comes by a repository: a clone of a peer's, or a new one from a model; and by an example to begin from."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import layers, weights
from .answers import RoleCount
from .answers.reading import answer
from .errors import refusal
from .node import Node, program
from .repo import Repo, username
from .weights import Model

#: Checkpoints of PyTorch, which are read without running what is in them.
_CHECKPOINTS = {".pt", ".pth", ".bin", ".ckpt"}


def clone(
    source: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    repo: str | None = None,
    branch: str | None = None,
    full: bool = False,
    depth: int = 0,
    person: str | None = None,
    timeout: int = 120,
    home: str | os.PathLike[str] | None = None,
) -> Repo:
    """Gets a repository from a peer.

    Args:
        source: a ticket, or a multiaddr ending in `/p2p/…` together with `repo`.
        folder: the working folder to make; the repository's name where none is given.
        repo: the repository's id, when the source is a multiaddr.
        branch: the branch to check out; `main`, else the first, where none is given.
        full: get and check all history, instead of starting from what members attest.
        depth: without `full`: how many of the newest aggregates to run here all the same.
        person: what to call this person when an invite is redeemed; the user's name where none is given.
        timeout: seconds to wait for the network.
        home: the home of the node; `FLAIR_HOME`, else `~/.flair`, where none is given.

    Raises:
        OfflineError: no peer answers.
        InvalidError: the source is neither ticket nor address.
        ConflictError: the folder exists and is not empty.
    """
    node = Node(home)
    request = {
        "source": source,
        "repo": repo,
        "folder": None if folder is None else str(Path(folder).absolute()),
        "current": str(Path.cwd()),
        "branch": branch,
        "person": username(person),
        "full": full,
        "depth": depth,
        "timeout": timeout,
    }
    return Repo(node.post("/v1/clone", request)["folder"], node=node)


def init(
    model: Model | str | os.PathLike[str],
    folder: str | os.PathLike[str] = ".",
    *,
    name: str | None = None,
    message: str = "first model",
    branch: str = "main",
    roles: Mapping[str, str] | None = None,
    local: Iterable[str] = (),
    external_base: str | os.PathLike[str] | None = None,
    every: int | None = None,
    aggregation: str | None = None,
    settings: Mapping[str, Any] | None = None,
    open: bool = False,
    private: bool = False,
    person: str | None = None,
    strip: bool = False,
    home: str | os.PathLike[str] | None = None,
) -> Repo:
    """Starts a repository from a model.

    Args:
        model: a module or state dict, which is written to `model.safetensors` in `folder` (of a PEFT model the
            adapter, with its configuration, as PEFT does); or a path: of a
            `.safetensors` file, a folder with several, or a checkpoint of PyTorch, which is converted without running
            what is in it. A path's own folder becomes the working folder, and `folder` is not used.
        folder: the working folder for a module or state dict; made where it is not there.
        name: the repository's name; the folder's or file's where none is given.
        message: the first commit's message.
        branch: the first branch's name.
        roles: how aggregation treats tensors: name, or pattern with `*` and `?` → role. What a module's layers tell
            (see `flair.roles`) is known without.
        local: names or patterns of tensors that every site keeps for itself, `["bn*"]` say: commits have the value that
            this model has, and what sites train is in none.
        external_base: the model that an adapter is for, a folder or a `.safetensors` file: pinned by its tensors'
            hashes in `external_base.json`, so that everybody can tell whether they have the same; never stored or sent.
        every: aggregate whenever this many persons have pushed, instead of three quarters of the active ones.
        aggregation: the aggregation rule; `fedbuff` where none is given.
        settings: the rule's settings.
        open: whoever asks becomes a contributor.
        private: only who has a role can read, for good.
        person: what to call this person; the user's name where none is given.
        strip: take wrappers' prefixes off the names.
        home: the home of the node; `FLAIR_HOME`, else `~/.flair`, where none is given.

    Raises:
        InvalidError: a model that can't be used; the error names the tensor.
        ConflictError: the folder is a working folder already, or holds a model.
    """
    module = None if isinstance(model, (str, os.PathLike)) else model
    given = layers.given(module, roles, local, strip=strip)
    node = Node(home)
    written = None
    request: dict[str, Any]
    if isinstance(model, (str, os.PathLike)):
        path = Path(model).absolute()
        if path.suffix in _CHECKPOINTS:
            request = {"source": str(path), "output": None, "key": None, "strip": strip, "untie": False, "force": False}
            path = written = Path(node.post("/v1/import", request)["files"][0]["output"])
        own = path.name if path.is_dir() else path.stem
    else:
        path = written = weights.new_model(model, Path(folder).absolute(), strip=strip)
        own = path.parent.name
        if weights.adapted(model):
            path = path.parent
    external = None if external_base is None else str(Path(external_base).absolute())
    request = {
        "model": str(path),
        "name": name or own,
        "message": message,
        "branch": branch,
        "roles": given,
        "every": every,
        "aggregation": aggregation,
        "settings": {key: str(value) for key, value in (settings or {}).items()},
        "open": open,
        "private": private,
        "person": username(person),
    }
    try:
        if external is not None:
            node.post("/v1/external-base/pin", {"folder": str(path), "path": external})
        made = node.post("/v1/init", request)
    except BaseException:
        if written is not None:
            written.unlink(missing_ok=True)
        raise
    repo = Repo(made["folder"], node=node)
    repo.roles = answer(list[RoleCount], made["roles"])
    if external is not None:
        repo.external_base(external)
    return repo


def new(example: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Writes an example that runs as it is, to begin from, and gives its folder.

    Args:
        example: which one: `pytorch`, a script that trains a small network on digits that it draws itself.
        folder: where to write it; a new folder of the example's name where none is given.

    Raises:
        NotFoundError: no such example; the error names those that there are.
        ConflictError: a file is there already, and nothing was written.
    """
    place = Path(example if folder is None else folder).absolute()
    command = [str(program("flair")), "--json", "new", "--example", example, str(place)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        try:
            problem = json.loads(done.stderr)
        except ValueError:
            problem = {"message": done.stderr.strip()}
        raise refusal(problem.get("code", ""), problem["message"], problem.get("help"))
    return place
