"""Writes one small sound file of each kind with the reference writers (packages gguf, safetensors, numpy).

Seeds for the fuzz targets; engine/tests/files/real.rs also reads them as a check against those writers.
"""

import pathlib

import gguf
import numpy as np
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent


def write_gguf(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("seed")
    writer.add_context_length(128)
    writer.add_block_count(1)
    writer.add_rope_freq_base(10000.0)
    writer.add_custom_alignment(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "é", "中"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_token_scores([0.0, -1.0, -2.5, 0.0])
    writer.add_add_bos_token(True)
    values = np.linspace(-1, 1, 2 * 64, dtype=np.float32).reshape(2, 64)
    writer.add_tensor("output_norm.weight", values[0])
    writer.add_tensor("token_embd.weight", values.astype(np.float16))
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1):
        writer.add_tensor(f"blk.0.{kind.name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors(path):
    values = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    tensors = {"weight": values, "half": values.astype(np.float16), "ids": np.arange(4, dtype=np.int64)}
    save_file(tensors, path, metadata={"format": "np"})


write_gguf(HERE / "gguf" / "tiny.gguf")
write_safetensors(HERE / "safetensors" / "tiny.safetensors")
