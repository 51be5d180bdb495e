"""The node of this machine: found, started where none runs, and asked over its control socket."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Any

from .errors import FlairError, NotFoundError, OfflineError, refusal

#: Seconds to wait for a node that another process has just started.
_PATIENCE = 10.0


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("flair")
        self._path = path

    def connect(self) -> None:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.connect(str(self._path))
        except BaseException:
            opened.close()
            raise
        self.sock = opened


def _socket(home: Path) -> Path:
    text = (home / "socket").read_text().strip()
    if not text:
        raise FileNotFoundError(f"{home} names no socket")
    return Path(text)


def program(name: str) -> Path:
    """Where `flair` or `flair-node` is: beside this package's own scripts, else on the path.

    Raises:
        NotFoundError: it is in neither place.
    """
    folders = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", scheme="posix_user")]
    for folder in folders:
        candidate = Path(folder, name)
        if os.access(candidate, os.X_OK) and candidate.is_file():
            return candidate
    found = shutil.which(name)
    if found is None:
        raise NotFoundError(
            f"the program `{name}` is not installed",
            "a wheel of `flair-ml` brings it; from a source tree, `cargo install --locked --path node` and "
            "`--path cli` do",
        )
    return Path(found)


class Node:
    """The node that owns a home.

    Args:
        home: the home; `FLAIR_HOME`, else `~/.flair`, where none is given.
        start: whether to start a node when none runs. It goes on in the background when Python ends, so that others
            can fetch what was pushed; `flair-node stop` stops it.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None, *, start: bool = True) -> None:
        place = home or os.environ.get("FLAIR_HOME") or Path.home() / ".flair"
        self.home = Path(place).absolute()
        self._started = False
        if not self.running():
            if not start:
                raise OfflineError(f"no node runs with home {self.home}", "start one with `flair-node start`")
            self._start()

    def running(self) -> bool:
        """Whether the node answers."""
        return self.answers(self.home)

    @staticmethod
    def answers(home: str | os.PathLike[str]) -> bool:
        """Whether a node answers for a home; starts none."""
        try:
            connection = _Connection(_socket(Path(home)))
            connection.connect()
        except OSError:
            return False
        connection.close()
        return True

    def _start(self) -> None:
        command = [str(program("flair-node")), "--home", str(self.home), "start", "--detach"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode == 0:
            self._started = True
            return
        # Another process may have been faster: its node is as good.
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if self.running():
                return
            time.sleep(0.05)
        raise OfflineError(f"no node could be started with home {self.home}: {done.stderr.strip()}")

    def _connect(self) -> _Connection:
        connection = _Connection(_socket(self.home))
        try:
            connection.connect()
        except OSError:
            # A node that somebody else started is theirs to start again, at the addresses that they want.
            if not self._started:
                raise
            self._start()
            connection = _Connection(_socket(self.home))
            connection.connect()
        return connection

    def get(self, path: str) -> Any:
        """Asks for a list or a description."""
        return self._send("GET", path, None)

    def post(self, path: str, request: Any) -> Any:
        """Makes a request; returns when it is done, which a large model makes long."""
        return self._send("POST", path, json.dumps(request))

    def _send(self, method: str, path: str, body: str | None) -> Any:
        try:
            connection = self._connect()
            try:
                connection.request(method, path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                status, text = response.status, response.read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise OfflineError(
                f"the node with home {self.home} does not answer: {why}",
                "start it again with `flair-node start`",
            ) from error
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise FlairError(f"the node answered {status} and nothing that can be read") from error
        if status == 200:
            return answer
        raise refusal(answer.get("code", ""), answer.get("message", f"the node answered {status}"), answer.get("help"))

    def __repr__(self) -> str:
        return f"Node({str(self.home)!r})"
