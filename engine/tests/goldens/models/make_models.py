"""Makes the tiny seeded models of this folder and their golden outputs.

    python make_models.py [NAME...]      all models, or those named

Each model is a folder as a model hub would hold it (config.json, safetensors, tokenizer.json), the same
weights in `model.gguf`, and a golden file: token ids in, logits or vectors out, computed in
float32 by `transformers` from that very folder. README.md describes the golden files' fields.

Needs torch, transformers, safetensors, tokenizers, numpy and gguf (requirements.txt).
"""

import sys
from pathlib import Path

import torch

import decoders
import encoders

HERE = Path(__file__).parent


def main(names):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    makers = {**decoders.MAKERS, **encoders.MAKERS}
    for name in names or makers:
        makers[name](HERE / name)
        size_kb = sum(f.stat().st_size for f in (HERE / name).rglob("*") if f.is_file()) // 1024
        print(f"{name}: {size_kb} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
