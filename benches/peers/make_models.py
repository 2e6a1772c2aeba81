"""Seeded random Llama-shaped GGUF files with a real vocabulary, for measuring speed.

Speed does not depend on the weights' values, so the files hold random codes with factors that keep
activations finite. The vocabulary is copied from a real GGUF file.

    python make_models.py VOCABULARY.gguf OUT_FOLDER [NAME ...]

makes OUT_FOLDER/NAME.gguf for each NAME of SHAPES x MIXES, such as `llama-1b-q4_k_m`. Needs `gguf` and
`numpy`. Mixes follow llama.cpp's quantiser: Q4_K_M keeps half of the layers' `attn_v` and `ffn_down`, and
the token embedding, at Q6_K.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

# hidden, layers, heads, key heads, feed-forward
SHAPES = {
    "llama-1b": (2048, 16, 32, 8, 8192),
    "llama-3b": (3072, 28, 24, 8, 8192),
}
MIXES = {"q4_k_m": Type.Q4_K, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0}

# Offsets of the f16 factors in a block.
FACTORS = {Type.Q4_K: [0, 2], Type.Q6_K: [208], Type.Q8_0: [0], Type.Q4_0: [0]}


def random_tensor(rng: np.random.Generator, rows: int, columns: int, kind: Type) -> np.ndarray:
    """rows x bytes of one row: random codes, factors that give weights of about 1/sqrt(columns)."""
    values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // values, block_bytes), dtype=np.uint8)
    # Largest code times sub-scale, so that d * code * scale is near the wanted size.
    reach = {Type.Q4_K: 8 * 32, Type.Q6_K: 16 * 64, Type.Q8_0: 64, Type.Q4_0: 4}[kind]
    for offset in FACTORS[kind]:
        factor = rng.uniform(0.5, 1.5, len(blocks)) / reach / np.sqrt(columns)
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


def make(vocabulary: Path, out: Path, name: str) -> None:
    shape, mix_name = name.rsplit("-", 1)
    hidden, layers, heads, kv_heads, feed_forward = SHAPES[shape]
    mix = MIXES[mix_name]
    head_dim = hidden // heads
    path = out / f"{name}.gguf"
    partial = path.with_suffix(".part")
    writer = gguf.GGUFWriter(str(partial), "llama")
    writer.add_name(name)
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = copy_vocabulary(writer, gguf.GGUFReader(str(vocabulary)))
    writer.add_vocab_size(tokens)
    rng = np.random.default_rng(20260101)

    def matrix(tensor: str, rows: int, columns: int, layer: int | None = None) -> None:
        kind = kind_of(mix, tensor, layer if layer is not None else 0, layers)
        data = random_tensor(rng, rows, columns, kind)
        prefix = "" if layer is None else f"blk.{layer}."
        writer.add_tensor(f"{prefix}{tensor}.weight", data, raw_dtype=kind)

    def norm(tensor: str, layer: int | None = None) -> None:
        prefix = "" if layer is None else f"blk.{layer}."
        writer.add_tensor(f"{prefix}{tensor}.weight", np.ones(hidden, dtype=np.float32))

    matrix("token_embd", tokens, hidden)
    norm("output_norm")
    for layer in range(layers):
        norm("attn_norm", layer)
        matrix("attn_q", heads * head_dim, hidden, layer)
        matrix("attn_k", kv_heads * head_dim, hidden, layer)
        matrix("attn_v", kv_heads * head_dim, hidden, layer)
        matrix("attn_output", hidden, heads * head_dim, layer)
        norm("ffn_norm", layer)
        matrix("ffn_gate", feed_forward, hidden, layer)
        matrix("ffn_up", feed_forward, hidden, layer)
        matrix("ffn_down", hidden, feed_forward, layer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


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
