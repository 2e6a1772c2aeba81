"""openai-python: text completions, and the models list."""

import pytest

from janus import CHAT_MODEL, EMBEDDING_MODEL
from test_chat import golden_cases

PROMPT = "Once upon a time, in a small village at the edge of a dark forest,"
# Each of the first tokens leads by at least this much, so that no rounding can turn it.
SURE_MARGIN = 0.3


def complete(client, prompt=PROMPT, **parameters):
    return client.completions.create(
        **{"model": CHAT_MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 8, **parameters})


def sure_cases():
    """(prompt ids, output ids) up to the first step that is not clearly decided."""
    for case in golden_cases():
        unsure = (step for step, margin in enumerate(case["margins"]) if margin < SURE_MARGIN)
        steps = next(unsure, len(case["margins"]))
        if steps >= 8:
            yield pytest.param(case["prompt"], case["output"][:steps], case, id=case["text"][-24:])


@pytest.mark.parametrize("prompt, output, case", sure_cases())
def test_greedy_golden(client, prompt, output, case):
    """Token for token what transformers computes from the same weights."""
    completion = complete(client, prompt, max_tokens=len(output),
                          extra_body={"ignore_eos": True, "skip_special_tokens": False})
    assert completion.usage.prompt_tokens == len(prompt)
    assert completion.usage.completion_tokens == len(output)
    # A character's first bytes alone print as a replacement character, which the golden text has not.
    assert case["continuation"].startswith(completion.choices[0].text.rstrip("\N{REPLACEMENT CHARACTER}"))


def test_answer(client):
    completion = complete(client)
    assert completion.object == "text_completion"
    assert completion.id.startswith("cmpl-")
    (choice,) = completion.choices
    assert choice.finish_reason == "length"
    assert choice.text.startswith(" there was")


def test_prompt_forms_agree(client):
    """Text, list of one text, ids, list of one list of ids."""
    case = next(c for c in golden_cases() if c["text"] == PROMPT)
    forms = [PROMPT, [PROMPT], case["prompt"], [case["prompt"]]]
    texts = [complete(client, form).choices[0].text for form in forms]
    assert len(set(texts)) == 1


def test_several_prompts(client):
    completion = complete(client, [PROMPT, "1, 1, 2, 3, 5, 8, 13,"])
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.choices[0].text == complete(client).choices[0].text
    assert completion.usage.completion_tokens == 16


def test_echo(client):
    assert complete(client, echo=True).choices[0].text == PROMPT + complete(client).choices[0].text


def test_logprobs(client):
    choice = complete(client, logprobs=2).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 8
    assert logprobs.text_offset[0] == 0
    assert all(len(top) >= 2 for top in logprobs.top_logprobs)


def test_echo_with_logprobs(loose_client):
    """The prompt scored: no log-probability for its first token, one for each other."""
    choice = complete(loose_client, echo=True, logprobs=1, max_tokens=1).choices[0]
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    assert "".join(choice.logprobs.tokens) == choice.text


def test_stream(loose_client):
    client = loose_client
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.text for chunk in chunks for c in chunk.choices) == complete(client).choices[0].text
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 8


def test_models(client):
    models = {model.id: model for model in client.models.list()}
    assert {CHAT_MODEL, EMBEDDING_MODEL} <= models.keys()
    assert all(model.object == "model" and model.created > 0 and model.owned_by for model in models.values())
    assert client.models.retrieve(CHAT_MODEL) == models[CHAT_MODEL]
