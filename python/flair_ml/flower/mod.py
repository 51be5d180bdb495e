"""What happens at a site: its app trains what Flair brought, and what it trained becomes a commit."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flwr.app import ArrayRecord, Context, Message, RecordDict

from ..errors import ConflictError, FlairError, InvalidError, NotFoundError, OfflineError
from ..repo import Repo
from ..run import standing
from . import records

#: Flower's own log.
_LOG = logging.getLogger("flwr")
#: Seconds between two looks at what is waited for.
_PAUSE = 0.1
#: What a working folder is about to hold, in `.flair/local`: left behind by a process that was killed.
_UNDER_WAY = "flower-site.json"

Next = Callable[[Message, Context], Message]


class FlairMod:
    """A mod of Flower's `ClientApp`: weights come and go by Flair, and the app stays as it is.

        app = ClientApp(mods=[FlairMod()])

    It comes first in the list, so that what other mods do to the weights (noise, clipping) is done when it commits.

    The site's working folder is that of the SuperNode's configuration, `--node-config 'flair-folder="/data/digits"'`,
    else of `FLAIR_FOLDER` in its environment; `flair-home`, else `FLAIR_HOME`, names the home of the site's node. The
    folder is for Flower alone: the mod moves it to the commit that it is told to train from.

    Args:
        folder: the working folder, in place of the SuperNode's configuration.
        home: the home of the node, in place of the SuperNode's configuration.
        patience: seconds to wait until the commit to train from is here and checked.
        cast: commit in the repository's dtypes where the app replies with others.
        strip: take `module.` and `_orig_mod.` off the names.

    Raises (when a message comes; Flower carries the text to the server's log):
        InvalidError: no folder is configured, the message is for another repository, or comes from a server without
            `FlairStrategy`; the app's weights do not fit the repository's model.
        ConflictError: the folder holds other training, or another message is being worked on in it.
        OfflineError: no node could be started, or the commit to train from does not arrive.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        home: str | os.PathLike[str] | None = None,
        patience: float = 120,
        cast: bool = False,
        strip: bool = False,
    ) -> None:
        self._folder = folder
        self._home = home
        self._patience = patience
        self._cast = cast
        self._strip = strip

    def __call__(self, message: Message, context: Context, call_next: Next) -> Message:
        """Works on a message; what `ClientApp` calls."""
        kind = message.metadata.message_type.partition(".")[0]
        stamp = records.stamp(message.content)
        if stamp is None:
            if kind == "train":
                raise InvalidError(
                    "the message names no commit to train from: the server runs without `FlairStrategy`, and would get "
                    "weights by Flower",
                    "wrap the server's strategy, `FlairStrategy(FedAvg(…))`, or take `FlairMod` out of the app",
                )
            return call_next(message, context)
        repo = self._repo(context, stamp)
        with _alone(repo):
            _tidy(repo)
            self._wait(repo, stamp.base)
            if kind == "train":
                _stand(repo, stamp.base)
            message.content = _with_model(message.content, stamp, repo)
            reply = call_next(message, context)
            if kind == "train" and reply.has_content():
                reply.content = self._commit(repo, stamp, reply.content, message)
            return reply

    def _repo(self, context: Context, stamp: records.Stamp) -> Repo:
        folder = self._folder or context.node_config.get("flair-folder") or os.environ.get("FLAIR_FOLDER")
        if not folder:
            raise InvalidError(
                "no working folder of Flair is configured at this SuperNode",
                "clone the repository, `flair clone <ticket> <folder>`, and start the SuperNode with "
                "`--node-config 'flair-folder=\"<folder>\"'`, or with FLAIR_FOLDER in its environment",
            )
        home = self._home or context.node_config.get("flair-home")
        repo = Repo(str(folder), home=None if home is None else str(home))
        own = repo.status().repo
        if own != stamp.repo:
            raise InvalidError(
                f"the server asks for repository {stamp.repo[:10]}, and {repo.folder} is of {own[:10]}",
                "clone the server's repository, or start the SuperNode with the folder where it is",
            )
        return repo

    def _wait(self, repo: Repo, base: str) -> None:
        """Waits until a commit is here, checked or run by this site's own node."""
        end = time.monotonic() + self._patience
        while True:
            words = "it is not known here"
            try:
                shown = repo.show(base)
            except NotFoundError:
                shown = None
            if shown is not None:
                if shown.entry.kind == "update":
                    raise InvalidError(
                        f"the server asks to train from {base[:10]}, which is one person's update and no model of the "
                        "branch"
                    )
                if shown.here:
                    return
                words = "its model is not here"
            if time.monotonic() > end:
                raise OfflineError(
                    f"commit {base[:10]}, which the server names, did not arrive in {self._patience:.0f} s: {words}",
                    "`flair peers` and `flair status` tell whom this site's node reaches",
                )
            time.sleep(_PAUSE)

    def _commit(self, repo: Repo, stamp: records.Stamp, content: RecordDict, message: Message) -> RecordDict:
        """Publishes what an app trained, and gives what its reply becomes."""
        name = records.model(content, stamp.arrays)
        arrays = content[name]
        assert isinstance(arrays, ArrayRecord)
        tensors = records.tensors(arrays)
        count, metrics, left = records.measured(content, stamp.examples)
        if left:
            _LOG.info("Flair: the commit leaves out the metrics %s", ", ".join(sorted(left)))
        if standing(repo.status()) != (stamp.base, ""):
            raise ConflictError(
                f"the folder {repo.folder} was moved while the app trained",
                "it is for Flower alone: clone another one to work in",
            )
        (repo.local / _UNDER_WAY).write_text(json.dumps({"base": stamp.base}))
        try:
            repo.commit(
                tensors,
                _told(message),
                num_examples=count,
                metrics=metrics,
                cast=self._cast,
                strip=self._strip,
            )
            pushed = repo.push()
        except BaseException:
            # Where the node does not answer, the next message does it.
            with suppress(FlairError):
                _tidy(repo)
            raise
        (repo.local / _UNDER_WAY).unlink()
        assert pushed.commit is not None
        if pushed.peers == 0:
            _LOG.warning("Flair: no peer is connected; update %s leaves when one is", pushed.commit[:10])
        person = repo.show(pushed.commit).entry.author
        said = RecordDict({key: record for key, record in content.items() if key != name})
        records.write(said, records.Answer(stamp.repo, stamp.base, pushed.commit, person))
        _LOG.info("Flair: pushed update %s (%d bytes) on %s", pushed.commit[:10], pushed.bytes, stamp.base[:10])
        return said


def _with_model(content: RecordDict, stamp: records.Stamp, repo: Repo) -> RecordDict:
    """A message's content as an app without Flair gets it: with weights, and without a word of Flair's."""
    own = RecordDict({key: record for key, record in content.items() if key != records.KEY})
    own[stamp.arrays] = records.arrays(repo.state_dict(stamp.base), stamp.order)
    return own


def _told(message: Message) -> str:
    """What an update of Flower's says of itself."""
    run = f"Flower run {message.metadata.run_id}"
    for record in message.content.config_records.values():
        if isinstance(number := record.get("server-round"), int):
            return f"{run}, round {number}"
    return run


@contextmanager
def _alone(repo: Repo) -> Iterator[None]:
    """Nobody else works in the folder by this mod, for as long as the block runs."""
    with (repo.local / "flower-site.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(
                f"another SuperNode works in {repo.folder}",
                "each SuperNode is one contributor: give it a home and a folder of its own",
            ) from error
        yield


def _tidy(repo: Repo) -> None:
    """Puts a folder back that was left in the middle of a commit of ours."""
    under_way = repo.local / _UNDER_WAY
    if under_way.exists():
        repo.reset(hard=True)
        repo.restore()
        under_way.unlink()
        _LOG.warning("Flair: put %s back, where a round ended before its commit was pushed", repo.folder)


def _stand(repo: Repo, base: str) -> None:
    """Moves the folder to a commit."""
    work = repo._work(repo.status())
    if work.changes or work.drafts:
        what = (
            f"draft {work.drafts[-1].id[:10]}" if work.drafts else f"`{work.changes[0].file}` {work.changes[0].state}"
        )
        raise ConflictError(
            f"the folder {repo.folder} holds training that was not pushed: {what}",
            "push or discard it, or give the SuperNode a folder of its own: `flair clone`",
        )
    if work.base != base:
        repo.checkout(base)
