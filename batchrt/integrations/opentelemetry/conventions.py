"""The names of spans, attributes and metrics: those of OpenTelemetry's GenAI conventions, and batchrt's own.

The conventions are those of https://github.com/open-telemetry/semantic-conventions-genai, where they moved
with version 1.42.0 of the semantic conventions. They have no Python package there, and the constants of
`opentelemetry-semantic-conventions` 0.66b2 are marked as moved, so the names are written out here. Where that
repository is ahead of all releases (counters in place of `gen_ai.client.token.usage`), the names are those of
`opentelemetry-util-genai` 1.3b0, OpenTelemetry's own.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

__all__ = [
    "DURATION_BUCKETS",
    "TOKEN_BUCKETS",
    "WORKFLOW_BUCKETS",
    "operation_of",
    "provider_of",
    "server_of",
]

# Attributes of spans and metrics.
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  no password
OUTPUT_TYPE: Final = "gen_ai.output.type"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
WORKFLOW: Final = "gen_ai.workflow.name"
INVOKE_WORKFLOW: Final = "invoke_workflow"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
STATUS_CODE: Final = "http.response.status_code"

# batchrt's own.
REQUEST_ID: Final = "batchrt.response.request_id"
QUEUE_TIME: Final = "batchrt.queue.duration"
ATTEMPTS: Final = "batchrt.request.attempts"
LIST_SIZE: Final = "batchrt.list.size"
ITEM_INDEX: Final = "batchrt.item.index"
QUOTA: Final = "batchrt.quota"
LIMIT: Final = "batchrt.limit.name"
LIMIT_SOURCE: Final = "batchrt.limit.source"
REASON: Final = "batchrt.reason"
WAIT: Final = "batchrt.wait"

DURATION_BUCKETS: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
"""Seconds; as the conventions have them for `gen_ai.client.operation.duration`."""
TOKEN_BUCKETS: Final = tuple(4**power for power in range(14))
"""Tokens; likewise for `gen_ai.client.token.usage`: 1, 4, 16 … 67,108,864."""
WORKFLOW_BUCKETS: Final = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
"""Seconds; likewise for `gen_ai.invoke_workflow.duration`."""

_OPERATIONS: Final = (
    ("/chat/completions", "chat"),
    ("/chat/completions/batch", "chat"),
    ("/completions", "text_completion"),
    ("/embeddings", "embeddings"),
)
_PROVIDERS: Final = (
    (r"api\.anthropic\.com", "anthropic"),
    (r"bedrock.*\.amazonaws\.com", "aws.bedrock"),
    (r".*\.openai\.azure\.com", "azure.ai.openai"),
    (r".*\.(inference|services)\.ai\.azure\.com", "azure.ai.inference"),
    (r"api\.cohere\.(com|ai)", "cohere"),
    (r"api\.deepseek\.com", "deepseek"),
    (r"generativelanguage\.googleapis\.com", "gcp.gemini"),
    (r".*aiplatform\.googleapis\.com", "gcp.vertex_ai"),
    (r"api\.groq\.com", "groq"),
    (r".*\.ml\.cloud\.ibm\.com", "ibm.watsonx.ai"),
    (r"api\.mistral\.ai", "mistral_ai"),
    (r"api\.moonshot\.(ai|cn)", "moonshot_ai"),
    (r"api\.perplexity\.ai", "perplexity"),
    (r"api\.x\.ai", "x_ai"),
)
"""Hosts of the providers that have a well-known name in the conventions."""


def operation_of(url: str) -> str:
    """Return the `gen_ai.operation.name` of requests to `url`."""
    path = urlsplit(url).path
    return next((name for end, name in _OPERATIONS if path.endswith(end)), "chat")


def provider_of(url: str) -> str:
    """Return the `gen_ai.provider.name` of the server at `url`.

    The name says which format telemetry has, rather than which company runs the server. So it is `openai` for
    other servers with OpenAI's API, such as vLLM, which `server.address` tells apart.
    """
    host = urlsplit(url).hostname or ""
    return next((name for pattern, name in _PROVIDERS if re.fullmatch(pattern, host)), "openai")


def server_of(url: str) -> dict[str, str | int]:
    """Return `server.address` and, unless it is a socket's path, `server.port`."""
    parts = urlsplit(url)
    if parts.scheme == "http+unix":
        return {SERVER_ADDRESS: unquote(parts.netloc)}
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {SERVER_ADDRESS: parts.hostname or "", SERVER_PORT: port}
