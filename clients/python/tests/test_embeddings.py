"""openai-python: embeddings in all forms, against sentence-transformers' vectors."""

import base64
import json
import struct

import httpx
import pytest
from openai import AsyncOpenAI

from janus import EMBEDDING_MODEL, GOLDENS

DIMENSIONS = 384


@pytest.fixture
def client(loose_client):
    return loose_client


def embed(client, input, **parameters):
    return client.embeddings.create(model=EMBEDDING_MODEL, input=input, **parameters)


def vectors(reply):
    return [item.embedding for item in reply.data]


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5)


def golden_cases():
    return json.loads((GOLDENS / "minilm/vectors.json").read_text(encoding="utf-8"))["cases"]


def test_reply(client):
    reply = embed(client, "hello world")
    assert (reply.object, reply.model) == ("list", EMBEDDING_MODEL)
    (item,) = reply.data
    assert (item.object, item.index, len(item.embedding)) == ("embedding", 0, DIMENSIONS)
    assert sum(x * x for x in item.embedding) == pytest.approx(1, abs=1e-4)
    # [CLS] hello world [SEP]
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (4, 4)


def test_goldens(client):
    """Text in, sentence-transformers' vector out: tokenizer, model and pooling together."""
    cases = [case for case in golden_cases() if case["text"].strip() and len(case["tokens"]) < 256]
    reply = embed(client, [case["text"] for case in cases])
    near = {case["text"][:40]: cosine(vector, case["vector"])
            for case, vector in zip(cases, vectors(reply), strict=True)}
    assert len(near) > 25
    assert {text: value for text, value in near.items() if value < 0.9999} == {}


def test_forms_agree(client):
    """Text, texts, ids, lists of ids; ids go in as they are."""
    case = golden_cases()[0]
    forms = [case["text"], [case["text"]], case["tokens"], [case["tokens"]]]
    for form in forms:
        (vector,) = vectors(embed(client, form))
        assert cosine(vector, case["vector"]) > 0.9999, form


def test_order_and_batch(client):
    """A text's vector does not depend on its company, and comes back in its place."""
    texts = [case["text"] for case in golden_cases() if 0 < len(case["text"].strip()) < 100] * 3
    reply = embed(client, texts)
    assert [item.index for item in reply.data] == list(range(len(texts)))
    third = len(texts) // 3
    for vector, again in zip(vectors(reply)[:third], vectors(reply)[third:], strict=False):
        assert cosine(vector, again) > 0.99999
    (alone,) = vectors(embed(client, texts[1]))
    assert cosine(alone, reply.data[1].embedding) > 0.99999


def test_encoding_formats(server, client):
    """The SDK asks for base64 by itself; both formats hold the same numbers."""
    def post(**format):
        body = {"model": EMBEDDING_MODEL, "input": "hello world", **format}
        return httpx.post(f"{server.url}/v1/embeddings", json=body).json()["data"][0]["embedding"]
    packed = base64.b64decode(post(encoding_format="base64"))
    floats = post(encoding_format="float")
    assert list(struct.unpack(f"<{DIMENSIONS}f", packed)) == pytest.approx(floats, abs=1e-7)
    assert post() == floats, "float is the default on the wire"
    assert vectors(embed(client, "hello world"))[0] == pytest.approx(floats, abs=1e-7)
    assert vectors(embed(client, "hello world", encoding_format="float"))[0] == floats


def test_meaning(client):
    cat, feline, stocks = vectors(embed(client, [
        "A cat sits on the mat.", "There is a feline resting on a rug.", "The stock market fell sharply."]))
    assert cosine(cat, feline) > cosine(cat, stocks) + 0.3


def test_many(client):
    reply = embed(client, [f"text number {i}" for i in range(256)])
    assert len(reply.data) == 256
    assert reply.usage.prompt_tokens > 256 * 4


async def test_async(server):
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        reply = await client.embeddings.create(model=EMBEDDING_MODEL, input="hello world")
    assert cosine(reply.data[0].embedding, golden_cases()[0]["vector"]) > 0.9999
