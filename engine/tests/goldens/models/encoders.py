"""The tiny encoders: their configurations, weights and golden vectors.

Each asks for another pooling, through the files sentence-transformers writes: bert mean and
normalised, xlm-roberta first token and normalised, nomic-bert mean as it is.
"""

import shutil

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, NomicBertConfig, NomicBertModel, XLMRobertaConfig, XLMRobertaModel

import encoder_gguf
from common import VOCABULARY, fill, prompts, rounded, write_golden, write_json
from vocabulary import write_unigram, write_word_piece

LENGTHS = (1, 2, 7, 31, 32, 33, 60)
HIDDEN, LAYERS, HEADS, INNER, CONTEXT = 64, 2, 4, 96, 64
GAINS = [("query", 1.6), ("key", 1.6), ("q_proj", 1.6), ("k_proj", 1.6)]

SHARED = {
    "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "intermediate_size": INNER, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02,
    "position_embedding_type": "absolute", "torch_dtype": "float32",
}
BERT = {
    **SHARED, "model_type": "bert", "architectures": ["BertModel"], "layer_norm_eps": 1e-12,
    "max_position_embeddings": CONTEXT, "type_vocab_size": 2, "pad_token_id": 0,
}
# Positions start after the padding id, so the table has two rows more than the context.
XLM_ROBERTA = {
    **SHARED, "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "layer_norm_eps": 1e-5,
    "max_position_embeddings": CONTEXT + 2, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2,
}
# Field names of the published checkpoints, which follow GPT-2's.
NOMIC_BERT = {
    "model_type": "nomic_bert", "architectures": ["NomicBertModel"], "vocab_size": VOCABULARY,
    "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": INNER, "n_positions": CONTEXT,
    "type_vocab_size": 2, "pad_token_id": 0, "activation_function": "swiglu", "prenorm": False,
    "layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "qkv_proj_bias": False,
    "mlp_fc1_bias": False, "mlp_fc2_bias": False, "use_rms_norm": False, "causal": False,
    "parallel_block": False, "torch_dtype": "float32",
}


def make_bert(folder):
    model = BertModel(BertConfig(**BERT, attn_implementation="eager"), add_pooling_layer=False).eval()
    write_model(folder, "bert", BERT, model, pooling="mean", normalise=True, words=write_word_piece)


def make_xlm_roberta(folder):
    config = XLMRobertaConfig(**XLM_ROBERTA, attn_implementation="eager")
    model = XLMRobertaModel(config, add_pooling_layer=False).eval()
    write_model(folder, "xlm-roberta", XLM_ROBERTA, model, pooling="cls", normalise=True, words=write_unigram)


def make_nomic_bert(folder):
    config = NomicBertConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=INNER, max_position_embeddings=CONTEXT, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0})
    model = NomicBertModel(config).eval()
    write_model(folder, "nomic-bert", NOMIC_BERT, model, pooling="mean", normalise=False,
                words=write_word_piece, published=published_nomic_names)


def published_nomic_names(weights):
    """From transformers' names to the checkpoints': q, k and v stacked, short names elsewhere."""
    names = [("embeddings.LayerNorm", "emb_ln"), ("layers.", "encoder.layers."),
             ("self_attn.o_proj", "attn.out_proj"), ("up_proj", "fc11"), ("gate_proj", "fc12"),
             ("down_proj", "fc2"), ("post_attention_layernorm", "norm1"), ("post_mlp_layernorm", "norm2")]
    published = {}
    for key, weight in weights.items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        if "q_proj" not in key and "k_proj" not in key and "v_proj" not in key:
            published[key] = weight
    for layer in range(LAYERS):
        parts = [weights[f"layers.{layer}.self_attn.{p}_proj.weight"] for p in "qkv"]
        published[f"encoder.layers.{layer}.attn.Wqkv.weight"] = torch.cat(parts)
    return published


def write_model(folder, name, config, model, pooling, normalise, words, published=dict):
    shutil.rmtree(folder, ignore_errors=True)
    write_json(folder / "config.json", config)
    words(folder)
    write_pooling(folder, pooling, normalise)
    fill(model, name, GAINS)
    weights = {k: v.to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    weights = published(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    encoder_gguf.write(folder / "model.gguf", config, weights, pooling)
    header = {"model": name, "weights": [".", "model.gguf"], "pooling": pooling, "normalise": normalise}
    cases = [case(model, ids, pooling, normalise) for ids in prompts(name, LENGTHS, specials=5)]
    write_golden(folder / "golden.json", header, cases)


def write_pooling(folder, pooling, normalise):
    kinds = ["Transformer", "Pooling"] + (["Normalize"] if normalise else [])
    paths = ["", "1_Pooling", "2_Normalize"]
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths))])
    write_json(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False})


@torch.no_grad()
def case(model, ids, pooling, normalise):
    """`vector` is what the folder asks for; `mean` and `cls` are the two poolings before normalising."""
    hidden = model(torch.tensor([ids])).last_hidden_state[0]
    mean, cls = hidden.mean(0), hidden[0]
    vector = {"mean": mean, "cls": cls}[pooling]
    if normalise:
        vector = torch.nn.functional.normalize(vector, dim=0)
    return {"tokens": ids, "vector": rounded(vector), "mean": rounded(mean), "cls": rounded(cls)}


MAKERS = {"bert": make_bert, "xlm-roberta": make_xlm_roberta, "nomic-bert": make_nomic_bert}
