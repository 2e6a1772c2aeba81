"""The server under test, and clients that talk to it."""

import os

import pytest
from openai import AsyncOpenAI, OpenAI

from janus import Server

NO_SERVER = "NOT RUN: set JANUS_URL to a running server or JANUS_BIN to the janus binary"


@pytest.fixture(scope="session")
def server():
    if os.environ.get("JANUS_URL"):
        yield Server(os.environ["JANUS_URL"])
        return
    if not os.environ.get("JANUS_BIN"):
        not_run(NO_SERVER)
    server = Server.start()
    yield server
    assert server.stop() == 0, server.log.read_text()[-2000:]


@pytest.fixture
def own_server():
    """Starts servers of the test's own, with other settings; ends them after it."""
    if not os.environ.get("JANUS_BIN"):
        not_run("NOT RUN: this test starts a server of its own; set JANUS_BIN to the janus binary")
    started = []

    def start(**settings):
        started.append(Server.start(**settings))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()


def not_run(why):
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session")
def client(server):
    """Checks every answer against the SDK's own types, and never retries by itself."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60,
                _strict_response_validation=True) as client:
        yield client


@pytest.fixture(scope="session")
def loose_client(server):
    """For answers of OpenAI's that the SDK's own types do not allow: base64 before it is decoded, nulls in
    the lists of completions."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def async_client(server):
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60,
                           _strict_response_validation=True) as client:
        yield client
