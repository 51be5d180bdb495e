"""FedAvg of 10 models in memory with other tools: what `--example fedavg` is compared with.

    python3 aggregation/benches/fedavg.py [MILLIONS OF ELEMENTS] [THE EXAMPLE'S LINE]

Prints one line of JSON a tool, each measured in a process of its own, on the same numbers as the example:
- numpy: the customary loop, weights times models summed up in float32
- numpy-exact: the same arithmetic as Flair's, in float64 and in order; with the package blake3 installed it also
  prints the result's digest, which equals the example's
- flower: the `aggregate` of its `flwr.server` strategies, where the package flwr is installed
- flower-records: that of its `flwr.serverapp` strategies, which takes replies as they come from the network
Tools that are not installed are left out. With the line that the example printed, a table of all comes last, and a
result of numpy-exact that is not the example's is an error.
"""

import base64
import json
import os
import resource
import subprocess
import sys
import time

MODELS = 10
RUNS = 3
TOOLS = ["numpy", "numpy-exact", "flower", "flower-records"]


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


def customary(numpy, parent, models):
    result = numpy.zeros_like(parent)
    for model in models:
        result += numpy.float32(1 / len(models)) * model
    return result


def exact(numpy, parent, models):
    base = parent.astype(numpy.float64)
    total = numpy.zeros_like(base)
    for model in models:
        total += 100.0 * (model.astype(numpy.float64) - base)
    return (base + total / (100.0 * len(models))).astype(numpy.float32)


def measure(tool, elements):
    import numpy

    parent = weights(numpy, elements, 0)
    models = [weights(numpy, elements, seed) for seed in range(1, MODELS + 1)]
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    if tool == "flower":
        from flwr.server.strategy.aggregate import aggregate

        given = [([model], 100) for model in models]
        run = lambda: aggregate(given)[0]
    elif tool == "flower-records":
        from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
        from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

        replies = []
        while models:
            arrays = ArrayRecord({"w": Array(models.pop(0))})
            replies.append(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 100})}))
        run = lambda: aggregate_arrayrecords(replies, "num-examples")
    elif tool == "numpy-exact":
        try:
            import blake3

            # The order of the commit ids, which are digests of the models' numbers.
            order = sorted(range(MODELS), key=lambda index: blake3.blake3(bytes([index])).digest())
            models = [models[index] for index in order]
        except ImportError:
            blake3 = None
        run = lambda: exact(numpy, parent, models)
    else:
        run = lambda: customary(numpy, parent, models)

    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
    line = {"what": tool, "models": MODELS, "elements": elements, "seconds": round(best, 3)}
    line["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if tool == "numpy-exact" and blake3:
        digest = blake3.blake3(result.tobytes()).digest()
        line["result"] = base64.b32encode(digest).decode().lower().rstrip("=")
    print(json.dumps(line, separators=(",", ":")))


def table(ours, others):
    """Everybody's seconds and memory, and how many times ours that is."""
    rows = [
        ("flair, whole run", ours["seconds"], ours["peak_mib"]),
        ("flair, kernel alone", ours["kernel_seconds"], ours["peak_mib"]),
    ]
    rows += [(line["what"], line["seconds"], line["peak_mib"]) for line in others]
    print(f"\n{'':20} {'seconds':>8} {'x whole':>8} {'x kernel':>8} {'peak MiB':>9} {'x flair':>8}")
    for what, seconds, peak in rows:
        ratios = f"{seconds / ours['seconds']:8.2f} {seconds / ours['kernel_seconds']:8.2f}"
        print(f"{what:20} {seconds:8.3f} {ratios} {peak:9} {peak / ours['peak_mib']:8.2f}")
    for line in others:
        if line.get("result", ours["result"]) != ours["result"]:
            sys.exit(f"{line['what']} has another result than Flair")


def main():
    if len(sys.argv) > 2 and sys.argv[2] in TOOLS:
        try:
            measure(sys.argv[2], int(sys.argv[1]))
        except ImportError:
            sys.exit(3)
        return
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    ours = json.loads(sys.argv[2]) if len(sys.argv) > 2 else None
    if ours:
        print(json.dumps(ours, separators=(",", ":")))
    others = []
    for tool in TOOLS:
        command = [sys.executable, __file__, str(millions * 1_000_000), tool]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode not in (0, 3):
            sys.exit(done.returncode)
        if done.stdout:
            print(done.stdout, end="", flush=True)
            others.append(json.loads(done.stdout))
    if ours:
        table(ours, others)


if __name__ == "__main__":
    main()
