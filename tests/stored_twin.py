"""The codecs of csrc/stored.h and the random bits of csrc/rng.h once more, in NumPy.

All arrays are flat, in the order of the walk. Formulas: docs/math.md."""

import numpy as np

BLOCK, PIECE = 128, 16384
NEAREST = np.uint32(1 << 15)
_MASK = (1 << 64) - 1
_U32, _F32 = np.uint32, np.float32


def _mix(z):
    """splitmix64 from state z."""
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return z ^ z >> 31


def random_words(n, seed, step, leaf, word):
    """32 random bits for each element of a leaf."""
    key = _mix(_mix(_mix(seed) ^ step) ^ leaf)
    parts = []
    for piece in range(-(-n // PIECE)):
        z = _mix(key ^ (2 * piece + word))
        place = np.arange(min(PIECE, n - piece * PIECE), dtype=np.uint64)
        place = (place * 0x9E3779B9 + (z & 0xFFFFFFFF)).astype(_U32)
        x = (place ^ place >> _U32(15) ^ _U32(z >> 32)) * _U32(0x735A2D97)
        parts.append(x ^ x >> _U32(16))
    return np.concatenate([np.zeros(0, _U32), *parts])


def random_bits(n, seed, step, leaf, stream):
    """The 16 bits by which state number `stream` of a leaf is rounded; a bfloat16 parameter: 3."""
    word = random_words(n, seed, step, leaf, stream // 2)
    return word >> _U32(16) if stream % 2 else word & _U32(0xFFFF)


def encode_bfloat16(x, r):
    """The upper halves of the float32 patterns, after adding r to the lower ones."""
    pattern = x.view(_U32)
    finite = (pattern & _U32(0x7FFFFFFF)) < _U32(0x7F7F0000)
    return ((pattern + np.where(finite, r, _U32(0))) >> _U32(16)).astype(np.uint16)


def decode_bfloat16(code, scales=None):
    return (code.astype(_U32) << _U32(16)).view(_F32)


def _blocks(x):
    return [slice(i, min(i + BLOCK, x.size)) for i in range(0, x.size, BLOCK)]


def _scale(largest, parts, most):
    """largest / parts to 21 bits."""
    pattern = (np.array([largest / _F32(parts)], _F32).view(_U32) + _U32(4)) & ~_U32(7)
    return min(pattern.view(_F32)[0], _F32(most))


def _encode_blocks(x, r, dtype, sizes, encode):
    codes, scales = np.zeros(x.size, dtype), np.zeros(len(_blocks(x)), _F32)
    for k, block in enumerate(_blocks(x)):
        largest = sizes[block].max()
        if not np.isfinite(largest):
            scales[k] = np.nan
        elif largest > 0:
            largest = max(largest, _F32(2.0**-100))
            codes[block], scales[k] = encode(x[block], r[block], largest)
    return codes, scales


def encode_int8(x, r):
    def encode(part, bits, largest):
        factor = _F32(127) * _F32(2.0**15) / largest
        steps = (part * factor + _F32(3 * 2.0**22)).view(_U32) - _U32(0x4B400000)
        codes = (steps + (bits >> _U32(1))).view(np.int32) >> 15
        return codes.astype(np.int8), _scale(largest, 127, float.fromhex("0x1.0204p+121"))

    return _encode_blocks(x, r, np.int8, np.abs(x), encode)


def encode_uint8(x, r):
    def encode(part, bits, largest):
        z = part * (_F32(65025) / largest)
        k = np.floor(np.sqrt(z))
        width = k * _F32(2.0**-15) + np.where(k < 1, _F32(0), _F32(2.0**-16))
        up = width * bits.astype(_F32) < z - k * k
        codes = np.minimum(k.astype(np.int32) + up, 255)
        return codes.astype(np.uint8), _scale(largest, 65025, float.fromhex("0x1.0203p+112"))

    return _encode_blocks(x, r, np.uint8, np.where(np.signbit(x), _F32(np.inf), x), encode)


def decode_int8(code, scales):
    return code.astype(_F32) * np.repeat(scales, BLOCK)[: code.size]


def decode_uint8(code, scales):
    root = code.astype(_F32)
    return root * root * np.repeat(scales, BLOCK)[: code.size]
