"""What many agents see of Janus and of llama.cpp's server: prefixes, conversations, fairness, soaks.

    python3 benches/peers/agents.py [--scenarios NAME ...] [--json FILE] [--soak-seconds N]
                                       [--embedding-inputs N]

Each scenario (scenarios.py says what each does) starts its servers on the same model file with the same
threads and the same room for keys and values, Janus with its defaults otherwise. llama.cpp's server gets
`-np 16 --kv-unified -c 49152` (all slots share the room), with its own prompt cache on and `cache_prompt`
in the requests: it then finds as large a part of the conversations' prompts as Janus does. With --json every
scenario's figures are kept in FILE as soon as they are there; those not named are left as they are. A FILE
of another machine, model or number of threads is refused.

    --report-only          measures nothing and prints what FILE holds
    --markdown OUT.md      rewrites that file's block `agents` from FILE
    --readme OUT.md        the same with the figures most readers look for
"""

import argparse
import datetime
import sys
from pathlib import Path

import models
import report
import scenarios
from machine import describe, sentence
from results import read_json, write_json
from servers import Setup, janus_binary, janus_version, llama_program, llama_version

# Room for keys and values, in tokens: what the conversations need at their ends.
CONTEXT = 8192
ROOM_TOKENS = 49152
SLOTS = 16
KV_MIB = 2048
TARGETS = {
    ("prefix", "times_faster"): (">=", 10),
    ("restart", "times_faster"): (">=", 10),
    ("fairness", "of_fair_share"): ("<=", 1.2),
    ("embeddings", "times_slower"): ("<=", 1.3),
    ("soak", "p99_growth"): ("<=", 1.15),
    ("soak", "rss_growth"): ("<=", 1.05),
    ("soak", "pages_held_after"): ("<=", 0),
    ("long_prompt", "of_chunk"): ("<=", 1),
}
# Of llama.cpp's figure to Janus'.
RATIO_TARGETS = {("conversations", "total_s"): 3}
# Janus' limit for the time of prompt tokens in a step beside streams (`mixed_prefill_time_max` of the engine).
CHUNK_S = 0.05
# Figures made of others.
DERIVED = {
    ("soak", "p99_growth"): lambda of: of["last_tenth_p99_s"] / of["second_tenth_p99_s"],
    ("soak", "rss_growth"): lambda of: of["last_tenth_rss_bytes"] / of["second_tenth_rss_bytes"],
    ("long_prompt", "of_chunk"): lambda of: (of["beside_p99_s"] - of["alone_p99_s"]) / CHUNK_S,
    ("embeddings", "times_slower_median"): lambda of: of["beside_median_s"] / of["alone_median_s"],
}
LABELS = {
    "cold_s": "first token, nothing cached, ms",
    "hit_s": "first token, prefix cached, ms",
    "times_faster": "cold by cached",
    "total_s": "all turns of all agents, s",
    "later_first_token_p99_s": "first token from the second turn on, p99, ms",
    "cached_fraction": "prompt tokens cached, %",
    "requests": "requests",
    "second_tenth_p99_s": "between tokens, p99, second tenth of the time, ms",
    "last_tenth_p99_s": "the same, last tenth, ms",
    "second_tenth_rss_bytes": "memory (RSS), second tenth, MB",
    "last_tenth_rss_bytes": "the same, last tenth, MB",
    "second_tenth_pages": "pages taken, second tenth",
    "last_tenth_pages": "the same, last tenth",
    "pages_held_after": "pages still held afterwards",
    "alone_p99_s": "alone, p99, ms",
    "alone_median_s": "alone, median, ms",
    "beside_median_s": "beside it, median, ms",
    "beside_greedy_p99_s": "first token beside the greedy caller, p99, ms",
    "beside_greedy_median_s": "the same, median, ms",
    "of_fair_share": "of twice the time alone, its fair share",
    "beside_p99_s": "between tokens beside it, p99, ms",
    "beside_longest_s": "the longest, ms",
    "long_first_token_s": "the long prompt's first token, s",
    "tokens_meanwhile": "tokens of the stream meanwhile",
    "inputs": "inputs",
    "seconds": "all of them, s",
    "inputs_per_s": "inputs a second",
    "times_slower": "beside by alone, p99",
    "times_slower_median": "beside by alone, median",
    "p99_growth": "between tokens, p99, last by second tenth",
    "rss_growth": "memory, last by second tenth",
    "of_chunk": f"later than alone, in chunks of {CHUNK_S * 1e3:.0f} ms",
    "victim_requests": "requests beside the greedy caller",
}
IN_SECONDS = {"total_s", "long_first_token_s"}


def shown(figure: str, value: float) -> str:
    scale = 1e3 if figure.endswith("_s") and figure not in IN_SECONDS and figure != "inputs_per_s" else 1
    scale = 1e-6 if figure.endswith("_bytes") else 100 if figure == "cached_fraction" else scale
    return f"{value:.0f}" if isinstance(value, int) and scale == 1 else report.number(value * scale)


def table(results: dict) -> str:
    lines = ["| | Janus | llama.cpp | target |", "|---|---|---|---|"]
    for name, found in results["scenarios"].items():
        lines.append(f"| **{scenarios.ALL[name].title}** | | | |")
        ours, theirs = whole(name, found, "janus"), whole(name, found, "llama.cpp")
        for figure, value in ours.items():
            other = shown(figure, theirs[figure]) if figure in theirs else ""
            target = judged(name, figure, value, theirs.get(figure))
            lines.append(f"| {label(name, figure, ours)} | {shown(figure, value)} | {other} | {target} |")
    return "\n".join(lines)


def whole(name: str, found: dict, kind: str) -> dict:
    """One server's figures, with those made of them."""
    figures = found["figures"].get(kind, {})
    derived = {figure: make(figures) for (of, figure), make in DERIVED.items() if of == name and figures}
    return figures | derived


def label(name: str, figure: str, figures: dict) -> str:
    if (name, figure) == ("soak", "seconds"):
        return "seconds"
    text = LABELS[figure]
    return text.replace("p99", percentile(figures)) if name == "fairness" else text


def percentile(figures: dict) -> str:
    """Of few values the 99th percentile is the largest, and is called so."""
    asked = figures.get("victim_requests", scenarios.VICTIM_REQUESTS_MIN)
    return "p99" if asked >= 100 else f"slowest of {asked}"


def summary(results: dict) -> str:
    """README's table: of each scenario there is the figure that tells most."""
    rows = [
        ("conversations", "total_s", "16 agents, 10 turns each, prompts of 1,000 tokens and more: all of it, s"),
        ("prefix", "hit_s", "first token of a prompt of 1,040, 1,024 of them seen before, ms"),
        ("restart", "hit_s", "the same after a restart (`--kv-store`), ms"),
        ("fairness", "beside_greedy_p99_s", "first token beside a caller who keeps the server busy, {n}, ms"),
        ("fairness", "alone_p99_s", "the same alone, ms"),
        ("long_prompt", "beside_p99_s", "between a stream's tokens while a prompt of 7,800 comes in, p99, ms"),
        ("embeddings", "times_slower", "the same beside a job of {inputs}embeddings, times as long as alone, p99"),
        ("soak", "last_tenth_p99_s", "the same at the end of a soak{seconds}, 32 clients that come and leave, p99, ms"),
    ]
    lines = ["| | Janus | llama.cpp |", "|---|---|---|"]
    for name, figure, text in rows:
        figures = results["scenarios"].get(name, {}).get("figures", {})
        if figure not in (ours := figures.get("janus", {})):
            continue
        inputs = f"{ours['inputs']:,} " if "inputs" in ours else ""
        seconds = f" of {ours['seconds']:.0f} s" if "seconds" in ours else ""
        text = text.format(n=percentile(ours), inputs=inputs, seconds=seconds)
        theirs = figures.get("llama.cpp", {})
        other = shown(figure, theirs[figure]) if figure in theirs else ""
        lines.append(f"| {text} | {shown(figure, ours[figure])}{'×' if figure == 'times_slower' else ''} | {other} |")
    return "\n".join(lines)


def judged(name: str, figure: str, ours: float, theirs: float | None) -> str:
    if (name, figure) in RATIO_TARGETS and theirs is not None:
        target, ratio = RATIO_TARGETS[name, figure], theirs / ours
        return f"{ratio:.2f}× of {target}× " + ("met" if ratio >= target else "missed")
    if (name, figure) in TARGETS:
        relation, target = TARGETS[name, figure]
        met = ours >= target if relation == ">=" else ours <= target
        return f"{relation} {target:g} " + ("met" if met else "missed")
    return ""


def setup(kind: str, model: Path, arguments: argparse.Namespace) -> Setup:
    # Janus' context is a cap on each sequence, llama.cpp's is the room that all slots share.
    context = CONTEXT if kind == "janus" else ROOM_TOKENS
    janus_options = ("--set", f"engine.kv_mib={KV_MIB}")
    return Setup(model, arguments.threads, context, SLOTS, arguments.isa, janus_options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", nargs="+", default=list(scenarios.ALL), choices=list(scenarios.ALL))
    parser.add_argument("--model", default="smollm2-135m-instruct", metavar="NAME_OR_PATH")
    parser.add_argument("--rounds", type=int, default=5, help="first tokens of each kind (default 5)")
    parser.add_argument(
        "--soak-seconds", type=positive(float), default=600, metavar="N", help="how long `soak` takes (default 600)"
    )
    parser.add_argument(
        "--embedding-inputs",
        type=positive(int),
        default=10_000,
        metavar="N",
        help="texts that `embeddings` embeds beside a chat (default 10000)",
    )
    parser.add_argument("--threads", type=int, default=describe()["cores"])
    parser.add_argument("--isa", help="KERNELS_ISA for Janus: scalar, avx2, ...")
    parser.add_argument("--janus", metavar="PATH", help="default: this checkout's release build")
    parser.add_argument("--janus-only", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--readme", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.report_only and not arguments.json:
        parser.error("--report-only needs --json FILE")
    return arguments


def positive(kind: type):
    def parse(text: str):
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value

    return parse


def measure(arguments: argparse.Namespace, results: dict) -> None:
    janus = janus_binary(arguments.janus)
    binaries = {"janus": janus, "llama.cpp": llama_program(isa=arguments.isa)}
    builds = {"janus": janus_version(janus), "llama.cpp": llama_version(arguments.isa)}
    model = models.path_of(arguments.model, janus, accept_license=False)
    for name in arguments.scenarios:
        figures = {}
        for kind in scenarios.ALL[name].kinds[: 1 if arguments.janus_only else None]:
            print(f"{name}: {kind}", file=sys.stderr, flush=True)
            lab = scenarios.Lab(
                kind=kind,
                binary=binaries[kind],
                setup=setup(kind, model, arguments),
                rounds=arguments.rounds,
                soak_s=arguments.soak_seconds,
                embedding_model=models.embedder(janus),
                embedding_inputs=arguments.embedding_inputs,
            )
            figures[kind] = scenarios.ALL[name].run(lab)
        measured = datetime.date.today().isoformat()
        results["scenarios"][name] = {"builds": builds, "measured": measured, "figures": figures}
        if arguments.json:
            write_json(arguments.json, results)


def main() -> None:
    arguments = parse()
    header = {"machine": describe(), "threads": arguments.threads, "model": arguments.model, "isa": arguments.isa}
    results = read_json(arguments.json, header, arguments.report_only) or {**header, "scenarios": {}}
    if not arguments.report_only:
        measure(arguments, results)
    where = f"{results['model']}, {results['threads']} threads each on {sentence(results['machine'])}."
    print(f"{where}\n\n{table(results)}")
    if arguments.markdown:
        report.rewrite(arguments.markdown, "agents", f"{where}\n\n{table(results)}")
    if arguments.readme:
        report.rewrite(arguments.readme, "agents", summary(results))


if __name__ == "__main__":
    main()
