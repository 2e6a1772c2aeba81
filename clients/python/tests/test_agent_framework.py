"""Agent Framework: an agent over the OpenAI chat completion client, and its embedding client."""

import pytest
from agent_framework import Agent
from agent_framework.openai import OpenAIChatCompletionClient, OpenAIEmbeddingClient

from janus import CHAT_MODEL, EMBEDDING_MODEL
from test_embeddings import cosine, golden_cases

QUESTION = "What is the capital city of France? Answer in one sentence."
OPTIONS = {"temperature": 0, "max_tokens": 32}


@pytest.fixture
def agent(server):
    client = OpenAIChatCompletionClient(model=CHAT_MODEL, base_url=f"{server.url}/v1", api_key="any")
    return Agent(client=client, instructions="You are a helpful assistant.")


async def test_run(agent):
    answer = await agent.run(QUESTION, options=OPTIONS)
    assert "Paris" in answer.text
    assert answer.usage_details["input_token_count"] > 20


async def test_stream(agent):
    pieces = [update.text async for update in agent.run(QUESTION, options=OPTIONS, stream=True)]
    assert "Paris" in "".join(pieces)
    assert sum(piece != "" for piece in pieces) > 3


async def test_conversation(agent):
    """The second turn carries the first one."""
    session = agent.create_session()
    first = await agent.run(QUESTION, options=OPTIONS, session=session)
    second = await agent.run("And of Italy?", options=OPTIONS, session=session)
    assert second.usage_details["input_token_count"] > first.usage_details["input_token_count"] + 10


async def test_embeddings(server):
    client = OpenAIEmbeddingClient(model=EMBEDDING_MODEL, base_url=f"{server.url}/v1", api_key="any")
    case = golden_cases()[0]
    (item,) = await client.get_embeddings([case["text"]])
    assert cosine(item.vector, case["vector"]) > 0.9999
