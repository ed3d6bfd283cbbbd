"""Credit errors: the codes and phrases with which providers report that an account has no credit left.

Phrases differ, and so do statuses: Anthropic answers 400, SiliconFlow and xAI 403, Zhipu 429. A job that
mistakes such an error for one row's sends all of its rows to an empty account.
"""

from __future__ import annotations

from typing import Final

__all__ = ["NO_CREDIT_CODES", "says_no_credit"]

NO_CREDIT_CODES: Final = frozenset(
    (
        # https://platform.openai.com/docs/guides/error-codes
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "billing_error",  # Anthropic's type, https://docs.anthropic.com/en/api/errors
        "budget_exceeded",  # LiteLLM's proxy, https://docs.litellm.ai/docs/proxy/users
        "exceeded_current_quota_error",  # Moonshot, https://platform.moonshot.ai/docs/api/chat
        "Arrearage",  # Alibaba, https://help.aliyun.com/zh/model-studio/error-code
        "AccountOverdueError",  # Volcengine, https://www.volcengine.com/docs/82379/1299023
        "insufficient_user_quota",  # one-api and new-api, relays: https://github.com/songquanpeng/one-api
        "pre_consume_token_quota_failed",
        "1008",  # MiniMax, https://platform.minimax.io/docs/api-reference/errorcode
        "1113",  # Zhipu, https://docs.bigmodel.cn/cn/faq/api-code
    )
)
"""Values of an error's `code` or `type`."""

_WORDS: Final[tuple[tuple[str, str], ...]] = (
    ("credit balance is too low", "Anthropic"),
    ("reached your specified api usage limits", "Anthropic, for a spending limit"),
    ("insufficient balance", "DeepSeek, MiniMax, Moonshot"),
    ("balance is insufficient", "SiliconFlow"),
    ("balance is not enough", "Novita"),
    ("balance is too low", "AI/ML API"),
    ("insufficient account balance", "Moonshot"),
    ("overdue balance", "Volcengine"),
    ("account is in good standing", "Alibaba: make sure your account is"),
    ("insufficient credit", "OpenRouter, Replicate"),
    ("requires more credits", "OpenRouter"),
    ("not enough credit", "Cloudflare, Venice"),
    ("out of credit", "Together, Fireworks"),
    ("used all available credits", "xAI"),
    ("used up your credit", "Vercel's gateway"),
    ("used all of your credit", "Hyperbolic"),
    ("doesn't have any credit", "xAI, for a new team"),
    ("does not have any credit", "xAI, for a new team"),
    ("don't have any credit", "relays"),
    ("do not have any credit", "relays"),
    ("do not have enough credit", "Stability"),
    ("don't have enough credit", "Stability"),
    ("no remaining credit", "relays"),
    ("no credits left", "relays"),
    ("no credits remaining", "relays"),
    ("credits are depleted", "Google, for prepaid credits"),
    ("depleted your monthly", "Hugging Face, for included credits"),
    ("exceeded your monthly included credits", "Hugging Face"),
    ("credits have been exhausted", "Nebius"),
    ("credits exhausted", "Nebius"),
    ("credit limit exceeded", "Together"),
    ("credit limit reached", "Together"),
    ("spending limit", "xAI, Fireworks: reached its monthly spending limit"),
    ("spend limit", "OpenAI, Groq"),
    ("hard limit has been reached", "OpenAI, for billing"),
    ("budget has been exceeded", "LiteLLM's proxy"),
    ("exceeded budget", "LiteLLM's proxy"),
    # Google says the same of a rate, with another link.
    (
        "plan and billing details. for more information on this error, read the docs: https://platform.openai",
        "OpenAI, for `insufficient_quota`; LiteLLM's proxy leaves the code out",
    ),
    ("check your billing details", "OpenAI: your account is not active"),
    ("billing to be enabled", "Google"),
    ("billing is disabled", "Google"),
    ("purchase credit", "Anthropic, relays"),
    ("purchase more credit", "relays"),
    ("buy more credit", "relays"),
    ("add more credit", "OpenRouter, relays"),
    ("add credits to", "Vercel's gateway, relays"),
    ("top up your", "Hyperbolic, relays"),
    ("top-up your", "relays"),
    ("please top up", "relays"),
    ("please recharge", "Moonshot, MiniMax, relays"),
    ("recharge your account", "Moonshot"),
    ("insufficient funds", "Cerebras, relays"),
    ("add funds", "relays"),
    ("payment required", "the phrase of status 402, of gateways that answer another one"),
    ("insufficient quota", "relays, for OpenAI's code"),
    ("insufficient_quota", "relays, for OpenAI's code"),
    ("quota is not enough", "one-api and new-api"),
    ("unpaid invoice", "Fireworks"),
    ("余额不足", "Zhipu, SiliconFlow: the balance is insufficient"),
    ("欠费", "Zhipu, Alibaba, Volcengine: in arrears"),
    ("额度不足", "one-api and new-api: the credit is insufficient"),
    ("额度已用尽", "one-api and new-api: the credit is used up"),
)
"""Phrases in lower case, each with the providers that use it. Taken from the providers' pages of error codes
and from users' reports, November 2026; add a new one as a line."""

_LOOKED_AT: Final = 600
"""Characters that are searched. The reason comes first; some servers quote the input after it."""


def says_no_credit(message: str) -> bool:
    """Whether an error's `message` reports that credit or a spending limit is used up."""
    said = " ".join(message[:_LOOKED_AT].lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
    return any(phrase in said for phrase, _ in _WORDS)
