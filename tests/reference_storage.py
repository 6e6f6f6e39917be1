"""The oracle of states in 16 and 8 bits: random bits and codecs once more, in NumPy.

Nothing here imports the package under test. Values are float32 in the order of the walk; every
operation is one of float32 or exact, so that codes agree bit for bit."""

import numpy as np

BLOCK = 128
PIECE = 16384
FORMATS = {
    "momentum_buffer": "signed",
    "exp_avg": "signed",
    "square_avg": "squared",
    "exp_avg_sq": "squared",
    "max_exp_avg_sq": "squared",
}
NEAREST = {"max_exp_avg_sq"}  # rounded without random bits
_F = np.float32
_WRAP = 2**64 - 1


def _mix(z):
    """splitmix64: the number after the state z."""
    z = (z + 0x9E3779B97F4A7C15) & _WRAP
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _WRAP
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _WRAP
    return z ^ z >> 31


def random_bits(seed, step, leaf, size, stream):
    """16 bits for each element of a leaf: of state number `stream` of its rule, in the 0-based step
    of the optimizer."""
    bits = np.empty(size, np.int64)
    for start in range(0, size, PIECE):
        count = min(PIECE, size - start)
        part = 2 * (start // PIECE) + stream // 2
        key = _mix(_mix(_mix(_mix(seed) ^ step) ^ leaf) ^ part)
        place = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9)
        x = place + np.uint32(key & 0xFFFFFFFF)
        x = (x ^ x >> np.uint32(15) ^ np.uint32(key >> 32)) * np.uint32(0x735A2D97)
        x ^= x >> np.uint32(16)
        bits[start : start + count] = x & np.uint32(0xFFFF) if stream % 2 else x >> np.uint32(16)
    return bits


def nearest_bits(size):
    return np.full(size, 0x8000)


# ---- bfloat16 --------------------------------------------------------------------------------


def encode_bfloat16(values, r):
    """The bits of bfloat16 numbers: r is added to the bits that do not fit."""
    bits = values.astype(_F).view(np.uint32).astype(np.int64)
    fits = (bits & 0x7FFFFFFF) < 0x7F7F0000
    return ((bits + np.where(fits, r, 0)) >> 16).astype(np.uint16)


def decode_bfloat16(codes):
    return (codes.astype(np.uint32) << np.uint32(16)).view(_F)


# ---- blocks ----------------------------------------------------------------------------------


def _reduced(scale):
    """To 21 significant bits, ties away from 0."""
    part, exponent = np.frexp(np.float64(scale))
    return _F(np.ldexp(np.floor(part * 2**21 + 0.5), exponent - 21))


def _signed(x, largest, r):
    steps = np.rint(x * (_F(127 * 2**15) / largest)).astype(np.int64)
    return (steps + r // 2) >> 15


def _squared(x, largest, r):
    z = x * (_F(65025) / largest)
    k = np.floor(np.sqrt(z))
    width = k * _F(2.0**-15) + _F(2.0**-16)
    return np.minimum(k + np.where(k < 1, x > 0, width * r.astype(_F) < z - k * k), 255)


@np.errstate(all="ignore")
def encode_blocks(values, r, kind):
    """(codes, scales) of the formats "signed" and "squared"."""
    signed = kind == "signed"
    values = values.astype(_F)
    codes = np.zeros(values.size, np.int8 if signed else np.uint8)
    scales = np.zeros(-(-values.size // BLOCK), _F)
    for k in range(scales.size):
        part = slice(k * BLOCK, (k + 1) * BLOCK)
        x = values[part]
        largest = np.max(np.abs(x))
        if not np.isfinite(x).all() or (not signed and (x < 0).any()):
            scales[k] = np.nan
        elif largest > 0:
            largest = np.maximum(largest, _F(2.0**-100))
            codes[part] = (_signed if signed else _squared)(x, largest, r[part])
            scales[k] = _reduced(largest / _F(127 if signed else 65025))
            most = _F(float.fromhex("0x1.0204p121" if signed else "0x1.0203p112"))
            scales[k] = np.minimum(scales[k], most)
    return codes, scales


def decode_blocks(codes, scales):
    scale = np.repeat(scales, BLOCK)[: codes.size]
    if codes.dtype == np.int8:
        return codes.astype(_F) * scale
    return codes.astype(_F) ** 2 * scale


# ---- any state -------------------------------------------------------------------------------


def encode(name, values, state_dtype, r):
    """(codes, scales) of a state; scales None for bfloat16."""
    if state_dtype == "bfloat16":
        return encode_bfloat16(values, r), None
    return encode_blocks(values, r, FORMATS[name])


def decode(codes, scales):
    return decode_bfloat16(codes) if scales is None else decode_blocks(codes, scales)
