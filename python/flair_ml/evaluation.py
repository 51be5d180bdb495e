"""Evaluations: a function measures a commit's model and its base's on data nobody else sees; the figures are signed."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

from .answers import Done, Measured, Sealed, ToEvaluate
from .answers.reading import answer
from .errors import InvalidError

if TYPE_CHECKING:
    import torch

    from .repo import Repo

#: What measures a model: its tensors in, numbers by name out, with `n` for the number of examples.
Measure = Callable[[dict[str, "torch.Tensor"]], Mapping[str, SupportsFloat]]
#: A file or folder, or several.
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

#: The name under which a function tells how many examples it measured.
_COUNT = "n"


@dataclass(frozen=True)
class Evaluated:
    """What was measured.

    Attributes:
        commit: the commit.
        base: what it was compared with; none for a first commit.
        set: what the data are called.
        n: examples; 0 when not said.
        metrics: the figures that leave, or would leave.
        data: salted hash of the data.
        code: hash of the code; none where no file defines the function.
        published: whether they were published.
        words: what came of it, in words.
    """

    commit: str
    base: str | None
    set: str
    n: int
    metrics: list[Measured]
    data: str
    code: str | None
    published: bool
    words: list[str]


def evaluate(
    repo: Repo,
    fn: Measure,
    commit: str,
    *,
    on: str,
    data: Paths,
    better: Mapping[str, str],
    code: Paths | None,
    dry_run: bool,
) -> Evaluated:
    """See `Repo.evaluate`."""
    for name, way in better.items():
        if way not in ("higher", "lower"):
            raise InvalidError(f"`{way}` is no direction of {name}", "say `higher` or `lower`")
    if not better:
        raise InvalidError("no metric is named that may leave", 'name them: better={"auc": "higher"}')
    (about,) = to_evaluate(repo, commit, on)
    request = {"set": on, "data": _paths(data), "code": _source(fn) if code is None else _paths(code)}
    sealed = answer(Sealed, repo._post("/v1/evaluate/seal", **request))
    base, examples = (None, None) if about.base is None else _measure(repo, fn, about.base)
    model, n = _measure(repo, fn, about.commit)
    if examples is not None and examples != n:
        raise InvalidError(
            f"the model was measured on {n} examples and its base on {examples}",
            "nothing was signed: figures can be compared only when they are of the same examples",
        )
    metrics = [
        Measured(name, way, _figure(model, name), None if base is None else _figure(base, name))
        for name, way in sorted(better.items())
    ]
    published, words = False, ["Nothing was published."]
    if not dry_run:
        figures = [vars(metric) for metric in metrics]
        said: dict[str, Any] = {"commit": about.commit, "set": on, "n": n, "metrics": figures}
        words = answer(Done, repo._post("/v1/evaluate", **said, **vars(sealed))).words
        published = True
    return Evaluated(about.commit, about.base, on, n, metrics, sealed.data, sealed.code, published, words)


def to_evaluate(repo: Repo, commit: str | None, on: str) -> list[ToEvaluate]:
    """See `Repo.to_evaluate`."""
    return answer(list[ToEvaluate], repo._post("/v1/evaluations", commit=commit, set=on)["commits"])


def _measure(repo: Repo, fn: Measure, commit: str) -> tuple[dict[str, float], int]:
    """What a function measures of a commit's model: numbers by name, and of how many examples."""
    values = {name: float(value) for name, value in fn(repo._tensors(commit)).items()}
    count = values.pop(_COUNT, 0.0)
    if count < 0 or count != int(count):
        raise InvalidError(f"`{_COUNT}` is {count}, which is no number of examples", "nothing was signed")
    return values, int(count)


def _figure(values: Mapping[str, float], name: str) -> float:
    if name not in values:
        given = ", ".join(values) or "nothing"
        raise InvalidError(f"the function did not give the metric `{name}`", f"nothing was signed. It gave: {given}")
    if not math.isfinite(values[name]):
        raise InvalidError(f"`{name}` is {values[name]}: only finite numbers can be compared", "nothing was signed")
    return values[name]


def _paths(given: Paths) -> list[str]:
    several = [given] if isinstance(given, str | os.PathLike) else given
    return [str(Path(path).absolute()) for path in several]


def _source(fn: object) -> list[str]:
    """The file that defines a function; none where it was typed in."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(fn))  # type: ignore[arg-type]
    except TypeError:
        # An object that is called: its class is in a file.
        try:
            file = inspect.getsourcefile(type(fn))
        except (TypeError, OSError):
            file = None
    return [str(Path(file).absolute())] if file is not None and Path(file).is_file() else []
