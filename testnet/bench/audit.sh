#!/bin/sh
# How long an audit of many aggregates takes: audit.sh FLAIR [AGGREGATES] [MEGABYTES]. Works in a folder of its own, which
# it removes. Every update moves all weights a little, so no tensor is kept from one aggregate to the next.
set -eu
flair=$1 aggregates=${2:-100} megabytes=${3:-90}
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
export FLAIR_HOME=$top/home
cat >"$top/model.py" <<'PYTHON'
import json, random, struct, sys
path, what = sys.argv[1], int(sys.argv[2])
if what:  # A model of so many megabytes: four tensors of f32, as after training.
    side = what * 250_000 // 4
    spans = {f"layer{n}.weight": {"dtype": "F32", "shape": [side], "data_offsets": [n * side * 4, (n + 1) * side * 4]} for n in range(4)}
    header = json.dumps(spans).encode()
    random.seed(1)
    block = b"".join(struct.pack("<f", random.gauss(0, 0.05)) for _ in range(50_000))
    data = (block * (what * 1_000_000 // len(block) + 1))[: side * 16]
    open(path, "wb").write(struct.pack("<Q", len(header)) + header + data)
else:  # A step: the low bits of every weight change.
    with open(path, "r+b") as file:
        raw = bytearray(file.read())
        start = 8 + struct.unpack("<Q", raw[:8])[0]
        size = (len(raw) - start) // 4
        noise = random.Random(int(sys.argv[3])).randbytes(size)
        raw[start::4] = bytes(map(int.__xor__, raw[start::4], noise))
        file.seek(0)
        file.write(raw)
PYTHON
mkdir "$top/work"
cd "$top/work"
python3 "$top/model.py" model.safetensors "$megabytes"
"$flair" init model.safetensors --name audited -m first --every 1 --person ana >/dev/null
number=0
while [ "$number" -lt "$aggregates" ]; do
    number=$((number + 1))
    python3 "$top/model.py" model.safetensors 0 "$number"
    "$flair" commit -m "step $number" --examples 100 --quiet
    "$flair" push --quiet
    "$flair" aggregate --quiet
    "$flair" pull --quiet
done
du -sh "$FLAIR_HOME"
/usr/bin/env time -v "$flair" audit 2>"$top/time" | tail -n 1 | cut -c 1-40
"$flair" audit --json | grep -E '"(operations|bytes|millis)"'
grep -E 'Elapsed|Maximum resident' "$top/time" || true
