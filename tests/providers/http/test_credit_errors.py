"""No credit, in whatever words and with whatever status: the job ends, and no row is blamed."""

from __future__ import annotations

from typing import Any

import pytest

from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    ServerError,
)
from batchrt.providers.http.credit_errors import says_no_credit
from batchrt.providers.http.error_mapping import error_from
from batchrt.providers.http.secrets import Secrets
from tests.providers.http.replies import reply, wall


def of(status: int, message: str, **fields: Any) -> ProviderError:
    return error_from(reply({"error": {"message": message, **fields}}, status), Secrets([]), wall)


SAID = [
    (
        400,
        "Your credit balance is too low to access the Anthropic API. Go to Plans & Billing to upgrade.",
    ),
    (400, "You have reached your specified API usage limits. You will regain access on 2026-12-01."),
    (400, "Insufficient Balance"),
    (403, "Sorry, your account balance is insufficient"),
    (403, "The request failed because your account has an overdue balance."),
    (400, "Access denied, please make sure your account is in good standing."),
    (429, "Your account org-1 is suspended due to insufficient balance, please recharge your account"),
    (403, "Your team has either used all available credits or reached its monthly spending limit."),
    (403, "Your newly created team doesn\N{RIGHT SINGLE QUOTATION MARK}t have any credits yet."),
    (403, "You have exceeded your monthly included credits for Inference Providers."),
    (
        429,
        (
            "litellm.RateLimitError: RateLimitError: OpenAIException - You exceeded your current quota, "
            "please check your plan and billing details. For more information on this error, read the docs: "
            "https://platform.openai.com/docs/guides/error-codes/api-errors."
        ),
    ),
    (429, "Your account is not active, please check your billing details on our website."),
    (400, "Budget has been exceeded! Current cost: 1.2, Max budget: 1.0"),
    (400, "Billing hard limit has been reached"),
    (403, "This API method requires billing to be enabled."),
    (429, "您的账户已欠费,请充值后重试。"),
    (403, "用户额度不足, 剩余额度: ¥0"),
    (401, "You don't have enough credits, please top up your account"),
    (429, "余额不足或无可用资源包,请充值。"),
]


@pytest.mark.parametrize(("status", "message"), SAID)
def test_credit_errors_are_recognized_by_phrases(status: int, message: str) -> None:
    """In providers' phrasing, in any case, and in a response of status 200."""
    for said in (message, message.upper(), f"  {message.replace(' ', chr(10))}"):
        assert isinstance(of(status, said), QuotaExhaustedError)
        assert isinstance(of(200, said), QuotaExhaustedError)


@pytest.mark.parametrize(
    "code", ["insufficient_quota", "Arrearage", "billing_not_active", "budget_exceeded", 1113]
)
@pytest.mark.parametrize("member", ["code", "type"])
def test_credit_errors_are_recognized_by_codes(code: Any, member: str) -> None:
    """With any message."""
    assert isinstance(of(400, "no", **{member: code}), QuotaExhaustedError)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "Unsupported value: 'temperature'", BadRequestError),
        (400, "The model `balance` does not exist", BadRequestError),
        (401, "Incorrect API key provided", AuthenticationError),
        (403, "Country, region, or territory not supported", AuthenticationError),
        (429, "Rate limit reached for requests per min", RateLimitError),
        (
            429,
            "You exceeded your current quota, please check your plan and billing details. Retry in 4.9s.",
            RateLimitError,
        ),
        (422, "input.0: 'my credit balance is too low' is too long", BadRequestError),
        (400, "x" * 700 + " insufficient balance", BadRequestError),
        (500, "could not read the balance", ServerError),
    ],
)
def test_credit_errors_do_not_include_other_failures(
    status: int, message: str, kind: type[ProviderError]
) -> None:
    """A limit per minute, a bad request, and a quoted input."""
    assert type(of(status, message)) is kind


def test_credit_errors_phrases_are_lower_case() -> None:
    """They are compared with lower-cased text."""
    from batchrt.providers.http.credit_errors import _WORDS

    for phrase, source in _WORDS:
        assert phrase == " ".join(phrase.lower().split())
        assert says_no_credit(phrase)
        assert source
