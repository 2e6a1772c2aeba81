"""Janus beside llama.cpp's server: same machine, same file, same threads, in one run.

    python3 benches/peers/peers.py [--models NAME_OR_PATH ...] [--rounds 3] [--json FILE] [--quick]

Both servers are started in turn (A-B-A-B), each measured alone, through the same `/v1/completions`
requests: prompts are random token ids, no prefix is shared, every answer has a fixed length. Prints
medians, their spread over the rounds, and ratios.

With --json every measurement is kept in FILE after each round, and a later run goes on where that file
stops: `--minutes 9` ends between two rounds, so that a long run can be done in pieces. A model whose
servers have changed since is measured afresh. `--report-only --json FILE` measures nothing.

    --targets            shows the project's targets beside the ratios
    --readme README.md   rewrites that file's block `speed` from FILE: a row a model
    --markdown OUT.md    the same with every table, spreads and targets
    --isa avx2           holds both to an instruction set: llama.cpp is built again without the others.
                         Sets other than avx2 hold Janus alone
"""

import argparse
import random
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import models
import report
from machine import describe, sentence
from results import Results
from servers import (
    CACHE,
    Server,
    Setup,
    environment,
    janus_binary,
    janus_version,
    llama_program,
    llama_version,
    random_prompt,
    sh,
    start,
    together,
)

CONTEXT = 8192
# How long an idle server is watched, and how long after its last answer.
IDLE_AFTER, IDLE_SECONDS = 1, 10
# Random prompts make a greedy model repeat itself, which would flatter guessing of next tokens; and a prompt
# that came before is computed again, as llama.cpp does with `cache_prompt` off.
JANUS_OPTIONS = ("--set", "engine.speculation=off", "--set", "prefix.enabled=false")
# Janus keeps the packed weights of large models from start to start.
PACKED = CACHE / "packed"
PACKED_BYTES_MIN = 192 << 20
PACKED_SECONDS = 120
KINDS = ("janus", "llama.cpp")
# A figure is repeated within a round until it has taken so long, and this often at most.
REPEAT_SECONDS = 1.5
REPEATS_MAX = 3


def median_seconds(measure) -> float:
    seconds: list[float] = []
    while len(seconds) < REPEATS_MAX and sum(seconds) < REPEAT_SECONDS:
        seconds.append(measure())
    return statistics.median(seconds)


def prefill_tok_s(server: Server, tokens: int, rng: random.Random) -> float:
    return tokens / median_seconds(lambda: server.complete(random_prompt(rng, tokens), 1).seconds)


def decode_tok_s(server: Server, streams: int, tokens: int, rng: random.Random) -> float:
    """Tokens a second of `streams` clients that each wait for the whole answer to a prompt of 4."""

    def measure() -> float:
        prompts = [random_prompt(rng, 4) for _ in range(streams)]
        started = time.perf_counter()
        together([lambda prompt=prompt: server.complete(prompt, tokens) for prompt in prompts])
        return time.perf_counter() - started

    return streams * tokens / median_seconds(measure)


def deep_tok_s(server: Server, prompt_tokens: int, tokens: int, rng: random.Random) -> float:
    """Tokens a second of one stream after a prompt of `prompt_tokens`, from its first token on."""

    def measure() -> float:
        body = {"prompt": random_prompt(rng, prompt_tokens), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        answer = server.stream("/v1/completions", body | {"cache_prompt": False})
        return (answer.seconds - answer.arrivals[0]) / (answer.completion_tokens - 1)

    return 1 / median_seconds(measure)


def measure(server: Server, figures: list[str], decode_tokens: int, rng: random.Random) -> dict[str, float]:
    """One round's value of each figure; those of the start are always there."""
    values = {"load_s": server.ready_s, "first_token_s": server.first_token_s}
    values["memory_loaded_bytes"] = server.pss_bytes()
    server.complete(random_prompt(rng, 32), 4)  # Warms what the first token did not.
    for figure in figures:
        kind, count = figure.rsplit("_", 1)
        if kind == "prefill":
            values[figure] = prefill_tok_s(server, int(count), rng)
        elif kind == "decode":
            values[figure] = decode_tok_s(server, int(count), decode_tokens, rng)
        elif kind == "deep":
            values[figure] = deep_tok_s(server, int(count), decode_tokens, rng)
    values["memory_worked_bytes"] = server.pss_bytes()
    return values


def idle_cpu_s(server: Server) -> float:
    """Processor time of a server that nobody asks anything, after it was."""
    server.complete([1, 2, 3, 4], 8)
    time.sleep(IDLE_AFTER)
    before = server.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    return server.cpu_seconds() - before


def keep_packed(janus: Path, setup: Setup) -> None:
    """Has Janus keep the model's packed weights, if it has not yet."""
    server = start("janus", janus, setup)
    started = time.monotonic()
    try:
        # Writing begins 2 seconds after the start, and goes on as long as there is an unfinished file.
        while time.monotonic() - started < PACKED_SECONDS:
            time.sleep(0.5)
            if time.monotonic() - started > 5 and not any(PACKED.glob("*.part")):
                break
    finally:
        server.stop()


class Comparison:
    """What stays the same over all models of a run."""

    def __init__(self, arguments: argparse.Namespace, results: Results):
        self.arguments, self.results = arguments, results
        self.binaries = {"janus": janus_binary(arguments.janus), "llama.cpp": llama_program(isa=arguments.isa)}
        self.builds = {"janus": janus_version(self.binaries["janus"]), "llama.cpp": llama_version(arguments.isa)}
        self.ends = time.monotonic() + arguments.minutes * 60

    def size(self, path: Path) -> models.Size:
        size, given = models.size_of(path), self.arguments
        if given.quick:
            size = replace(size, prompts=(128, 512), streams=(1, 16), deep=())
        return replace(size, prompts=tuple(given.prompts or size.prompts), streams=tuple(given.streams or size.streams))

    def model(self, name: str) -> bool:
        """Measures what `name` lacks, round by round; false when the time is up."""
        path = models.path_of(name, self.binaries["janus"], self.arguments.accept_license)
        size = self.size(path)
        figures = [f"prefill_{n}" for n in size.prompts] + [f"decode_{n}" for n in size.streams]
        figures += [f"deep_{n}" for n in size.deep]
        model = self.results.open_model(Path(name).stem, path, size.decode_tokens, self.builds)
        while missing := self.results.missing(model, figures, self.arguments.rounds):
            if time.monotonic() > self.ends:
                return False
            self.round(name, model, path, missing)
        if "idle_cpu_s" not in model:
            model["idle_cpu_s"] = {kind: self.idle(kind, path) for kind in KINDS}
            self.results.save()
        if "limits" not in model:
            model["limits"] = self.limits(path, size.decode_tokens)
            self.results.save()
        return True

    def round(self, name: str, model: dict, path: Path, figures: list[str]) -> None:
        number = self.results.rounds(model, figures[0])
        setup = self.setup(path)
        first_start_s = self.first_start(setup)
        values = {}
        for kind in KINDS:
            print(f"{name}: round {number + 1}, {kind}", file=sys.stderr, flush=True)
            server = start(kind, self.binaries[kind], setup)
            try:
                values[kind] = measure(server, figures, model["decode_tokens"], random.Random(number))
            finally:
                server.stop()
            # llama.cpp's starts are all alike.
            values[kind]["first_start_s"] = first_start_s if kind == "janus" else server.first_token_s
        self.results.add_round(model, values)

    def setup(self, path: Path) -> Setup:
        options = (*JANUS_OPTIONS, "--set", f"models.packed_folder={PACKED}")
        return Setup(path, self.arguments.threads, CONTEXT, max(models.STREAMS), self.arguments.isa, options)

    def idle(self, kind: str, path: Path) -> float:
        server = start(kind, self.binaries[kind], self.setup(path))
        try:
            return idle_cpu_s(server)
        finally:
            server.stop()

    def first_start(self, setup: Setup) -> float:
        """Seconds to the first token where no packed weights are found. Afterwards there are some."""
        without = replace(setup, janus_options=(*JANUS_OPTIONS, "--set", "models.packed=false"))
        server = start("janus", self.binaries["janus"], without)
        server.stop()
        if setup.model.stat().st_size >= PACKED_BYTES_MIN:
            keep_packed(self.binaries["janus"], setup)
        return server.first_token_s

    def limits(self, path: Path, decode_tokens: int) -> dict:
        """What this machine could do at most, and how much of it one stream and a prompt reach."""
        command = [self.binaries["janus"], "bench", "--model", path, "--prompt", 512, "--streams", 1]
        command += ["--decode", decode_tokens, "--threads", self.arguments.threads, "--json"]
        return report.parse_bench(sh(*command, capture_output=True, text=True, env=environment(self.arguments.isa)).stdout)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=models.ALL, metavar="NAME_OR_PATH")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each figure (default 3)")
    parser.add_argument("--prompts", type=int, nargs="+", metavar="TOKENS")
    parser.add_argument("--streams", type=int, nargs="+", metavar="COUNT")
    parser.add_argument("--quick", action="store_true", help="one round, fewer figures")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no round after so long")
    parser.add_argument("--threads", type=int, default=describe()["cores"])
    parser.add_argument("--isa", help="instruction set: scalar, avx2, ...")
    parser.add_argument("--janus", metavar="PATH", help="default: this checkout's release build")
    parser.add_argument("--accept-license", action="store_true", help="accept Google's Gemma Terms of Use")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--targets", action="store_true")
    parser.add_argument("--readme", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    if arguments.report_only and not arguments.json:
        parser.error("--report-only needs --json FILE")
    if arguments.readme and arguments.isa:
        parser.error("the README's table is of what this machine can do: leave out --isa or --readme")
    return arguments


def main() -> None:
    arguments = parse()
    header = {"machine": describe(), "threads": arguments.threads, "isa": arguments.isa, "context": CONTEXT}
    results = Results(arguments.json, header, read_only=arguments.report_only)
    if not arguments.report_only:
        comparison = Comparison(arguments, results)
        print(f"{sentence(header['machine'])}, {arguments.threads} threads each", file=sys.stderr)
        for name in arguments.models:
            if not comparison.model(name):
                print("the time is up; the same command goes on from here", file=sys.stderr)
                break
            print(report.table(Path(name).stem, results, arguments.targets) + "\n", flush=True)
    else:
        for name in results.models:
            print(report.table(name, results, arguments.targets) + "\n")
    if arguments.markdown:
        block = f"speed-{arguments.isa}" if arguments.isa else "speed"
        report.rewrite(arguments.markdown, block, report.all_tables(results))
    if arguments.readme:
        report.rewrite(arguments.readme, "speed", report.readme_block(results))


if __name__ == "__main__":
    main()
