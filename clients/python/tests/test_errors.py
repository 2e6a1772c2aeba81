"""openai-python: every failure arrives as the SDK's class for it, in OpenAI's shape."""

import httpx
import openai
import pytest

from janus import CHAT_MODEL, EMBEDDING_MODEL
from test_chat import CAPITAL, ask

MEMBERS = {"message", "type", "param", "code"}


def failure(kind, call):
    """The exception, checked for its class and the four members of its body."""
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert type(caught.value) is kind
    assert MEMBERS <= caught.value.body.keys()
    assert caught.value.body["message"]
    assert caught.value.request_id
    return caught.value


@pytest.mark.parametrize("parameters, param", [
    ({"temperature": -1}, "temperature"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 100_000}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logit_bias": {"0": 101}}, "logit_bias"),
    ({"logit_bias": {"word": 1}}, "logit_bias"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ({"stop": ["x"] * 10_000}, "stop"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"extra_body": {"no_such_parameter": 1}}, "no_such_parameter"),
    ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
])
def test_bad_chat_parameter(client, parameters, param):
    error = failure(openai.BadRequestError, lambda: ask(client, **parameters))
    assert error.type == "invalid_request_error"
    assert error.param.startswith(param)


@pytest.mark.parametrize("parameters, param", [
    ({"suffix": "the end"}, "suffix"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [10**9]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"logprobs": 21}, "logprobs"),
])
def test_bad_completion_parameter(client, parameters, param):
    body = {"model": CHAT_MODEL, "prompt": "hi", "max_tokens": 1, **parameters}
    error = failure(openai.BadRequestError, lambda: client.completions.create(**body))
    assert error.param.startswith(param)


@pytest.mark.parametrize("parameters, param", [
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": [""]}, "input"),
    ({"input": [[]]}, "input"),
    ({"input": [10**9]}, "input"),
    ({"input": ["a"] * 2049}, "input"),
    ({"dimensions": 100}, "dimensions"),
    ({"encoding_format": "yaml"}, "encoding_format"),
])
def test_bad_embedding_parameter(client, parameters, param):
    body = {"model": EMBEDDING_MODEL, "input": "hi", **parameters}
    error = failure(openai.BadRequestError, lambda: client.embeddings.create(**body))
    assert error.param.startswith(param)


def test_unknown_model(client):
    calls = [
        lambda: ask(client, model="gpt-nonsense"),
        lambda: ask(client, model="gpt-nonsense", stream=True),
        lambda: client.completions.create(model="gpt-nonsense", prompt="hi"),
        lambda: client.embeddings.create(model="gpt-nonsense", input="hi"),
        lambda: client.models.retrieve("gpt-nonsense"),
    ]
    for call in calls:
        error = failure(openai.NotFoundError, call)
        assert error.code == "model_not_found"
        assert "gpt-nonsense" in error.message


def test_wrong_kind_of_model(client):
    failure(openai.BadRequestError, lambda: ask(client, model=EMBEDDING_MODEL))
    failure(openai.BadRequestError, lambda: client.embeddings.create(model=CHAT_MODEL, input="hi"))


def test_context_length(client):
    long = [{"role": "user", "content": "word " * 20_000}]
    error = failure(openai.BadRequestError, lambda: ask(client, messages=long))
    assert error.code == "context_length_exceeded"
    error = failure(openai.BadRequestError, lambda: ask(client, messages=long, stream=True))
    assert error.code == "context_length_exceeded"
    error = failure(openai.BadRequestError, lambda: client.embeddings.create(
        model=EMBEDDING_MODEL, input="word " * 5_000))
    assert error.code == "context_length_exceeded"


def test_unreachable():
    nowhere = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="any", max_retries=0)
    with pytest.raises(openai.APIConnectionError):
        nowhere.models.list()


@pytest.mark.parametrize("method, path, body, status", [
    ("POST", "/v1/chat/completions", b"{", 400),
    ("POST", "/v1/chat/completions", b"", 400),
    ("POST", "/v1/chat/completions", b"[]", 400),
    ("POST", "/v1/chat/completions", b"\xff\xfe", 400),
    ("POST", "/v1/chat/completions", b'{"model": "x"}', 400),
    ("POST", "/v1/embeddings", b'{"input": "x"}', 400),
    ("POST", "/v1/chat/completions", b'{"messages":' + b"[" * 100_000, 400),
    ("GET", "/v1/chat/completions", b"", 405),
    ("DELETE", f"/v1/models/{CHAT_MODEL}", b"", 405),
    ("GET", "/v1/nothing", b"", 404),
    ("POST", "/", b"{}", 404),
    ("POST", "/v1/chat/completions", b" " * 64 * 1024 * 1024, 413),
], ids=lambda value: repr(value)[:40])
def test_wire_errors(server, method, path, body, status):
    """Shape and status where no SDK stands between."""
    headers = {"content-type": "application/json"}
    response = httpx.request(method, server.url + path, content=body, headers=headers, timeout=30)
    assert response.status_code == status
    assert response.headers["content-type"].split(";")[0] == "application/json"
    assert response.json()["error"].keys() == MEMBERS
    assert response.headers["x-request-id"]


def test_timeout(client, server):
    impatient = client.with_options(timeout=0.3, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(
            model=CHAT_MODEL, messages=CAPITAL, max_tokens=1500, extra_body={"ignore_eos": True})
    server.wait_until("idle", 5, lambda: server.running() == 0)
