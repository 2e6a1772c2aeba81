"""Makes greedy.json: greedy continuations of SmolLM2-135M-Instruct (Q4_1) by another implementation.

    python make_greedy.py [MODEL.gguf]

Without an argument it takes the model from the folder of test models (JANUS_TEST_MODELS).

The GGUF's weights are dequantised with the `gguf` package and run in float32 by transformers. An
engine that quantises activations may differ where two tokens are nearly tied; `margins` holds, step
by step, by how much the best logit leads the second (`seconds` names it), to judge such a flip.
Generation ignores end-of-sequence, so that every prompt has all its steps.

Needs ../models/requirements.txt. About two minutes on one core.
"""

import json
import os
import sys
from pathlib import Path

import gguf
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
TEST_MODELS = Path(os.environ.get("JANUS_TEST_MODELS") or Path.home() / ".cache/janus-test-models")
MODEL = TEST_MODELS / "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
STEPS = 64
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

CHATS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain photosynthesis to a ten-year-old in three sentences.",
    "List five fruits that are yellow, one per line.",
    "What is 17 + 25? Think step by step.",
    "Translate to Spanish: The weather is nice today.",
    "Schreibe einen kurzen Satz über Berlin.",
    "Quelle est la différence entre un chat et un chien ?",
    "日本の首都はどこですか？",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Fix this sentence: he dont likes apples neither",
    "Give me a JSON object with the keys name, age and city for a made-up person.",
    "Why is the sky blue? 🌤️ Answer with emoji where you can.",
    "Summarise in one sentence: The Industrial Revolution, which began in Britain in the late 18th "
    "century, replaced manual labour with machines, moved people from farms into cities, and changed "
    "how goods were produced, transported and sold all over the world.",
    "hi",
]
# (system, user, assistant, user): more than one turn, and a system message of our own.
DIALOGUES = [
    ("You answer like a pirate.", "Who are you?", "Arr, I be Captain Smol!", "What do you eat?"),
    ("You are a terse calculator.", "2*3", "6", "7*8"),
]
PLAIN = [
    "The quick brown fox jumps over the lazy dog. The dog",
    "Once upon a time, in a small village at the edge of a dark forest,",
    "def quicksort(items):\n    \"\"\"Sorts a list.\"\"\"\n",
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "1, 1, 2, 3, 5, 8, 13,",
    "La vie est belle parce que",
    "Москва является столицей",
    "<html>\n  <head>\n    <title>",
    "Q: What is the boiling point of water?\nA:",
    "   leading spaces,   runs   of spaces\tand\ttabs\n\n\n",
]


def main(model_path=MODEL):
    torch.set_num_threads(1)
    reader = gguf.GGUFReader(model_path)
    fields = {key: field.contents() for key, field in reader.fields.items() if "." in key}
    tokenizer = read_tokenizer(fields)
    model = read_model(fields, reader.tensors)
    cases = [run(model, tokenizer, kind, text) for kind, text in prompt_texts()]
    write(HERE / "greedy.json", cases)


def prompt_texts():
    """(kind, full text): chats are laid out as the model's template lays them out."""
    for user in CHATS:
        yield "chat", chat([("system", SYSTEM), ("user", user)])
    for system, user, assistant, again in DIALOGUES:
        yield "chat", chat([("system", system), ("user", user), ("assistant", assistant), ("user", again)])
    for text in PLAIN:
        yield "plain", text


def chat(messages):
    turns = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages)
    return turns + "<|im_start|>assistant\n"


def read_tokenizer(fields):
    """Byte-level BPE; "smollm" splits digits one by one before the GPT-2 pattern."""
    assert fields["tokenizer.ggml.pre"] == "smollm", fields["tokenizer.ggml.pre"]
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    control = [t for t, kind in zip(tokens, kinds) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return tokenizer


def read_model(fields, tensors):
    config = LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_theta=fields["llama.rope.freq_base"],
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    weights = dict(read_weight(config, tensor) for tensor in tensors)
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    model.load_state_dict(weights)
    return model


LAYER_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
}


def read_weight(config, tensor):
    weight = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
    stem = tensor.name.removesuffix(".weight")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.weight", weight
    _, layer, part = stem.split(".")
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(part)
    if heads:
        weight = halves_from_pairs(weight, heads)
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.weight", weight


def halves_from_pairs(weight, heads):
    """GGUF keeps the two rows of a rotated pair side by side; transformers keeps them half a head apart."""
    rows = weight.shape[0] // heads
    return weight.reshape(heads, rows // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape).contiguous()


@torch.no_grad()
def run(model, tokenizer, kind, text):
    prompt = tokenizer.encode(text, add_special_tokens=False).ids
    step_input, cache = torch.tensor([prompt]), None
    output, seconds, margins = [], [], []
    for _ in range(STEPS):
        result = model(step_input, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = result.past_key_values
        best = result.logits[0, -1].topk(2)
        output.append(best.indices[0].item())
        seconds.append(best.indices[1].item())
        margins.append(round((best.values[0] - best.values[1]).item(), 4))
        step_input = best.indices[:1].reshape(1, 1)
    return {
        "kind": kind, "text": text, "continuation": tokenizer.decode(output, skip_special_tokens=False),
        "prompt": prompt, "output": output, "seconds": seconds, "margins": margins,
    }


def write(path, cases):
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases)
    header = '"model": "SmolLM2-135M-Instruct.Q4_1.gguf", "steps": %d' % STEPS
    path.write_text("{%s,\n\"cases\": [\n%s\n]}\n" % (header, lines), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
