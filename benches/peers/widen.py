"""SmolLM2 in the shape of a model ten times its size: what it computes stays the same, what that costs does not.

    python widen.py SMOLLM2.gguf OUT_FOLDER [NAME ...]

makes OUT_FOLDER/NAME.gguf for each NAME of MIXES. A draft model is worth its time where a large model mostly
says what it says, and no pair of such files can be had everywhere; this one's small model is SmolLM2 as it is.
Added rows, columns and heads are zero, and norms are scaled for the wider mean, so that every added number
stays 0. `smollm2-wide-q8_0` says nearly always the same as SmolLM2; rounding to 4 bits once more makes
`smollm2-wide-q4_0` differ now and then, as a larger model does. Needs `gguf` and `numpy`.
"""

import math
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from make_models import Shape, check_space, copy_vocabulary

# Llama's 1B, with more layers and a narrower feed-forward part.
WIDE = Shape(hidden=2048, layers=30, heads=32, kv_heads=8, feed_forward=4096)
HEAD_DIM = 64
MIXES = {"smollm2-wide-q8_0": Type.Q8_0, "smollm2-wide-q4_0": Type.Q4_0}


class Source:
    """The small model."""

    def __init__(self, path: Path):
        self.reader = gguf.GGUFReader(str(path))
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self.hidden, self.layers, self.heads, self.kv_heads = (
            self.number(key)
            for key in ("embedding_length", "block_count", "attention.head_count", "attention.head_count_kv")
        )
        if self.layers != WIDE.layers or self.hidden != self.heads * HEAD_DIM:
            sys.exit(f"{path} is not SmolLM2 135M")

    def number(self, key: str):
        return self.reader.fields[f"llama.{key}"].contents()

    def values(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)

    def query_rows(self) -> np.ndarray:
        """Where the rows of its query heads go: beside the same keys as before."""
        group, wide_group = self.heads // self.kv_heads, WIDE.heads // WIDE.kv_heads
        heads = [wide_group * (head // group) + head % group for head in range(self.heads)]
        return (np.array(heads)[:, None] * HEAD_DIM + np.arange(HEAD_DIM)).reshape(-1)


def widen(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], kind: Type) -> np.ndarray:
    """Quantises a matrix, and puts its rows and blocks of columns where they go; all else is zero."""
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = gguf.quants.quantize(values, kind).reshape(values.shape[0], -1, block_bytes)
    out = np.zeros((shape[0], shape[1] // block_values, block_bytes), dtype=np.uint8)
    out[np.ix_(rows, columns[::block_values] // block_values)] = blocks
    return out.reshape(shape[0], -1)


def matrices(source: Source, layer: int) -> list[tuple[str, np.ndarray, np.ndarray, tuple[int, int]]]:
    """Name, rows, columns and wide shape of a layer's products."""
    hidden, query = np.arange(source.hidden), source.query_rows()
    key = np.arange(source.kv_heads * HEAD_DIM)
    inner = np.arange(source.number("feed_forward_length"))
    wide_key = WIDE.kv_heads * HEAD_DIM
    found = [
        ("attn_q", query, hidden, (WIDE.heads * HEAD_DIM, WIDE.hidden)),
        ("attn_k", key, hidden, (wide_key, WIDE.hidden)),
        ("attn_v", key, hidden, (wide_key, WIDE.hidden)),
        ("attn_output", hidden, query, (WIDE.hidden, WIDE.heads * HEAD_DIM)),
        ("ffn_gate", inner, hidden, (WIDE.feed_forward, WIDE.hidden)),
        ("ffn_up", inner, hidden, (WIDE.feed_forward, WIDE.hidden)),
        ("ffn_down", hidden, inner, (WIDE.hidden, WIDE.feed_forward)),
    ]
    return [(f"blk.{layer}.{name}.weight", rows, columns, shape) for name, rows, columns, shape in found]


def norms(source: Source) -> list[str]:
    layers = [f"blk.{layer}.{name}.weight" for layer in range(WIDE.layers) for name in ("attn_norm", "ffn_norm")]
    return ["output_norm.weight", *layers]


def describe(writer: gguf.GGUFWriter, name: str, source: Source) -> None:
    writer.add_name(name)
    writer.add_context_length(source.number("context_length"))
    writer.add_embedding_length(WIDE.hidden)
    writer.add_block_count(WIDE.layers)
    writer.add_feed_forward_length(WIDE.feed_forward)
    writer.add_head_count(WIDE.heads)
    writer.add_head_count_kv(WIDE.kv_heads)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(source.number("rope.freq_base"))
    # The mean of squares is that of fewer numbers among zeros.
    epsilon = source.number("attention.layer_norm_rms_epsilon")
    writer.add_layer_norm_rms_eps(epsilon * source.hidden / WIDE.hidden)


def make(path: Path, out: Path, name: str) -> None:
    source, kind = Source(path), MIXES[name]
    check_space(out, 2 * 10**9)
    target = out / f"{name}.gguf"
    partial = target.with_suffix(".part")
    writer = gguf.GGUFWriter(str(partial), "llama")
    describe(writer, name, source)
    tokens = copy_vocabulary(writer, source.reader)
    writer.add_vocab_size(tokens)
    hidden = np.arange(source.hidden)
    embedding = widen(source.values("token_embd.weight"), np.arange(tokens), hidden, (tokens, WIDE.hidden), Type.Q8_0)
    writer.add_tensor("token_embd.weight", embedding, raw_dtype=Type.Q8_0)
    for norm in norms(source):
        weights = np.zeros(WIDE.hidden, dtype=np.float32)
        weights[: source.hidden] = source.values(norm) * math.sqrt(source.hidden / WIDE.hidden)
        writer.add_tensor(norm, weights)
    for layer in range(WIDE.layers):
        for matrix, rows, columns, shape in matrices(source, layer):
            writer.add_tensor(matrix, widen(source.values(matrix), rows, columns, shape, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(target)


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[3:] or MIXES:
        if not (out / f"{name}.gguf").exists():
            print(f"making {name}", flush=True)
            make(source, out, name)


if __name__ == "__main__":
    main()
