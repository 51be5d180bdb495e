"""Models that save, load and push themselves, as those of Hugging Face's hub do."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from . import layers, weights
from .answers import Pushed
from .errors import ConflictError, InvalidError
from .repo import Metrics, Repo
from .run import standing
from .start import clone, init

if TYPE_CHECKING:
    import torch

M = TypeVar("M", bound="FlairHubMixin")

#: What a model was made with, beside its tensors.
_CONFIG = "config.json"
#: What is longer is no name that somebody gave a folder.
_NAME = 100


class FlairHubMixin:
    """Gives a module `save_pretrained`, `from_pretrained` and `push_to_flair`.

    class Net(nn.Module, flair.FlairHubMixin):
        def __init__(self, width: int = 32) -> None: …

    What `__init__` was given, as far as JSON has it, is written to `config.json` and given to it again on loading.

    Attributes:
        repo: the repository that the model was loaded from or pushed to; none before.
    """

    repo: Repo | None
    _made_with: dict[str, Any]
    _stood: tuple[str, str] | None

    def __new__(cls, *args: Any, **kwargs: Any) -> FlairHubMixin:
        made = super().__new__(cls)
        made.repo, made._stood = None, None
        signature = inspect.signature(cls.__init__)
        bound = signature.bind(made, *args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        given.pop(next(iter(signature.parameters)))
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and not given.get(name):
                given.pop(name, None)
        made._made_with = given
        return made

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes `model.safetensors` and `config.json` to a folder, in place of what is there.

        Raises:
            InvalidError: `__init__` was given something that JSON does not have.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        try:
            text = json.dumps(self._made_with, indent=2)
        except (TypeError, ValueError) as error:
            raise InvalidError(
                f"what {type(self).__name__} was made with can't be written: {error}",
                "give `__init__` numbers, texts, lists and dicts of them",
            ) from error
        weights.save(weights.state(cast("torch.nn.Module", self)), place / "model.safetensors", {})
        (place / _CONFIG).write_text(text + "\n")
        return place

    @classmethod
    def from_pretrained(
        cls: type[M],
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        home: str | os.PathLike[str] | None = None,
        person: str | None = None,
        strict: bool = True,
        **changes: Any,
    ) -> M:
        """Makes a model as it was saved, in evaluation mode.

        Args:
            source: a ticket, which is cloned; a working folder; or a folder that `save_pretrained` wrote.
            revision: a branch or commit, which the working folder moves to.
            folder: the working folder to clone into; the repository's name where none is given.
            home: the home of the node.
            person: what to call this person when an invite is redeemed.
            strict: refuse tensors that only one side has.
            changes: what `__init__` is given instead of what was saved.

        Raises:
            InvalidError: the tensors are another model's; names and shapes are told.
        """
        repo = None
        text = os.fspath(source)
        # A ticket is far longer than a file's name may be, and has no dot or slash in it.
        if text.startswith("flair") and text.isalnum() and len(text) > _NAME:
            repo = clone(text, folder, person=person, home=home)
        elif (Path(source) / ".flair").is_dir():
            repo = Repo(source, home=home)
        elif revision is not None:
            raise InvalidError(f"{source} is no repository, so it has no revision {revision}")
        if repo is not None and revision is not None:
            repo.checkout(revision)
        place = Path(source) if repo is None else repo.folder
        config = place / _CONFIG
        model = cls(**((json.loads(config.read_text()) if config.is_file() else {}) | changes))
        module = cast("torch.nn.Module", model)
        tensors = weights.read(weights.headers(place) or []) if repo is None else repo.state_dict()
        if strict:
            weights.same_names(weights.state(module), tensors)
        module.load_state_dict(tensors, strict=strict)
        module.eval()
        model.repo, model._stood = repo, None if repo is None else standing(repo.status())
        return model

    def push_to_flair(
        self,
        message: str = "",
        *,
        folder: str | os.PathLike[str] | None = None,
        num_examples: int | None = None,
        metrics: Metrics | None = None,
        home: str | os.PathLike[str] | None = None,
        **rules: Any,
    ) -> Pushed | None:
        """Publishes what training changed since the model was loaded. A model that is of no repository yet begins one.

        Args:
            message: what was done.
            folder: the working folder of a repository that begins; needed then.
            num_examples: examples trained on: the weight of the update.
            metrics: measurements by name.
            home: the home of the node, for a repository that begins.
            rules: what else `flair.init` takes, for a repository that begins.

        Returns:
            What left; none where a repository began.

        Raises:
            ConflictError: nothing changed, or the working folder has moved since.
        """
        module = cast("torch.nn.Module", self)
        if self.repo is None:
            if folder is None:
                raise InvalidError("this model is of no repository yet", "say where one begins: `folder=…`")
            if (Path(folder) / "model.safetensors").exists():
                raise ConflictError(f"{folder} holds a model already", "choose another folder")
            place = self.save_pretrained(folder)
            roles = layers.given(module, rules.pop("roles", None), rules.pop("local", ()), strip=False)
            self.repo = init(place, message=message or "first model", home=home, roles=roles, **rules)
            self._stood = standing(self.repo.status())
            return None
        if standing(self.repo.status()) != self._stood:
            raise ConflictError(
                f"the folder {self.repo.folder} has moved since this model was loaded from it",
                "check out the commit it was loaded from, push, then `repo.pull()`",
            )
        self.repo.commit(module, message, num_examples=num_examples, metrics=metrics)
        pushed = self.repo.push()
        self._stood = standing(self.repo.status())
        return pushed
