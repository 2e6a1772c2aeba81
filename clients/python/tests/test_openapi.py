"""schemathesis: requests made up from our own OpenAPI document, valid and not; never a 5xx, and only
statuses, content types and bodies that the document names."""

import hypothesis
import schemathesis
from schemathesis import checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance, response_schema_conformance, status_code_conformance,
)

from janus import CHAT_MODEL, EMBEDDING_MODEL, ROOT

EXAMPLES = 60
TOKENS_MAX = 4
# Members that a request made up at random gets wrong more often than right.
DELICATE = ["logit_bias", "stop_token_ids", "stream_options", "top_logprobs", "echo", "best_of", "dimensions"]
CHECKS = [checks.not_a_server_error, status_code_conformance, content_type_conformance,
          response_schema_conformance]

schema = schemathesis.openapi.from_path(ROOT / "openapi/openapi.json")


@schemathesis.hook
def map_case(context, case):
    """Aims at models that exist, makes half of the requests simpler, and keeps answers short; what is
    wrong elsewhere stays wrong."""
    if isinstance(case.body, dict):
        if isinstance(case.body.get("model"), str):
            case.body["model"] = EMBEDDING_MODEL if "embeddings" in case.path else CHAT_MODEL
        if len(str(case.body)) % 2:
            [case.body.pop(name, None) for name in DELICATE]
        if "embeddings" not in case.path:
            shorten(case.body)
    return case


def shorten(body):
    for name, most in [("max_tokens", TOKENS_MAX), ("max_completion_tokens", TOKENS_MAX), ("n", 2), ("min_tokens", 2)]:
        if isinstance(body.get(name), int) and body[name] > most:
            body[name] = most
    # A null says no more than an absent one, as OpenAI has it: the answer ends when the model ends it, or with
    # the context, which at a high temperature is 8,161 tokens and minutes of a development build.
    if body.get("max_completion_tokens") is None and body.get("max_tokens") is None:
        body["max_tokens"] = TOKENS_MAX


@schema.parametrize()
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True,
                     suppress_health_check=list(hypothesis.HealthCheck))
def test_conformance(case, server):
    case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)
