"""What many agents do to one server, scenario by scenario; agents.py runs and prints them.

Each takes a `Lab` and returns `{figure: value}` for one server. Times are in seconds, p99 the value that
99 % of the sample stay within. `KINDS` says which servers a scenario is measured on.
"""

import multiprocessing
import os
import random
import statistics
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import servers
from servers import Server, Setup, random_prompt, together

BOTH = ("janus", "llama.cpp")
JANUS = ("janus",)
TEXT = Path(__file__).with_name("perplexity") / "text.md"
WORDS = [word for word in TEXT.read_text().split() if word.isalpha()]
# Tokens of the prompts that share a prefix, and of that prefix.
PREFIX_TOKENS, TAIL_TOKENS = 1024, 16
LONG_TOKENS = 7800


@dataclass(frozen=True)
class Lab:
    """The server under test, how to start it, and how long a scenario may take."""

    kind: str
    binary: Path
    setup: Setup
    rounds: int
    soak_s: float
    embedding_model: Path
    embedding_inputs: int

    @contextmanager
    def server(self, *janus_options: str, keys: tuple[str, ...] = ()):
        setup = replace(self.setup, keys=keys, janus_options=(*self.setup.janus_options, *janus_options))
        server = servers.start(self.kind, self.binary, setup)
        try:
            yield server
        finally:
            server.stop()


def p99(values: list[float]) -> float:
    if not values:
        raise RuntimeError("nothing was measured in this stretch of time: let the scenario take longer")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def gaps(arrivals: list[float]) -> list[float]:
    return [after - before for before, after in zip(arrivals, arrivals[1:])]


def words(rng: random.Random, count: int) -> str:
    """Words of a real text in random order: about 1.4 tokens each."""
    return " ".join(rng.choices(WORDS, k=count))


def chat(messages: list[dict], tokens: int, seed: int) -> dict:
    """A sampled answer of exactly `tokens` tokens."""
    sampling = {"max_tokens": tokens, "temperature": 0.7, "seed": seed, "ignore_eos": True}
    return {"messages": messages, **sampling}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


# Prefix reuse: a prompt of 1040 tokens, of which 1024 were seen before.


def first_token_s(server: Server, prompt: list[int]) -> float:
    return server.complete(prompt, 1, cache_prompt=True).seconds


def prefix(lab: Lab) -> dict[str, float]:
    rng = random.Random(1)
    shared = random_prompt(rng, PREFIX_TOKENS)
    with lab.server() as server:
        cold = [first_token_s(server, random_prompt(rng, PREFIX_TOKENS + TAIL_TOKENS)) for _ in range(lab.rounds)]
        first_token_s(server, shared + random_prompt(rng, TAIL_TOKENS))
        hits = [first_token_s(server, shared + random_prompt(rng, TAIL_TOKENS)) for _ in range(lab.rounds)]
    found = {"cold_s": statistics.median(cold), "hit_s": statistics.median(hits)}
    return found | {"times_faster": found["cold_s"] / found["hit_s"]}


def restart(lab: Lab) -> dict[str, float]:
    """The same after the server was stopped and started again, pages kept in a folder."""
    rng = random.Random(2)
    shared = random_prompt(rng, PREFIX_TOKENS)
    cold, hits = [], []
    with tempfile.TemporaryDirectory() as folder:
        option = ("--kv-store", folder)
        with lab.server(*option) as server:
            cold = [first_token_s(server, random_prompt(rng, PREFIX_TOKENS + TAIL_TOKENS)) for _ in range(lab.rounds)]
            first_token_s(server, shared + random_prompt(rng, TAIL_TOKENS))
        for _ in range(lab.rounds):
            with lab.server(*option) as server:
                hits.append(first_token_s(server, shared + random_prompt(rng, TAIL_TOKENS)))
    found = {"cold_s": statistics.median(cold), "hit_s": statistics.median(hits)}
    return found | {"times_faster": found["cold_s"] / found["hit_s"]}


# Conversations: 16 agents, 10 turns each, every turn sends all before it.

AGENTS, TURNS, PROMPT_WORDS, TURN_WORDS, ANSWER_TOKENS = 16, 10, 730, 30, 48


def converse(server: Server, agent: int) -> tuple[list[float], int, int]:
    """Seconds to the first token of each turn, prompt tokens sent, and those that were cached."""
    rng = random.Random(100 + agent)
    messages = [user(words(rng, PROMPT_WORDS))]
    waits, sent, cached = [], 0, 0
    for turn in range(TURNS):
        body = chat(messages, ANSWER_TOKENS, 1000 * agent + turn) | {"cache_prompt": True}
        answer = server.stream("/v1/chat/completions", body)
        waits.append(answer.arrivals[0])
        sent, cached = sent + answer.prompt_tokens, cached + answer.cached_tokens
        messages += [{"role": "assistant", "content": answer.text}, user(words(rng, TURN_WORDS))]
    return waits, sent, cached


def conversations(lab: Lab) -> dict[str, float]:
    with lab.server() as server:
        started = time.perf_counter()
        found = together([lambda agent=agent: converse(server, agent) for agent in range(AGENTS)])
        total = time.perf_counter() - started
    later = [wait for waits, _, _ in found for wait in waits[1:]]
    sent, cached = sum(row[1] for row in found), sum(row[2] for row in found)
    return {"total_s": total, "later_first_token_p99_s": p99(later), "cached_fraction": cached / sent}


# Soak: clients come, go, and leave in the middle.

SOAK_CLIENTS, SOAK_WINDOWS, CANCELLED = 32, 10, 0.3
# Small enough to be full of cached pages within the first tenth: from then on memory has to stand still.
SOAK_KV_MIB = 512


def soak(lab: Lab) -> dict[str, float]:
    """First and last tenth of the time beside each other: nothing may grow."""
    ends = threading.Event()
    tenths: list[list[float]] = [[] for _ in range(SOAK_WINDOWS)]
    rss, pages = [0] * SOAK_WINDOWS, [0] * SOAK_WINDOWS
    with lab.server("--set", f"engine.kv_mib={SOAK_KV_MIB}") as server:
        started = time.perf_counter()

        def tenth(moment: float) -> int:
            return min(SOAK_WINDOWS - 1, int(SOAK_WINDOWS * (moment - started) / lab.soak_s))

        def client(number: int) -> int:
            rng, requests = random.Random(number), 0
            while not ends.is_set():
                prompt, tokens = random_prompt(rng, rng.randrange(16, 512)), rng.randrange(16, 128)
                body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0.7}
                leaves = rng.randrange(1, tokens) if rng.random() < CANCELLED else None
                sent = time.perf_counter()
                arrivals = server.stream("/v1/completions", body, pieces_max=leaves).arrivals
                for gap, arrival in zip(gaps(arrivals), arrivals[1:]):
                    tenths[tenth(sent + arrival)].append(gap)
                requests += 1
            return requests

        def watch() -> int:
            while not ends.wait(min(1.0, lab.soak_s / SOAK_WINDOWS / 4)):
                now = time.perf_counter()
                rss[tenth(now)] = max(rss[tenth(now)], server.rss_bytes())
                pages[tenth(now)] = max(pages[tenth(now)], pages_taken(server))
                if now - started > lab.soak_s:
                    ends.set()
            return 0

        requests = sum(together([watch, *(lambda n=n: client(n) for n in range(SOAK_CLIENTS))]))
        after = pages_left(server) if lab.kind == "janus" else {}
    return {
        "seconds": lab.soak_s,
        "requests": requests,
        "second_tenth_p99_s": p99(tenths[1]),
        "last_tenth_p99_s": p99(tenths[-1]),
        "second_tenth_rss_bytes": rss[1],
        "last_tenth_rss_bytes": rss[-1],
        "second_tenth_pages": pages[1],
        "last_tenth_pages": pages[-1],
    } | after


def pages_taken(server: Server) -> int:
    """Pages that sequences hold and those kept for prompts to come."""
    return int(sum(server.metric(f"janus_engine_kv_pages_{kind}") for kind in ("used", "cached")))


def pages_left(server: Server) -> dict[str, float]:
    """Once nothing runs: pages that sequences still hold."""
    deadline = time.perf_counter() + 10
    while server.metric("janus_engine_running_sequences") > 0 and time.perf_counter() < deadline:
        time.sleep(0.05)
    return {"pages_held_after": server.metric("janus_engine_kv_pages_used")}


# Fairness: one caller keeps the server busy, the other asks now and then.

GREEDY_STREAMS = 16
# The victim asks so often, or, where that takes longer than so many seconds, so often at least.
VICTIM_REQUESTS, VICTIM_SECONDS, VICTIM_REQUESTS_MIN = 200, 45, 20


def fairness(lab: Lab) -> dict[str, float]:
    """The victim's time to its first token alone, and beside a greedy caller. With half of the machine, its
    fair share, a prompt takes twice as long as alone."""
    greedy, victim = keys = ("greedy-key", "victim-key")
    with lab.server(keys=keys) as server:
        server.complete(random_prompt(random.Random(1), 64), 4, victim)
        alone = victim_waits(server, victim, random.Random(7))
        ends = threading.Event()

        def keep_busy(number: int) -> None:
            rng = random.Random(number)
            while not ends.is_set():
                server.complete(random_prompt(rng, 512), 64, greedy)

        def ask() -> list[float]:
            try:
                time.sleep(1.0)
                return victim_waits(server, victim, random.Random(8))
            finally:
                ends.set()

        streams = [lambda n=n: keep_busy(n) for n in range(GREEDY_STREAMS)]
        beside = together([ask, *streams])[0]
    found = {"alone_p99_s": p99(alone), "beside_greedy_p99_s": p99(beside)}
    found["beside_greedy_median_s"] = statistics.median(beside)
    found["victim_requests"] = len(beside)
    return found | {"of_fair_share": found["beside_greedy_p99_s"] / (2 * found["alone_p99_s"])}


def victim_waits(server: Server, key: str, rng: random.Random) -> list[float]:
    waits: list[float] = []
    started = time.perf_counter()
    while len(waits) < VICTIM_REQUESTS:
        if len(waits) >= VICTIM_REQUESTS_MIN and time.perf_counter() - started > VICTIM_SECONDS:
            break
        waits.append(server.complete(random_prompt(rng, 256), 1, key).seconds)
    return waits


# A long prompt beside a running stream.


def stream_gaps(server: Server, tokens: int, began: threading.Event | None = None) -> list[float]:
    """Between the tokens of a running stream; `began` is set as it is sent."""
    sampling = {"ignore_eos": True, "temperature": 0.7, "seed": 1}
    if began is not None:
        began.set()
    body = {"prompt": random_prompt(random.Random(3), 16), "max_tokens": tokens} | sampling
    return gaps(server.stream("/v1/completions", body).arrivals)


def long_prompt(lab: Lab) -> dict[str, float]:
    with lab.server() as server:
        alone = stream_gaps(server, 400)
        began = threading.Event()
        took: list[float] = []

        def arrive() -> None:
            began.wait()
            time.sleep(0.3)
            took.append(server.complete(random_prompt(random.Random(4), LONG_TOKENS), 1).seconds)

        beside = together([lambda: stream_gaps(server, 1200, began), arrive])[0]
        # Only while both ran: the stream's beginning and what follows the prompt's end are left out.
        window, elapsed = [], 0.0
        for gap in beside:
            elapsed += gap
            if 0.3 < elapsed < 0.3 + took[0]:
                window.append(gap)
    return {
        "alone_p99_s": p99(alone),
        "beside_p99_s": p99(window),
        "beside_longest_s": max(window),
        "long_first_token_s": took[0],
        "tokens_meanwhile": len(window),
    }


# A job of embeddings beside a chat.

BATCH, INPUT_WORDS, STREAM_TOKENS, STREAMS_ALONE = 100, 24, 200, 10


def embeddings(lab: Lab) -> dict[str, float]:
    """A chat stream's tokens alone, and while a job of embeddings runs. The job is a process of its own that
    lets others go first: it takes the place of clients on other machines, and the server has these cores."""
    rng = random.Random(5)
    texts = [words(rng, INPUT_WORDS) for _ in range(lab.embedding_inputs)]
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    # Without guesses every step is one token, so that each gap is the time of a step.
    options = ("--model", f"embed={lab.embedding_model}", "--set", "engine.speculation=off")
    with lab.server(*options) as server:
        embed(server, batches[0])
        alone = [gap for _ in range(STREAMS_ALONE) for gap in stream_gaps(server, STREAM_TOKENS)]
        job = multiprocessing.get_context("fork").Process(target=embed_all, args=(server, batches))
        started = time.perf_counter()
        job.start()
        beside: list[float] = []
        while job.is_alive():
            found = stream_gaps(server, STREAM_TOKENS)
            beside.extend(found if job.is_alive() else [])
        job_s = time.perf_counter() - started
        if job.exitcode != 0:
            raise RuntimeError(f"the job of embeddings ended with {job.exitcode}")
    median = statistics.median
    found = {"alone_p99_s": p99(alone), "beside_p99_s": p99(beside)}
    found |= {"alone_median_s": median(alone), "beside_median_s": median(beside)}
    found |= {"inputs": len(texts), "seconds": job_s, "inputs_per_s": len(texts) / job_s}
    return found | {"times_slower": found["beside_p99_s"] / found["alone_p99_s"]}


def embed_all(server: Server, batches: list[list[str]]) -> None:
    os.nice(19)
    for texts in batches:
        embed(server, texts)


def embed(server: Server, texts: list[str]) -> None:
    # As the published clients ask.
    body = {"model": "embed", "input": texts, "encoding_format": "base64"}
    found = len(server.post("/v1/embeddings", body)["data"])
    if found != len(texts):
        raise RuntimeError(f"{found} vectors came for {len(texts)} texts")


@dataclass(frozen=True)
class Scenario:
    title: str
    run: object
    kinds: tuple[str, ...]


ALL = {
    "prefix": Scenario("1040-token prompt of which 1024 were seen", prefix, BOTH),
    "restart": Scenario("the same after a restart, pages kept on disk", restart, JANUS),
    "conversations": Scenario(f"{AGENTS} agents, {TURNS} turns, 1k-token prompts that grow", conversations, BOTH),
    "soak": Scenario(f"{SOAK_CLIENTS} clients, three in ten requests cancelled", soak, JANUS),
    "fairness": Scenario("a caller beside one that keeps the server busy", fairness, BOTH),
    "long_prompt": Scenario(f"a prompt of {LONG_TOKENS} tokens beside a stream", long_prompt, BOTH),
    "embeddings": Scenario("a job of embeddings beside a chat", embeddings, JANUS),
}
