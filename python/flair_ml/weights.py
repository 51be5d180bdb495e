"""A model's tensors as PyTorch has them, and as safetensors files hold them. PyTorch is imported when first needed."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from .errors import ConflictError, InvalidError

if TYPE_CHECKING:
    import torch


class HasStateDict(Protocol):
    """A `torch.nn.Module`, or whatever else has a state dict."""

    def state_dict(self) -> Mapping[str, Any]: ...


#: A model, or its state dict.
Model = HasStateDict | Mapping[str, "torch.Tensor"]

#: What DistributedDataParallel and Opacus put before every name.
_AROUND = ("module.", "_module.")
#: What torch.compile, FSDP and checkpointing put before the names of what they wrap, anywhere.
_WITHIN = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: Largest header that is read, in bytes; safetensors' own bound.
_HEADER = 100_000_000
#: Tensors that an error names.
_NAMED = 5


@dataclass(frozen=True)
class Tensor:
    """What a file says of a tensor: dtype as safetensors names it (`F32`, `BF16`), and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        path: the file.
        tensors: its tensors by name, in the order of the header.
        aliases: further names of tied tensors: name → the name that the tensor is stored under.
        metadata: all that the header says beside tensors.
    """

    path: Path
    tensors: dict[str, Tensor]
    aliases: dict[str, str]
    metadata: dict[str, str]


def header(path: Path) -> Header:
    """Reads the header of a safetensors file.

    Raises:
        InvalidError: it is none.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER:
                raise InvalidError(f"{path} has a header of {length} bytes: it is no safetensors file")
            entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__", {})
        tensors = {name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    except (struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidError):
            raise
        raise InvalidError(f"{path} is no safetensors file: {error}") from error
    aliases = {name: kept for name, kept in metadata.items() if kept in tensors and name not in tensors}
    return Header(path, tensors, aliases, metadata)


def headers(folder: Path) -> list[Header] | None:
    """Headers of the model files in a working folder; none where it can't be told which files are the model's."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("."))
        if len(names) != 1:
            return None
    if not all((folder / name).is_file() for name in names):
        return None
    return [header(folder / name) for name in names]


def read(files: Iterable[Header]) -> dict[str, torch.Tensor]:
    """The tensors of files, bit for bit, under all their names. They are mapped into memory and not copied."""
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        with safe_open(file.path, framework="pt") as opened:
            for name in file.tensors:
                tensors[name] = opened.get_tensor(name)
        for name, kept in file.aliases.items():
            tensors[name] = tensors[kept]
    return tensors


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Names without what wrappers put before them: name → bare name."""
    bare = {}
    for name in names:
        bare[name] = ".".join(part for part in name.split(".") if part not in _WITHIN)
    while around := _around(bare.values()):
        bare = {name: short.removeprefix(around) for name, short in bare.items()}
    return bare


def _around(names: Collection[str]) -> str | None:
    """What a wrapper put before all names."""
    return next((put for put in _AROUND if names and all(name.startswith(put) for name in names)), None)


def wrappers(names: Iterable[str]) -> list[str]:
    """What wrappers put before names, `module.` say."""
    names = list(names)
    found = [f"{part}." for part in _WITHIN if any(part in name.split(".") for name in names)]
    if around := _around(names):
        found.append(around)
    return found


def adapted(model: object) -> bool:
    """Whether a model is one of PEFT's, of which only the adapter is committed."""
    peft: Any = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def _adapter(model: Any) -> dict[str, Any]:
    """The tensors of a PEFT model's active adapter, named as in `adapter_model.safetensors`."""
    import peft

    # PEFT would ask Hugging Face's hub whether the vocabulary was changed.
    tensors = peft.get_peft_model_state_dict(model, adapter_name=_active(model), save_embedding_layers=False)
    return cast("dict[str, Any]", tensors)


def warn_of_trained_a(model: object) -> None:
    """Warns where training would move the factor of LoRA pairs that stays as in the first commit."""
    if not adapted(model):
        return
    named = cast("Any", model).named_parameters()
    trained = [
        name for name, value in named if value.requires_grad and ("lora_A" in name or "lora_embedding_A" in name)
    ]
    if trained:
        warnings.warn(
            f"`{trained[0]}` is trained, and of LoRA pairs A stays as in the first commit: a commit with a changed A "
            "is refused. Before the optimiser is made: `for name, value in model.named_parameters(): "
            'value.requires_grad_(value.requires_grad and "lora_A" not in name)`',
            stacklevel=4,
        )


def _active(model: Any) -> str:
    names: list[str] = model.active_adapters
    if len(names) != 1:
        raise InvalidError(f"{len(names)} adapters are active: {', '.join(names)}", "activate one: `set_adapter`")
    return names[0]


def load(model: Any, tensors: dict[str, torch.Tensor], *, strip: bool) -> None:
    """Loads tensors into a model that has them all."""
    if adapted(model):
        import peft

        peft.set_peft_model_state_dict(model, tensors, adapter_name=_active(model))
        return
    own = model.state_dict()
    bare = unwrapped(own) if strip else {name: name for name in own}
    model.load_state_dict({name: tensors[short] for name, short in bare.items()})


def state(model: Model, *, strip: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a model, detached, by name; of a PEFT model those of its adapter.

    Args:
        model: a module, or a state dict.
        strip: take what wrappers put before names off them: `module.` (DistributedDataParallel), `_orig_mod.`
            (`torch.compile`).

    Raises:
        InvalidError: it holds something else than tensors; the error names it.
    """
    import torch

    whole = _adapter(model) if adapted(model) else model
    taken = whole if isinstance(whole, Mapping) else whole.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    bare = unwrapped(taken) if strip else {name: name for name in taken}
    for name, value in taken.items():
        if not isinstance(value, torch.Tensor):
            raise InvalidError(
                f"`{name}` is a {type(value).__name__}, not a tensor",
                "give the model or its state dict: no optimiser state, no checkpoint with other values",
            )
        if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
            raise InvalidError(f"`{name}` holds no plain numbers (layout {value.layout}, device {value.device})")
        tensors[bare[name]] = value.detach()
    if not tensors:
        raise InvalidError("the model has no tensors")
    return tensors


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits."""
    import torch

    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    raw = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*raw)


def tied(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Tensors that are another one, in the same memory: name → the name that comes first."""
    seen: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            continue
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        kept = seen.setdefault(place, name)
        if kept != name:
            aliases[name] = kept
    return aliases


def dtype_name(tensor: torch.Tensor) -> str:
    """A tensor's dtype as PyTorch names it, without `torch.`."""
    return str(tensor.dtype).removeprefix("torch.")


def _listed(lines: list[str]) -> str:
    more = len(lines) - _NAMED
    shown = lines[:_NAMED] + ([f"and {more} more"] if more > 0 else [])
    return "\n  " + "\n  ".join(shown)


def fit(tensors: Mapping[str, torch.Tensor], files: Iterable[Header], *, cast: bool = False) -> None:
    """Checks that a model is one of the repository's: names, shapes, and dtypes unless they are to be cast.

    Raises:
        InvalidError: naming each tensor that does not fit, with shapes.
    """
    files = list(files)
    expected = {name: tensor for file in files for name, tensor in file.tensors.items()}
    aliases = {name: kept for file in files for name, kept in file.aliases.items()}
    known = expected | {name: expected[kept] for name, kept in aliases.items()}
    problems = []
    for name, tensor in expected.items():
        if name not in tensors and not any(kept == name and alias in tensors for alias, kept in aliases.items()):
            problems.append(f"`{name}` {list(tensor.shape)} is missing")
    ties = tied(tensors)
    for name, value in tensors.items():
        if name not in known:
            # One more name for a tensor that is there, as a model has that ties its weights.
            if ties.get(name) in known or any(kept == name and alias in known for alias, kept in ties.items()):
                continue
            problems.append(f"`{name}` {list(value.shape)} is not in the repository's model")
        elif tuple(value.shape) != known[name].shape:
            problems.append(f"`{name}` has shape {list(value.shape)}, the repository has {list(known[name].shape)}")
        elif _dtype(known[name].dtype) != value.dtype and not cast:
            there = str(_dtype(known[name].dtype)).removeprefix("torch.")
            problems.append(f"`{name}` is {dtype_name(value)}, the repository has {there}: pass cast=True")
    for name, kept in aliases.items():
        if name in tensors and kept in tensors and not same(tensors[name], tensors[kept]):
            problems.append(f"`{name}` and `{kept}` are one tensor in the repository, but differ here: tie them again")
    if problems:
        raise InvalidError(f"the model does not fit the repository's:{_listed(problems)}", _unwrap_help(tensors, known))


def _dtype(name: str) -> torch.dtype:
    """PyTorch's dtype for safetensors' name of it."""
    import torch

    names = {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
        "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
        "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
        "BOOL": "bool", "C64": "complex64",
    }  # fmt: skip
    found = getattr(torch, names.get(name, ""), None)
    if not isinstance(found, torch.dtype):
        raise InvalidError(f"this PyTorch has no dtype {name}: install a newer one")
    return found


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor on the processor, dense."""
    return tensor.detach().cpu().contiguous()


def save(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file: whole or not at all. Tied tensors are written once, the other name noted in the
    header as `safetensors.torch.save_model` does.
    """
    from safetensors.torch import save_file

    aliases = tied(tensors)
    written = {name: plain(tensor) for name, tensor in tensors.items() if name not in aliases}
    noted = {"format": "pt", **metadata, **aliases}
    with staged(path) as temporary:
        save_file(_apart(written), temporary, metadata=noted)


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors none of which shares memory with another: safetensors refuses views of one storage, so the later are
    copied.
    """
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        if tensor.numel() and place in seen:
            tensors[name] = tensor.clone()
        seen.add(place)
    return tensors


def save_like(tensors: Mapping[str, torch.Tensor], files: Iterable[Header], folder: Path) -> list[Path]:
    """Writes a model that fits into files like those given, in another folder."""
    paths = []
    for file in files:
        others = {kept: alias for alias, kept in file.aliases.items()}
        own = {}
        for name in file.tensors:
            own[name] = tensors[name] if name in tensors else tensors[others[name]]
        path = folder / file.path.name
        from safetensors.torch import save_file

        with staged(path) as temporary:
            save_file(_apart({name: plain(value) for name, value in own.items()}), temporary, metadata=file.metadata)
        paths.append(path)
    return paths


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place when all went well, and is gone when not."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".part", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace(paths: Iterable[Path], folder: Path) -> None:
    """Puts files into a folder in the place of those of the same name; the files stay where they are, too."""
    for path in paths:
        target = folder / path.name
        with staged(target) as temporary:
            temporary.unlink()
            try:
                temporary.hardlink_to(path)
            except OSError:
                temporary.write_bytes(path.read_bytes())


def new_model(model: Model, folder: Path, *, strip: bool) -> Path:
    """Writes a model that begins a repository, and gives its file."""
    whole = not adapted(model)
    path = folder / ("model.safetensors" if whole else "adapter_model.safetensors")
    if path.exists():
        raise ConflictError(f"{path} exists already", "give its path to begin with it, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    save(state(model, strip=strip), path, {})
    if not whole:
        # `adapter_config.json`, without which nobody knows what to do with an adapter.
        cast("Any", model).peft_config[_active(model)].save_pretrained(str(folder))
    return path


def same_names(own: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    """Checks that tensors can be loaded into a model: the same names and shapes.

    Raises:
        InvalidError: naming each that differs, with shapes.
    """
    problems = [
        f"`{name}` {list(value.shape)} is not in the repository's model"
        for name, value in own.items()
        if name not in theirs
    ]
    for name, value in theirs.items():
        if name not in own:
            problems.append(f"`{name}` {list(value.shape)} is not in the model")
        elif own[name].shape != value.shape:
            problems.append(f"`{name}` has shape {list(own[name].shape)}, the repository has {list(value.shape)}")
    if problems:
        raise InvalidError(f"the model is not the repository's:{_listed(problems)}", _unwrap_help(own, theirs))


def _unwrap_help(own: Iterable[str], theirs: Iterable[str]) -> str | None:
    found = wrappers(own)
    if found and not wrappers(theirs):
        return f"the names begin with {', '.join(found)}, which wrappers put there: pass strip=True"
    return None
