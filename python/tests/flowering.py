"""Flower's own programs on loopback: a SuperLink, SuperNodes, and apps that run on them; nothing reaches further."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "flower.md"
#: Seconds that anything here may take before it counts as hanging.
PATIENCE = 240


def files() -> dict[str, str]:
    """The files of the app that the documentation shows: name → text."""
    section = DOCUMENT.read_text().split("\n## An app\n")[1].split("\n## ")[0]
    return dict(re.findall(r"`([\w./]+)`:\n\n```\w+\n(.*?)```", section, re.DOTALL))


def difference() -> str:
    """What the documentation says to change in it."""
    (found,) = re.findall(r"```diff\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return found


def beginning() -> str:
    """The Python with which the documentation begins a repository."""
    section = DOCUMENT.read_text().split("\n## Running it\n")[1].split("\n## ")[0]
    (found,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return found


def command(name: str, values: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """A command as the documentation has it, with other values for its options: the words, and its environment."""
    section = DOCUMENT.read_text().split("\n## Running it\n")[1].split("\n## ")[0]
    (text,) = [block for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) if f"{name} -" in block]
    words = shlex.split(text.replace("\\\n", ""))
    place = words.index(name)
    environment = dict(word.split("=", 1) for word in words[:place])
    words = words[place:]
    for option, value in values.items():
        words[words.index(option) + 1] = value
    return words, environment


def quiet() -> dict[str, str]:
    """What the documentation sets so that Flower does not look for the internet."""
    (line,) = re.findall(r"^export (.*)$", DOCUMENT.read_text(), re.MULTILINE)
    return dict(word.split("=", 1) for word in line.split())


def write_app(folder: Path, *, changed: bool) -> Path:
    """Writes the app, as it is or with Flair in it."""
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "study" / "__init__.py").touch()
    if changed:
        patch = ["git", "apply", "-p0", "--unidiff-zero", "-"]
        subprocess.run(patch, input=difference(), text=True, cwd=folder, check=True)
    return folder


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@dataclass
class Federation:
    """A SuperLink and its SuperNodes.

    Attributes:
        folder: where logs and Flower's own files go.
        certificates: certificate authority, certificate and key, for TLS; without them nothing is encrypted.
        link_environment: what the SuperLink, and so the server app, finds in its environment besides.
    """

    folder: Path
    certificates: tuple[Path, Path, Path] | None = None
    link_environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._home = self.folder / "flwr"
        self._home.mkdir()
        secure = f'root-certificates = "{self.certificates[0]}"' if self.certificates else "insecure = true"
        (self._home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\n{secure}\n'
        )
        self.link: subprocess.Popen[bytes] | None = None
        self.nodes: list[subprocess.Popen[bytes]] = []

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        own = {
            "FLWR_HOME": str(self._home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        return os.environ | quiet() | own | more

    def _spawn(self, name: str, arguments: list[str], log: str, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                [program(name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment(more),
                cwd=self.folder,
                start_new_session=True,
            )

    def start_link(self) -> None:
        """Starts the SuperLink, and returns when it answers."""
        values = {"--port": str(self.port), "--database": str(self.folder / "superlink.db")}
        (_, *arguments), _ = command("flower-superlink", values)
        if self.certificates:
            authority, certificate, key = map(str, self.certificates)
            arguments.remove("--insecure")
            arguments += ["--ssl-ca-certfile", authority, "--ssl-certfile", certificate, "--ssl-keyfile", key]
        self.link = self._spawn("flower-superlink", arguments, "superlink.log", self.link_environment)
        self._until_open(self.port, self.link)

    def start_node(self, name: str, config: Mapping[str, str]) -> None:
        """Starts a SuperNode; it connects when it can."""
        said = " ".join(f'{key}="{value}"' for key, value in config.items())
        values = {"--superlink": f"127.0.0.1:{self.port}", "--port": str(free_port()), "--node-config": said}
        (_, *arguments), _ = command("flower-supernode", values)
        if self.certificates:
            arguments.remove("--insecure")
            arguments += ["--root-certificates", str(self.certificates[0])]
        self.nodes.append(self._spawn("flower-supernode", arguments, f"{name}.log", {}))

    def _until_open(self, port: int, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            assert process.poll() is None and time.monotonic() < end, self.told("superlink")
            time.sleep(0.05)

    def submit(self, app: Path, **settings: object) -> subprocess.Popen[str]:
        """Starts a run of an app; its log goes to `run.log` as it comes."""
        said = " ".join(f'{key.replace("_", "-")}="{value}"' if isinstance(value, str) else
                        f"{key.replace('_', '-')}={value}" for key, value in settings.items())  # fmt: skip
        command = [program("flwr"), "run", str(app), "here", "--stream", *(["--run-config", said] if said else [])]
        with (self.folder / "run.log").open("a") as out:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment({}),
                cwd=self.folder,
                text=True,
                start_new_session=True,
            )

    def run(self, app: Path, **settings: object) -> str:
        """Runs an app to its end, and gives the log of this run."""
        log = self.folder / "run.log"
        before = log.stat().st_size if log.exists() else 0
        running = self.submit(app, **settings)
        try:
            running.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the run does not end:\n{self.told('run')}") from error
        finally:
            end(running)
        return log.read_bytes()[before:].decode()

    def told(self, log: str) -> str:
        """What a log holds: `superlink`, `run`, or a SuperNode's name."""
        path = self.folder / f"{log}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill_link(self) -> None:
        """Kills the SuperLink, and with it the server app, as a machine that loses power does."""
        if self.link is not None:
            end(self.link)
        self.link = None

    def close(self) -> None:
        self.kill_link()
        for node in self.nodes:
            end(node)
        self.nodes.clear()


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Kills a process and all that it started, in whatever session; returns when none of them runs any more.

    A server app of Flower's does not end by itself when its SuperLink is gone.
    """
    stats = _stats()
    tree = {process.pid}
    while more := {child for child, (parent, _) in stats.items() if parent in tree} - tree:
        tree |= more
    sessions = {stats[member][1] for member in tree if member in stats} - {os.getsid(0)}
    until = time.monotonic() + PATIENCE
    while left := {found for found, (_, session) in _stats().items() if session in sessions}:
        assert time.monotonic() < until, f"processes {left} do not end"
        for member in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        process.poll()
        time.sleep(0.01)
    process.wait(PATIENCE)


def _stats() -> dict[int, tuple[int, int]]:
    """Parent and session of every process that is no zombie."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, _, session, *_ = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if state != "Z":
                    found[int(entry.name)] = (int(parent), int(session))
    return found
