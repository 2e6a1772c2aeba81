"""langchain-openai: chat model and embeddings."""

import pytest
import tiktoken
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from janus import CHAT_MODEL, EMBEDDING_MODEL
from test_embeddings import cosine, golden_cases

QUESTION = "What is the capital city of France? Answer in one sentence."


@pytest.fixture
def chat(server):
    return ChatOpenAI(model=CHAT_MODEL, base_url=f"{server.url}/v1", api_key="any", temperature=0,
                      max_tokens=32, max_retries=0, timeout=60, stream_usage=True)


def embeddings(server, **parameters):
    return OpenAIEmbeddings(model=EMBEDDING_MODEL, base_url=f"{server.url}/v1", api_key="any",
                            max_retries=0, **parameters)


def test_invoke(chat):
    answer = chat.invoke(QUESTION)
    assert "Paris" in answer.content
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["input_tokens"] == 43
    assert answer.usage_metadata["total_tokens"] == 43 + answer.usage_metadata["output_tokens"]


def test_messages(chat):
    answer = chat.invoke([SystemMessage("You answer like a pirate."), HumanMessage(QUESTION)])
    assert answer.content


def test_stream(chat):
    chunks = list(chat.stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks) == chat.invoke(QUESTION).content
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 3


def test_batch(chat):
    answers = chat.batch([QUESTION, "Say hi."])
    assert len(answers) == 2 and "Paris" in answers[0].content


async def test_async(chat):
    answer = await chat.ainvoke(QUESTION)
    pieces = [chunk.content async for chunk in chat.astream(QUESTION)]
    assert "".join(pieces) == answer.content


def test_bound_parameters(chat):
    assert chat.bind(stop=["Paris"]).invoke(QUESTION).content.strip() == "The capital city of France is"
    logprobs = chat.bind(logprobs=True).invoke(QUESTION).response_metadata["logprobs"]["content"]
    assert logprobs[0]["token"] == "The"


def test_embeddings_of_text(server):
    case = golden_cases()[0]
    model = embeddings(server, check_embedding_ctx_length=False)
    assert cosine(model.embed_query(case["text"]), case["vector"]) > 0.9999
    assert len(model.embed_documents(["one", "two", "three"])) == 3


def test_embeddings_of_token_ids(server, monkeypatch):
    """By default it sends token ids of an OpenAI vocabulary. Those mean nothing to another model, but
    must be taken as ids; a vocabulary of single bytes stands in, as the real one is fetched from afar."""
    bytes_only = tiktoken.Encoding("bytes", pat_str=r"[\s\S]", special_tokens={},
                                   mergeable_ranks={bytes([byte]): byte for byte in range(256)})
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: bytes_only)
    by_default = embeddings(server).embed_query("hello")
    by_ids = embeddings(server, check_embedding_ctx_length=False).client.create(
        model=EMBEDDING_MODEL, input=[list(b"hello")]).data[0].embedding
    assert cosine(by_default, by_ids) > 0.99999
    assert cosine(by_default, golden_cases()[0]["vector"]) < 0.99


async def test_async_embeddings(server):
    model = embeddings(server, check_embedding_ctx_length=False)
    vectors = await model.aembed_documents(["one", "two"])
    assert [len(vector) for vector in vectors] == [384, 384]
