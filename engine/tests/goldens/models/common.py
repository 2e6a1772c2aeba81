"""What decoders.py and encoders.py share: seeded weights, prompts, rounding, JSON."""

import hashlib
import json

import torch

VOCABULARY = 288


def seeded(name):
    """A generator that depends on the model's name only, so that models can be remade one by one."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]))


def fill(model, name, gains, norm_base=1.0):
    """Random weights: matrices scaled by 1/sqrt(inputs) times the first matching gain, norms spread
    around `norm_base`, biases far from zero. A swapped, skipped or transposed weight then shows."""
    generator = seeded(name)
    tied = set()
    for key, weight in sorted(model.named_parameters()):
        if weight.data_ptr() in tied:
            continue
        tied.add(weight.data_ptr())
        noise = torch.randn(weight.shape, generator=generator)
        if weight.dim() == 2:
            scale = 1.0 if "embed" in key else weight.shape[1] ** -0.5
            gain = next((g for part, g in gains if part in key), 1.0)
            values = noise * scale * gain
        elif key.endswith("bias"):
            values = noise * 0.3
        else:
            values = norm_base + noise * 0.3
        weight.data = exact_in_16_bits(values)


def exact_in_16_bits(values):
    """Rounds to numbers that bfloat16 and float16 both hold exactly, so that one golden serves the
    safetensors and the GGUF file: bfloat16's 8 bits, and nothing below float16's normal range."""
    rounded = values.to(torch.bfloat16).to(torch.float32)
    return torch.where(rounded.abs() < 2.0**-14, 0.0, rounded)


def prompts(name, lengths, specials=4):
    """One random prompt a length; ids below `specials` are left out."""
    generator = seeded(name + " prompts")
    return [
        torch.randint(specials, VOCABULARY, (length,), generator=generator).tolist()
        for length in lengths
    ]


def rounded(values):
    """Six significant digits, as floats that JSON prints shortly."""
    return [float(f"{v:.6g}") for v in values.flatten().tolist()]


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_golden(path, header, cases):
    """One case a line: small in git and still readable in a diff."""
    head = json.dumps(header)[1:-1]
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(f"{{{head},\n\"cases\": [\n{lines}\n]}}\n")
