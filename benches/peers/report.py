"""Tables from a results file: on the terminal, in a document, and in the README."""

import json
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from machine import sentence
from models import MADE
from results import Results
from servers import LLAMA_BUILDS
from targets import target_of

# Figures of the README and their short labels.
README_COLUMNS = {
    "prefill_512": "prompt of 512, tok/s",
    "decode_1": "1 stream, tok/s",
    "decode_16": "16 streams, tok/s",
    "first_token_s": "start to first token, s",
    "memory_worked_bytes": "memory, MB",
}


# Rounds further apart than this are shown as a range: their median says little.
SPREAD_MAX = 0.2


@dataclass(frozen=True)
class Figure:
    """How a figure is called and shown; `scale` turns stored values into shown ones."""

    label: str
    scale: float = 1.0
    more_is_better: bool = True


def figure_of(key: str) -> Figure:
    kind, _, count = key.rpartition("_")
    match kind:
        case "prefill":
            return Figure(f"prompt of {count}, tok/s")
        case "decode":
            return Figure(f"{count} streams, tok/s" if count != "1" else "1 stream, tok/s")
        case "deep":
            return Figure(f"1 stream after a prompt of {count}, tok/s")
        case "memory_loaded":
            return Figure("memory when loaded (PSS), MB", 1e-6, False)
        case "memory_worked":
            return Figure("memory after all this (PSS), MB", 1e-6, False)
        case "first_token":
            return Figure("start to first token, s", more_is_better=False)
        case "first_start":
            return Figure("the same at a model's first start, s", more_is_better=False)
        case _:
            return Figure("start to ready, s", more_is_better=False)


def keys(model: dict) -> list[str]:
    """All figures in the order they are shown."""
    found = model["figures"]

    def counted(kind: str) -> list[str]:
        return sorted((key for key in found if key.startswith(kind)), key=lambda key: int(key.rsplit("_", 1)[1]))

    starts = ["load_s", "first_token_s", "first_start_s", "memory_loaded_bytes", "memory_worked_bytes"]
    return counted("prefill_") + counted("decode_") + counted("deep_") + [key for key in starts if key in found]


def values_of(model: dict, key: str) -> tuple[list[float], list[float]]:
    """Janus' and llama.cpp's values, one a round."""
    figure = model["figures"].get(key, {})
    return figure.get("janus", []), figure.get("llama.cpp", [])


def ratios(model: dict, key: str) -> list[float]:
    """Janus' advantage in each round."""
    ours, theirs = values_of(model, key)
    better = figure_of(key).more_is_better
    return [our / their if better else their / our for our, their in zip(ours, theirs)]


def number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def with_spread(values: list[float], scale: float) -> str:
    """Median, and how far the rounds lie apart in percent of it."""
    median = statistics.median(values)
    spread = 100 * (max(values) - min(values)) / median
    return f"{number(median * scale)}" + (f" ±{spread / 2:.0f} %" if len(values) > 1 else "")


def shown(key: str, values: list[float]) -> str:
    """With the time that a prompt takes, which is that of a request to its first token."""
    text = with_spread(values, figure_of(key).scale)
    if not key.startswith("prefill_"):
        return text
    return f"{text}: {number(1e3 * int(key.rpartition('_')[2]) / statistics.median(values))} ms"


def times(found: list[float]) -> str:
    low, middle, high = min(found), statistics.median(found), max(found)
    return f"{middle:.2f}×" + (f" ({low:.2f}-{high:.2f})" if len(found) > 1 else "")


def table(name: str, results: Results, targets: bool) -> str:
    model = results.models[name]
    head = ["", "Janus", "llama.cpp", "ratio"] + (["target"] if targets else [])
    lines = [f"**{name}** ({model['file_bytes'] / 1e6:.0f} MB, {model['decode_tokens']} tokens a stream)", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for key in keys(model):
        ours, theirs = values_of(model, key)
        if not ours or not theirs:
            continue
        figure = figure_of(key)
        cells = [figure.label, shown(key, ours), shown(key, theirs)]
        cells.append(times(ratios(model, key)))
        if targets:
            cells.append(judged(name, key, results, statistics.median(ratios(model, key))))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines + limits(model, results) + idle(model))


def judged(name: str, key: str, results: Results, ratio: float) -> str:
    target = target_of(name, key, results.data["machine"], results.data["isa"])
    return "" if target is None else f"{target:g}× " + ("met" if ratio >= target else "missed")


def limits(model: dict, results: Results) -> list[str]:
    """Of the machine's own limits, a sentence: `janus bench` measures them around what it compares with them."""
    if not (found := model.get("limits")):
        return []
    read, computed = found["decode_read_fraction"], found["prefill_int8_fraction"]
    return [
        "",
        f"Janus' kernels here ({found['instruction_set']}): one stream reads the weights at {100 * read:.0f} % of "
        f"the bandwidth measured around it ({found['read_bytes_per_s'] / 1e9:.1f} GB/s); a prompt of 512 computes "
        f"{100 * computed:.0f} % of the int8 peak ({found['int8_ops_per_s'] / 1e9:.0f} GOP/s).",
    ]


def idle(model: dict) -> list[str]:
    if not (found := model.get("idle_cpu_s")):
        return []
    ours, theirs = (1e3 * found[kind] for kind in ("janus", "llama.cpp"))
    return ["", f"In 10 idle seconds after a request Janus takes {ours:.0f} ms of processor time, llama.cpp {theirs:.0f}."]


def parse_bench(text: str) -> dict:
    """What is kept of `janus bench --json`."""
    said = json.loads(text)
    return {
        "instruction_set": said["instruction_set"],
        "read_bytes_per_s": said["read_bytes_per_s"],
        "int8_ops_per_s": said["int8_ops_per_s"],
        "decode_read_fraction": said["decode"][0]["read_fraction"],
        "prefill_int8_fraction": said["prefill"]["int8_fraction"],
    }


def circumstances(results: Results) -> str:
    """Where and how it was measured."""
    data = results.data
    rounds = {Results.rounds(model, key) for model in data["models"].values() for key in model["figures"]}
    few, many = min(rounds, default=0), max(rounds, default=0)
    of_rounds = "1 round" if many == 1 else f"{few} rounds" if few == many else f"{few} to {many} rounds"
    dates = sorted({model["measured"] for model in data["models"].values() if "measured" in model})
    held = ""
    if data["isa"]:
        who = "Both are" if data["isa"] in LLAMA_BUILDS else "Janus alone is"
        held = f" {who} held to {data['isa']}."
    return (
        f"{data['threads']} threads each on {sentence(data['machine'])}, context of {data['context']} tokens, medians of "
        f"{of_rounds} A-B-A-B, {' to '.join(dict.fromkeys([*dates[:1], *dates[-1:]]))}.{held} A stream is a client "
        f"that waits for its whole answer to a prompt of 4 tokens; the time of a prompt is that to a request's first "
        f"token.{random_weights(results)}"
    )


def random_weights(results: Results) -> str:
    made = [name for name in results.models if name in MADE]
    if not made:
        return ""
    return (
        " The `llama-` files have Llama's shapes, random weights and SmolLM2's vocabulary of 49,152: speed does not "
        "depend on the values."
    )


def all_tables(results: Results) -> str:
    """Every table."""
    lines = [
        circumstances(results),
        f"Janus is {builds(results, 'janus')}; llama.cpp is {builds(results, 'llama.cpp')}, built here. "
        "A value's ± is half the distance between its lowest and highest round; a ratio is Janus' advantage, "
        "with the lowest and highest of the rounds. Both start with their defaults, which has llama.cpp warm up by a "
        "pass of its own.",
        "",
    ]
    tables = [table(name, results, targets=True) for name in results.models]
    return "\n".join([*lines, "\n\n".join(tables)])


def builds(results: Results, kind: str) -> str:
    found = dict.fromkeys(model["builds"].get(kind, "unknown") for model in results.models.values())
    return " and ".join(found)


def readme_block(results: Results) -> str:
    """A row a model: Janus' median and its advantage."""
    labels = list(README_COLUMNS.values())
    lines = [circumstances(results), ""]
    lines += ["| model | " + " | ".join(labels) + " |", "|" + "---|" * (len(labels) + 1)]
    for name, model in results.models.items():
        cells = [cell(model, key) for key in README_COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(model: dict, key: str) -> str:
    found = ratios(model, key)
    if not found:
        return ""
    values, scale = values_of(model, key)[0], figure_of(key).scale
    shown = number(statistics.median(values) * scale)
    if max(values) > (1 + SPREAD_MAX) * min(values):
        shown = f"{number(min(values) * scale)}-{number(max(values) * scale)}"
    return f"{shown} (**{statistics.median(found):.1f}×**)"


def rewrite(path: Path, mark: str, block: str) -> None:
    """Puts `block` between the marks `<!-- MARK: begin -->` and `<!-- MARK: end -->` of a file."""
    text = path.read_text()
    marked = re.compile(rf"(<!-- {mark}: begin -->\n).*?(<!-- {mark}: end -->)", re.S)
    if not marked.search(text):
        sys.exit(f"{path} has no lines `<!-- {mark}: begin -->` and `<!-- {mark}: end -->`")
    path.write_text(marked.sub(lambda found: f"{found.group(1)}\n{block}\n\n{found.group(2)}", text))
