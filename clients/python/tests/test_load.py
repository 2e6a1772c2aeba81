"""Many clients at once, clients that vanish, and a server that is full or ending."""

import asyncio
import json
import socket
import struct
import threading
from urllib.parse import urlsplit

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from janus import CHAT_MODEL, EMBEDDING_MODEL
from test_chat import CAPITAL, ask, text

CLIENTS = 32
# Longer than any test waits: only a cancel ends it in time.
ENDLESS = {"max_tokens": 1800, "extra_body": {"ignore_eos": True}}


async def test_concurrent_clients(server):
    """32 clients with connections of their own: all served, each with its own answer."""
    async def one(number):
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=80) as client:
            stream = await client.chat.completions.create(
                model=CHAT_MODEL, messages=[{"role": "user", "content": f"Count to {number}."}],
                temperature=0, max_tokens=12, stream=True, stream_options={"include_usage": True})
            chunks = [chunk async for chunk in stream]
            vector = await client.embeddings.create(model=EMBEDDING_MODEL, input=f"number {number}")
            return chunks, vector.data[0].embedding

    results = await asyncio.gather(*(one(number) for number in range(CLIENTS)))
    for chunks, vector in results:
        assert chunks[-1].usage.completion_tokens <= 12
        assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
        assert len(vector) == 384
    assert len({tuple(vector) for _, vector in results}) == CLIENTS
    server.wait_until("idle", 5, lambda: server.running() == 0)


def test_same_answer_in_company(client):
    """A greedy answer does not depend on what else is in the batch."""
    alone = text(ask(client, max_tokens=24))
    answers = [None] * 6

    def run(place):
        answers[place] = text(ask(client, max_tokens=24))

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(answers))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert set(answers) == {alone}


def test_second_client_starts_soon(client, server):
    """A long answer does not keep the next client waiting: that one's comes whole meanwhile."""
    with ask(client, stream=True, **ENDLESS) as first:
        chunks = iter(first)
        next(chunks)
        assert text(ask(client, max_tokens=4))
        assert server.running() == 1, "the first has not ended"
        assert next(chunks).choices
    server.wait_until("idle", 5, lambda: server.running() == 0)


def request_bytes(server, **parameters):
    body = json.dumps({"model": CHAT_MODEL, "messages": CAPITAL, "max_tokens": 1800, "ignore_eos": True,
                       **parameters}).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: {urlsplit(server.url).netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n")
    return head.encode() + body


def connect(server):
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def reset(connection):
    """Closes without a goodbye, as a killed client's machine might."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("close", [socket.socket.close, reset], ids=["close", "reset"])
@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])
def test_disconnect(server, stream, close):
    """Whoever vanishes gives up their place at once."""
    connection = connect(server)
    connection.sendall(request_bytes(server, stream=stream))
    server.wait_until("running", 20, lambda: server.running() == 1)
    if stream:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    close(connection)
    server.wait_until("idle", 3, lambda: server.running() == 0)


def test_many_disconnects(server):
    """16 at once, half of them still waiting or in their prompt."""
    connections = [connect(server) for _ in range(16)]
    for connection in connections:
        connection.sendall(request_bytes(server, stream=True))
    server.wait_until("running", 20, lambda: server.running() >= 1)
    for connection in connections:
        reset(connection)
    server.wait_until("idle", 5, lambda: server.running() == 0 and server.waiting() == 0)


def test_sdk_close_cancels(client, server):
    with ask(client, stream=True, **ENDLESS) as stream:
        for _, chunk in zip(range(3), stream):
            assert chunk.choices
    server.wait_until("idle", 3, lambda: server.running() == 0)


async def test_async_cancel(async_client, server):
    task = asyncio.create_task(async_client.chat.completions.create(
        model=CHAT_MODEL, messages=CAPITAL, **ENDLESS))
    await asyncio.to_thread(server.wait_until, "running", 20, lambda: server.running() == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(server.wait_until, "idle", 3, lambda: server.running() == 0)


def test_still_answers(client):
    """After all of the above."""
    assert "Paris" in text(ask(client, max_tokens=16))
