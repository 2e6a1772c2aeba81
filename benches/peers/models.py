"""The models measured: where each comes from, and how much of it is measured by default.

SmolLM2 and Gemma are fetched by `janus pull` (Gemma under Google's Gemma Terms of Use, which
`--accept-license` of the peers command accepts); the Llama shapes are made by make_models.py, and SmolLM2
in a large model's shape by widen.py.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from servers import CACHE, peers_python, sh

PROMPTS = (16, 128, 512, 2048)
STREAMS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Size:
    """What is measured of models of one size: less of large ones, whose rounds take minutes."""

    prompts: tuple[int, ...]
    streams: tuple[int, ...]
    # Prompts after which one stream is measured.
    deep: tuple[int, ...]
    # Tokens each stream waits for.
    decode_tokens: int


SMALL = Size(PROMPTS, STREAMS, (2048,), 64)
LARGE = Size(PROMPTS, STREAMS, (2048,), 32)
LARGEST = Size((16, 128, 512), (1, 4, 16), (), 32)

PULLED = {
    "smollm2-135m-instruct": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma-3-270m": "gemma-3-270m-q4_k_m.gguf",
    "all-minilm-l6-v2": "model.safetensors",
}
MADE = [f"{shape}-{mix}" for shape in ("llama-1b", "llama-3b") for mix in ("q4_k_m", "q8_0", "q4_0")]
WIDENED = ["smollm2-wide-q8_0", "smollm2-wide-q4_0"]
ALL = ["smollm2-135m-instruct", "gemma-3-270m", *MADE]


def size_of(path: Path) -> Size:
    file_bytes = path.stat().st_size
    return SMALL if file_bytes < 400e6 else LARGE if file_bytes < 1.5e9 else LARGEST


def path_of(name: str, janus: Path, accept_license: bool) -> Path:
    """The model's file, fetched or made first where it is missing; a name that is a path is itself."""
    if name in PULLED:
        return pulled(name, janus, accept_license)
    if name in MADE:
        return made(name, janus, "make_models.py")
    if name in WIDENED:
        return made(name, janus, "widen.py")
    path = Path(name)
    if not path.is_file():
        sys.exit(f"{name} is neither a file nor one of {', '.join([*ALL, *WIDENED])}")
    return path


def pulled(name: str, janus: Path, accept_license: bool = False) -> Path:
    test_models = Path(os.environ.get("JANUS_TEST_MODELS", Path.home() / ".cache" / "janus-test-models"))
    places = [folder / name / PULLED[name] for folder in (test_models, CACHE / "pulled")]
    for path in places:
        if path.is_file():
            return path
    accept = ["--accept-license"] if accept_license else []
    sh(janus, "--models-dir", CACHE / "pulled", "pull", name, *accept)
    return places[-1]


def embedder(janus: Path) -> Path:
    """The folder of the embedding model served beside a chat."""
    return pulled("all-minilm-l6-v2", janus).parent


def made(name: str, janus: Path, script: str) -> Path:
    path = CACHE / "models" / f"{name}.gguf"
    if not path.exists():
        python = peers_python()
        sh(python, "-m", "pip", "install", "--quiet", "gguf", "numpy")
        vocabulary = pulled("smollm2-135m-instruct", janus)
        sh(python, Path(__file__).with_name(script), vocabulary, CACHE / "models", name)
    return path
