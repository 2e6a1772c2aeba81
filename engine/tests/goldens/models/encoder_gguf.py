"""Writes an encoder's weights as the GGUF file that llama.cpp's converter would make of them.

Facts used: tensor and key names of the `gguf` package; xlm-roberta's architecture is `bert`, its
position table without the rows that no token takes; nomic-bert's q, k and v stay one matrix. A GGUF
file does not say whether vectors are normalised: its readers always do.
"""

import gguf
import numpy as np

from gguf_export import write_tokenizer

ARCHITECTURES = {"bert": "bert", "xlm-roberta": "bert", "nomic_bert": "nomic-bert"}
POOLING = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS}
NAMES = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
    "emb_ln": "token_embd_norm",
}
LAYER_NAMES = {
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
    "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output", "norm1": "attn_output_norm",
    "mlp.fc11": "ffn_up", "mlp.fc12": "ffn_gate", "mlp.fc2": "ffn_down", "norm2": "layer_output_norm",
}


def write(path, config, weights, pooling):
    """`weights` under the names of a published checkpoint."""
    writer = gguf.GGUFWriter(str(path), ARCHITECTURES[config["model_type"]])
    write_keys(writer, config, pooling)
    write_tokenizer(writer)
    for key, weight in weights.items():
        data = weight.float().numpy()
        if "position_embeddings" in key:
            data = data[first_position(config):]
        writer.add_tensor(tensor_name(key), data if data.ndim == 1 else data.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_keys(writer, config, pooling):
    def value(*names):
        return next(config[name] for name in names if name in config)

    writer.add_name(f"tiny {config['model_type']}")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(value("max_position_embeddings", "n_positions") - first_position(config))
    writer.add_embedding_length(value("hidden_size", "n_embd"))
    writer.add_block_count(value("num_hidden_layers", "n_layer"))
    writer.add_feed_forward_length(value("intermediate_size", "n_inner"))
    writer.add_head_count(value("num_attention_heads", "n_head"))
    writer.add_layer_norm_eps(value("layer_norm_eps", "layer_norm_epsilon"))
    writer.add_causal_attention(False)
    writer.add_pooling_type(POOLING[pooling])
    if "rotary_emb_base" in config:
        writer.add_rope_freq_base(config["rotary_emb_base"])


def first_position(config):
    """Row of the position table that the first token takes."""
    return config["pad_token_id"] + 1 if config["model_type"] == "xlm-roberta" else 0


def tensor_name(key):
    part, suffix = key.rsplit(".", 1)
    if part in NAMES:
        return f"{NAMES[part]}.{suffix}"
    _, _, layer, rest = part.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest]}.{suffix}"
