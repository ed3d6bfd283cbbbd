"""Every shape in which providers say no, and the class it means."""

from __future__ import annotations

import json
import pickle
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    ContextLengthError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    ServerError,
)
from batchrt.providers.http.error_mapping import error_from, excerpt
from batchrt.providers.http.secrets import Secrets
from tests.limits.quotas import should_retry
from tests.providers.http.replies import NOW, reply, wall

KEY = "sk-proj-0123456789"


def of(body: Any = b"", status: int = 400, **headers: str) -> ProviderError:
    return error_from(reply(body, status, **headers), Secrets([KEY]), wall)


def openai(message: str = "no", kind: str | None = None, code: Any = None, param: Any = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


LONG = "x" * 100_000
LITELLM = "litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: "
CASES: list[tuple[str, int, Any, type[ProviderError], dict[str, Any]]] = [
    (
        "a wrong key",
        401,
        openai("Incorrect API key", "invalid_request_error", "invalid_api_key"),
        AuthenticationError,
        {"message": "Incorrect API key", "code": "invalid_api_key"},
    ),
    ("no permission", 403, openai("Country not supported"), AuthenticationError, {}),
    (
        "a wrong parameter",
        400,
        openai("Unsupported value", "invalid_request_error", None, "temperature"),
        BadRequestError,
        {"param": "temperature", "code": None, "type": "invalid_request_error"},
    ),
    *(
        (
            f"LiteLLM's too long input, {name}",
            400,
            {"error": {"message": message, "type": "None", "param": "None", "code": "400"}},
            ContextLengthError,
            {"param": None, "type": None, "code": "400"},
        )
        for name, message in {
            "OpenAI": LITELLM + "OpenAIException - too long",
            "Anthropic": LITELLM + "AnthropicException - prompt has 300000 tokens",
            "Bedrock": "litellm.ContextWindowExceededError: BedrockException: Context Window Error",
            "Vertex": LITELLM + "VertexAIException",
            "the class alone": "ContextWindowExceededError",
            "its own check": "litellm.exceptions.ContextWindowExceededError: max_tokens=4096",
        }.items()
    ),
    (
        "Google's too long input",
        400,
        openai("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
        ContextLengthError,
        {},
    ),
    (
        "xAI's too long input",
        400,
        openai("This model's maximum prompt length is 131072 but the request contains 200000 tokens."),
        ContextLengthError,
        {},
    ),
    (
        "no such model",
        404,
        openai("no such model", None, "model_not_found"),
        BadRequestError,
        {"code": "model_not_found"},
    ),
    (
        "a rate limit",
        429,
        openai("Rate limit reached", "tokens", "rate_limit_exceeded"),
        RateLimitError,
        {"type": "tokens"},
    ),
    (
        "no credit, by code",
        429,
        openai("You exceeded", "x", "insufficient_quota"),
        QuotaExhaustedError,
        {},
    ),
    (
        "no credit, by type",
        429,
        openai("You exceeded", "insufficient_quota"),
        QuotaExhaustedError,
        {},
    ),
    ("credit balance", 429, openai(code="credit_balance_exhausted"), QuotaExhaustedError, {}),
    (
        "organization limit",
        429,
        openai(code="organization_spend_limit_exceeded"),
        QuotaExhaustedError,
        {},
    ),
    ("project limit", 429, openai(code="project_spend_limit_exceeded"), QuotaExhaustedError, {}),
    ("usage limit", 429, openai(code="organization_usage_limit_exceeded"), QuotaExhaustedError, {}),
    ("payment required", 402, openai("Insufficient Balance"), QuotaExhaustedError, {}),
    ("a conflict", 409, openai("busy"), ServerError, {"message": "busy"}),
    ("a server's timeout", 408, b"", ServerError, {"message": "Request Timeout"}),
    (
        "overloaded",
        503,
        openai("hot", "service_unavailable_error", "server_is_overloaded"),
        ServerError,
        {"code": "server_is_overloaded"},
    ),
    (
        "a code that is a number",
        404,
        openai("no", "NotFoundError", 404),
        BadRequestError,
        {"code": "404"},
    ),
    (
        "an error that is a text",
        404,
        {"error": "model 'x' not found"},
        BadRequestError,
        {"message": "model 'x' not found"},
    ),
    (
        "TEI, flat",
        429,
        {"message": "Model is overloaded", "code": 429, "type": "overloaded"},
        RateLimitError,
        {"message": "Model is overloaded", "type": "overloaded", "code": "429"},
    ),
    (
        "TEI, native",
        422,
        {"error": "Input validation error", "error_type": "Validation"},
        BadRequestError,
        {"type": "Validation"},
    ),
    (
        "vLLM, flat",
        400,
        {
            "object": "error",
            "message": "bad",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        BadRequestError,
        {"message": "bad", "type": "BadRequestError"},
    ),
    (
        "FastAPI, a text",
        401,
        {"detail": "Invalid token"},
        AuthenticationError,
        {"message": "Invalid token"},
    ),
    (
        "FastAPI, a list",
        422,
        {
            "detail": [
                {
                    "type": "missing",
                    "loc": ["body", "messages", 0, "role"],
                    "msg": "Field required",
                    "input": LONG,
                },
                {"type": "x", "loc": ["body", "n"], "msg": "Too small", "input": 0},
            ]
        },
        BadRequestError,
        {
            "message": "messages.0.role: Field required; n: Too small",
            "param": "messages.0.role",
            "type": "missing",
        },
    ),
    (
        "FastAPI, an object",
        400,
        {"detail": {"message": "nope", "code": "c"}},
        BadRequestError,
        {"message": "nope", "code": "c"},
    ),
    (
        "FastAPI, a list of texts",
        422,
        {"detail": ["a"]},
        BadRequestError,
        {"message": HTTPStatus(422).phrase},
    ),
    (
        "Google, a list",
        400,
        [{"error": {"code": 400, "message": "API key not valid", "status": "X"}}],
        BadRequestError,
        {"message": "API key not valid"},
    ),
    (
        "an HTML page",
        502,
        b"<html><head><title>502 Bad\n Gateway</title></head>...</html>",
        ServerError,
        {"message": "502 Bad Gateway"},
    ),
    (
        "an HTML page without a title",
        503,
        b"<h1>Sorry</h1>",
        ServerError,
        {"message": "<h1>Sorry</h1>"},
    ),
    (
        "plain text",
        500,
        b"upstream connect error",
        ServerError,
        {"message": "upstream connect error"},
    ),
    ("nothing", 500, b"", ServerError, {"message": "Internal Server Error"}),
    (
        "a status nobody knows",
        599,
        b"",
        ServerError,
        {"message": "the server answered with status 599"},
    ),
    ("JSON that says nothing", 400, {"error": {}}, BadRequestError, {"message": "Bad Request"}),
    ("JSON of another shape", 400, {"fault": 1}, BadRequestError, {"message": '{"fault": 1}'}),
    ("a JSON text", 400, b'"no"', BadRequestError, {"message": '"no"'}),
    ("an empty list", 400, b"[]", BadRequestError, {"message": "[]"}),
    ("cut JSON", 400, b'{"error": {"mess', BadRequestError, {"message": '{"error": {"mess'}),
    ("not UTF-8", 400, b"\xff\xfe", BadRequestError, {"message": "\ufffd\ufffd"}),
    ("a body of a megabyte", 422, b'{"detail": "' + b"x" * 2**20 + b'"}', BadRequestError, {}),
    (
        "types all wrong",
        400,
        {"error": {"message": [1], "code": {}, "type": True, "param": None}},
        BadRequestError,
        {"message": "Bad Request", "code": None, "type": None},
    ),
]


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_error_mapping_reads_each_shape(
    status: int, body: Any, kind: type[ProviderError], says: dict[str, Any]
) -> None:
    """Its class, its message, its code, and never more than a few hundred characters."""
    error = of(body, status, x_request_id="req_1")
    assert type(error) is kind
    assert {name: getattr(error, name) for name in says} == says
    assert (error.status, error.request_id) == (status, "req_1")
    assert 0 < len(error.message) <= 500


CONTEXT = [
    (
        400,
        openai("This model's maximum context length is 8192 tokens.", None, "context_length_exceeded"),
    ),
    (400, openai("too long", "invalid_request_error", "context_length_exceeded")),
    (
        400,
        {
            "message": "This model's maximum context length is 4096 tokens. However, you ...",
            "code": 400,
        },
    ),
    (
        400,
        {"message": "The prompt (length 5000) is longer than the maximum model length of 4096."},
    ),
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size. try increasing it",
                "type": "exceed_context_size_error",
            }
        },
    ),
    (
        500,
        {
            "error": {
                "code": 500,
                "message": "input is too large to process. increase the physical batch size",
            }
        },
    ),
    (413, {"error": "Input validation error: `inputs` must have less than 512 tokens. Given: 600"}),
    (400, {"detail": "Requested tokens (600) exceed context window of 512"}),
    (400, openai("prompt is too long: 210000 tokens > 200000 maximum")),
    (422, openai("Please reduce the length of the messages.")),
]


@pytest.mark.parametrize(("status", "body"), CONTEXT)
def test_error_mapping_knows_an_input_that_is_too_long_by_code_and_message(status: int, body: Any) -> None:
    """From every kind of server; and it is never retried."""
    error = of(body, status)
    assert type(error) is ContextLengthError
    assert not should_retry(error)


def test_error_mapping_keeps_a_rate_limit_whose_message_speaks_of_length() -> None:
    """OpenAI's answer to a request over the tokens per minute."""
    body = openai(
        "Request too large. Please reduce the length of the messages",
        "tokens",
        "rate_limit_exceeded",
    )
    assert type(of(body, 429)) is RateLimitError


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (openai(code=429), RateLimitError),
        (openai(code="rate_limit_exceeded"), RateLimitError),
        (openai(kind="invalid_request_error"), BadRequestError),
        (openai(code="invalid_api_key"), AuthenticationError),
        (openai(code=502), ServerError),
        (openai(code="whatever"), ServerError),
        (openai(code="insufficient_quota"), QuotaExhaustedError),
        ({"error": "upstream failed"}, ServerError),
    ],
)
def test_error_mapping_judges_an_error_within_a_success_by_its_code(body: Any, kind: type[Any]) -> None:
    """The status is told as it was."""
    error = of(body, 200)
    assert (type(error), error.status) == (kind, 200)


def test_error_mapping_redirect_says_where_to() -> None:
    """The remedy, without the query, which may hold a key."""
    for body in (b"", b"{}", b"<html>Moved</html>"):
        error = of(body, 307, location=f"https://other/v1?key={KEY}")
        assert type(error) is BadRequestError
        assert "https://other/v1)" in error.message
        assert "base_url" in error.message
        assert KEY not in str(error)


def test_error_mapping_masks_echoed_keys() -> None:
    """In every part that is shown."""
    for body in (openai(f"wrong: {KEY}", KEY, KEY, KEY), {"detail": KEY}, KEY.encode()):
        error = of(body, 401)
        assert KEY not in repr(error) + str(error) + repr(vars(error))
        assert "***" in error.message


@given(st.integers(0, 400))
def test_error_mapping_masks_a_key_across_the_cut(place: int) -> None:
    """No part of it is left at the end of an excerpt."""
    shown = excerpt(b"y" * place + KEY.encode() + b"y" * 300, Secrets([KEY]))
    assert "sk-" not in shown
    assert len(shown) <= 200


def test_error_mapping_keeps_waits_and_spells_out_long_ones() -> None:
    """The message says until when."""
    assert of(b"", 429, retry_after="7").retry_after == 7.0
    assert "wait" not in of(b"", 429, retry_after="7").message
    error = of(openai("Please retry after 86400 seconds."), 429)
    assert error.retry_after == 86400.0
    assert "until 2023-11-15 22:13:20 UTC" in error.message
    assert not should_retry(error)
    assert "wait 1e+14 s" in of(b"", 429, retry_after="1" + "0" * 14).message


def test_error_mapping_reads_dates_against_the_replys_own_or_the_clock() -> None:
    """Whatever the machine's clock says."""
    assert NOW == 1_700_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
    later = "Tue, 14 Nov 2023 22:13:30 GMT"
    assert of(b"", 503, retry_after=later).retry_after == 10
    assert of(b"", 503, retry_after=later, date="Tue, 14 Nov 2023 22:13:29 GMT").retry_after == 1


@pytest.mark.parametrize(
    ("status", "said", "again"), [(400, "true", True), (500, "false", False), (500, "?", True)]
)
def test_error_mapping_keeps_the_providers_retry_advice(status: int, said: str, again: bool) -> None:
    """x-should-retry: true or false, nothing else."""
    assert should_retry(of(b"", status, x_should_retry=said)) is again


def test_error_mapping_errors_can_be_pickled() -> None:
    """With all that they know."""
    packed = pickle.dumps(of(openai("busy", "t", "c", "p"), 500, retry_after="3"))
    error = pickle.loads(packed)
    assert (type(error), error.code, error.retry_after) == (ServerError, "c", 3.0)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "code", "type", "param", "loc", "msg"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON.map(lambda data: json.dumps(data).encode()) | st.binary(), st.integers(300, 599))
def test_error_mapping_maps_any_reply_to_an_error(body: bytes, status: int) -> None:
    """With a message that is neither empty nor endless."""
    error = of(body, status)
    assert 0 < len(error.message) <= 600
    assert all(value is None or isinstance(value, str) for value in (error.code, error.type, error.param))
