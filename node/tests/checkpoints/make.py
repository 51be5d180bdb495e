"""Makes the checkpoints beside this file, and what an import of them must give.

Run with any PyTorch from 2.6 on (the files here are of 2.13.0) and safetensors:

    pip install torch safetensors numpy && python make.py

What safetensors.torch.save_file gives is beside them, to be met byte for byte. Those in `refused` are hostile, or hold
no model; nothing loads them.
"""

import os
import pathlib
import zipfile
from collections import OrderedDict

import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
old = {"_use_new_zipfile_serialization": False}


def write(name, value, expected=None, **options):
    torch.save(value, here / f"{name}.pt", **options)
    if expected is not None:
        dense = {name: tensor.detach().clone().contiguous() for name, tensor in expected.items()}
        save_file(dense, here / f"{name}.safetensors", metadata={"format": "pt"})


def numbers(*shape):
    count = torch.Size(shape).numel()
    return ((torch.arange(count, dtype=torch.float32) * 0.37).sin() * 3).reshape(shape)


# Every element type, a scalar, an empty tensor, an infinity and a NaN.
types = OrderedDict()
for dtype in ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]:
    types[f"f.{dtype}"] = numbers(3, 4).to(getattr(torch, dtype))
for dtype in ["int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"]:
    types[f"i.{dtype}"] = torch.arange(7).to(getattr(torch, dtype))
types["b.bool"] = torch.tensor([True, False, True])
types["s.scalar"] = torch.tensor(2.5)
types["s.empty"] = torch.zeros(0, 5)
types["s.special"] = torch.tensor([float("inf"), float("nan"), -0.0, 1e-42])
write("types", types, types)
write("legacy", types, **old)
write("protocol4", types, pickle_protocol=4)

# Views: transposed, stepped, offset, part of a larger storage, expanded, channels last.
base = numbers(6, 8)
views = {
    "whole": base,
    "transposed": base.t(),
    "stepped": base[::2, 1::3],
    "offset": base[2:4],
    "reversed_dims": numbers(2, 3, 4, 5).permute(3, 1, 0, 2),
    "expanded": numbers(1, 5).expand(4, 5),
    "channels_last": numbers(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "parameter": torch.nn.Parameter(numbers(4, 2).t()),
}
write("views", views, views)
write("legacy_views", views, **old)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(12, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 12, bias=False)

    def forward(self, rows):
        return self.head(self.norm(self.embed(rows)))


torch.manual_seed(7)
net = Net()

# A training run's file: names as DDP writes them, an optimiser after a real step, and other values.
optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
net(torch.arange(8)).square().sum().backward()
optimiser.step()
state = net.state_dict()
run = {
    "epoch": 3,
    "best": 0.25,
    "note": "a run",
    "state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()),
    "optimizer": optimiser.state_dict(),
    "names": ["embed", "norm"],
}
write("run", run)
save_file(
    {f"module.{name}": tensor.clone() for name, tensor in state.items()},
    here / "run.safetensors",
    metadata={"format": "pt"},
)
save_file(
    {name: tensor.clone() for name, tensor in state.items()},
    here / "run.stripped.safetensors",
    metadata={"format": "pt"},
)
write("compiled", OrderedDict((f"_orig_mod.{name}", tensor) for name, tensor in state.items()))
write("several", {"model": state, "ema": {name: tensor * 2 for name, tensor in state.items()}})

# Tied weights, as named_parameters(remove_duplicate=False) and state_dict() give them.
net.head.weight = net.embed.weight
write("tied", dict(net.state_dict()))

# Saved without checksums.
torch.serialization.set_crc32_options(False)
write("unchecked", {"w": numbers(5)}, {"w": numbers(5)})
torch.serialization.set_crc32_options(True)

# What must be refused.
refused = here / "refused"
refused.mkdir(exist_ok=True)


class Runs:
    def __reduce__(self):
        return os.system, ("touch flair-was-here",)


torch.save({"w": numbers(3), "hook": Runs()}, refused / "system.pt")
torch.save({"w": numbers(3), "hook": Runs()}, refused / "legacy_system.pt", **old)
torch.save(net, refused / "module.pt")
torch.save({"w": numbers(3).to(torch.complex64)}, refused / "complex.pt")
torch.save([numbers(3), numbers(2)], refused / "list.pt")
torch.save({"optimizer": optimiser.state_dict()}, refused / "optimiser.pt")
torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), refused / "script.pt")
with zipfile.ZipFile(here / "types.pt") as source:
    with zipfile.ZipFile(refused / "compressed.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in source.infolist():
            packed.writestr(entry.filename, source.read(entry))
