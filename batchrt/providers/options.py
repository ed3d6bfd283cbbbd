"""The options of a request, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["check_extra_body", "check_options", "is_option"]

_RANGES: Final = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
}
_WHOLE: Final = {"max_completion_tokens": 1, "max_tokens": 1, "seed": -(2**63), "best_of": 1}
_WORDS: Final = ("model", "reasoning_effort", "suffix")
_NOT_OFFERED: Final = {
    "ChatOpenAI": {
        "messages": "the messages are the input",
        "stream": "answers come whole; only False can be sent",
        "n": "an input has one output; give the input several times",
    },
    "OpenAI": {
        "prompt": "the prompts are the input",
        "stream": "answers come whole; only False can be sent",
        "n": "whether a prompt has one text or a list of them is for the whole model: give it to OpenAI",
    },
}
_OF_THE_CLIENT: Final = frozenset(
    (
        "api_key",
        "base_url",
        "extra_headers",
        "http_client",
        "linger",
        "max_batch_size",
        "max_in_flight",
        "max_linger",
        "max_response_bytes",
        "max_retries",
        "native_batch",
        "organization",
        "project",
        "quota",
        "requests_per_day",
        "requests_per_minute",
        "retry_policy",
        "share_lists",
        "timeout",
        "tokens_per_day",
        "tokens_per_minute",
        "transport",
    )
)


# https://platform.openai.com/docs/api-reference/chat/create, completions/create, embeddings/create
_OF_THE_API: Final = """
    audio best_of dimensions echo encoding_format extra_body frequency_penalty function_call functions input
    logit_bias logprobs max_completion_tokens max_tokens messages metadata modalities model moderation n
    parallel_tool_calls prediction presence_penalty prompt prompt_cache_key prompt_cache_options
    prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store
    stream stream_options suffix temperature tool_choice tools top_logprobs top_p user verbosity
    web_search_options
"""
# Under their documented names; a server ignores what it does not know.
_OF_SERVERS: Final = """
    vLLM, SGLang, llama-server:
    add_generation_prompt bad_words cache_prompt chat_template chat_template_kwargs continue_final_message
    documents dry_multiplier enable_thinking grammar guided_choice guided_decoding_backend guided_grammar
    guided_json guided_regex ignore_eos include_stop_str_in_output input_type json_schema length_penalty
    min_p min_tokens mirostat mirostat_eta mirostat_tau normalize priority prompt_logprobs repeat_penalty
    repetition_penalty return_token_ids separate_reasoning skip_special_tokens
    spaces_between_special_tokens stop_token_ids structured_outputs task thinking_budget top_a top_k
    truncate_prompt_tokens typical_p use_beam_search
    Ollama, OpenRouter, Mistral, DeepSeek, Anthropic, Google, Groq, Perplexity, xAI, Cohere, Voyage:
    cache_control cached_content deferred disable_search include_reasoning keep_alive models options
    output_dimension output_dtype plugins prompt_mode provider random_seed reasoning reasoning_format route
    safe_prompt safety_settings search_domain_filter search_mode search_parameters search_recency_filter
    session_id think thinking trace transforms truncation usage
"""
_KNOWN: Final = frozenset((_OF_THE_API + _OF_SERVERS).split())


def is_option(name: str) -> bool:
    """Whether `name` is an option of a request, here or at one of the servers that speak the same language.

    Those of a client are too: they are refused by a name that says where they belong.
    """
    return name in _KNOWN or name in _OF_THE_CLIENT


def check_options(options: Mapping[str, Any], owner: str = "ChatOpenAI") -> dict[str, Any]:
    """Return `options` as they go into a request's body; `None` stands for "not sent".

    Options that are not checked here are passed on as they are.

    Args:
        options: by name.
        owner: whose they are, `ChatOpenAI` or `OpenAI`.

    Raises:
        ValueError: for a value out of the API's range, or an option that cannot be set like this.
        TypeError: for a value of the wrong type.
    """
    return {name: _check(name, value, owner) for name, value in options.items()}


def check_extra_body(extra: Mapping[str, Any] | None, owner: str = "ChatOpenAI") -> dict[str, Any]:
    """Return `extra` unless it changes what a request is about."""
    extra = dict(extra or {})
    for name, value in extra.items():
        _check_offered(name, value, owner)
    return extra


def check_lists(max_batch_size: int, linger: float, max_linger: float) -> None:
    """Raise ValueError or TypeError for what makes no sense as a list's length or as seconds to wait."""
    _whole("max_batch_size", max_batch_size, 1)
    for name, seconds in (("linger", linger), ("max_linger", max_linger)):
        if _number(name, seconds) < 0:
            raise ValueError(f"{name} must be 0 seconds or more, not {seconds}")


def check_count(n: int | None) -> int | None:
    """Return `n` if it is how many outputs an input can have."""
    return None if n is None else _whole("n", n, 1)


def _check_offered(name: str, value: object, owner: str) -> None:
    if name == "stream" and value is False:
        return  # there are servers that stream unless they are told not to
    if name in _NOT_OFFERED[owner]:
        raise ValueError(f"{name} cannot be set: {_NOT_OFFERED[owner][name]}")


def _check(name: str, value: Any, owner: str) -> Any:
    _check_offered(name, value, owner)
    if name in _OF_THE_CLIENT:
        raise ValueError(f"{name} belongs to the model as a whole: give it to {owner}")
    if name == "extra_body":
        return check_extra_body(value, owner)
    if name == "model" and not value:
        raise ValueError("model must be the name of a model")
    if value is None:
        return None
    if name in _RANGES:
        return _number(name, value, *_RANGES[name])
    if name in _WHOLE:
        return _whole(name, value, _WHOLE[name])
    if name in _WORDS and not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    return _stops(value) if name == "stop" else value


def _number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g}, not {value}")
    return value


def _whole(name: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be {low} or more, not {value}")
    return value


def _stops(value: Any) -> str | list[str]:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(stop, str) for stop in value):
        return list(value)
    raise TypeError("stop must be a string or a list of strings")
