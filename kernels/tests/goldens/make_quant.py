"""Writes quant.bin: random blocks of every format with the values the `gguf` package gives them.

Run with `gguf` and `numpy` installed: python kernels/tests/goldens/make_quant.py
Record: name (8 bytes, zero-padded), block bytes u32, values u32, the blocks, the values as f32; all
little-endian. Read by kernels/tests/quant_golden.rs.
"""

import pathlib
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

# Byte offsets of the f16 scales in each format's block; MXFP4 has an exponent byte instead.
F16_FIELDS = {
    "F32": [], "F16": [], "BF16": [],
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}
# Typical, zero, negative zero, negative, smallest subnormal, largest finite.
SCALES = [0.0123, 0.0, -0.0, -1.7, 5.960464477539063e-08, 65504.0]
MXFP4_EXPONENTS = [127, 0, 1, 2, 120, 254]


def blocks_of(name, kind, rng):
    """One block per scale (more for formats of one value a block), all other bits random."""
    values, size = GGML_QUANT_SIZES[kind]
    if values == 1:
        return special_floats(kind, rng)
    blocks = rng.integers(0, 256, (len(SCALES), size), dtype=np.uint8)
    for row, scale in enumerate(SCALES):
        for index, offset in enumerate(F16_FIELDS[name]):
            # The second field (min) takes another of the scales, so that they differ.
            value = SCALES[(row + 2 * index) % len(SCALES)] if index else scale
            blocks[row, offset:offset + 2] = np.array([value], np.float16).view(np.uint8)
        if name == "MXFP4":
            blocks[row, 0] = MXFP4_EXPONENTS[row]
    return blocks


def special_floats(kind, rng):
    values = np.concatenate([
        rng.standard_normal(50), [0.0, -0.0, 1.0, -1.0, 6e-8, 6.1e-5, 65504.0, np.inf, -np.inf]
    ]).astype(np.float32)
    return quants.quantize(values.reshape(-1, 1), kind).view(np.uint8).reshape(len(values), -1)


def main():
    rng = np.random.default_rng(20240607)
    with open(pathlib.Path(__file__).with_name("quant.bin"), "wb") as out:
        for name in F16_FIELDS:
            kind = GGMLQuantizationType[name]
            blocks = blocks_of(name, kind, rng)
            values = quants.dequantize(blocks, kind).astype("<f4").ravel()
            out.write(struct.pack("<8sII", name.encode(), blocks.size, values.size))
            out.write(blocks.tobytes() + values.tobytes())


main()
