"""openai-python: streamed chat."""

import json

import httpx

from janus import CHAT_MODEL
from test_chat import CAPITAL, ask, text


def test_chunks(client):
    chunks = list(ask(client, stream=True, max_tokens=32))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == text(ask(client, max_tokens=32))
    # It streams: one piece would be a whole answer in disguise.
    assert sum(piece != "" for piece in pieces) > 3
    assert all(chunk.usage is None for chunk in chunks)


def test_usage(client):
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == {
        "prompt_tokens": 43, "completion_tokens": 8, "total_tokens": 51}


def test_wire_format(server):
    """What is on the wire: events of one line, an empty line after each, the closing mark."""
    body = {"model": CHAT_MODEL, "messages": CAPITAL, "max_tokens": 4, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert response.headers["content-type"].split(";")[0] == "text/event-stream"
    *events, end = response.text.split("\n\n")
    assert end == ""
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if not event.startswith(":")]
    assert all("usage" in chunk for chunk in chunks), "null in all chunks but the last"
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_several_choices(client):
    texts = {0: "", 1: ""}
    ended = set()
    for chunk in ask(client, stream=True, n=2, temperature=1, seed=3):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ended |= {choice.index} if choice.finish_reason else set()
    assert ended == {0, 1}
    whole = ask(client, n=2, temperature=1, seed=3)
    assert texts == {choice.index: choice.message.content for choice in whole.choices}


def test_logprobs(client):
    chunks = ask(client, stream=True, logprobs=True, top_logprobs=1)
    entries = [e for chunk in chunks for c in chunk.choices if c.logprobs for e in c.logprobs.content]
    whole = ask(client, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    assert [entry.token for entry in entries] == [entry.token for entry in whole]


def test_stop_text_across_tokens(client):
    """Text that may begin a stop string is held back, and never shown when it does."""
    chunks = ask(client, stream=True, max_tokens=32, stop=["France is Par"])
    shown = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert shown == "The capital city of "


def test_characters_stay_whole(client):
    """Each piece is text by itself, also where a character takes several tokens."""
    message = [{"role": "user", "content": "Why is the sky blue? 🌤️ Answer with emoji where you can."}]
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(client, messages=message, stream=True, max_tokens=24)]
    assert "🌤" in "".join(pieces)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces[:-2])


def test_helper(client):
    """The SDK's accumulating helper agrees with the whole answer."""
    with client.chat.completions.stream(
            model=CHAT_MODEL, messages=CAPITAL, temperature=0, max_tokens=32) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == text(final) == "The capital city of France is Paris."


async def test_async(async_client):
    stream = await async_client.chat.completions.create(
        model=CHAT_MODEL, messages=CAPITAL, temperature=0, max_tokens=32, stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == "The capital city of France is Paris."
