"""openai-python: chat completions, whole answers."""

import json

import openai
import pytest

from janus import CHAT_MODEL, GOLDENS

CAPITAL = [{"role": "user", "content": "What is the capital city of France? Answer in one sentence."}]


def ask(client, **parameters):
    """One short greedy answer unless told otherwise."""
    return client.chat.completions.create(
        **{"model": CHAT_MODEL, "messages": CAPITAL, "temperature": 0, "max_tokens": 8, **parameters})


def text(completion):
    return completion.choices[0].message.content


def test_answer(client):
    completion = ask(client, max_tokens=32)
    assert completion.object == "chat.completion"
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == CHAT_MODEL
    (choice,) = completion.choices
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "stop")
    assert choice.message.content == "The capital city of France is Paris."
    assert choice.logprobs is None


def test_usage(client):
    usage = ask(client).usage
    # The template adds the model's own system message: 43 tokens in all.
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (43, 8, 51)


@pytest.mark.parametrize("parameter", ["max_tokens", "max_completion_tokens"])
def test_length_limit(client, parameter):
    completion = ask(client, **{"max_tokens": openai.omit, parameter: 3})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 3


@pytest.mark.parametrize("stop, expected", [
    ("Paris", "The capital city of France is "),
    (["nowhere", " Paris"], "The capital city of France is"),
    (["is Par"], "The capital city of France "),
])
def test_stop_text(client, stop, expected):
    completion = ask(client, max_tokens=32, stop=stop)
    assert (completion.choices[0].finish_reason, text(completion)) == ("stop", expected)


def test_several_choices(client):
    choices = ask(client, n=3, temperature=1, seed=5).choices
    assert [choice.index for choice in choices] == [0, 1, 2]
    assert len({choice.message.content for choice in choices}) > 1


def test_seed_repeats(client):
    sampled = {"temperature": 1.2, "seed": 11, "max_tokens": 16}
    first = text(ask(client, **sampled))
    assert text(ask(client, **sampled)) == first
    assert text(ask(client, **{**sampled, "seed": 12})) != first


def test_logprobs(client):
    completion = ask(client, logprobs=True, top_logprobs=3)
    entries = completion.choices[0].logprobs.content
    assert len(entries) == completion.usage.completion_tokens
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == text(completion)
    for entry in entries:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 3 and tops == sorted(tops, reverse=True)
        # Greedy: the token is its own best alternative.
        assert entry.token == entry.top_logprobs[0].token
        assert entry.logprob == pytest.approx(tops[0], abs=1e-5)
        assert entry.logprob <= 0


def test_logprobs_without_alternatives(client):
    entries = ask(client, logprobs=True, max_tokens=2).choices[0].logprobs.content
    assert [entry.top_logprobs for entry in entries] == [[], []]


def test_logit_bias(client):
    first_token = golden_cases()[0]["output"][0]
    banned = ask(client, logit_bias={str(first_token): -100})
    assert not text(banned).startswith("The")


def test_content_parts(client):
    def parts(*texts):
        content = [{"type": "text", "text": text} for text in texts]
        return ask(client, messages=[{"role": "user", "content": content}])
    assert text(parts("What is the capital city of France? Answer in one sentence.")) == text(ask(client))
    # Parts are lines of one text.
    assert text(parts("What is", "the capital of France?")) == text(
        ask(client, messages=[{"role": "user", "content": "What is\nthe capital of France?"}]))


def test_system_and_earlier_turns(client):
    messages = [
        {"role": "system", "content": "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
        *CAPITAL,
    ]
    assert text(ask(client, messages=messages)) == text(ask(client))
    longer = messages + [{"role": "assistant", "content": "The capital city of France is Paris."},
                         {"role": "user", "content": "And of Italy?"}]
    assert ask(client, messages=longer).usage.prompt_tokens > 50


def test_developer_role_is_system(client):
    def prompt_tokens(role):
        messages = [{"role": role, "content": "Be brief."}, *CAPITAL]
        return ask(client, messages=messages, max_tokens=1).usage.prompt_tokens
    assert prompt_tokens("developer") == prompt_tokens("system")


def test_extensions(client):
    """Parameters OpenAI does not have, under the names vLLM gave them."""
    completion = ask(client, max_tokens=24, extra_body={
        "ignore_eos": True, "top_k": 5, "min_p": 0.01, "repetition_penalty": 1.05})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 24


def test_ignored_parameters(client):
    completion = ask(client, user="someone", metadata={"a": "b"}, store=False, service_tier="auto")
    assert text(completion) == text(ask(client))


def test_special_tokens_in_text_stay_text(client):
    """A user cannot open a turn by writing the token that opens one."""
    def prompt_tokens(content):
        messages = [{"role": "user", "content": content}]
        return ask(client, messages=messages, max_tokens=1).usage.prompt_tokens
    assert prompt_tokens("<|im_end|>") - prompt_tokens("") > 1


def test_headers(client):
    response = client.chat.completions.with_raw_response.create(
        model=CHAT_MODEL, messages=CAPITAL, max_tokens=1)
    assert response.headers["content-type"].split(";")[0] == "application/json"
    assert response.headers["x-request-id"]
    assert float(response.headers["openai-processing-ms"]) >= 0
    completion = response.parse()
    assert completion._request_id == response.headers["x-request-id"]


async def test_async(async_client):
    completion = await async_client.chat.completions.create(
        model=CHAT_MODEL, messages=CAPITAL, temperature=0, max_tokens=16)
    assert "Paris" in text(completion)


def golden_cases():
    return json.loads((GOLDENS / "smollm2/greedy.json").read_text(encoding="utf-8"))["cases"]
