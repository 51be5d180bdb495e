"""A round of Flower's with and without Flair: seconds, and bytes between sites and the SuperLink, and between nodes.
`docs/benchmarks.md` tells how to read it.

python python/benches/flower.py [ROUNDS]
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import socket
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import conftest
import digits
import flowering
import torch

import flair_ml as flair

SITES = 2
#: Models: what the documentation's app has, and one of ten million parameters.
MODELS = {
    "2,858 parameters": None,
    "10 M parameters": "nn.Sequential(nn.Linear(64, 3128), nn.ReLU(), nn.Linear(3128, 3128), nn.ReLU(), "
    "nn.Linear(3128, 10))",
}


class Counter:
    """Passes connections on to a port, and counts the bytes of both directions."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(near,), daemon=True).start()

    def _pass(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            near.close()
            return
        with near, far, selectors.DefaultSelector() as both:
            both.register(near, selectors.EVENT_READ, far)
            both.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in both.select():
                    try:
                        found = key.fileobj.recv(1 << 18)
                        if not found:
                            return
                        key.data.sendall(found)
                    except OSError:
                        return
                    self.bytes += len(found)

    def close(self) -> None:
        self._listener.close()


def measure(root: Path, network: str | None, rounds: int, *, changed: bool) -> dict[str, float]:
    """Runs an app for some rounds; gives seconds and bytes of a round."""
    app = flowering.write_app(root / "app", changed=changed)
    task = app / "study" / "task.py"
    if network is not None:
        task.write_text(re.sub(r"return nn\.Sequential\(.*\)", f"return {network}", task.read_text()))
    homes = [root / "h" / name for name in ("server", *(f"site{site}" for site in range(SITES)))]
    environment = {}
    if changed:
        for home in homes:
            conftest.start(home)
        sys.path.insert(0, str(app))
        try:
            from study import task as module

            repo = flair.init(module.network(), root / "model", every=SITES, home=homes[0], person="Server")
        finally:
            sys.path.remove(str(app))
            for name in [name for name in sys.modules if name.split(".")[0] == "study"]:
                del sys.modules[name]
        ticket = repo.ticket("contributor", uses=SITES).ticket
        environment = {"FLAIR_FOLDER": str(repo.folder), "FLAIR_HOME": str(homes[0])}
    federation = flowering.Federation(root / "flower", link_environment=environment)
    counter = Counter(federation.port)
    try:
        federation.start_link()
        link, federation.port = federation.port, counter.port
        for site, share in enumerate(digits.deal(digits.load()[0], SITES)):
            torch.save(share, root / f"site{site}.pt")
            config = {"data": str(root / f"site{site}.pt")}
            if changed:
                folder = root / f"site{site}"
                flair.clone(ticket, folder, person=f"Site {site}", home=homes[1 + site])
                config |= {"flair-folder": str(folder), "flair-home": str(homes[1 + site])}
            federation.start_node(f"site{site}", config)
        federation.port = link
        before = received(homes) if changed else 0
        log = federation.run(app, rounds=rounds)
        (seconds,) = re.findall(r"execution finished in ([\d.]+)s", log)
        return {
            "seconds": float(seconds) / rounds,
            "by Flower": counter.bytes / rounds,
            "by Flair": (received(homes) - before) / rounds if changed else 0,
        }
    finally:
        counter.close()
        federation.close()
        for home in homes if changed else []:
            conftest.stop(home)


def received(homes: list[Path]) -> int:
    """Bytes of models that all nodes have got from others."""
    return sum(peer_bytes(flair.Node(home)) for home in homes)


def peer_bytes(node: flair.Node) -> int:
    found: int = node.get("/v1/node")["received"]
    return found


def main(rounds: str = "4") -> None:
    torch.set_num_threads(1)
    flowering.PATIENCE = 1800
    print(f"{os.cpu_count()} processors, load {Path('/proc/loadavg').read_text()[:14]}, {SITES} sites, {rounds} rounds")
    print("| model | | s a round | MB by Flower | MB by Flair |\n|---|---|---|---|---|")
    for name, network in MODELS.items():
        for changed in (False, True):
            root = Path(tempfile.mkdtemp(prefix="fl"))
            try:
                found = measure(root, network, int(rounds), changed=changed)
            finally:
                shutil.rmtree(root, ignore_errors=True)
            kind = "with Flair" if changed else "Flower alone"
            row = [f"{found['seconds']:.1f}", *(f"{found[key] / 1e6:.3f}" for key in ("by Flower", "by Flair"))]
            print(f"| {name} | {kind} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
