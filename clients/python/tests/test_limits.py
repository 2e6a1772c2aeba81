"""openai-python against servers with settings of their own: full, locked, ending."""

import signal
import threading
import time

import openai
import pytest
from openai import OpenAI

from test_chat import ask, text
from test_load import ENDLESS


def connect(server, **options):
    return OpenAI(**{"base_url": f"{server.url}/v1", "api_key": "any", "max_retries": 0, "timeout": 60, **options})


@pytest.fixture
def full_server(own_server):
    """One place, one seat to wait in; both are taken until the returned function is called."""
    server = own_server(engine_running_sequences_max=1, engine_waiting_requests_max=1)
    client = connect(server)
    running = ask(client, stream=True, **ENDLESS)
    next(iter(running))
    waiting = threading.Thread(target=lambda: ask(client))
    waiting.start()
    server.wait_until("waiting", 10, lambda: server.waiting() == 1)
    yield server, running.close
    running.close()
    waiting.join()


def test_full(full_server):
    server, _ = full_server
    with pytest.raises(openai.RateLimitError) as caught:
        ask(connect(server))
    error = caught.value
    assert error.body.keys() == {"message", "type", "param", "code"}
    assert error.code == "rate_limit_exceeded"
    # Above 60 s the SDKs would not listen to it.
    assert 0 < float(error.response.headers["retry-after"]) <= 60


def test_retries_until_there_is_room(full_server):
    """The SDK's own retries, at the pace the server asks for, end in an answer."""
    server, make_room = full_server
    timer = threading.Timer(0.5, make_room)
    timer.start()
    start = time.monotonic()
    assert text(ask(connect(server, max_retries=5)))
    assert 0.4 < time.monotonic() - start < 60
    timer.join()


def test_keys(own_server):
    server = own_server(auth_api_keys="first-key,second-key")
    for key in ("first-key", "second-key"):
        assert text(ask(connect(server, api_key=key), max_tokens=1))
    for key in ("first-ke", "first-key2", "any"):
        with pytest.raises(openai.AuthenticationError) as caught:
            ask(connect(server, api_key=key))
        assert caught.value.code == "invalid_api_key"
        assert key not in caught.value.message
    assert server.get("/v1/models")[0] == 401
    assert server.get("/healthz")[0] == server.get("/readyz")[0] == 200


def test_drain(own_server):
    """Told to end, it finishes what it streams and sends newcomers elsewhere."""
    server = own_server()
    client = connect(server)
    stream = ask(client, stream=True, max_tokens=100, extra_body={"ignore_eos": True})
    chunks = [next(iter(stream))]
    server.process.send_signal(signal.SIGTERM)
    server.wait_until("refusing", 5, lambda: server.get("/readyz")[0] == 503)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert caught.value.status_code == 503
    assert 0 < float(caught.value.response.headers["retry-after"]) <= 60
    chunks += stream
    assert chunks[-1].choices[0].finish_reason == "length"
    assert server.process.wait(10) == 0
