"""Seeded random Llama-shaped GGUF files with a real vocabulary, for measuring speed.

Speed does not depend on the weights' values, so the files hold random codes with factors that keep
activations finite. The vocabulary is copied from a real GGUF file.

    python make_models.py VOCABULARY.gguf OUT_FOLDER [NAME ...]

makes OUT_FOLDER/NAME.gguf for each NAME of SHAPES x MIXES, such as `llama-1b-q4_k_m`. Needs `gguf` and
`numpy`. Mixes follow llama.cpp's quantiser: Q4_K_M keeps half of the layers' `attn_v` and `ffn_down`, and
the token embedding, at Q6_K.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

# Left free on the disk.
SPARE_BYTES = 2 * 10**9


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int


SHAPES = {
    "llama-1b": Shape(2048, 16, 32, 8, 8192),
    "llama-3b": Shape(3072, 28, 24, 8, 8192),
}
MIXES = {"q4_k_m": Type.Q4_K, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0}

# Offsets of the f16 factors in a block.
FACTORS = {Type.Q4_K: [0, 2], Type.Q6_K: [208], Type.Q8_0: [0], Type.Q4_0: [0]}


def random_tensor(rng: np.random.Generator, rows: int, columns: int, kind: Type) -> np.ndarray:
    """rows x bytes of one row: random codes, factors that give weights of about 1/sqrt(columns)."""
    values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    count = rows * columns // values
    blocks = np.frombuffer(bytearray(rng.bytes(count * block_bytes)), dtype=np.uint8).reshape(count, block_bytes)
    # Largest code times sub-scale, so that d * code * scale is near the wanted size.
    reach = {Type.Q4_K: 8 * 32, Type.Q6_K: 16 * 64, Type.Q8_0: 64, Type.Q4_0: 4}[kind]
    for offset in FACTORS[kind]:
        factor = rng.uniform(0.5, 1.5, count) / reach / np.sqrt(columns)
        # The minimum's factor makes sums positive: keep it small.
        factor = factor / 4 if offset == 2 else factor
        blocks[:, offset : offset + 2] = factor.astype("<f2").view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, columns // values * block_bytes)


def kind_of(mix: Type, tensor: str, layer: int, layers: int) -> Type:
    if mix is Type.Q4_K:
        more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        if tensor == "token_embd" or (tensor in ("attn_v", "ffn_down") and more):
            return Type.Q6_K
    return mix


def copy_vocabulary(writer: gguf.GGUFWriter, source: gguf.GGUFReader) -> int:
    """Copies all `tokenizer.` keys; returns the number of tokens."""
    for name, field in source.fields.items():
        if not name.startswith("tokenizer."):
            continue
        kind = field.types[0]
        if kind is gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), kind)
    return len(source.fields["tokenizer.ggml.tokens"].data)


@dataclass(frozen=True)
class Tensor:
    name: str
    rows: int
    columns: int
    # None: ones in f32, a norm's weights.
    kind: Type | None

    def nbytes(self) -> int:
        if self.kind is None:
            return 4 * self.rows
        values, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return self.rows * self.columns // values * block_bytes

    def data(self, rng: np.random.Generator) -> np.ndarray:
        if self.kind is None:
            return np.ones(self.rows, dtype=np.float32)
        return random_tensor(rng, self.rows, self.columns, self.kind)


def tensors(shape: Shape, mix: Type, vocabulary: int) -> list[Tensor]:
    """All tensors, in the order they are written."""

    def matrix(name: str, rows: int, columns: int, layer: int = 0) -> Tensor:
        return Tensor(name, rows, columns, kind_of(mix, name.split(".")[-2], layer, shape.layers))

    hidden, head_dim = shape.hidden, shape.hidden // shape.heads
    found = [matrix("token_embd.weight", vocabulary, hidden), Tensor("output_norm.weight", hidden, 1, None)]
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        found += [
            Tensor(f"{block}.attn_norm.weight", hidden, 1, None),
            matrix(f"{block}.attn_q.weight", hidden, hidden, layer),
            matrix(f"{block}.attn_k.weight", shape.kv_heads * head_dim, hidden, layer),
            matrix(f"{block}.attn_v.weight", shape.kv_heads * head_dim, hidden, layer),
            matrix(f"{block}.attn_output.weight", hidden, hidden, layer),
            Tensor(f"{block}.ffn_norm.weight", hidden, 1, None),
            matrix(f"{block}.ffn_gate.weight", shape.feed_forward, hidden, layer),
            matrix(f"{block}.ffn_up.weight", shape.feed_forward, hidden, layer),
            matrix(f"{block}.ffn_down.weight", hidden, shape.feed_forward, layer),
        ]
    return found


def describe(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    writer.add_name(name)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)


def make(vocabulary: Path, out: Path, name: str) -> None:
    """Writes out/name.gguf tensor by tensor: the memory it takes is that of the largest one."""
    shape_name, mix_name = name.rsplit("-", 1)
    shape, mix = SHAPES[shape_name], MIXES[mix_name]
    path = out / f"{name}.gguf"
    partial = path.with_suffix(".part")
    writer = gguf.GGUFWriter(str(partial), "llama")
    describe(writer, name, shape)
    tokens = copy_vocabulary(writer, gguf.GGUFReader(str(vocabulary)))
    writer.add_vocab_size(tokens)
    planned = tensors(shape, mix, tokens)
    check_space(out, sum(tensor.nbytes() for tensor in planned))
    rng = np.random.Generator(np.random.SFC64(20260101))
    for tensor in planned:
        # The writer takes the shape of the bytes where a tensor is quantised.
        byte_shape = (tensor.rows,) if tensor.kind is None else (tensor.rows, tensor.nbytes() // tensor.rows)
        element = np.dtype(np.float32 if tensor.kind is None else np.uint8)
        writer.add_tensor_info(tensor.name, byte_shape, element, tensor.nbytes(), raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in planned:
        writer.write_tensor_data(tensor.data(rng))
    writer.close()
    partial.rename(path)


def check_space(out: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(out).free
    if free_bytes < needed_bytes + SPARE_BYTES:
        sys.exit(f"{out} has {free_bytes / 1e9:.1f} GB free; {needed_bytes / 1e9:.1f} GB and 2 to spare are needed")


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    vocabulary, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[3:] or [f"{shape}-{mix}" for shape in SHAPES for mix in MIXES]:
        if not (out / f"{name}.gguf").exists():
            print(f"making {name}", flush=True)
            make(vocabulary, out, name)


if __name__ == "__main__":
    main()
