"""What the project wants: Janus' advantage over llama.cpp's server in the same run, by instruction set."""

# Model and figure: least ratio with AVX2, with AVX-512 VNNI; None where there is no target.
TARGETS = {
    ("smollm2-135m-instruct", "prefill_512"): (4, 6),
    ("smollm2-135m-instruct", "decode_1"): (2, 2),
    ("smollm2-135m-instruct", "decode_16"): (4, 8),
    ("gemma-3-270m", "prefill_512"): (2, 4),
    ("gemma-3-270m", "decode_1"): (2, 2),
    ("gemma-3-270m", "decode_16"): (3, 6),
    ("llama-1b-q4_k_m", "prefill_512"): (1.7, 3),
    ("llama-1b-q4_k_m", "decode_1"): (1.25, 1.5),
    ("llama-1b-q4_k_m", "decode_16"): (1.8, 4),
    ("llama-1b-q8_0", "prefill_512"): (3, 6),
    ("llama-1b-q8_0", "decode_1"): (1.2, 1.5),
    ("llama-1b-q8_0", "decode_16"): (4, 6),
}
# Of every model: start to first token in a third of the time, memory of at most 1.1 times as much.
OF_ALL = {"first_token_s": 3, "memory_worked_bytes": 0.91}


def target_of(model: str, figure: str, machine: dict, isa: str | None) -> float | None:
    if figure in OF_ALL:
        return OF_ALL[figure]
    wide = "avx512_vnni" in machine["instruction_sets"] and isa in (None, "avx512vnni")
    row = TARGETS.get((model, figure))
    return None if row is None else row[wide]
