"""The tiny decoders: their configurations, weights, GGUF twins and golden logits.

Configurations are written as published checkpoints write them (`rope_theta` beside `rope_scaling`),
except qwen3's, which uses the newer `rope_parameters`. qwen2's weights are split into two files.
"""

import shutil

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import gguf_export
from common import VOCABULARY, fill, prompts, rounded, write_golden, write_json
from vocabulary import write_byte_level

# One position, inside a page of 32, a full page, one past it, nearly two pages.
LENGTHS = (1, 5, 32, 33, 60)
# Of the longest prompt also: around the window of 16 and around the page border.
EXTRA_POSITIONS = (0, 15, 16, 17, 31, 32, 47)

BASE = {
    "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}
CONFIGS = {
    "llama": {
        **BASE, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "head_dim": 16,
        "attention_bias": False, "mlp_bias": False,
        # Wavelengths run from 6 to 20,000 positions: unscaled below 8, scaled by 8 above 32.
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {
        **BASE, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "head_dim": 16,
        "sliding_window": 16,
    },
    "qwen2": {
        **BASE, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "tie_word_embeddings": True, "use_sliding_window": False,
        "sliding_window": 16, "max_window_layers": 2,
    },
    "qwen3": {
        **{k: v for k, v in BASE.items() if k not in ("rope_theta", "torch_dtype")},
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32,
        "intermediate_size": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "dtype": "bfloat16",
    },
    "gemma3": {
        **{k: v for k, v in BASE.items() if k != "hidden_act"},
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 7, "num_key_value_heads": 1, "head_dim": 16,
        "query_pre_attn_scalar": 16, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 16, "sliding_window_pattern": 6, "tie_word_embeddings": True,
        "attention_bias": False,
    },
    "phi3": {
        **BASE, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"],
        "original_max_position_embeddings": 256, "sliding_window": 16, "pad_token_id": 3,
    },
    "phi3-longrope": {
        **BASE, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "intermediate_size": 64,
        "original_max_position_embeddings": 32, "partial_rotary_factor": 0.75, "sliding_window": None,
        "pad_token_id": 3,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.5],
            "long_factor": [1.1, 1.5, 2.2, 3.5, 5.0, 8.0],
        },
    },
}
# Queries and keys large enough that attention is not flat; logits spread over several units.
GAINS = [("q_proj", 1.6), ("k_proj", 1.6), ("qkv_proj", 1.6), ("lm_head", 3.0)]
# A tied embedding is also the output matrix, whose inputs are normalised: keep its rows short.
TIED_GAINS = [("q_proj", 1.6), ("k_proj", 1.6), ("embed_tokens", 0.35)]


def make(name, folder):
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / "config.json", CONFIGS[name])
    write_byte_level(folder)
    write_weights(name, folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    gguf_export.write(folder / "model.gguf", CONFIGS[name], model.state_dict())
    write_golden(folder / "golden.json", {"model": name, "weights": [".", "model.gguf"]},
                 golden_cases(name, model))
    if name == "llama":
        make_quantised(name, folder, model)


def write_weights(name, folder):
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tied = CONFIGS[name]["tie_word_embeddings"]
    fill(model, name, TIED_GAINS if tied else GAINS, norm_base=0.0 if name == "gemma3" else 1.0)
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()
               if not (tied and k == "lm_head.weight")}
    if name == "qwen2":
        write_sharded(folder, weights)
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_sharded(folder, weights):
    """Two files and the index that says which holds what."""
    keys = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": keys[::2], "model-00002-of-00002.safetensors": keys[1::2]}
    for file, part in shards.items():
        save_file({k: weights[k] for k in part}, folder / file, metadata={"format": "pt"})
    size = sum(w.numel() * w.element_size() for w in weights.values())
    write_json(folder / "model.safetensors.index.json", {
        "metadata": {"total_size": size},
        "weight_map": {key: file for file, part in shards.items() for key in part},
    })


def golden_cases(name, model):
    if name == "phi3-longrope":
        # The short factors hold while the context is within the original one, the long ones beyond.
        return ([case(model, ids, context=32) for ids in prompts(name, (1, 5, 32))]
                + [case(model, ids, context=256) for ids in prompts(name, (33, 60))])
    return [case(model, ids, context=256) for ids in prompts(name, LENGTHS)]


@torch.no_grad()
def case(model, ids, context):
    logits = model(torch.tensor([ids])).logits[0]
    positions = {len(ids) - 1}
    if len(ids) == max(LENGTHS):
        positions.update(EXTRA_POSITIONS)
    return {
        "context_tokens": context, "tokens": ids,
        "logits": [{"position": p, "values": rounded(logits[p])} for p in sorted(positions)],
    }


def make_quantised(name, folder, model):
    """Q8_0 file, and the golden of the weights as they read back from it."""
    read_back = gguf_export.write(folder / "model-q8_0.gguf", CONFIGS[name], model.state_dict(), quantised=True)
    model.load_state_dict(read_back)
    write_golden(folder / "golden-q8_0.json", {"model": name, "weights": ["model-q8_0.gguf"]},
                 golden_cases(name, model))


def maker(name):
    return lambda folder: make(name, folder)


MAKERS = {name: maker(name) for name in CONFIGS}


