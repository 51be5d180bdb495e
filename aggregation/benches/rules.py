"""Rules over models of `float32` beside other tools; `.ci/bench-aggregation` runs it, docs/benchmarks.md tells how to read it.

    python3 aggregation/benches/rules.py FLAIR'S EXAMPLE `rule` [FLAIR] [MILLIONS FOR FEDAVG] [MILLIONS FOR OTHER RULES]

Three tables: rules in memory, on the same numbers, each contestant in a process of its own; what Flair's cost is when there
are more updates or larger models; and FedAvg from store to store, where `FLAIR` is given: from ten persons' commits to an
aggregate's, beside Flower from the objects that its messages consist of on a disk to those of the next round's model.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = 10
LIARS = 2
RUNS = 3
TOOLS = {
    "fedavg": ["numpy", "numpy-exact", "torch", "flower"],
    "median": ["numpy", "torch", "flower"],
    "trimmed-mean": ["numpy", "torch", "flower"],
    "krum": ["numpy", "torch", "flower"],
}


def weights(numpy, elements, seed):
    """The example's numbers: a linear congruential sequence, scaled."""
    powers = numpy.full(elements, 1664525, numpy.uint32)
    numpy.cumprod(powers, dtype=numpy.uint32, out=powers)
    states = numpy.empty(elements, numpy.uint32)
    states[0] = 1
    states[1:] = powers[:-1]
    numpy.cumsum(states, dtype=numpy.uint32, out=states)
    states *= numpy.uint32(1013904223)
    powers *= numpy.uint32(seed)
    states += powers
    states >>= numpy.uint32(8)
    return states.astype(numpy.float32) / numpy.float32(16777216.0) - numpy.float32(0.5)


def with_numpy(rule, parent, models):
    """The customary ways, in `float32`."""
    import numpy

    if rule == "fedavg":
        result = numpy.zeros_like(parent)
        for model in models:
            result += numpy.float32(1 / len(models)) * model
        return result
    if rule == "krum":
        gaps = numpy.array([[float(numpy.sum((one - other) ** 2)) for other in models] for one in models])
        near = numpy.sort(gaps, axis=1)[:, 1 : len(models) - LIARS - 1]
        return models[int(numpy.argmin(near.sum(axis=1)))].copy()
    stack = numpy.stack(models)
    if rule == "median":
        return numpy.median(stack, axis=0)
    stack.sort(axis=0)
    return stack[LIARS:-LIARS].mean(axis=0)


def exact(parent, models):
    """FedAvg in `float64`, rounded once: Flair's arithmetic, so the result is Flair's to the bit."""
    import numpy

    base = parent.astype(numpy.float64)
    total = numpy.zeros_like(base)
    for model in models:
        total += 100.0 * (model.astype(numpy.float64) - base)
    return (base + total / (100.0 * len(models))).astype(numpy.float32)


def with_torch(rule, models):
    import torch

    if rule == "fedavg":
        result = torch.zeros_like(models[0])
        for model in models:
            result.add_(model, alpha=1 / len(models))
        return result
    stack = torch.stack(models)
    if rule == "krum":
        near = torch.cdist(stack, stack).square().sort(dim=1).values[:, 1 : len(models) - LIARS - 1]
        return stack[int(near.sum(dim=1).argmin())].clone()
    ordered = stack.sort(dim=0).values
    if rule == "median":
        middle = len(models) // 2
        return (ordered[middle - 1] + ordered[middle]) / 2
    return ordered[LIARS:-LIARS].mean(dim=0)


def strategy(rule):
    from flwr.serverapp import strategy as flower

    return {
        "fedavg": flower.FedAvg,
        "median": flower.FedMedian,
        "trimmed-mean": lambda: flower.FedTrimmedAvg(beta=LIARS / MODELS),
        "krum": lambda: flower.Krum(num_malicious_nodes=LIARS),
    }[rule]()


def reply(content, node):
    """A message as a site's answer comes."""
    from flwr.app import ConfigRecord, Message, MessageType, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    asked = Message(RecordDict({"config": ConfigRecord()}), dst_node_id=node, message_type=MessageType.TRAIN)
    return Message(content, reply_to=asked)


def records(array):
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

    return RecordDict({"arrays": ArrayRecord({"w": Array(array)}), "metrics": MetricRecord({"num-examples": 100})})


def quiet():
    """Nothing home, and no lines of a log among the results."""
    import logging

    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    logging.disable(logging.WARNING)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(tool, rule, elements):
    import numpy

    quiet()
    parent = weights(numpy, elements, 0)
    models = [weights(numpy, elements, seed) for seed in range(1, MODELS + 1)]
    best, used = float("inf"), float("inf")
    # Flower's strategies empty the messages that they are given.
    again = (lambda: [reply(records(model), node) for node, model in enumerate(models, 1)]) if tool == "flower" else None
    if tool == "torch":
        import torch

        torch.set_num_threads(os.cpu_count())
        models = [torch.from_numpy(model) for model in models]
    for _ in range(RUNS):
        replies = again() if again else None
        start, before = time.perf_counter(), time.process_time()
        if tool == "numpy":
            result = with_numpy(rule, parent, models)
        elif tool == "numpy-exact":
            result = exact(parent, models)
        elif tool == "torch":
            result = with_torch(rule, models).numpy()
        else:
            record, _ = strategy(rule).aggregate_train(1, replies)
            result = record["w"].numpy()
        best = min(best, time.perf_counter() - start)
        used = min(used, time.process_time() - before)
    line = {"what": tool, "rule": rule, "elements": elements, "seconds": round(best, 3), "cpu": round(used, 2)}
    line["peak_mib"] = peak()
    line["checksum"] = int(result.astype(numpy.float32).view(numpy.uint32).sum(dtype=numpy.uint64))
    print(json.dumps(line))


def copying(elements):
    """Bytes a second, read and written, of copying one model, by as many threads as there are processors."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy

    threads = os.cpu_count()
    source, target = numpy.ones(elements, numpy.float32), numpy.empty(elements, numpy.float32)
    parts = list(zip(numpy.array_split(source, threads), numpy.array_split(target, threads)))
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(lambda part: numpy.copyto(part[1], part[0]), parts))
            best = min(best, time.perf_counter() - start)
    print(json.dumps({"bytes_per_second": 2 * source.nbytes / best}))


def write_objects(folder, elements):
    """What ten sites send by Flower: the objects of each message, a file each, as they are on the wire."""
    import numpy

    quiet()
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    parent = weights(numpy, elements, 0)
    for site in range(1, MODELS + 1):
        place = folder / str(site)
        place.mkdir(parents=True)
        message = reply(records(parent + weights(numpy, elements, site) * numpy.float32(1e-4)), site)
        for name, part in get_all_nested_objects(message).items():
            (place / name).write_bytes(part.deflate())
        (place / "message").write_text(message.object_id)


def from_objects(folder):
    """FedAvg of Flower's from stored objects to stored objects."""
    quiet()
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    strategy("fedavg")
    start, before = time.perf_counter(), time.process_time()
    replies = []
    for site in range(1, MODELS + 1):
        place = folder / str(site)
        contents = {path.name: path.read_bytes() for path in place.iterdir() if path.name != "message"}
        replies.append(inflate_object_from_contents((place / "message").read_text(), contents))
    record, _ = strategy("fedavg").aggregate_train(1, replies)
    out = folder / "result"
    out.mkdir()
    for name, part in get_all_nested_objects(record).items():
        with open(out / name, "wb") as file:
            file.write(part.deflate())
            file.flush()
            os.fsync(file.fileno())
    line = {"seconds": round(time.perf_counter() - start, 3), "cpu": round(time.process_time() - before, 2)}
    print(json.dumps({**line, "peak_mib": peak()}))


def write_model(path, array):
    """A safetensors file of one tensor."""
    header = {"w": {"dtype": "F32", "shape": [array.size], "data_offsets": [0, array.nbytes]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        array.tofile(file)


def from_commits(flair, folder, elements):
    """Ten persons' commits, by Flair's own commands: without a network between them, they hand files to a first one."""
    import numpy

    folder.mkdir()

    def run(person, *arguments, place=folder):
        command = [flair, "--home", folder / f"home-{person}", *arguments]
        return subprocess.run(command, cwd=place, check=True, capture_output=True, text=True).stdout

    first = folder / "first"
    first.mkdir()
    parent = weights(numpy, elements, 0)
    write_model(first / "model.safetensors", parent)
    settings = ["--aggregation", "fedavg", "--every", str(MODELS)]
    run(0, "init", "model.safetensors", "--name", "bench", "--person", "first", *settings, place=first)
    for person in range(1, MODELS + 1):
        key = json.loads(run(person, "id", "--json"))["key"]
        run(0, "member", "grant", key, "--name", f"person {person}", place=first)
    run(0, "bundle", "create", folder / "all.bundle", place=first)
    for person in range(1, MODELS + 1):
        own = folder / "own"
        run(person, "clone", folder / "all.bundle", own, "--person", f"person {person}")
        trained = parent + weights(numpy, elements, person) * numpy.float32(1e-4)
        write_model(own / "model.safetensors", trained)
        run(person, "commit", "-m", "trained", "--examples", "100", place=own)
        run(person, "push", place=own)
        back = folder / "back.bundle"
        run(person, "bundle", "create", "--since", folder / "all.bundle", back, place=own)
        run(0, "bundle", "apply", back, place=first)
        shutil.rmtree(own)
        shutil.rmtree(folder / f"home-{person}")
        back.unlink()


def aggregating(flair, folder):
    """What the aggregate of these commits takes: from a process that holds nothing, which the system would count too."""
    start = time.perf_counter()
    child = subprocess.Popen([flair, "--home", folder / "home-0", "aggregate"], cwd=folder / "first", stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit("flair aggregate failed")
    line = {"seconds": round(seconds, 3), "cpu": round(used.ru_utime + used.ru_stime, 2)}
    print(json.dumps({**line, "peak_mib": used.ru_maxrss // 1024}))


def inside(*arguments):
    """One measurement in a process of its own; nothing where a tool is not installed."""
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode == 3:
        return None
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


def example(program, *arguments):
    return json.loads(subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.PIPE).stdout)


def aim(words, ratio, least):
    met = "met" if ratio >= least else f"missed by {100 * (1 - ratio / least):.0f} %"
    print(f"  aim: {words}, at least {least:g} times: {ratio:.2f} ({met})")


def in_memory(program, millions):
    copy = inside("copying", 100_000_000)["bytes_per_second"]
    print(f"copying a model: {copy / 1e9:.1f} GB/s, read and written\n")
    for rule, tools in TOOLS.items():
        size = millions["fedavg" if rule == "fedavg" else "others"]
        ours = example(program, rule, size, MODELS)
        elements = ours["elements"]
        rows = [("flair", ours["seconds"], ours["cpu"], ours["peak_mib"])]
        if "kernel_seconds" in ours:
            rows.append(("flair, the kernel alone", ours["kernel_seconds"], ours["kernel_cpu"], ours["peak_mib"]))
        others = {}
        for tool in tools:
            line = inside("measure", tool, rule, elements)
            if line:
                others[tool] = line
                rows.append((tool, line["seconds"], line["cpu"], line["peak_mib"]))
        print(f"{rule}, {MODELS} x {size} million f32")
        print(f"  {'':24}{'s':>8}{'CPU s':>8}{'peak MiB':>10}{'GB/s':>7}{'of copying':>12}")
        for what, seconds, used, most in rows:
            # Each update and the parent are read once at least, and the result is written.
            speed = (MODELS + 2) * elements * 4 / seconds
            print(f"  {what:24}{seconds:8.3f}{used:8.2f}{most:10}{speed / 1e9:7.1f}{speed / copy:12.0%}")
        if rule == "fedavg":
            kernel = (ours["kernel_seconds"], ours["kernel_cpu"])
            if "flower" in others:
                aim("the kernel faster than Flower", others["flower"]["seconds"] / kernel[0], 3)
                aim("the same, in CPU", others["flower"]["cpu"] / kernel[1], 3)
            aim("the kernel no slower than numpy's loop", others["numpy"]["seconds"] / kernel[0], 1)
            aim("the same, in CPU", others["numpy"]["cpu"] / kernel[1], 1)
            if others["numpy-exact"]["checksum"] != ours["checksum"]:
                sys.exit("numpy in float64 has another result than Flair")
        elif "flower" in others:
            aim("faster than Flower", others["flower"]["seconds"] / ours["seconds"], 5)
            aim("the same, in CPU", others["flower"]["cpu"] / ours["cpu"], 5)
        print(flush=True)


def growing(program, size):
    print("Flair's cost as updates and parameters grow: CPU s, and per update and million parameters ms")
    shapes = [(5, size), (10, size), (20, size), (10, size // 2), (10, size * 2)]
    for rule in ["fedavg", "median", "krum"]:
        for models, millions in shapes:
            line = example(program, rule, millions, models)
            each = 1000 * line["cpu"] / models / millions
            print(f"  {rule:10}{models:4} x {millions:3} million {line['cpu']:8.2f}{each:8.2f}", flush=True)
    print()


def stored(flair, millions):
    elements = millions * 1_000_000
    with tempfile.TemporaryDirectory(prefix="flair-bench-") as place:
        folder = Path(place)
        inside("from_commits", flair, folder / "flair", elements)
        ours = inside("aggregating", flair, folder / "flair")
        inside("write_objects", folder / "flower", elements)
        theirs = inside("from_objects", folder / "flower")
    print(f"FedAvg from store to store, {MODELS} x {millions} million f32")
    print(f"  {'':24}{'s':>8}{'CPU s':>8}{'peak MiB':>10}")
    for what, line in [("flair aggregate", ours), ("flower", theirs)]:
        if line:
            print(f"  {what:24}{line['seconds']:8.3f}{line['cpu']:8.2f}{line['peak_mib']:10}")
    if theirs:
        aim("less memory than Flower", theirs["peak_mib"] / ours["peak_mib"], 10)


def main():
    inner = {
        "measure": lambda tool, rule, elements: measure(tool, rule, int(elements)),
        "copying": lambda elements: copying(int(elements)),
        "write_objects": lambda folder, elements: write_objects(Path(folder), int(elements)),
        "from_objects": lambda folder: from_objects(Path(folder)),
        "aggregating": lambda flair, folder: aggregating(flair, Path(folder)),
        "from_commits": lambda flair, folder, elements: from_commits(flair, Path(folder), int(elements)),
    }
    if sys.argv[1] in inner:
        try:
            inner[sys.argv[1]](*sys.argv[2:])
        except ImportError:
            sys.exit(3)
        return
    program, flair, fedavg, others = (sys.argv[1:] + ["", "", ""][len(sys.argv) - 2 :])[:4]
    millions = {"fedavg": int(fedavg or 50), "others": int(others or 10)}
    in_memory(program, millions)
    growing(program, millions["others"])
    if flair:
        stored(flair, millions["fedavg"])


if __name__ == "__main__":
    main()
