"""Writes a decoder's weights as the GGUF file that llama.cpp's converter would make of them.

Facts used: tensor and key names of the `gguf` package; queries and keys of the llama architecture
interleaved (rotation of neighbours instead of halves); gemma3's norms stored plus one; llama3 rope
scaling as one divisor a frequency in `rope_freqs`; phi3's fused matrices kept fused.
"""

import math

import gguf
import numpy as np
import torch

from vocabulary import CHAT_TEMPLATE, MERGES, SPECIALS, byte_level_tokens

ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
    "gemma3_text": "gemma3", "phi3": "phi3",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "self_attn.qkv_proj": "attn_qkv", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
}
# gemma3 has four norms a layer, and gives one of the names above another meaning.
GEMMA3_NAMES = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write(path, config, weights, quantised=False):
    """Returns the weights as a reader of the file would have them, under their original names."""
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(str(path), architecture)
    write_keys(writer, architecture, config, quantised)
    write_tokenizer(writer)
    write_rope_factors(writer, architecture, config)
    read_back = {}
    for key, weight in weights.items():
        if key == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        read_back[key] = write_tensor(writer, architecture, config, key, weight, quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_back


def write_keys(writer, architecture, config, quantised):
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    writer.add_name(f"tiny {config['model_type']}")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(2)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    if "head_dim" in config:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        writer.add_sliding_window(config["sliding_window"])
    if architecture == "llama":
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_dim)
    if architecture == "gemma3":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])
    if architecture == "phi3":
        writer.add_rope_dimension_count(int(head_dim * config.get("partial_rotary_factor", 1.0)))
        writer.add_rope_scaling_orig_ctx_len(config["original_max_position_embeddings"])
        if config.get("rope_scaling"):
            ratio = config["max_position_embeddings"] / config["original_max_position_embeddings"]
            factor = math.sqrt(1 + math.log(ratio) / math.log(config["original_max_position_embeddings"]))
            writer.add_rope_scaling_attn_factors(factor)


def write_tokenizer(writer):
    tokens = byte_level_tokens()
    kinds = [gguf.TokenType.CONTROL if t in SPECIALS else gguf.TokenType.NORMAL for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{a} {b}" for a, b in MERGES])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_rope_factors(writer, architecture, config):
    scaling = config.get("rope_scaling") or {}
    if architecture == "llama" and scaling.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", np.array(llama3_divisors(config), dtype=np.float32))
    if architecture == "phi3" and scaling:
        for kind in ("long", "short"):
            factors = np.array(scaling[f"{kind}_factor"], dtype=np.float32)
            writer.add_tensor(f"rope_factors_{kind}.weight", factors)


def llama3_divisors(config):
    """One divisor a frequency: 1 for short waves, `factor` for long ones, smooth between."""
    scaling, head_dim = config["rope_scaling"], config["head_dim"]
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * config["rope_theta"] ** (i / head_dim)
        smooth = min(max((original / wavelength - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return divisors


def write_tensor(writer, architecture, config, key, weight, quantised):
    stored = weight.float()
    heads = rotated_heads(architecture, config, key)
    if heads:
        stored = interleave(stored, heads)
    if architecture == "gemma3" and key.endswith("norm.weight"):
        stored = stored + 1
    data = stored.numpy()
    if data.ndim == 1:
        writer.add_tensor(tensor_name(architecture, key), data)
    elif quantised:
        kind = gguf.GGMLQuantizationType.Q8_0
        packed = gguf.quants.quantize(data, kind)
        writer.add_tensor(tensor_name(architecture, key), packed, raw_dtype=kind)
        stored = torch.from_numpy(gguf.quants.dequantize(packed, kind))
    else:
        writer.add_tensor(tensor_name(architecture, key), data.astype(np.float16))
    return deinterleave(stored, heads) if heads else stored


def rotated_heads(architecture, config, key):
    """Number of heads in a matrix whose rows are to be interleaved, else 0."""
    if architecture != "llama":
        return 0
    if "q_proj" in key:
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if "k_proj" in key else 0


def interleave(weight, heads):
    """Rows (first half, second half) of each head to (pair, pair, ...)."""
    rows = weight.shape[0] // heads
    return weight.reshape(heads, 2, rows // 2, -1).swapaxes(1, 2).reshape(weight.shape).contiguous()


def deinterleave(weight, heads):
    rows = weight.shape[0] // heads
    return weight.reshape(heads, rows // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape).contiguous()


def tensor_name(architecture, key):
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
           "lm_head.weight": "output.weight"}
    if key in top:
        return top[key]
    _, _, layer, rest = key.split(".", 3)
    part, suffix = rest.rsplit(".", 1)
    names = {**LAYER_NAMES, **(GEMMA3_NAMES if architecture == "gemma3" else {})}
    return f"blk.{layer}.{names[part]}.{suffix}"
