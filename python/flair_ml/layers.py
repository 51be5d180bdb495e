"""What a model's modules tell of its tensors, and their names don't: how aggregation is to treat them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import weights
from .errors import InvalidError
from .weights import Model

if TYPE_CHECKING:
    import torch

#: The role of tensors that every site keeps for itself.
LOCAL = "local"


def roles(model: Model, *, strip: bool = False) -> dict[str, str]:
    """Roles of tensors, by name, as far as the model's modules tell them; a state dict has no modules and tells none.

    - Buffers of a batch or instance norm, or of a class made from one, are `batch-norm` (a weighted mean of values) or,
      where they are integers, `counter` (the largest): whatever they are called.
    - In a layer with packed weights (8-bit or narrower: GPTQ's `qweight`, bitsandbytes' `weight`) scales, zeros and
      whatever else is no trained parameter are `exact`, as the packed weights are: they must stay equal.

    Args:
        model: the model.
        strip: take what wrappers put before names off them, as for `init`.
    """
    import torch

    if isinstance(model, Mapping) or not isinstance(model, torch.nn.Module) or weights.adapted(model):
        return {}
    tensors = weights.state(model)
    bare = weights.unwrapped(tensors) if strip else {name: name for name in tensors}
    # A tied tensor is written under one name alone.
    again = weights.tied(tensors)
    return {bare[name]: role for name, role in _told(model, tensors) if name not in again}


def _told(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Iterable[tuple[str, str]]:
    from torch.nn.modules.batchnorm import _NormBase

    trained = {name for name, value in model.named_parameters(remove_duplicate=False) if value.requires_grad}
    for place, module in model.named_modules(remove_duplicate=False):
        own = _own(place, module, tensors)
        if isinstance(module, _NormBase):
            for name, _ in module.named_buffers(prefix=place, recurse=False):
                if name in own:
                    yield name, "batch-norm" if _averaged(own[name]) else "counter"
        elif any(_packed(name, value) for name, value in own.items()):
            yield from ((name, "exact") for name in own if name not in trained)


def _own(place: str, module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a module without those of modules in it."""
    prefix = f"{place}." if place else ""
    within = tuple(f"{prefix}{name}." for name, _ in module.named_children())
    return {name: value for name, value in tensors.items() if name.startswith(prefix) and not name.startswith(within)}


def _averaged(tensor: torch.Tensor) -> bool:
    """Whether a tensor is of a type that aggregation can average."""
    return tensor.is_floating_point() and tensor.element_size() > 1


def _packed(name: str, tensor: torch.Tensor) -> bool:
    import torch

    narrow = not _averaged(tensor) and tensor.dtype != torch.bool
    return "weight" in name.rpartition(".")[2] and narrow and tensor.dim() > 0


def given(
    model: Model | None, chosen: Mapping[str, str] | None, local: Iterable[str], *, strip: bool
) -> dict[str, str]:
    """The roles that a repository begins with: those that were chosen, by name or pattern, before those that the
    model tells.
    """
    asked = dict(chosen or {})
    for name in [local] if isinstance(local, str) else local:
        if asked.setdefault(name, LOCAL) != LOCAL:
            raise InvalidError(f"`{name}` is given two roles, {asked[name]} and {LOCAL}")
    # To the node a name in full counts before a pattern, and these would be names.
    patterns = [pattern.replace("[", "[[]") for pattern in asked]
    told: dict[str, Any] = {} if model is None else roles(model, strip=strip)
    kept = {name: role for name, role in told.items() if not any(fnmatch.fnmatchcase(name, made) for made in patterns)}
    return kept | asked
