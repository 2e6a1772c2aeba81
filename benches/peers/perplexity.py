"""Perplexity of the same text by Janus and by llama.cpp.

    python3 benches/peers/perplexity.py [--models NAME_OR_PATH ...] [--json FILE] [--isa avx2]

As `llama-perplexity` has it: the text becomes tokens once, is cut into windows of 512, each window's first
token is replaced by the beginning of sequence where the model has one, and the second half of each window
is scored given all before it. Four numbers a model:

- Janus as it serves: through its server's `/v1/completions` with `echo`, `logprobs` and no new token;
- Janus with keys and values of 8 bits (`score --kv-int8`), which `--kv-format int8` serves with;
- Janus with products of f32 throughout (`score --f32` of this workspace's benches);
- llama.cpp: its own `llama-perplexity`.

The text, perplexity/text.md, is this project's own. `--reference PYTHON` adds transformers on the
dequantised weights of SmolLM2, by a Python that has torch, transformers and gguf.
"""

import argparse
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import models
import report
from machine import describe, sentence
from results import write_json
from servers import ROOT, Setup, environment, janus_binary, llama_program, sh, start

TEXT = Path(__file__).with_name("perplexity") / "text.md"
WINDOW = 512
# The models whose perplexity means something: the others' weights are random.
REAL = ["smollm2-135m-instruct", "gemma-3-270m"]
# How far Janus as it serves may lie from f32, which is what its formats round, and from llama.cpp.
TOLERANCE = 0.005

# Reads a model as engine/tests/goldens/smollm2/make_greedy.py does, whose folder is its first argument.
REFERENCE = """
import json, sys, torch
sys.path.insert(0, sys.argv[1])
import gguf, make_greedy
reader = gguf.GGUFReader(sys.argv[2])
model = make_greedy.read_model({key: field.contents() for key, field in reader.fields.items()}, reader.tensors)
scores = []
for chunk in json.load(sys.stdin):
    ids = torch.tensor([chunk])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1].log_softmax(-1)
    scores.append(logits.gather(1, ids[0, 1:, None])[:, 0].tolist())
print(json.dumps(scores))
"""


def windows(model: Path) -> list[list[int]]:
    """The text's token ids in whole windows, by llama.cpp's own tokeniser: both get the same."""
    command = [llama_program("llama-tokenize"), "-m", model, "-f", TEXT, "--ids", "--log-disable"]
    ids = json.loads(sh(*command, capture_output=True, text=True).stdout)
    bos = first_token(ids, model)
    cut = [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW + 1, WINDOW)]
    return cut if bos is None else [[bos, *window[1:]] for window in cut]


def first_token(ids: list[int], model: Path) -> int | None:
    """The beginning of sequence, if the tokeniser puts one before a text."""
    command = [llama_program("llama-tokenize"), "-m", model, "-f", TEXT, "--ids", "--log-disable", "--no-bos"]
    without = json.loads(sh(*command, capture_output=True, text=True).stdout)
    return ids[0] if len(without) == len(ids) - 1 else None


def perplexity(scores: list[list[float]]) -> float:
    """Of the second half of each window; `scores` leave out a window's first token."""
    scored = [score for window in scores for score in window[WINDOW // 2 :]]
    return math.exp(-sum(scored) / len(scored))


def by_server(janus: Path, model: Path, chunks: list[list[int]], arguments: argparse.Namespace) -> float:
    server = start("janus", janus, Setup(model, arguments.threads, 8192, 1, arguments.isa))
    try:
        scores = []
        for chunk in chunks:
            body = {"prompt": chunk, "max_tokens": 0, "echo": True, "logprobs": 0}
            listed = server.post("/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"]
            scores.append(listed[1:])
    finally:
        server.stop()
    return perplexity(scores)


def by_score(option: str, model: Path, chunks: list[list[int]], arguments: argparse.Namespace) -> float:
    command = ["cargo", "run", "--release", "--quiet", "-p", "benches", "--bin", "score", "--", model, option]
    if arguments.score:
        command = [arguments.score, model, option]
    options = {"input": json.dumps(chunks), "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    return perplexity(json.loads(sh(*command, **options, env=environment(arguments.isa)).stdout))


def by_llama(model: Path, threads: int) -> tuple[float, float]:
    """Perplexity and llama.cpp's own estimate of how uncertain a text of this length leaves it."""
    command = [llama_program("llama-perplexity"), "-m", model, "-f", TEXT, "-c", str(WINDOW), "-t", str(threads)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"PPL = ([\d.]+) \+/- ([\d.]+)", said.stdout + said.stderr)
    if found is None:
        sys.exit(f"llama-perplexity gave no estimate: {said.stderr[-500:]}")
    return float(found.group(1)), float(found.group(2))


def by_transformers(python: str, model: Path, chunks: list[list[int]]) -> float:
    options = {"input": json.dumps(chunks), "stdout": subprocess.PIPE, "text": True}
    goldens = ROOT / "engine" / "tests" / "goldens" / "smollm2"
    return perplexity(json.loads(sh(python, "-c", REFERENCE, goldens, model, **options).stdout))


def measure(name: str, janus: Path, arguments: argparse.Namespace) -> dict:
    model = models.path_of(name, janus, arguments.accept_license)
    chunks = windows(model)
    theirs, uncertainty = by_llama(model, arguments.threads)
    found = {
        "windows": len(chunks),
        "janus": by_server(janus, model, chunks, arguments),
        "janus_kv_int8": by_score("--kv-int8", model, chunks, arguments),
        "janus_f32": by_score("--f32", model, chunks, arguments),
        "llama.cpp": theirs,
        "uncertainty": uncertainty,
    }
    if arguments.reference and name == "smollm2-135m-instruct":
        found["transformers_f32"] = by_transformers(arguments.reference, model, chunks)
    return found


def table(found: dict[str, dict]) -> str:
    heads = ["Janus", "with int8 keys and values", "in f32"]
    lines = [f"| model | llama.cpp | {' | '.join(heads)} |", "|---|---|---|---|---|"]
    for name, row in found.items():
        theirs = row["llama.cpp"]
        ours = [row[key] for key in ("janus", "janus_kv_int8", "janus_f32")]
        values = [f"{value:.3f} ({100 * (value / theirs - 1):+.2f} %)" for value in ours]
        lines.append("| " + " | ".join([name, f"{theirs:.3f}", *values]) + " |")
    references = [(name, row["transformers_f32"]) for name, row in found.items() if "transformers_f32" in row]
    lines += [f"\ntransformers on the dequantised weights of {name}: {value:.3f}" for name, value in references]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=REAL, metavar="NAME_OR_PATH")
    parser.add_argument("--threads", type=int, default=describe()["cores"])
    parser.add_argument("--isa", help="KERNELS_ISA for Janus: scalar, avx2, ...")
    parser.add_argument("--janus", metavar="PATH", help="default: this checkout's release build")
    parser.add_argument("--score", metavar="PATH", help="default: this checkout's release build")
    parser.add_argument("--reference", metavar="PYTHON")
    parser.add_argument("--accept-license", action="store_true", help="accept Google's Gemma Terms of Use")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="rewrites its block `perplexity`")
    arguments = parser.parse_args()
    janus = janus_binary(arguments.janus)
    found = {name: measure(name, janus, arguments) for name in arguments.models}
    print(f"{sentence(describe())}\n\n{table(found)}")
    if arguments.json:
        write_json(arguments.json, {"machine": describe(), "isa": arguments.isa, "models": found})
    if arguments.markdown:
        report.rewrite(arguments.markdown, "perplexity", table(found))
    if far := [name for name, row in found.items() if is_far(row)]:
        sys.exit(f"more than {100 * TOLERANCE:g} % from f32 or llama.cpp: {', '.join(far)}")


def is_far(row: dict) -> bool:
    return any(abs(row["janus"] / row[other] - 1) > TOLERANCE for other in ("janus_f32", "llama.cpp"))


if __name__ == "__main__":
    main()
