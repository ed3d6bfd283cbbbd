"""The names: those that OpenTelemetry's own package has, and what an address says of a provider."""

from __future__ import annotations

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from batchrt.integrations.opentelemetry import conventions
from batchrt.integrations.opentelemetry.conventions import operation_of, provider_of, server_of

NEWER = {"gen_ai.usage.cache_write.input_tokens", "gen_ai.invoke_workflow.duration"}
"""Names of OpenTelemetry's GenAI repository that its general package, from which they moved, never had."""


def test_conventions_are_opentelemetrys() -> None:
    """Each `gen_ai` name is one that the package still has, if only as moved."""
    known = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}
    known |= {value for value in vars(gen_ai_metrics).values() if isinstance(value, str)}
    ours = {value for value in vars(conventions).values() if isinstance(value, str)}
    assert {name for name in ours if name.startswith("gen_ai.")} - NEWER <= known
    operations = {value.value for value in gen_ai_attributes.GenAiOperationNameValues}
    assert {name for _, name in conventions._OPERATIONS} <= operations
    providers = {value.value for value in gen_ai_attributes.GenAiProviderNameValues}
    assert {name for _, name in conventions._PROVIDERS} - {"moonshot_ai"} <= providers


@pytest.mark.parametrize(
    ("url", "operation"),
    [
        ("https://api.openai.com/v1/chat/completions", "chat"),
        ("http://vllm:8000/v1/chat/completions/batch", "chat"),
        ("http://vllm:8000/v1/completions", "text_completion"),
        ("https://x.openai.azure.com/openai/deployments/d/embeddings?api-version=1", "embeddings"),
    ],
)
def test_conventions_name_the_operation_of_a_path(url: str, operation: str) -> None:
    """A query does not matter."""
    assert operation_of(url) == operation


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://api.openai.com/v1/x", "openai"),
        ("https://x.openai.azure.com/x", "azure.ai.openai"),
        ("https://x.services.ai.azure.com/x", "azure.ai.inference"),
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gcp.gemini"),
        ("https://europe-west1-aiplatform.googleapis.com/v1", "gcp.vertex_ai"),
        ("https://bedrock-runtime.us-west-2.amazonaws.com/openai/v1", "aws.bedrock"),
        ("http://localhost:8000/v1", "openai"),
        ("https://api.mistral.ai.example.com/v1", "openai"),
    ],
)
def test_conventions_name_the_provider_of_a_host(url: str, provider: str) -> None:
    """A server of another company's is OpenAI's kind."""
    assert provider_of(url) == provider


def test_conventions_name_the_server_of_an_address() -> None:
    """A port that is not named is the scheme's, and a socket has none."""
    assert server_of("https://api.openai.com/v1") == {"server.address": "api.openai.com", "server.port": 443}
    assert server_of("http://[::1]:81/v1") == {"server.address": "::1", "server.port": 81}
    assert server_of("http+unix://%2Ftmp%2Fx.sock/v1") == {"server.address": "/tmp/x.sock"}
