"""A `janus serve` to test against: one given by JANUS_URL, or one started from JANUS_BIN."""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

CHAT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"
READY_SECONDS_MAX = 120
STOP_SECONDS_MAX = 30

ROOT = Path(__file__).resolve().parents[3]
GOLDENS = ROOT / "engine/tests/goldens"


def models_folder():
    return Path(os.environ.get("JANUS_TEST_MODELS") or Path.home() / ".cache/janus-test-models")


class Server:
    """A running server: `url`, and its metrics."""

    def __init__(self, url, process=None, log=None):
        self.url = url.rstrip("/")
        self.process = process
        self.log = log

    @classmethod
    def start(cls, **settings):
        """Starts JANUS_BIN on a free loopback port, with settings such as `engine_threads=1`, and waits
        until it is ready."""
        port = free_port()
        log = tempfile.NamedTemporaryFile("w", prefix="janus-", suffix=".log", delete=False)
        command = [os.environ["JANUS_BIN"], "serve", "--models-dir", str(models_folder()),
                   "--listen", f"127.0.0.1:{port}"]
        variables = {f"JANUS_{name.upper()}": str(value) for name, value in settings.items()}
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **variables})
        server = cls(f"http://127.0.0.1:{port}", process, Path(log.name))
        try:
            server.wait_until_ready()
        except BaseException:
            process.kill()
            raise
        return server

    def wait_until_ready(self):
        end = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"janus ended before it was ready:\n{self.log.read_text()}")
            try:
                if self.get("/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise TimeoutError(f"janus is not ready after {READY_SECONDS_MAX} s; see {self.log}")

    def stop(self):
        """Ends it as a service manager would; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def get(self, path):
        """(status, text)"""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name, **labels):
        """The sum of a metric's samples that have these labels; fails when there is none."""
        found = [value for sample, sample_labels, value in samples(self.get("/metrics")[1])
                 if sample == name and labels.items() <= sample_labels.items()]
        assert found, f"/metrics has no {name} with {labels}"
        return sum(found)

    def running(self):
        """Generations the engine is working on."""
        return self.metric("janus_engine_running_sequences")

    def waiting(self):
        return self.metric("janus_engine_waiting_requests")

    def wait_until(self, what, seconds, condition):
        """Polls until the condition holds; how long it took."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < seconds, f"not {what} after {seconds} s"
            time.sleep(0.02)
        return time.monotonic() - start


def samples(text):
    """(name, labels, value) of each line of a Prometheus page."""
    for line in text.splitlines():
        match = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", line)
        if match and not line.startswith("#"):
            name, labels, value = match.groups()
            yield name, dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")), float(value)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
