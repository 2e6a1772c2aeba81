"""What guessing next tokens saves: Janus with `engine.speculation` off and adaptive, in one run.

    python3 benches/peers/speculation.py [--model NAME_OR_PATH ...] [--rounds 3] [--clients 1 4]
                                         [--draft NAME_OR_PATH] [--json FILE] [--readme FILE]

Both servers are started in turn (A-B-A-B) and asked the same: to summarise, to edit code, to quote, and,
where guesses have little to go by, to write freely, greedily and with a seed. Every answer has to be the
same with and without guesses. Prints tokens a second of both, the ratio of their medians, and how many
guesses were computed and came true.

With `--draft` a small model guesses too, and prompts are asked once each, so that reading them with the
draft is part of what it may cost:

    python3 benches/peers/speculation.py --model smollm2-wide-q4_0 llama-1b-q4_k_m --draft smollm2-135m-instruct \
        --json benches/peers/measured/drafts.json --readme benches/peers/RESULTS.md

has a model that mostly says what its draft says (widen.py), and one of random weights, with which it agrees
by chance only. That one's answers are all sampled: greedily it repeats itself, which the text alone guesses.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import models
import report
from machine import describe, sentence
from results import write_json
from servers import CACHE, Setup, janus_binary, janus_version, start, together

ARTICLE = """The lighthouse at Corran Point was built in 1871 after three ships were lost in one winter. Its lamp burned
whale oil at first, then paraffin, and from 1934 electric light. The keeper lived with his family in the low white
house beside the tower, and the children rowed across the sound to school. In 1968 the light became automatic and
the last keeper, Angus Rae, left the island. Today the white house is a museum of the sound: it shows the old lens,
the logbooks of the keepers, and the boat in which the children crossed. About nine thousand people visit it each
summer. The museum is run by volunteers of the village, who also repaint the tower every fifth year."""

CODE = '''def mean(values):
    total = 0
    for value in values:
        total = total + value
    return total / len(values)


def variance(values):
    average = mean(values)
    total = 0
    for value in values:
        total = total + (value - average) ** 2
    return total / len(values)


def deviation(values):
    return variance(values) ** 0.5
'''

TASKS = {
    "summarise": f"Summarise this text in three sentences, keeping its names and years.\n\n{ARTICLE}",
    "edit code": f"Rename `values` to `numbers` in this code. Print the whole code.\n\n```python\n{CODE}```",
    "quote": f"Repeat this text word for word.\n\n{ARTICLE}",
    "write": "Write a story about a clockmaker who finds a door behind the oldest clock in the shop.",
    "write, sampled": "Describe a market in a harbour town on a rainy morning.",
}
TOKENS = 160


def tasks_of(model: str) -> dict[str, str]:
    """What a model is asked, by name."""
    if model not in models.MADE:
        return TASKS
    return {"summarise, sampled": TASKS["summarise"], "write, sampled": TASKS["write, sampled"]}


def ask(server, task: str, text: str) -> tuple[int, str]:
    """Tokens and text of one answer."""
    sampling = {"temperature": 0.9, "seed": 7} if task.endswith("sampled") else {"temperature": 0}
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": TOKENS}
    reply = server.post("/v1/chat/completions", body | sampling)
    return reply["usage"]["completion_tokens"], reply["choices"][0]["message"]["content"]


def speed(server, task: str, text: str, clients: int) -> tuple[float, tuple[int, str]]:
    started = time.perf_counter()
    answers = together([lambda: ask(server, task, text)] * clients)
    seconds = time.perf_counter() - started
    if len(set(answers)) != 1:
        sys.exit(f"{task}: the same request was answered in {len(set(answers))} ways")
    return sum(tokens for tokens, _ in answers) / seconds, answers[0]


def measure(
    binary: Path, path: Path, tasks: dict[str, str], mode: str, clients: list[int], draft: Path | None
) -> tuple[dict, dict, dict]:
    """Speeds and answers by task and clients, and counts of guesses."""
    options = ("--set", f"engine.speculation={mode}")
    if draft is not None and mode != "off":
        options += ("--draft", f"model={draft}")
    server = start("janus", binary, Setup(path, describe()["cores"], 4096, 16, janus_options=options))
    speeds, answers, guesses = {}, {}, {}
    try:
        for task, text in tasks.items():
            if draft is None:
                ask(server, task, text)  # The prompt's pages are there from now on, with and without guesses.
            before = counts(server)
            for count in clients:
                speeds[task, count], answers[task, count] = speed(server, task, text, count)
            guesses[task] = [after - b for after, b in zip(counts(server), before)]
    finally:
        server.stop()
    return speeds, answers, guesses


def counts(server) -> list[int]:
    names = ("janus_engine_guessed_tokens_total", "janus_engine_accepted_guesses_total")
    return [int(server.metric(name)) for name in names]


def compare(model: str, binary: Path, clients: list[int], draft: Path | None, rounds: int) -> list[dict]:
    """A row for each task and number of clients: medians of all rounds, guesses of the last one."""
    path, tasks = models.path_of(model, binary, accept_license=False), tasks_of(model)
    speeds: dict = {}
    for number in range(rounds):
        answers = {}
        for mode in ("off", "adaptive"):
            print(f"{model}, round {number + 1}, {mode}", file=sys.stderr, flush=True)
            found, answers[mode], guesses = measure(binary, path, tasks, mode, clients, draft)
            for place, value in found.items():
                speeds.setdefault(place, {}).setdefault(mode, []).append(value)
        if answers["off"] != answers["adaptive"]:
            sys.exit("guesses changed an answer")
    rows = []
    for (task, count), values in speeds.items():
        off, on = (statistics.median(values[mode]) for mode in ("off", "adaptive"))
        guessed, right = guesses[task]
        rows.append({"model": model, "task": task, "clients": count, "off_tok_s": off, "adaptive_tok_s": on})
        rows[-1] |= {"guessed": guessed, "right": right}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["smollm2-135m-instruct"])
    parser.add_argument("--draft", metavar="NAME_OR_PATH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--janus", metavar="PATH", help="default: this checkout's release build")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="rewrites its block `speculation` or `drafts`")
    arguments = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    binary = janus_binary(arguments.janus)
    draft = arguments.draft and models.path_of(arguments.draft, binary, accept_license=False)
    print(sentence(describe()), file=sys.stderr)
    rows = []
    for model in arguments.model:
        found = compare(model, binary, arguments.clients, draft, arguments.rounds)
        print(table(found))
        print(f"guesses make {100 * share(found):.1f} % of the time of {model} over all rows")
        rows += found
    print("all answers were the same with and without guesses")
    if arguments.json:
        about = {"machine": describe(), "draft": arguments.draft, "rounds": arguments.rounds}
        write_json(arguments.json, about | {"build": janus_version(binary), "rows": rows})
    if arguments.readme:
        beside = f" with {arguments.draft} as draft" if draft else ""
        measured = "one round" if arguments.rounds == 1 else f"medians of {arguments.rounds} rounds"
        where = f"{' and '.join(arguments.model)}{beside} on {sentence(describe())}, {measured}."
        report.rewrite(arguments.readme, "drafts" if draft else "speculation", f"{where}\n\n{table(rows)}")


def share(rows: list[dict]) -> float:
    """What is left of the time with guesses."""
    return statistics.geometric_mean(row["off_tok_s"] / row["adaptive_tok_s"] for row in rows)


def table(rows: list[dict]) -> str:
    """Guesses computed and come true are those of the last round, with any number of clients."""
    several = len({row["model"] for row in rows}) > 1
    head = ["model"] * several + ["task", "clients", "without, tok/s", "with, tok/s", "ratio"]
    lines = ["| " + " | ".join([*head, "guesses right / computed"]) + " |", "|---" * (len(head) + 1) + "|"]
    for row in rows:
        off, on = row["off_tok_s"], row["adaptive_tok_s"]
        cells = [row["model"]] * several + [row["task"], row["clients"], f"{off:.0f}", f"{on:.0f}", f"{on / off:.2f}×"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{row['right']} / {row['guessed']}"])) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
