"""The package as it is installed: what it carries, that its types are true, and that its documents run."""

import os
import re
import subprocess
import sys
import typing
import venv
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType

import digits
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import flair_ml as flair
from flair_ml import answers

ROOT = Path(__file__).parents[2]


def described(kind: object) -> dict[str, object]:
    """What JSON schema calls a type of ours, as the control API's description writes it."""
    if typing.get_origin(kind) in (UnionType, typing.Union):
        (inner,) = (part for part in typing.get_args(kind) if part is not type(None))
        shape = described(inner)
        if "$ref" in shape:
            return {"oneOf": [{"type": "null"}, shape]}
        return shape | {"type": [shape["type"], "null"]}
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": described(typing.get_args(kind)[0])}
    if is_dataclass(kind):
        return {"$ref": f"#/components/schemas/{named(kind)}"}
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean"}[kind]}


def named(kind: object) -> str:
    return {"Metric": "MetricValue"}.get(kind.__name__, kind.__name__)


def simple(schema: dict[str, typing.Any]) -> dict[str, typing.Any]:
    """A schema without words and bounds."""
    kept = {key: value for key, value in schema.items() if key in ("type", "$ref", "items", "oneOf")}
    if "items" in kept:
        kept["items"] = simple(kept["items"])
    if "oneOf" in kept:
        kept["oneOf"] = [simple(option) for option in kept["oneOf"]]
    return kept


def test_answers_are_what_the_node_describes(home: Path) -> None:
    document = flair.Node(home).get("/v1/openapi.json")
    schemas = document["components"]["schemas"]
    # What is only ever listed is described at its list.
    for name, path, method in [
        ("Member", "members", "post"),
        ("Reviewed", "reviews", "post"),
        ("Peer", "peers", "get"),
    ]:
        answered = document["paths"][f"/v1/{path}"][method]["responses"]["200"]
        schemas[name] = answered["content"]["application/json"]["schema"]["items"]
    kinds = [kind for kind in vars(answers).values() if isinstance(kind, type) and is_dataclass(kind)]
    assert len(kinds) > 25
    for kind in kinds:
        schema = schemas[named(kind)]
        hints = typing.get_type_hints(kind)
        assert {field.name.rstrip("_") for field in fields(kind)} == set(schema["properties"]), kind.__name__
        for field in fields(kind):
            told = schema["properties"][field.name.rstrip("_")]
            assert simple(told) == described(hints[field.name]), f"{kind.__name__}.{field.name}"


def test_the_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    (wheel,) = (ROOT / "target" / "wheels").glob("flair_ml-*.whl")
    place = tmp_path / "env"
    venv.create(place, with_pip=True)
    wheels = Path(sys.prefix) / "wheels"
    pip = [place / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run([*pip, "--find-links", wheels, wheel], check=True)
    listed = subprocess.run([place / "bin" / "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert "flair-ml" in listed and "torch" not in listed
    code = """
import flair_ml as flair, importlib.resources, os, sys
from flair_ml.node import program
assert program("flair").parent == program("flair-node").parent
node = flair.Node(sys.argv[1])
assert node.get("/v1/identity")["node"]
assert importlib.resources.files("flair_ml").joinpath("py.typed").is_file()
"""
    home = tmp_path / "home"
    runtime = os.environ | {"PATH": f"{place / 'bin'}:/usr/bin:/bin"}
    try:
        subprocess.run([place / "bin" / "python", "-c", code, home], check=True, env=runtime, cwd=tmp_path)
        told = subprocess.run(
            ["flair", "--home", home, "id", "--json"], check=True, capture_output=True, text=True, env=runtime
        )
        assert '"node": true' in told.stdout
    finally:
        subprocess.run([place / "bin" / "flair-node", "--home", home, "stop"], check=True, capture_output=True)


def test_importing_it_imports_no_library_that_it_serves() -> None:
    served = {"torch", "flwr", "lightning", "transformers"}
    code = f"import sys, flair_ml; assert not {served} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def blocks(path: Path, heading: str) -> list[str]:
    """The Python of a section of a document."""
    section = path.read_text().split(f"\n{heading}\n")[1].split("\n## ")[0]
    found: list[str] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return found


@pytest.mark.parametrize(
    ("document", "heading"), [("README.md", "## From PyTorch"), ("docs/pytorch.md", "## A session")]
)
def test_the_quick_start_runs(
    document: str,
    heading: str,
    homes: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, *others = blocks(ROOT / document, heading)
    images, _ = digits.load()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLAIR_HOME", os.fspath(homes("ana")))
    exec(compile(first, document, "exec"), {})
    ticket = next(word for word in capsys.readouterr().out.split() if word.startswith("flair"))
    monkeypatch.setenv("FLAIR_HOME", os.fspath(homes("ben")))
    (tmp_path / "ben").mkdir()
    monkeypatch.chdir(tmp_path / "ben")

    def train(model: torch.nn.Module, loader: DataLoader[typing.Any]) -> float:
        return digits.train(model, images, epochs=1, seed=0)

    around = {"train": train, "loader": DataLoader(TensorDataset(*images)), "torch": torch}
    for block in others:
        exec(compile(block.replace("flair…", ticket), document, "exec"), around)
    repo = around["repo"]
    kinds = [entry.kind for entry in repo.log().entries]
    assert kinds == ["aggregate", "update", "initial"]
    assert all(
        torch.equal(value, around["model"].state_dict()[name]) for name, value in repo.state_dict("main").items()
    )
