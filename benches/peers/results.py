"""The JSON file of a comparison: every value measured, kept after each round, continued by later runs.

    {"machine": ..., "threads": 2, "isa": null, "context": 8192, "models": {NAME: {
        "file_bytes": ..., "decode_tokens": 64, "builds": {KIND: ...}, "measured": "2026-01-31",
        "idle_cpu_s": {KIND: seconds of processor time in 10 idle ones},
        "figures": {"prefill_512": {"janus": [one value a round], "llama.cpp": [...]}, ...},
        "limits": what `janus bench` says of this machine and this model}}}

Figures: `prefill_N`, `decode_N` and `deep_N` in tokens a second (a prompt of N, N streams, one stream after
a prompt of N), `load_s`, `first_token_s` (both since the server's start), `first_start_s`
(`first_token_s` where nothing is kept of earlier starts), `memory_loaded_bytes`, `memory_worked_bytes` (PSS).
"""

import datetime
import json
import os
import sys
from pathlib import Path


class Results:
    def __init__(self, path: Path | None, header: dict, read_only: bool = False):
        self.path = path
        self.data = read_json(path, header, read_only) or {**header, "models": {}}

    @property
    def models(self) -> dict:
        return self.data["models"]

    def open_model(self, name: str, path: Path, decode_tokens: int, builds: dict) -> dict:
        """The model's entry; a new one if the file or a server is another than what it was measured with."""
        wanted = {"file_bytes": path.stat().st_size, "decode_tokens": decode_tokens, "builds": builds}
        model = self.models.get(name)
        if model is None or any(model.get(key) != value for key, value in wanted.items()):
            model = self.models[name] = {**wanted, "figures": {}}
        return model

    @staticmethod
    def rounds(model: dict, figure: str) -> int:
        values = model["figures"].get(figure, {})
        return min((len(of_kind) for of_kind in values.values()), default=0)

    def missing(self, model: dict, figures: list[str], rounds: int) -> list[str]:
        """Those of `figures` that have fewest values, if that is fewer than `rounds`."""
        fewest = min((self.rounds(model, figure) for figure in figures), default=rounds)
        if fewest >= rounds:
            return []
        return [figure for figure in figures if self.rounds(model, figure) == fewest]

    def add_round(self, model: dict, values: dict[str, dict[str, float]]) -> None:
        for kind, of_kind in values.items():
            for figure, value in of_kind.items():
                model["figures"].setdefault(figure, {}).setdefault(kind, []).append(value)
        model["measured"] = datetime.date.today().isoformat()
        self.save()

    def save(self) -> None:
        if self.path is not None:
            write_json(self.path, self.data)


def read_json(path: Path | None, header: dict, read_only: bool) -> dict | None:
    """What FILE holds, None where there is none yet; ends the program where that was measured with other values
    than those of `header`, unless nothing is to be added to it."""
    if path is None or not path.exists():
        return sys.exit(f"{path} does not exist") if read_only else None
    data = json.loads(path.read_text())
    changed = [key for key, value in header.items() if data.get(key) != value]
    if changed and not read_only:
        sys.exit(f"{path} was measured with another {' and '.join(changed)}; give another --json FILE")
    return data


def write_json(path: Path, data: dict) -> None:
    """Replaces a file as a whole or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(partial, path)
