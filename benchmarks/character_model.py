"""A character-level language model in NumPy, for `benchmarks.quality`.

The text is the language reference of Python, which ships with Python itself (`pydoc_data.topics`).
The model reads `CONTEXT` characters and says how likely each next one is: an embedding, two hidden
layers with ReLU, softmax cross-entropy. About 550,000 parameters, forward and backward by hand.
"""

import re
import string
from itertools import pairwise
from typing import Any

import numpy as np

import instep

Array = np.ndarray[Any, np.dtype[Any]]
Params = dict[str, Array]

ALPHABET = "\n" + "".join(c for c in string.printable if c.isprintable())  # fixed: 96 characters
CONTEXT, EMBEDDING, HIDDEN = 32, 24, (512, 256)
PLAIN = {  # typographic quotes, dots and dashes, by their numbers
    0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2026: "...", 0x2013: "-", 0x2014: "--"
}  # fmt: skip
LAYERS = (CONTEXT * EMBEDDING, *HIDDEN, len(ALPHABET))
CHUNK, EVERY = 2000, 10  # every tenth chunk of about 2,000 characters is held out


# ---- the text --------------------------------------------------------------------------------


def paragraphs() -> list[str]:
    """Each paragraph of the language reference once, in plain characters, without tables.

    Topics quote each other, a fifth of all paragraphs: what is held out would be learned elsewhere.
    """
    from pydoc_data.topics import topics

    found: dict[str, None] = {}
    for topic in topics.values():
        for paragraph in re.split(r"\n\s*\n", topic.translate(PLAIN)):
            lines = [line.rstrip() for line in paragraph.splitlines()]
            # Rows of tables begin with + or |; underlines have no letter or digit.
            kept = [ln for ln in lines if re.search(r"\w", ln) and not re.match(r"\s*[+|]", ln)]
            found["".join(c for c in "\n".join(kept) if c in ALPHABET)] = None
    return [paragraph for paragraph in found if paragraph]


def encode(text: str) -> Array:
    return np.array([ALPHABET.index(c) for c in text], np.int64)


def split() -> tuple[Array, Array]:
    """Training and held-out text as indices into the alphabet; the same in every run."""
    parts: tuple[list[str], list[str]] = ([], [])
    length = 0
    for paragraph in paragraphs():
        parts[length // CHUNK % EVERY == EVERY - 1].append(paragraph)
        length += len(paragraph)
    train, held_out = (encode("\n\n".join(part)) for part in parts)
    return train, held_out


def windows(text: Array) -> Array:
    """(number, CONTEXT + 1): every context with the character that follows it; a view."""
    return np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)


def baselines(train: Array, held_out: Array) -> dict[str, float]:
    """Nats per held-out character by counts in the training text, every count one too high."""
    size = len(ALPHABET)
    single = np.bincount(train, minlength=size) + 1.0
    double = np.bincount(train[:-1] * size + train[1:], minlength=size * size) + 1.0
    double = double.reshape(size, size)
    single /= single.sum()
    double /= double.sum(axis=1, keepdims=True)
    return {
        "uniform": float(np.log(size)),
        "unigram": float(-np.log(single[held_out]).mean()),
        "bigram": float(-np.log(double[held_out[:-1], held_out[1:]]).mean()),
    }


# ---- the model -------------------------------------------------------------------------------


def initialize(rng: np.random.Generator, dtype: Any = np.float32) -> Params:
    """He's initialization for the weights (arXiv:1502.01852), zero biases."""
    params = {"embedding": rng.standard_normal((len(ALPHABET), EMBEDDING)).astype(dtype)}
    for k, (inputs, outputs) in enumerate(pairwise(LAYERS)):
        scale = np.sqrt(2 / inputs)
        params[f"W{k}"] = (scale * rng.standard_normal((inputs, outputs))).astype(dtype)
        params[f"b{k}"] = np.zeros(outputs, dtype)
    return params


def forward(params: Params, contexts: Array) -> tuple[Array, list[Array]]:
    """Logits (N, 96) of (N, CONTEXT) indices, and the input of each layer."""
    x = params["embedding"][contexts].reshape(len(contexts), -1)
    inputs = [x]
    last = len(LAYERS) - 2
    for k in range(last + 1):
        x = x @ params[f"W{k}"] + params[f"b{k}"]
        if k < last:
            np.maximum(x, 0, out=x)
            inputs.append(x)
    return x, inputs


def backward(
    params: Params, contexts: Array, inputs: list[Array], delta: Array, grads: Params
) -> None:
    """Write the gradient of the loss into `grads`, given that of the logits."""
    for k in range(len(LAYERS) - 2, -1, -1):
        np.matmul(inputs[k].T, delta, out=grads[f"W{k}"])
        np.sum(delta, axis=0, out=grads[f"b{k}"])
        delta = delta @ params[f"W{k}"].T
        if k > 0:
            delta *= inputs[k] > 0
    # Rows of the embedding are met many times: a product with one-hot rows adds them up, faster
    # than np.add.at.
    chosen = np.zeros((contexts.size, len(ALPHABET)), delta.dtype)
    chosen[np.arange(contexts.size), contexts.ravel()] = 1
    np.matmul(chosen.T, delta.reshape(-1, EMBEDDING), out=grads["embedding"])


def mean_loss(params: Params, rows: Array, batch: int = 2048) -> float:
    """Cross-entropy in nats per character over all rows of `windows`."""
    total = 0.0
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        logits, _ = forward(params, part[:, :-1])
        total += instep.losses.cross_entropy(logits, part[:, -1], reduction="sum").value
    return total / len(rows)


def sample(params: Params, prompt: str, length: int, rng: np.random.Generator) -> str:
    """The prompt, and characters drawn one by one from what the model says."""
    text = encode(prompt.rjust(CONTEXT, "\n")).tolist()
    for _ in range(length):
        logits, _ = forward(params, np.array([text[-CONTEXT:]]))
        weights = np.exp(logits[0] - logits[0].max(), dtype=np.float64)
        text.append(int(rng.choice(len(ALPHABET), p=weights / weights.sum())))
    return prompt + "".join(ALPHABET[i] for i in text[-length:])
