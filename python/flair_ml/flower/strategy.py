"""What happens at the server: it names commits, waits for those that sites made, and sees to the aggregate of them."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from ..answers import Status
from ..errors import ConflictError, DeniedError, FlairError, InvalidError, NotFoundError, OfflineError
from ..repo import Repo
from . import records
from .progress import Progress

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger("flwr")
#: Seconds between two looks at what is waited for.
_PAUSE = 0.1
#: Updates that an aggregate takes in at most.
_INPUTS = 256
#: Characters of an engine's name at most.
_ENGINE = 100

Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]


@dataclass(frozen=True)
class _Update:
    """An update that a site named: the Flower node, what it said, and its reply."""

    node: int
    said: records.Answer
    reply: Message


class FlairStrategy(Strategy):
    """A strategy of Flower whose models come from a Flair repository.

        FlairStrategy(FedAvg(fraction_train=0.5)).start(grid, initial_arrays, num_rounds=3)

    The inner strategy chooses the sites, their settings, and how metrics are put together. The model is made by the
    repository's rule (`flair policy show`), as an aggregate that every node makes or checks; the inner strategy's own
    way to average is not used, unless `model="inner"` asks for it. Training starts from the head of the folder's
    branch, whatever `initial_arrays` hold: they only have to be of the same model.

    The server is a contributor, maintainer or delegate with a node and a working folder of its own: `folder`, else
    `FLAIR_FOLDER` in the environment of the SuperLink; `home`, else `FLAIR_HOME`.

    A run that was broken off, by a crash or by hand, is gone on with by the next `start` with the same number of
    rounds, from the repository's head: updates that had been pushed are not lost, and only the rounds that are missing
    are done.

    Args:
        inner: the strategy that is wrapped; `FedAvg()` where none is given. One that makes the model in a way of its
            own (`FedAdam`, `Krum`, …) is refused: choose such a rule for the repository.
        folder: the server's working folder.
        home: the home of the server's node.
        model: who makes the next model: `"policy"`, the repository's rule, which every node can run again; or
            `"inner"`, the inner strategy, whose result the server publishes as an external commit. Nobody can derive
            that again, `flair audit` says so, and it takes effect once maintainers accept it; the server's own word
            is enough where the branch asks for one accept and the server is a maintainer or delegate.
        weights: send weights by Flower too, for sites without `FlairMod`. They can evaluate; what they train is left
            out, since nobody signed it.
        patience: seconds to wait for updates that sites have named, and for their aggregate.
        flush: aggregate with fewer persons than the repository's rule asks for, when all that replied are there; only
            maintainers and delegates may.
        resume: go on with a run that was broken off.

    Raises:
        InvalidError: no folder is configured, or the inner strategy makes models itself.
        OfflineError: no node could be started.
    """

    def __init__(
        self,
        inner: Strategy | None = None,
        folder: str | os.PathLike[str] | None = None,
        *,
        home: str | os.PathLike[str] | None = None,
        model: Literal["policy", "inner"] = "policy",
        weights: bool = False,
        patience: float = 120,
        flush: bool = False,
        resume: bool = True,
    ) -> None:
        self.inner: Strategy = FedAvg() if inner is None else inner
        name = type(self.inner).__name__
        if model not in ("policy", "inner"):
            raise InvalidError(f"`model` is {model!r}", 'give "policy" or "inner"')
        if model == "policy" and type(self.inner).aggregate_train is not FedAvg.aggregate_train:
            raise InvalidError(
                f"{name} makes the model by a rule of its own, which others could not check",
                "wrap FedAvg or FedProx, and choose the repository's rule: `flair policy propose --aggregation …` has "
                'fedadam, fedyogi, median, krum and others; or let it, with `model="inner"`',
            )
        place = folder or os.environ.get("FLAIR_FOLDER")
        if not place:
            raise InvalidError(
                "the server has no working folder of Flair",
                "clone the repository, then `FlairStrategy(…, folder=…)`, or start the SuperLink with FLAIR_FOLDER",
            )
        self.repo = Repo(place, home=home)
        self._makes = model == "inner"
        self._weights = weights
        self._patience = patience
        self._flush = flush
        self._resume = resume
        self._progress: Progress | None = None
        self._before = 0
        # The commit that sites were told, and its weights.
        self._base = ""
        self._arrays = ArrayRecord()
        self._order: list[int] = []

    # Flower's interface

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Evaluate | None = None,
    ) -> Result:
        """Runs rounds, as Flower's strategies do.

        Args:
            grid: Flower's grid.
            initial_arrays: a model of the same names and shapes as the repository's; its numbers are not used.
            num_rounds: how many rounds, those that a run broken off has done counted.
            timeout: seconds to wait for sites' replies in a round.
            train_config: settings for training.
            evaluate_config: settings for evaluation.
            evaluate_fn: evaluates a model at the server, by the round's number.

        Raises:
            InvalidError: `initial_arrays` are another model; names and shapes are told.
            OfflineError: the head is not here and checked.
        """
        if self._makes:
            self._alone()
        self._base, self._order = "", records.order(initial_arrays or [])
        self._take(self._head())
        if initial_arrays:
            _same(initial_arrays, self._arrays)
        progress = Progress.begin(self.repo, num_rounds, self._base, resume=self._resume)
        self._progress, self._before = progress, progress.done
        if progress.done:
            _LOG.info("Flair: a run was broken off: %d of its %d rounds are done", progress.done, num_rounds)
        before = self._before
        shifted: Evaluate | None = None
        if evaluate_fn is not None:
            asked = evaluate_fn

            def shifted(number: int, arrays: ArrayRecord) -> MetricRecord | None:
                return asked(number + before, arrays)

        result = super().start(
            grid, self._arrays, max(0, num_rounds - before), timeout, train_config, evaluate_config, shifted
        )
        progress.end()
        if not result.arrays:
            result.arrays = self._arrays
        for rounds in (
            result.train_metrics_clientapp,
            result.evaluate_metrics_clientapp,
            result.evaluate_metrics_serverapp,
        ):
            moved = {number + before: metrics for number, metrics in rounds.items()}
            rounds.clear()
            rounds.update(moved)
        return result

    def summary(self) -> None:
        """Logs what this strategy is."""
        status = self.repo.status()
        _LOG.info("\t├──> Flair:")
        _LOG.info("\t│\t├── Repository %s (%s), branch %s", status.name, status.repo[:10], status.branch)
        _LOG.info("\t│\t├── Starts from %s", self._base[:10])
        name = type(self.inner).__name__
        maker = f"by {name}, which others can't check" if self._makes else f"by the repository's rule, not by {name}"
        _LOG.info("\t│\t└── The model: %s", maker)
        self.inner.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Has the inner strategy choose sites and settings, and names the commit to train from in place of weights."""
        number = server_round + self._before
        self._take(self._head())
        if self._progress is not None:
            self._progress.step(number - 1, self._base)
        _LOG.info("Flair: round %d trains from %s", number, self._base[:10])
        return self._stamped(self.inner.configure_train(number, self._arrays, config, grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Waits for the updates that sites named, and for their aggregate; the inner strategy gets the metrics, and the
        weights too where it makes the model.
        """
        number = server_round + self._before
        passed: list[Message] = []
        updates: list[_Update] = []
        for reply in replies:
            if reply.has_error():
                passed.append(reply)
            elif (update := self._read(reply)) is not None:
                updates.append(update)
        updates = _once(self._arrived(updates))
        if self._makes:
            # By commit id: an inner strategy that adds up in floats gives the same for the same updates.
            updates.sort(key=lambda update: update.said.commit)
        else:
            moved = bool(updates) and self._aggregate([update.said.commit for update in updates])
        for update in updates:
            # What the site trained is in its commit, not in its reply.
            content = RecordDict({key: record for key, record in update.reply.content.items() if key != records.KEY})
            content[records.KEY] = self._trained(update) if self._makes else ArrayRecord()
            update.reply.content = content
            passed.append(update.reply)
        made, metrics = self.inner.aggregate_train(number, passed)
        if self._makes:
            moved = made is not None and self._publish(number, made, [update.said.commit for update in updates])
        if self._progress is not None:
            self._progress.step(number, self._base)
        return (self._arrays if moved else None), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Has the inner strategy choose sites and settings, and names the commit to evaluate in place of weights."""
        return self._stamped(self.inner.configure_evaluate(server_round + self._before, self._arrays, config, grid))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """What the inner strategy makes of the sites' evaluations."""
        return self.inner.aggregate_evaluate(server_round + self._before, replies)

    # The repository

    def _head(self) -> str:
        """The head of the branch, once it is here and checked."""
        end = time.monotonic() + self._patience
        while True:
            status = self.repo.status()
            if status.head is not None and status.head_verified:
                return status.head
            if time.monotonic() > end:
                raise OfflineError(
                    f"the head of branch {status.branch} is not here and checked after {self._patience:.0f} s",
                    "`flair status` and `flair peers` tell why; it is fetched while peers are connected",
                )
            time.sleep(_PAUSE)

    def _alone(self) -> None:
        """Checks that nodes do not aggregate by themselves what the inner strategy is to make a model of."""
        needed = self.repo.status().needed
        if needed <= _INPUTS:
            raise InvalidError(
                f"nodes would aggregate by themselves what {type(self.inner).__name__} is to make the model of: the "
                f"repository's rule asks for updates of {needed} persons",
                "`flair policy propose --set every=1000`, or `flair.init(…, every=1000)`, asks for more than there are",
            )

    def _trained(self, update: _Update) -> ArrayRecord:
        """A site's weights, from its commit."""
        return records.arrays(self.repo.state_dict(update.said.commit), self._order)

    def _publish(self, number: int, made: ArrayRecord, commits: list[str]) -> bool:
        """Publishes what the inner strategy made as the branch's next commit. Gives whether the head moved."""
        name = type(self.inner).__name__
        begun = self.repo.state_dict(self._base)
        try:
            self.repo.pull()
            model = {key: _like(value, begun.get(key)) for key, value in records.tensors(made).items()}
            engine = f"flower {metadata.version('flwr')} {name}"
            self.repo.commit(model, f"round {number} by {name}", engine=engine[:_ENGINE], inputs=commits)
            commit = self.repo.push().commit or ""
        except FlairError as error:
            _LOG.error("Flair: what %s made is not published: %s", name, error)
            with contextlib.suppress(FlairError):
                self.repo.reset(hard=True)
            return False
        end = time.monotonic() + self._patience
        while (status := self.repo.status()).head != commit or not status.head_verified:
            if time.monotonic() > end:
                _LOG.warning(
                    "Flair: %s waits for maintainers to accept it: `flair review %s --accept`; the head stays",
                    commit[:10],
                    commit[:10],
                )
                return False
            time.sleep(_PAUSE)
        self._take(commit)
        self._tell(commits)
        return True

    def _take(self, head: str) -> None:
        """Makes a commit the one that sites are told."""
        if head != self._base:
            self._arrays = records.arrays(self.repo.state_dict(head), self._order)
            self._base = head

    def _stamped(self, messages: Iterable[Message]) -> list[Message]:
        """Messages of the inner strategy with a commit's id in the place of its weights."""
        repo = self.repo.status().repo
        examples = getattr(self.inner, "weighted_by_key", "num-examples")
        done = []
        for message in messages:
            names = [key for key, record in message.content.items() if record is self._arrays]
            if len(names) != 1:
                raise InvalidError(
                    f"{type(self.inner).__name__} puts the model into {len(names)} records of its message, not into one"
                )
            # The inner strategy may have given all messages the same content.
            content = RecordDict(
                {key: record for key, record in message.content.items() if self._weights or key not in names}
            )
            records.write(content, records.Stamp(repo, self._base, names[0], examples, self._order))
            message.content = content
            done.append(message)
        return done

    def _read(self, reply: Message) -> _Update | None:
        """What a site says it made; none, and a word in the log, where that can't be taken."""
        node = reply.metadata.src_node_id
        try:
            said = records.answer(reply.content)
            if said is None:
                raise InvalidError("it names no commit: its app has no `FlairMod`")
            if said.base != self._base:
                raise InvalidError(f"it trained from {said.base[:10]}, and was told {self._base[:10]}")
        except InvalidError as error:
            _LOG.warning("Flair: the reply of node %d is left out: %s", node, error)
            return None
        return _Update(node, said, reply)

    def _arrived(self, updates: list[_Update]) -> list[_Update]:
        """Waits until updates are here, and gives those that are what their sites said."""
        end = time.monotonic() + self._patience
        waiting, here = list(updates), []
        while waiting:
            for update in list(waiting):
                if (fault := self._fault(update)) is None:
                    here.append(update)
                    waiting.remove(update)
                elif fault:
                    _LOG.warning("Flair: the update of node %d is left out: %s", update.node, fault)
                    waiting.remove(update)
            if waiting and time.monotonic() > end:
                for update in waiting:
                    _LOG.warning(
                        "Flair: update %s of node %d did not arrive in %.0f s: the round goes on without it; "
                        "if it comes, it goes into a later aggregate",
                        update.said.commit[:10],
                        update.node,
                        self._patience,
                    )
                break
            if waiting:
                time.sleep(_PAUSE)
        return sorted(here, key=lambda update: updates.index(update))

    def _fault(self, update: _Update) -> str | None:
        """What is wrong with an update; none where it is here and right, nothing where it is not here yet."""
        try:
            shown = self.repo.show(update.said.commit)
        except NotFoundError:
            return ""
        entry, said = shown.entry, update.said
        if entry.commit != said.commit or entry.kind != "update":
            return f"{said.commit[:10]} is no update"
        if entry.author != said.person:
            return f"{said.commit[:10]} is signed by {entry.name or entry.author}, not by whom the site says"
        if entry.parent != self._base:
            return f"{said.commit[:10]} stands on {(entry.parent or 'nothing')[:10]}, not on {self._base[:10]}"
        if entry.state in ("dropped", "void"):
            return shown.words
        return None if shown.here else ""

    def _aggregate(self, commits: list[str]) -> bool:
        """Waits for an aggregate of updates, or makes it. Gives whether the head moved."""
        end = time.monotonic() + self._patience
        while True:
            status = self.repo.status()
            if status.head_verified and status.head != self._base and not self._pending(commits):
                break
            if status.head_verified:
                try:
                    made = self.repo.aggregate(flush=self._flush)
                    _LOG.info("Flair: made aggregate %s of %d updates", made.commit[:10], len(made.inputs))
                    continue
                except DeniedError:
                    # Others make it: this person may not.
                    pass
                except ConflictError as error:
                    if self._settled(commits, status):
                        _LOG.warning("Flair: no further aggregate now: %s", error.message)
                        break
            if time.monotonic() > end:
                _LOG.warning("Flair: no aggregate of this round's updates after %.0f s", self._patience)
                break
            time.sleep(_PAUSE)
        before = self._base
        self._take(self._head())
        self._tell(commits)
        return self._base != before

    def _settled(self, commits: list[str], status: Status) -> bool:
        """Whether nothing has changed since a look at the branch, and too few persons' updates wait."""
        now = self.repo.status()
        return now.head == status.head and now.head_verified and now.persons < now.needed

    def _pending(self, commits: list[str]) -> list[str]:
        return [commit for commit in commits if self.repo.show(commit).entry.state == "pending"]

    def _tell(self, commits: list[str]) -> None:
        """Logs what became of a round's updates, where that is not what one expects."""
        for commit in commits:
            try:
                shown = self.repo.show(commit)
            except FlairError as error:
                _LOG.warning("Flair: update %s: %s", commit[:10], error)
                continue
            if shown.entry.state != "in-head" or "skipped" in shown.words:
                _LOG.warning("Flair: update %s by %s: %s", commit[:10], shown.entry.name, shown.words)
        _LOG.info("Flair: the head is %s", self._base[:10])


def _once(updates: list[_Update]) -> list[_Update]:
    """Updates without those that other sites name too, or that are signed with another site's key. Only what is here,
    and so signed by whom its site says, is looked at: who claims another's key can't keep the other out.
    """
    kept: list[_Update] = []
    for update in updates:
        fault = None
        for other in kept:
            if update.said.commit == other.said.commit:
                fault = f"it names update {update.said.commit[:10]}, as node {other.node} does"
            elif update.said.person == other.said.person:
                fault = f"it is signed with the key of node {other.node}: each site needs a home of its own"
        if fault is None:
            kept.append(update)
        else:
            _LOG.warning("Flair: the update of node %d is left out: %s", update.node, fault)
    return kept


def _like(value: torch.Tensor, begun: torch.Tensor | None) -> torch.Tensor:
    """A tensor in the repository's dtype: Flower averages in 64 bits, and counters as if they were weights."""
    if begun is None:
        return value
    return (value if begun.is_floating_point() else value.round()).to(begun.dtype)


def _same(given: ArrayRecord, held: ArrayRecord) -> None:
    """Checks that a model is the repository's, by names and shapes."""
    problems = [f"`{name}` is only in `initial_arrays`" for name in given if name not in held]
    problems += [f"`{name}` is only in the repository's model" for name in held if name not in given]
    problems += [
        f"`{name}` has shape {list(array.shape)}, the repository has {list(held[name].shape)}"
        for name, array in given.items()
        if name in held and tuple(array.shape) != tuple(held[name].shape)
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InvalidError(
            f"`initial_arrays` are another model than the repository's: {'; '.join(problems[:5])}{more}",
            "begin a repository with this model, `flair.init(net, …)`, or set FLAIR_FOLDER to the folder that has it",
        )
