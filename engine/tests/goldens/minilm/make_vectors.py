"""Makes vectors.json: all-MiniLM-L6-v2 sentence vectors by sentence-transformers in float32.

    python make_vectors.py [MODEL_FOLDER]

Without an argument it takes the model from the folder of test models (JANUS_TEST_MODELS).

Texts run from empty to longer than the model's 256 tokens, over several scripts. `tokens` are the
ids the model saw, after truncation; `vector` is mean-pooled and normalised. No text names a special
token: the reference turns those into the token itself, a server must not.

Needs sentence-transformers 6.2.0 and ../models/requirements.txt.
"""

import json
import os
import sys
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).parent
TEST_MODELS = Path(os.environ.get("JANUS_TEST_MODELS") or Path.home() / ".cache/janus-test-models")
MODEL = TEST_MODELS / "all-minilm-l6-v2"
TEXTS = [
    "hello world",
    "Hello, World!",
    "a",
    "",
    "   ",
    "The quick brown fox jumps over the lazy dog.",
    "A cat sits on the mat.",
    "There is a feline resting on a rug.",
    "The stock market fell sharply on Monday after the announcement.",
    "How do I reset my password?",
    "I forgot my login credentials, what should I do?",
    "Photosynthesis converts light energy into chemical energy.",
    "def add(a, b):\n    return a + b",
    "SELECT id FROM users WHERE email = 'a@example.com';",
    "https://example.com/path?query=1&other=two#fragment",
    "1234567890 3.14159 1e-9 0xFF",
    "!!! ??? ... --- ###",
    "Crème brûlée à la carte, s'il vous plaît",
    "Straße, Größe, Übung: Zwölf Boxkämpfer jagen Viktor",
    "東京は日本の首都です。",
    "我喜欢学习新的语言",
    "한국어 문장을 벡터로 바꿉니다",
    "Быстрая коричневая лиса",
    "القاهرة عاصمة مصر",
    "नमस्ते दुनिया",
    "emoji 😀🚀❤️ in text 👩‍👩‍👧",
    "tabs\tand\nnewlines\r\nand   runs   of   spaces",
    "pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
    "word " * 60,
    "A longer paragraph about the sea. " * 30,
    "Beyond the limit: every token counts, and the rest is cut off. " * 60,
]


def main(model_folder=MODEL):
    torch.set_num_threads(1)
    model = SentenceTransformer(str(model_folder), device="cpu")
    cases = [case(model, text) for text in TEXTS]
    header = f'"model": "all-minilm-l6-v2", "max_tokens": {model.max_seq_length}'
    lines = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    (HERE / "vectors.json").write_text("{%s,\n\"cases\": [\n%s\n]}\n" % (header, lines), encoding="utf-8")


def case(model, text):
    tokens = model.preprocess([text])["input_ids"][0].tolist()
    vector = model.encode(text, convert_to_numpy=True)
    return {"text": text, "tokens": tokens, "vector": [float(f"{v:.7g}") for v in vector]}


if __name__ == "__main__":
    main(*sys.argv[1:])
