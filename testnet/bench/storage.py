"""Three versions of a model with Flair and other tools, side by side: time, memory, bytes on the wire and at rest.

    python3 testnet/bench/storage.py VERSIONS TESTNET [TOOL…]

VERSIONS is a folder with v1.safetensors to v3.safetensors, as `train.py` or `flair-testnet bench --write` make it;
TESTNET the program `flair-testnet`, beside which `flair` and `flair-node` lie. The tools: flair, git-lfs, dvc, git-theta,
rsync. Those that are not installed are left out, and that is said.

All remotes are on this machine. Steps: *commit* until it is in the author's own store, *push* until others can have it,
*clone* and *pull* until the model is in the reader's folder, which is compared. rsync keeps no versions: it pushes to a
folder and pulls from it, both through its daemon on loopback. With Flair the reader's node fetches and checks by itself,
and runs the aggregate, so that push takes until it has done so. What a step uses is summed up over all processes of it;
both nodes with Flair. Each tool runs three times from the start, git-theta once: times are medians, memory is
the most that was seen.
Prints tables in Markdown.
"""

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

MODEL = "model.safetensors"
STEPS = ["commit v1", "push v1", "clone v1", "commit v2", "push v2", "pull v2", "commit v3", "push v3", "pull v3"]


class Run:
    """What was used since it began, and a way to start processes that are counted."""

    def __init__(self, environment=None):
        self.environment = {**os.environ, **(environment or {})}
        self.wall = self.cpu = self.peak = 0
        self.said = ""

    def __call__(self, *command, cwd):
        log = tempfile.TemporaryFile()
        begun = time.monotonic()
        process = subprocess.Popen(command, cwd=cwd, env=self.environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.wall += time.monotonic() - begun
        # Processes that it started and waited for are in these.
        self.cpu += used.ru_utime + used.ru_stime
        self.peak = max(self.peak, used.ru_maxrss * 1024)
        log.seek(0)
        self.said = log.read().decode(errors="replace")
        if process.returncode:
            sys.exit(f"{' '.join(command)}: {self.said}")


def size(folder):
    """Bytes that a folder takes on disk."""
    found = 0
    for root, _, names in os.walk(folder):
        for name in names:
            found += os.lstat(os.path.join(root, name)).st_blocks * 512
    return found


def same(one, other):
    return subprocess.run(["cmp", "--silent", one, other]).returncode == 0


class Git:
    """Tools that put the model beside or behind a git repository."""

    runs = 3

    def __init__(self, folder, versions):
        self.versions = versions
        self.remote, self.author, self.reader = (os.path.join(folder, n) for n in ("remote.git", "author", "reader"))
        os.makedirs(folder)
        self.environment = {
            "HOME": folder,
            "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
        }  # fmt: skip
        quiet = Run(self.environment)
        quiet("git", "config", "--global", "init.defaultBranch", "main", cwd=folder)
        quiet("git", "init", "--bare", self.remote, cwd=folder)
        self.begin(quiet, folder)

    def steps(self):
        for number in (1, 2, 3):
            for name, step in (
                (f"commit v{number}", lambda run: self.commit(run, number)),
                (f"push v{number}", self.push),
                (f"{'clone' if number == 1 else 'pull'} v{number}", self.clone if number == 1 else self.pull),
            ):
                if name.startswith("commit"):
                    shutil.copyfile(self.versions[number - 1], os.path.join(self.author, MODEL))
                    os.sync()
                before = self.kept(self.reader)
                run = Run(self.environment)
                step(run)
                reads = name.startswith(("clone", "pull"))
                yield name, {
                    "wall": run.wall, "cpu": run.cpu, "peak": run.peak,
                    "wire": self.kept(self.reader) - before if reads else None,
                    "rest": self.rest() if reads else None,
                    "same": not reads or same(os.path.join(self.reader, MODEL), self.versions[number - 1]),
                }  # fmt: skip

    def commit(self, run, number):
        run("git", "add", ".", cwd=self.author)
        run("git", "commit", "-qm", f"v{number}", cwd=self.author)

    def push(self, run):
        run("git", "push", "-q", "origin", "main", cwd=self.author)

    def clone(self, run):
        run("git", "clone", "-q", self.address(), self.reader, cwd="/")

    def pull(self, run):
        run("git", "pull", "-q", cwd=self.reader)

    def address(self):
        return f"file://{self.remote}"

    def kept(self, folder):
        """What a side keeps beside the files in its folder."""
        return size(os.path.join(folder, ".git"))

    def rest(self):
        return {"remote": size(self.remote), "reader": size(self.reader)}


class Lfs(Git):
    needs = ["git-lfs"]

    def begin(self, run, folder):
        run("git", "lfs", "install", "--skip-repo", cwd=folder)
        run("git", "clone", "-q", self.address(), self.author, cwd=folder)
        run("git", "lfs", "track", MODEL, cwd=self.author)


class Theta(Git):
    needs = ["git-theta"]
    # It takes minutes.
    runs = 1

    def begin(self, run, folder):
        self.environment["GIT_THETA_CHECKPOINT_TYPE"] = "safetensors"
        run("git", "theta", "install", cwd=folder)
        run("git", "clone", "-q", self.address(), self.author, cwd=folder)
        run("git", "theta", "track", MODEL, cwd=self.author)


class Dvc(Git):
    needs = ["dvc"]

    def begin(self, run, folder):
        self.store = os.path.join(folder, "store")
        self.environment["DVC_NO_ANALYTICS"] = "1"
        run("git", "clone", "-q", self.address(), self.author, cwd=folder)
        run("dvc", "init", "-q", cwd=self.author)
        run("dvc", "remote", "add", "-q", "-d", "store", self.store, cwd=self.author)

    def commit(self, run, number):
        run("dvc", "add", "-q", MODEL, cwd=self.author)
        super().commit(run, number)

    def push(self, run):
        run("dvc", "push", "-q", cwd=self.author)
        super().push(run)

    def clone(self, run):
        super().clone(run)
        run("dvc", "pull", "-q", cwd=self.reader)

    def pull(self, run):
        super().pull(run)
        run("dvc", "pull", "-q", cwd=self.reader)

    def kept(self, folder):
        return super().kept(folder) + size(os.path.join(folder, ".dvc", "cache"))

    def rest(self):
        return {"remote": size(self.remote) + size(self.store), "reader": size(self.reader)}


class Rsync:
    needs = ["rsync"]
    runs = 3

    def __init__(self, folder, versions):
        self.versions = versions
        self.remote, self.author, self.reader = (os.path.join(folder, n) for n in ("remote", "author", "reader"))
        for side in (self.remote, self.author, self.reader):
            os.makedirs(side)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = os.path.join(folder, "rsyncd.conf")
        with open(config, "w") as file:
            file.write(f"use chroot = no\n[m]\npath = {self.remote}\nread only = no\n")
            if os.getuid() == 0:
                file.write("uid = root\ngid = root\n")
        self.daemon = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--port={port}", "--address=127.0.0.1"]
        )
        self.address = f"rsync://127.0.0.1:{port}/m/{MODEL}"
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)

    def steps(self):
        for number in (1, 2, 3):
            shutil.copyfile(self.versions[number - 1], os.path.join(self.author, MODEL))
            os.sync()
            for name, source, target in (
                (f"push v{number}", os.path.join(self.author, MODEL), self.address),
                (f"{'clone' if number == 1 else 'pull'} v{number}", self.address, os.path.join(self.reader, MODEL)),
            ):
                run = Run()
                before = self.served()
                run("rsync", "--checksum", "--stats", source, target, cwd="/")
                received = re.search(r"Total bytes received: ([\d,]+)", run.said)
                reads = target != self.address
                yield name, {
                    "wall": run.wall, "cpu": run.cpu + self.served() - before, "peak": run.peak,
                    "wire": int(received[1].replace(",", "")) if reads else None,
                    "rest": {"remote": size(self.remote), "reader": size(self.reader)} if reads else None,
                    "same": not reads or same(os.path.join(self.reader, MODEL), self.versions[number - 1]),
                }  # fmt: skip
        self.daemon.terminate()
        self.daemon.wait()

    def served(self):
        """CPU seconds of the daemon's processes that have ended."""
        time.sleep(0.1)
        with open(f"/proc/{self.daemon.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return sum(int(fields[at]) for at in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


class Flair:
    runs = 3

    def __init__(self, versions, testnet):
        command = [testnet, "bench", "--json", "--versions", os.path.dirname(versions[0])]
        self.report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    def steps(self):
        for step in self.report["steps"]:
            used = [step[who] for who in ("command", "author", "reader")]
            fetched = step["received"] > 0
            yield step["name"].partition(",")[0], {
                "wall": step["wall"],
                "cpu": sum(one["cpu"] for one in used),
                "peak": max(one["peak"] for one in used),
                "wire": step["received"] if fetched else None,
                # What the node keeps, and the file in the folder.
                "rest": {"reader": step["disk"] + self.report["model"]} if fetched else None,
            }


def together(runs):
    """One step of several runs."""
    middle = {what: statistics.median(run[what] for run in runs) for what in ("wall", "cpu")}
    return {**runs[-1], **middle, "peak": max(run["peak"] for run in runs)}


TOOLS = {"git-lfs": Lfs, "dvc": Dvc, "git-theta": Theta, "rsync": Rsync}


def table(results, what, unit, number):
    if not any(step.get(what) for steps in results.values() for step in steps.values()):
        return
    print(f"| {what}, {unit} | {' | '.join(STEPS)} |")
    print("|---" * (len(STEPS) + 1) + "|")
    for tool, steps in results.items():
        cells = [steps.get(step, {}).get(what) for step in STEPS]
        print(f"| {tool} | {' | '.join('' if cell is None else number(cell) for cell in cells)} |")
    print()


def aims(results, model, changed):
    """What was aimed at, and what came out."""
    ours = results["flair"]

    def say(text, found, aim, met):
        print(f"- {text}: {found:.2f}, aim {aim}{'' if met else ': MISSED'}")

    def wire(tool, version):
        return sum(results[tool].get(f"{step} v{version}", {}).get("wire") or 0 for step in ("push", "pull"))

    half = changed["half"]
    for tool in ("git-lfs", "rsync"):
        if tool in results:
            ratio = wire(tool, 3) / wire("flair", 3)
            aim = 10 if half else 2.9
            say(f"v3 on the wire, {tool} to Flair", ratio, f"at least {aim}", ratio >= aim)
    share = wire("flair", 2) / changed["bytes"]
    say("v2 on the wire, Flair to the changed tensor", share, "at most 1", share <= 1)
    if "git-lfs" in results:
        for version in (1, 2, 3):
            share = ours[f"commit v{version}"]["cpu"] / results["git-lfs"][f"commit v{version}"]["cpu"]
            say(f"CPU of commit v{version}, Flair to git-lfs", share, "at most 0.5", share <= 0.5)
    if "rsync" in results:
        ratio = ours["clone v1"]["wall"] / results["rsync"]["clone v1"]["wall"]
        say("wall of clone v1, Flair to rsync", ratio, "at most 1.5", ratio <= 1.5)
    peak = max(step["peak"] for step in ours.values()) / 1e6
    say("peak of Flair, MB", peak, "below 100", peak < 100)
    print()


def difference(versions):
    """Bytes of the tensors in which version 2 differs from 1, and whether floats have 16 bits."""
    heads = []
    for path in versions[:2]:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            heads.append({})
            for name, row in header.items():
                start, end = row["data_offsets"]
                file.seek(8 + length + start)
                heads[-1][name] = (row["dtype"], file.read(end - start))
    first, second = heads
    changed = sum(len(second[name][1]) for name in second if second[name] != first.get(name))
    return {"bytes": changed, "half": any(dtype in ("BF16", "F16") for dtype, _ in second.values())}


def main():
    folder, testnet, *wanted = sys.argv[1:]
    versions = [os.path.join(os.path.abspath(folder), f"v{number}.safetensors") for number in (1, 2, 3)]
    results = {}
    with tempfile.TemporaryDirectory(prefix="flair-storage-") as scratch:
        for name in wanted or ["flair", *TOOLS]:
            missing = [program for program in getattr(TOOLS.get(name), "needs", []) if not shutil.which(program)]
            if missing:
                print(f"{name} is left out: {', '.join(missing)} is not installed\n")
                continue
            runs = []
            count = TOOLS.get(name, Flair).runs
            for number in range(count):
                print(f"measuring {name}, {number + 1} of {count}", file=sys.stderr)
                place = os.path.join(scratch, name)
                tool = Flair(versions, testnet) if name == "flair" else TOOLS[name](place, versions)
                runs.append(dict(tool.steps()))
                shutil.rmtree(place, ignore_errors=True)
            results[name] = {step: together([run[step] for run in runs]) for step in runs[0]}
    for tool, result in results.items():
        for name, step in result.items():
            if not step.get("same", True):
                print(f"{name}: the file that {tool} gives the reader is not the author's, byte for byte\n")
            for side in ("remote", "reader"):
                step[f"{side} keeps"] = (step["rest"] or {}).get(side)
    megabytes = lambda found: f"{found / 1e6:.1f}"
    print(f"A model of {megabytes(os.path.getsize(versions[0]))} MB in {folder}\n")
    table(results, "wall", "s", lambda found: f"{found:.2f}")
    table(results, "cpu", "s", lambda found: f"{found:.2f}")
    table(results, "peak", "MB", lambda found: f"{found / 1e6:.0f}")
    table(results, "wire", "MB to the reader", megabytes)
    table(results, "remote keeps", "MB", megabytes)
    table(results, "reader keeps", "MB, files and store", megabytes)
    if "flair" in results:
        aims(results, versions[0], difference(versions))


main()
