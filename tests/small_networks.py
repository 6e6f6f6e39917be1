"""One small network per kind that `recommend` knows, with hand-written backward passes.

All read images of 8 x 8 pixels, (N, 8, 8), and end in a dense layer. `NETWORKS[kind]` makes the
parameters and is (initialize, forward, backward): forward returns (outputs, cache), and backward
the gradients of the parameters given that of the outputs.
"""

import numpy as np

WIDTH = 32
SIDE = 8


def normal(rng, *shape):
    return rng.standard_normal(shape) / np.sqrt(shape[0])


def mlp_initialize(rng, outputs):
    return {"W": np.sqrt(2) * normal(rng, SIDE * SIDE, WIDTH), "b": np.zeros(WIDTH)}, WIDTH


def mlp_forward(p, x):
    x = x.reshape(len(x), -1)
    hidden = np.maximum(x @ p["W"] + p["b"], 0)
    return hidden, (x, hidden)


def mlp_backward(p, cache, delta):
    x, hidden = cache
    delta = delta * (hidden > 0)
    return {"W": x.T @ delta, "b": delta.sum(0)}


def cnn_initialize(rng, outputs):
    """3 x 3 filters, ReLU, means over 2 x 2: (N, 3, 3, channels) features."""
    return {"W": np.sqrt(2) * normal(rng, 9, WIDTH), "b": np.zeros(WIDTH)}, 9 * WIDTH


def cnn_forward(p, x):
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    patches = patches.reshape(len(x), 6, 6, 9)
    hidden = np.maximum(patches @ p["W"] + p["b"], 0)
    pooled = hidden.reshape(len(x), 3, 2, 3, 2, WIDTH).mean((2, 4))
    return pooled.reshape(len(x), -1), (patches, hidden)


def cnn_backward(p, cache, delta):
    patches, hidden = cache
    delta = delta.reshape(-1, 3, 1, 3, 1, WIDTH) / 4
    delta = np.broadcast_to(delta, (len(hidden), 3, 2, 3, 2, WIDTH)).reshape(hidden.shape)
    delta = delta * (hidden > 0)
    return {"W": np.tensordot(patches, delta, ((0, 1, 2), (0, 1, 2))), "b": delta.sum((0, 1, 2))}


def rnn_initialize(rng, outputs):
    """Elman's network over the rows of pixels."""
    start = {"U": normal(rng, SIDE, WIDTH), "V": normal(rng, WIDTH, WIDTH), "b": np.zeros(WIDTH)}
    return start, WIDTH


def rnn_forward(p, x):
    hidden = [np.zeros((len(x), WIDTH), x.dtype)]
    for row in range(SIDE):
        hidden.append(np.tanh(x[:, row] @ p["U"] + hidden[-1] @ p["V"] + p["b"]))
    return hidden[-1], (x, hidden)


def rnn_backward(p, cache, delta):
    x, hidden = cache
    grads = {name: np.zeros_like(value) for name, value in p.items() if name in "UVb"}
    for row in reversed(range(SIDE)):
        inner = delta * (1 - hidden[row + 1] ** 2)
        grads["U"] += x[:, row].T @ inner
        grads["V"] += hidden[row].T @ inner
        grads["b"] += inner.sum(0)
        delta = inner @ p["V"].T
    return grads


def transformer_initialize(rng, outputs):
    """One head of attention over the rows of pixels, with a residual; the mean over the rows."""
    start = {name: normal(rng, WIDTH, WIDTH) for name in ("Q", "K", "V")}
    return {**start, "E": normal(rng, SIDE, WIDTH), "P": normal(rng, SIDE, WIDTH)}, WIDTH


def transformer_forward(p, x):
    z = x @ p["E"] + p["P"]
    q, k, v = z @ p["Q"], z @ p["K"], z @ p["V"]
    scores = q @ k.swapaxes(1, 2) / np.sqrt(WIDTH)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    weights = scores / scores.sum(-1, keepdims=True)
    return (z + weights @ v).mean(1), (x, z, q, k, v, weights)


def transformer_backward(p, cache, delta):
    x, z, q, k, v, weights = cache
    delta = np.broadcast_to(delta[:, None] / SIDE, z.shape)
    dv = weights.swapaxes(1, 2) @ delta
    dweights = delta @ v.swapaxes(1, 2)
    dscores = weights * (dweights - (dweights * weights).sum(-1, keepdims=True)) / np.sqrt(WIDTH)
    dq, dk = dscores @ k, dscores.swapaxes(1, 2) @ q
    dz = delta + dq @ p["Q"].T + dk @ p["K"].T + dv @ p["V"].T
    inner = {
        name: np.tensordot(z, d, ((0, 1), (0, 1))) for name, d in (("Q", dq), ("K", dk), ("V", dv))
    }
    return {**inner, "E": np.tensordot(x, dz, ((0, 1), (0, 1))), "P": dz.sum(0)}


KINDS = {
    "mlp": (mlp_initialize, mlp_forward, mlp_backward),
    "cnn": (cnn_initialize, cnn_forward, cnn_backward),
    "rnn": (rnn_initialize, rnn_forward, rnn_backward),
    "transformer": (transformer_initialize, transformer_forward, transformer_backward),
}


class Network:
    """Features of a kind, then a dense layer: `forward(x)`, then `backward(gradient)`."""

    def __init__(self, kind, outputs, rng, dtype=np.float32):
        initialize, self._forward, self._backward = KINDS[kind]
        params, features = initialize(rng, outputs)
        params |= {"head": normal(rng, features, outputs), "bias": np.zeros(outputs)}
        self.params = {name: value.astype(dtype) for name, value in params.items()}

    def forward(self, x):
        self._features, self._cache = self._forward(self.params, x)
        return self._features @ self.params["head"] + self.params["bias"]

    def backward(self, delta):
        head = {"head": self._features.T @ delta, "bias": delta.sum(0)}
        return self._backward(self.params, self._cache, delta @ self.params["head"].T) | head
