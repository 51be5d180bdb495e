"""Repositories: what the command `flair` does, from Python, with models as PyTorch has them."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import evaluation, html, weights
from .answers import (
    Aggregated,
    Branch,
    Committed,
    Diff,
    Done,
    ExternalBase,
    Joined,
    Log,
    Member,
    Moved,
    Peer,
    PrivacyLedger,
    Pushed,
    ResetDone,
    Reviewed,
    RoleCount,
    Shown,
    Status,
    TicketMade,
    ToEvaluate,
    Verified,
    WorkStatus,
)
from .answers.reading import answer
from .errors import ConflictError, InvalidError
from .evaluation import Evaluated, Measure, Paths
from .node import Node
from .weights import Model

if TYPE_CHECKING:
    import torch

    from .run import Run

#: A measurement's name, `val/loss` say, and its value; a pair tells on how many examples it was measured.
Metrics = Mapping[str, float | tuple[float, int]]

#: Seconds between two looks at what is waited for.
_PAUSE = 0.1


class Repo:
    """A repository with its working folder.

    Args:
        folder: the working folder, or a folder below it.
        home: the home of the node; `FLAIR_HOME`, else `~/.flair`, where none is given.
        start: whether to start a node where none runs.
        node: the node to ask, in place of `home` and `start`.

    Raises:
        NotFoundError: the folder is in no working folder.
        OfflineError: no node runs, and none could be started.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] = ".",
        *,
        home: str | os.PathLike[str] | None = None,
        start: bool = True,
        node: Node | None = None,
    ) -> None:
        self._node = node or Node(home, start=start)
        self._place: dict[str, Any] = {"folder": str(Path(folder).absolute()), "repo": None}
        work = self._work(self.status())
        #: The working folder.
        self.folder = Path(work.folder)
        self._place["folder"] = work.folder
        # The commit whose tensors were handed out last: what is trained next, unless the folder says otherwise.
        self._handed: str | None = None
        #: How tensors are treated, role by role, where this repository was begun here a moment ago.
        self.roles: list[RoleCount] = []

    def __repr__(self) -> str:
        return f"Repo({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        return html.status(self.status())

    @property
    def node(self) -> Node:
        """The node that is asked."""
        return self._node

    @property
    def local(self) -> Path:
        """What stays on this machine: weights kept after a failure, curves. Never pushed."""
        path = self.folder / ".flair" / "local"
        path.mkdir(exist_ok=True)
        return path

    def _post(self, path: str, /, **request: Any) -> Any:
        return self._node.post(path, {"place": self._place, **request})

    @staticmethod
    def _work(status: Status) -> WorkStatus:
        if status.work is None:
            raise InvalidError("this needs a working folder", "clone the repository into one")
        return status.work

    # Models

    def state_dict(self, revision: str | None = None) -> dict[str, torch.Tensor]:
        """A commit's tensors, bit for bit, under all names that the model has for them. Those whose role is `local`
        are as this site has them.

        They are mapped into memory from a file of their own: writing to them changes neither the folder nor the commit.

        Args:
            revision: a branch (its head), a commit, or a draft; where none is given, what the folder stands on: its
                last draft, else its base.

        Raises:
            NotFoundError: no such commit, or its tensors are not here yet.
        """
        if revision is None:
            work = self._work(self.status())
            revision = work.drafts[-1].id if work.drafts else work.base
        head = next((branch.head for branch in self.branches() if branch.name == revision), None)
        tensors = self._tensors(head or revision)
        self._handed = head or revision
        return tensors

    def _tensors(self, commit: str) -> dict[str, torch.Tensor]:
        with self._exported(commit) as folder:
            return weights.read(weights.headers(folder) or _all(folder))

    def load(self, model: torch.nn.Module, revision: str | None = None, *, strip: bool = False) -> None:
        """Loads a commit's tensors into a model.

        Args:
            model: the model.
            revision: as for `state_dict`.
            strip: load into a wrapped model, whose names begin with `module.` or `_orig_mod.`, by the bare names.

        Raises:
            InvalidError: the model is another one; names and shapes are told.
        """
        tensors = self.state_dict(revision)
        own = weights.state(model, strip=strip)
        weights.same_names(own, tensors)
        weights.load(model, tensors, strip=strip)

    @contextmanager
    def _exported(self, revision: str) -> Iterator[Path]:
        """A folder with the files of a commit, for as long as the block runs."""
        temporary = Path(tempfile.mkdtemp(prefix="model-", dir=self.local))
        try:
            # With what this site has of its own: no commit has that.
            asked = {"commit": revision, "output": str(temporary), "force": False, "local": True, "automerge": None}
            self._post("/v1/export", **asked)
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _layout(self, work: WorkStatus) -> list[weights.Header]:
        """Headers of the repository's model files, from the folder where they are as they should be."""
        if not work.changes and (found := weights.headers(self.folder)) is not None:
            return found
        with self._exported(work.base) as folder:
            return weights.headers(folder) or _all(folder)

    def train(
        self,
        model: Model,
        message: str = "",
        *,
        cast: bool = False,
        strip: bool = False,
        check: bool = True,
        optimizer: torch.optim.Optimizer | None = None,
        resume: bool = False,
        dp: Mapping[str, float] | None = None,
    ) -> Run:
        """Trains a model within a `with` block, and commits the difference when the block ends well.

        On an exception, Ctrl-C included, nothing is committed, and the weights as they are then are kept in a file
        that the exception's notes name: `recover` commits them.

        Args:
            model: the model, which holds the weights of the folder's last draft or base, or of the commit that
                `state_dict` or `load` gave last: an untouched folder moves there.
            message: what is done.
            cast: commit in the repository's dtypes where the model has others.
            strip: take `module.` (DistributedDataParallel) and `_orig_mod.` (`torch.compile`) off the names.
            check: compare the model with its base first. A model that was not loaded from the repository gives an
                update that undoes the others' work.
            optimizer: an optimiser whose state is kept in `.flair/local` when the block ends, and never pushed.
            resume: give the optimiser the state that the last training left, and go on with its curves. Without such a
                state this is a training like any other.
            dp: differential privacy, `{"clip": 1, "noise": 4}`, as for `commit`. The model in memory keeps what was
                trained: `load` the noised one before training on.

        Raises:
            InvalidError: the model does not fit the repository's, names and shapes are told; the optimiser's state is
                that of another optimiser.
            ConflictError: the folder holds training that is not committed, or the model holds other weights.
        """
        from .run import Run

        return Run(
            self,
            model,
            message,
            cast=cast,
            strip=strip,
            check=check,
            optimizer=optimizer,
            resume=resume,
            dp=dp,
        )

    def commit(
        self,
        model: Model | None = None,
        message: str = "",
        *,
        num_examples: int | None = None,
        steps: int | None = None,
        epochs: int | None = None,
        seed: int | None = None,
        metrics: Metrics | None = None,
        cast: bool = False,
        strip: bool = False,
        dp: Mapping[str, float] | None = None,
        keep_clean: str | os.PathLike[str] | None = None,
        claim: Mapping[str, Any] | None = None,
        engine: str | None = None,
        inputs: Iterable[str] = (),
        migrate: bool = False,
    ) -> Committed:
        """Makes a draft: of a model, or of the folder's files where none is given.

        A draft becomes an update, which others aggregate. With `engine` it becomes the branch's next commit: a model
        that a program outside Flair made of updates, a Flower server with a strategy of its own, say. With `migrate`
        too: then the folder's tensors and side files may be other ones. Both take effect once a maintainer or delegate
        accepts them.

        Args:
            model: a module or a state dict that was trained from the folder's base. Its tensors are written to the
                folder's files first.
            message: what was done.
            num_examples: examples trained on: the weight of the update.
            steps: optimiser steps.
            epochs: passes over the data.
            seed: random seed of the training.
            metrics: measurements by name, `{"val/loss": 0.41}` or `{"val/loss": (0.41, 200)}` when measured on 200
                examples.
            cast: convert to the repository's dtypes.
            strip: take wrappers' prefixes off the names.
            dp: differential privacy, `{"clip": 1, "noise": 4}`: what training changed is clipped to this L2 norm, and
                noise of this multiple of it added. The folder holds the noised model afterwards; `load` it to train on.
            keep_clean: a new folder to copy the trained files to, before they are overwritten.
            claim: what training itself did for privacy, as DP-SGD does: clip, noise, sampling, steps, epsilon, delta,
                accountant; and unit, neighbouring, mechanism where they are not `example`, `add-remove`, `dp-sgd`.
                Published as it is said; nobody can check it. `Run.privacy` takes it from Opacus.
            engine: what made the model: program, version, method. Nobody can derive it again, and an audit says so.
            inputs: with `engine`, the ids of the updates that went into it.
            migrate: take over the folder's files as they are; no model is given.

        Raises:
            InvalidError: the model does not fit, or holds a NaN; tensors and shapes are told.
            ConflictError: nothing changed.
            DeniedError: the privacy budget does not allow it, or `dp` is required and not given.
        """
        if model is not None:
            tensors = weights.state(model, strip=strip)
            files = self._layout(self._work(self.status()))
            weights.fit(tensors, files, cast=cast)
            with tempfile.TemporaryDirectory(prefix="commit-", dir=self.local) as temporary:
                weights.replace(weights.save_like(tensors, files, Path(temporary)), self.folder)
        answered = self._post(
            "/v1/commit",
            message=message,
            examples=num_examples,
            steps=steps,
            epochs=epochs,
            seed=seed,
            metrics=measured(metrics or {}),
            cast=cast,
            dp=private(dp, keep_clean),
            claim=claimed(claim),
            migrate=migrate,
            external=None if engine is None else {"engine": engine, "inputs": list(inputs)},
        )
        return answer(Committed, answered)

    def recover(self, kept: str | os.PathLike[str] | None = None) -> Committed:
        """Commits weights that were kept when a training could not be committed, with its message and measurements.

        Args:
            kept: the file or folder that the error named; the newest where none is given.

        Raises:
            NotFoundError: nothing is kept.
            ConflictError: the folder has moved on, and holds other training.
        """
        from .run import recover

        return recover(self, None if kept is None else Path(kept))

    def privacy(self) -> PrivacyLedger:
        """What differential privacy was spent in this repository, release by release."""
        return answer(PrivacyLedger, self._post("/v1/privacy"))

    # Work

    def status(self) -> Status:
        """Where folder and repository stand."""
        return answer(Status, self._post("/v1/status"))

    def push(self, *, dry_run: bool = False, keep_drafts: bool = False) -> Pushed:
        """Publishes the drafts as one update; with `dry_run`, only tells what would leave."""
        return answer(Pushed, self._post("/v1/push", dry_run=dry_run, keep_drafts=keep_drafts))

    def pull(self, *, rebase: bool = False, timeout: int = 60) -> Moved:
        """Moves the folder to the newest head that this node has checked.

        Args:
            rebase: carry local training over onto the new head.
            timeout: seconds to wait for the head to be fetched and checked.

        Raises:
            ConflictError: local training would be lost.
        """
        return answer(Moved, self._post("/v1/pull", rebase=rebase, timeout=timeout))

    def wait(self, timeout: float = 60) -> Status:
        """Waits until this person's last update is in the head of its branch, and the head is here and checked.

        Nodes aggregate by themselves, once enough people have pushed.

        Args:
            timeout: seconds to wait.

        Raises:
            ConflictError: it was left out, for the reason told; or it is not in the head when time is up.
        """
        end = time.monotonic() + timeout
        while True:
            status = self.status()
            update = status.last_update
            if update is None:
                raise ConflictError("nothing was pushed that could be waited for")
            if update.state == "in-head" and status.head_verified:
                return status
            if update.state in ("skipped", "dropped", "void"):
                raise ConflictError(f"update {update.commit[:10]} is not in the head: {update.words}")
            if time.monotonic() > end:
                raise ConflictError(
                    f"update {update.commit[:10]} is not in the head after {timeout} s: {update.words}",
                    "`repo.status()` tells how many people the next aggregate needs",
                )
            time.sleep(_PAUSE)

    def checkout(self, target: str, *, force: bool = False) -> Moved:
        """Moves the folder to a branch or commit; with `force`, even if local training is lost."""
        return answer(Moved, self._post("/v1/checkout", target=target, force=force))

    def restore(self) -> Moved:
        """Sets the files back to the last draft, or to the base."""
        return answer(Moved, self._post("/v1/restore"))

    def external_base(self, path: str | os.PathLike[str] | None = None) -> ExternalBase:
        """What the branch says of the model that its adapter is for.

        Args:
            path: that model on this machine, a folder or a `.safetensors` file: it is compared, and where it is is
                remembered. None only tells.

        Raises:
            InvalidError: another model; the error names the tensor.
            NotFoundError: the branch pins none.
        """
        there = None if path is None else str(Path(path).absolute())
        return answer(ExternalBase, self._post("/v1/external-base", path=there))

    def reset(self, drafts: int | None = None, *, hard: bool = False) -> ResetDone:
        """Undoes the newest drafts, or all; with `hard`, the files too."""
        return answer(ResetDone, self._post("/v1/reset", drafts=drafts, hard=hard))

    def fetch(self, *, full: bool = False, timeout: int = 60) -> Done:
        """Gets what is not here yet; with `full`, all history."""
        return answer(Done, self._post("/v1/fetch", full=full, timeout=timeout))

    # History

    def log(self, branch: str | None = None, limit: int = 100) -> Log:
        """History of a branch, newest first; of the folder's branch where none is given."""
        return answer(Log, self._post("/v1/log", branch=branch, limit=limit))

    def show(self, commit: str | None = None) -> Shown:
        """One commit in full; the head where none is given."""
        return answer(Shown, self._post("/v1/show", commit=commit))

    def diff(self, a: str | None = None, b: str | None = None) -> Diff:
        """How two models differ, tensor by tensor; the folder's base and its files where none are given."""
        return answer(Diff, self._post("/v1/diff", a=a, b=b))

    def export(
        self,
        folder: str | os.PathLike[str],
        commit: str | None = None,
        *,
        onto: str | os.PathLike[str] | None = None,
        force: bool = False,
        local: bool = False,
    ) -> Done:
        """Writes a commit's files to a folder, or a model of one file to a `.safetensors` file.

        Args:
            folder: where to.
            commit: the commit, branch or draft; the folder's base where none is given.
            onto: of an adapter of PEFT's, the model it was trained on: a folder or a `.safetensors` file. It is written
                with the adapter merged into it, base + scale · BA.
            force: replace files that exist.
            local: with this site's own values of the tensors whose role that is, which no commit has.
        """
        base = None if onto is None else str(Path(onto).absolute())
        output = str(Path(folder).absolute())
        request = {"commit": commit, "output": output, "onto": base, "force": force, "local": local, "automerge": None}
        return answer(Done, self._post("/v1/export", **request))

    def branches(self) -> list[Branch]:
        """The branches."""
        return answer(list[Branch], self._post("/v1/branches"))

    def branch(self, name: str, start: str | None = None) -> Branch:
        """Creates a branch, from a commit or branch; from the folder's branch's head where none is given.

        It does not move the folder: `checkout` does.
        """
        return answer(Branch, self._post("/v1/branch/create", name=name, **{"from": start}))

    # Together

    def aggregate(self, branch: str | None = None, *, dry_run: bool = False, flush: bool = False) -> Aggregated:
        """Aggregates what waits on a branch, now.

        Args:
            branch: the branch; the folder's where none is given.
            dry_run: write nothing, only tell.
            flush: with fewer persons than needed, which only delegates may.
        """
        return answer(Aggregated, self._post("/v1/aggregate", branch=branch, dry_run=dry_run, flush=flush))

    def verify(self, commit: str | None = None) -> Verified:
        """Runs an aggregate's recipe again, or all of the head's path, and compares."""
        return answer(Verified, self._post("/v1/verify", commit=commit))

    def evaluate(
        self,
        fn: Measure,
        commit: str,
        *,
        data: Paths,
        better: Mapping[str, str],
        on: str = "holdout",
        code: Paths | None = None,
        dry_run: bool = False,
    ) -> Evaluated:
        """Measures a commit's model and its base's on data that nobody else sees, and publishes the figures, signed.

        The data stay here: their hash, with a salt that never leaves this home, says later that they were these. It
        is compared with what was trained from (an update), or with the parent (an aggregate).

        Args:
            fn: is given a model's tensors by name and gives numbers by name, with `n` for the number of examples. Run
                once on the base and once on the commit.
            commit: a commit, or a branch for its head.
            data: the files or folders with the data.
            better: the metrics that leave, and which way each is better: `{"auc": "higher"}`.
            on: what these data are called.
            code: the files that define the metrics, of which a hash is signed; the file that `fn` is in where none are
                given.
            dry_run: measure, and publish nothing.

        Raises:
            InvalidError: a metric that `fn` did not give, data that can't be read, a base measured on other examples.
            DeniedError: this person may not publish evaluations.
            NotFoundError: no such commit, or its tensors are not here yet.
        """
        options: Any = {"on": on, "data": data, "better": better, "code": code, "dry_run": dry_run}
        return evaluation.evaluate(self, fn, commit, **options)

    def to_evaluate(self, on: str = "holdout") -> list[ToEvaluate]:
        """Updates of others that wait and that this person has not evaluated on these data yet."""
        return evaluation.to_evaluate(self, None, on)

    def review(self, commit: str, judgement: str, text: str = "") -> Done:
        """Publishes a judgement of a commit: `accept`, `reject` or `comment`."""
        return answer(Done, self._post("/v1/review", commit=commit, judgement=judgement, text=text))

    def reviews(self) -> list[Reviewed]:
        """Updates that wait for accepts."""
        return answer(list[Reviewed], self._post("/v1/reviews"))

    def members(self) -> list[Member]:
        """The members."""
        return answer(list[Member], self._post("/v1/members"))

    def grant(self, person: str, role: str, *, name: str | None = None) -> Done:
        """Gives a role to a person: by key, or by the name in a waiting join request."""
        return answer(Done, self._post("/v1/member/grant", person=person, role=role, name=name))

    def revoke(self, person: str, reason: str, *, dry_run: bool = False) -> Done:
        """Takes a person's role away."""
        return answer(Done, self._post("/v1/member/revoke", person=person, reason=reason, dry_run=dry_run))

    def ticket(self, role: str | None = None, *, uses: int = 1, label: str = "") -> TicketMade:
        """Makes a ticket, with an invite into a role when one is given. Send it as you would a password."""
        return answer(TicketMade, self._post("/v1/ticket", role=role, uses=uses, label=label))

    def join(self, ticket: str | None = None, *, person: str | None = None, timeout: int = 30) -> Joined:
        """Asks to contribute."""
        request = {"person": username(person), "ticket": ticket, "timeout": timeout}
        return answer(Joined, self._post("/v1/join", **request))

    def peers(self) -> list[Peer]:
        """Peers of the node."""
        return answer(list[Peer], self._node.get("/v1/peers"))


def measured(metrics: Metrics) -> list[dict[str, Any]]:
    """Measurements as a commit states them. A name without a split is one of training."""
    rows = []
    for key, value in metrics.items():
        number, count = value if isinstance(value, tuple) else (value, 0)
        split, _, name = key.rpartition("/")
        rows.append({"split": split or "train", "name": name, "value": float(number), "n": count})
    return rows


def private(dp: Mapping[str, float] | None, keep_clean: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """What a commit asks for with differential privacy."""
    if dp is None:
        if keep_clean is not None:
            raise InvalidError("`keep_clean` is of use with `dp` only", 'pass dp={"clip": 1, "noise": 4}')
        return None
    if set(dp) != {"clip", "noise"}:
        raise InvalidError(f"`dp` has {sorted(dp)}: it takes a clip and a noise", 'pass dp={"clip": 1, "noise": 4}')
    kept = None if keep_clean is None else str(Path(keep_clean).absolute())
    return {"clip": str(dp["clip"]), "noise": str(dp["noise"]), "keep_clean": kept}


#: What a claim says, and what is understood where it does not.
_CLAIM = {"unit": "example", "neighbouring": "add-remove", "mechanism": "dp-sgd"}
_CLAIMED = ("clip", "noise", "sampling", "epsilon", "delta", "accountant")


def claimed(claim: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a commit claims of privacy."""
    if claim is None:
        return None
    known = {*_CLAIM, *_CLAIMED, "steps"}
    if wrong := sorted((set(claim) ^ known) - (set(_CLAIM) - set(claim))):
        raise InvalidError(f"the privacy claim has {sorted(claim)}", f"missing or not known: {', '.join(wrong)}")
    return _CLAIM | {name: int(value) if name == "steps" else str(value) for name, value in claim.items()}


def _all(folder: Path) -> list[weights.Header]:
    return [weights.header(path) for path in sorted(folder.glob("*.safetensors"))]


def username(given: str | None) -> str:
    """What to call this person: as given, else by the name of the account."""
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
