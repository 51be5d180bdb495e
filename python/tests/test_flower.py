"""Flower's own programs run the documentation's app, with and without Flair in it."""

import datetime
import ipaddress
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import digits
import flowering
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import flair_ml as flair

SITES = 2

Start = Callable[..., "Study"]


class Study:
    """A repository, a server and sites, each with a node of its own, and Flower's programs among them."""

    def __init__(self, root: Path, homes: Callable[[str], Path], certificates: tuple[Path, Path, Path] | None) -> None:
        self.root = root
        images, self.held_out = digits.load()
        server = homes("server")
        self.app = flowering.write_app(root / "app", changed=True)
        self.repo = begun(self.app, server)
        self.ticket = self.repo.ticket("contributor", uses=SITES).ticket
        _, environment = flowering.command("flower-superlink", {})
        environment = {name: value.replace("$PWD", str(self.app)) for name, value in environment.items()}
        environment["FLAIR_HOME"] = str(server)
        self.federation = flowering.Federation(root / "flower", certificates, environment)
        self.federation.start_link()
        self.homes = [homes(f"site{site}") for site in range(SITES)]
        for site, share in enumerate(digits.deal(images, SITES)):
            torch.save(share, root / f"site{site}.pt")
            folder = root / f"site{site}"
            flair.clone(self.ticket, folder, person=f"Site {site}", home=self.homes[site])
            said = {
                "data": str(root / f"site{site}.pt"),
                "flair-folder": str(folder),
                "flair-home": str(self.homes[site]),
            }
            self.federation.start_node(f"site{site}", said)

    def accuracy(self) -> float:
        model = digits.network()
        self.repo.load(model, "main")
        return digits.accuracy(model, self.held_out)

    def aggregates(self) -> int:
        (branch,) = self.repo.branches()
        return branch.aggregates


def begun(app: Path, home: Path) -> flair.Repo:
    """The repository that the documentation begins with."""
    code = "import os, sys\nsys.path.insert(0, os.getcwd())\n" + flowering.beginning()
    environment = os.environ | {"FLAIR_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], cwd=app, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("flair"), done.stderr
    return flair.Repo(app / "model", home=home)


@pytest.fixture
def start(homes: Callable[[str], Path], tmp_path: Path) -> Iterator[Start]:
    made: list[Study] = []

    def begin(certificates: tuple[Path, Path, Path] | None = None) -> Study:
        made.append(Study(tmp_path, homes, certificates))
        return made[-1]

    yield begin
    for study in made:
        study.federation.close()


def wait(what: Callable[[], bool], study: Study, log: str) -> None:
    end = time.monotonic() + flowering.PATIENCE
    while not what():
        assert time.monotonic() < end, study.federation.told(log)
        time.sleep(0.05)


def received(study: Study, site: int) -> int:
    """How many messages to train a site has got, whole."""
    return len(re.findall(r"Receiving: train message.*\n.*Received successfully", study.federation.told(f"site{site}")))


def metrics(log: str) -> list[dict[str, float]]:
    return [eval(found) for found in re.findall(r"Aggregated MetricRecord: (\{.*\})", log)]


def test_flair_is_a_change_of_few_lines() -> None:
    lines = [line for line in flowering.difference().splitlines() if not line.startswith(("---", "+++"))]
    added = [line for line in lines if line.startswith("+")]
    assert len(added) <= 10 and sum(line.startswith("-") for line in lines) <= len(added)


def test_the_documented_app_runs_in_flower_without_flair(tmp_path: Path) -> None:
    app = flowering.write_app(tmp_path / "app", changed=False)
    federation = flowering.Federation(tmp_path / "flower")
    try:
        federation.start_link()
        for site, share in enumerate(digits.deal(digits.load()[0], SITES)):
            torch.save(share, tmp_path / f"site{site}.pt")
            federation.start_node(f"site{site}", {"data": str(tmp_path / f"site{site}.pt")})
        log = federation.run(app, rounds=1)
        assert "Starting FedAvg strategy" in log and "Flair" not in log
        assert [set(found) for found in metrics(log)] == [{"loss"}, {"accuracy"}]
        assert set(torch.load(tmp_path / "flower" / "study.pt")) == set(digits.network().state_dict())
    finally:
        federation.close()


def test_the_documented_app_trains_by_flair(start: Start) -> None:
    study = start()
    log = study.federation.run(study.app, rounds=2)
    assert [set(found) for found in metrics(log)] == [{"loss"}, {"accuracy"}] * 2, log
    assert "and 0 failures" in log and "WARNING" not in log

    entries = study.repo.log().entries
    assert [entry.kind for entry in entries] == ["aggregate", "update", "update"] * 2 + ["initial"]
    updates = [entry for entry in entries if entry.kind == "update"]
    run = re.findall(r"Successfully started run (\d+)", log)[0]
    sizes = {f"Site {site}": len(share[1]) for site, share in enumerate(digits.deal(digits.load()[0], SITES))}
    for place, entry in enumerate(updates):
        assert entry.examples == sizes[entry.name]
        assert entry.message == f"Flower run {run}, round {2 - place // SITES}"
        assert [(metric.split, metric.name) for metric in entry.metrics] == [("train", "loss")]
    assert {entry.name for entry in updates} == set(sizes)
    last = metrics(log)[2]["loss"]
    mean = sum(entry.metrics[0].value * entry.examples for entry in updates[:SITES]) / sum(sizes.values())
    assert last == pytest.approx(mean), "what Flower says of the round is what the commits say"
    assert study.repo.verify().holds and study.accuracy() > 0.8

    # The app's last line kept what the rounds ended with: the head, bit for bit.
    kept = torch.load(study.root / "flower" / "study.pt")
    held = study.repo.state_dict("main")
    assert list(kept) and all(torch.equal(kept[name], value) for name, value in held.items())
    # The sites know who made what, each on a node of its own.
    for site, home in enumerate(study.homes):
        repo = flair.Repo(study.root / f"site{site}", home=home)
        assert repo.verify().holds
        assert [entry.commit for entry in repo.log().entries] == [entry.commit for entry in entries]


def test_a_run_whose_superlink_is_killed_goes_on_from_the_repository(start: Start, tmp_path: Path) -> None:
    study = start(certificates(tmp_path))
    federation = study.federation
    running = federation.submit(study.app, rounds=2)
    first = study.repo.status().head
    try:
        # In the middle of the first round: the sites train, and have not answered.
        wait(lambda: all(received(study, site) == 1 for site in range(SITES)), study, "run")
        federation.kill_link()
    finally:
        flowering.end(running)
    # Nobody asks any more, and the round is finished all the same: by the sites' own nodes.
    wait(lambda: study.aggregates() == 1 and study.repo.status().head_verified, study, "site0")
    second = study.repo.status().head
    assert second != first

    federation.start_link()
    log = federation.run(study.app, rounds=2)
    assert "a run was broken off: 1 of its 2 rounds are done" in log
    assert f"Starts from {second[:10]}" in log
    assert f"round 2 trains from {second[:10]}" in log and "round 1 trains from" not in log
    entries = study.repo.log().entries
    assert [entry.kind for entry in entries] == ["aggregate", "update", "update"] * 2 + ["initial"]
    assert entries[3].commit == second and entries[6].commit == first
    rounds = [entry.message.rpartition(" ")[2] for entry in entries if entry.kind == "update"]
    assert rounds == ["2", "2", "1", "1"]
    assert study.repo.verify().holds and study.accuracy() > 0.8
    # The next run is a new one.
    assert not list(study.repo.local.glob("flower-run*"))


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A certificate authority, and a certificate with its key for loopback."""
    now = datetime.datetime.now(datetime.UTC)

    def made(
        name: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey, authority: bool
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )
        if not authority:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(by, hashes.SHA256())

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    paths = (folder / "ca.pem", folder / "server.pem", folder / "server.key")
    paths[0].write_bytes(made("authority", root, root, True).public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(made("localhost", own, root, False).public_bytes(serialization.Encoding.PEM))
    private = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    paths[2].write_bytes(private)
    os.chmod(paths[2], 0o600)
    return paths
