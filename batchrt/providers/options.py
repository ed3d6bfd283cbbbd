"""Options of models and requests: their types, their defaults, and the checks before a request is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, Final, TypedDict

from batchrt.batching.list_call import lingering
from batchrt.providers.http.secrets import Hidden
from batchrt.providers.list_requests import BATCH_SIZE, ListOptions

if TYPE_CHECKING:
    from ssl import SSLContext

    from batchrt.limits.quota import Quota, Unchanged
    from batchrt.providers.http.secrets import Secret
    from batchrt.providers.http.transport import HTTPClient, HTTPTransport
    from batchrt.runtime.retry import RetryPolicy

__all__ = [
    "LIMIT_OPTIONS",
    "ModelOptions",
    "OptionsSignature",
    "SamplingOptions",
    "check_extra_body",
    "check_options",
    "complete_options",
    "is_option",
    "lists_of",
    "merge_options",
    "model_name",
    "sampling_options",
]


class ModelOptions(TypedDict, total=False):
    """Keyword arguments that every model takes: where it is, how requests are sent, their limits, lists.

    An option that is left out has the default named here. A name that no model has is a TypeError, a value
    that makes no sense a ValueError or a TypeError.

    Attributes:
        base_url: URL of the API; by default `OPENAI_BASE_URL`, else OpenAI's. A user and password in it are
            sent as basic authentication. A server on a Unix socket has `http+unix://` and the
            percent-encoded path of the socket, as in `http+unix://%2Frun%2Fllm.sock/v1`.
        api_key: a string or `pydantic.SecretStr`; by default `OPENAI_API_KEY`. An empty string sends none.
            Without a key OpenAI's own address raises AuthenticationError; other addresses do not need one.
        timeout: seconds for each request, from connecting to the last byte; 600 by default, `None` for no
            limit. It covers a list as a whole. Of a streamed answer it bounds the time until it begins and
            each silence in it.
        max_retries: attempts after the first, 2 by default, for transient failures: 408, 409, 429, 5xx,
            broken connections, timeouts, malformed answers; up to nine where a rate limit names the time. All
            requests that share the quota wait for the provider's `retry-after`; one of more than 120 s is an
            error at once, which says until when.
        http_client: send through this `httpx.AsyncClient`, or httpx2's. It is bound to its event loop, and
            its owner closes it.
        transport: send through this async transport of httpx's or httpx2's (`httpx.MockTransport`,
            `httpx.ASGITransport` …).
        ssl_context: for TLS to the server: own authorities, a client certificate, or no verification. By
            default the certificates that `SSL_CERT_FILE` and `SSL_CERT_DIR` name are trusted, else certifi's
            and the system's. A client or transport of your own has its own.
        keepalive_expiry: seconds for which an idle connection is kept; 4 by default, less than the 5 s after
            which uvicorn and Node close it. Each request in flight has a connection of its own, so
            that `max_in_flight` bounds them. A client or transport of your own has its own.
        organization: by default `OPENAI_ORG_ID`.
        project: by default `OPENAI_PROJECT_ID`.
        extra_headers: headers of every request; they override the client's own.
        extra_body: further members of the request's body; they override the options.
        max_response_bytes: bytes after which an answer is an error; 64 MiB by default, 256 MiB for
            embeddings. It covers a list as a whole.
        requests_per_minute: limit of the quota, for all models in this process with the same address, key and
            model name (`model.quota`, whose `statistics()` show the limits). The latest value counts, `None`
            lifts a limit, and one that is left out stays as it is (`"unchanged"`). The limits that a
            provider's headers tell are kept with or without these.
        tokens_per_minute: as `requests_per_minute`.
        requests_per_day: as `requests_per_minute`.
        tokens_per_day: as `requests_per_minute`.
        max_in_flight: requests under way at once; otherwise as `requests_per_minute`.
        quota: a `Quota` that admits the requests in place of the shared one. Its limits are its own: giving
            any of the five here too is a ValueError.
        retry_policy: a `RetryPolicy`: which failures are retried, and when; `max_retries` applies where it
            leaves that open.
        max_batch_size: most inputs in a list, by default 20 (embeddings: as many as the server takes). A list
            is answered when its longest answer is.
        linger: seconds after the last arrival for which a list waits to be filled while inputs may still
            come; by default, and with `None`, 0.05, or 0.005 with `share_lists`.
        max_linger: seconds after the first arrival; by default, and with `None`, 1, or 0.05 with
            `share_lists`.
        share_lists: put inputs of concurrent runs together too, for a service whose requests call `ainvoke`
            one by one. A call then waits `linger` seconds for others.
    """

    base_url: str | None
    api_key: str | Secret | None
    timeout: float | None
    max_retries: int
    http_client: HTTPClient | None
    transport: HTTPTransport | None
    ssl_context: SSLContext | None
    keepalive_expiry: float | None
    organization: str | None
    project: str | None
    extra_headers: Mapping[str, str] | None
    extra_body: Mapping[str, Any] | None
    max_response_bytes: int
    requests_per_minute: float | Unchanged | None
    tokens_per_minute: float | Unchanged | None
    requests_per_day: float | Unchanged | None
    tokens_per_day: float | Unchanged | None
    max_in_flight: int | Unchanged | None
    quota: Quota | None
    retry_policy: RetryPolicy | None
    max_batch_size: int | None
    linger: float | None
    max_linger: float | None
    share_lists: bool


class SamplingOptions(ModelOptions, total=False):
    """Keyword arguments of chat and completion models: those of every model, and the API's sampling options.

    A sampling option that is left out, or `None`, is not sent.

    Attributes:
        temperature: from 0 to 2.
        top_p: from 0 to 1.
        max_tokens: most tokens of an answer. For chat models it is the older name of `max_completion_tokens`:
            many local servers know only this one, and OpenAI's reasoning models only the newer. Completion
            servers stop after as few as 16 tokens without it.
        stop: a string, or several, at which an answer ends.
        seed: a whole number.
        frequency_penalty: from -2 to 2.
        presence_penalty: from -2 to 2.
    """

    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    frequency_penalty: float | None
    presence_penalty: float | None


LIMIT_OPTIONS: Final = (
    "requests_per_minute",
    "tokens_per_minute",
    "requests_per_day",
    "tokens_per_day",
    "max_in_flight",
)
_DEFAULTS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(LIMIT_OPTIONS, "unchanged"),
    "timeout": 600.0,
    "max_retries": 2,
    "max_response_bytes": 64 * 2**20,
    "share_lists": False,
}
"""The others' is `None`."""
_OF_MODELS: Final = ModelOptions.__optional_keys__
_OF_THE_CLIENT: Final = _OF_MODELS - {"extra_body"} | {"native_batch", "stream_usage"}
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
        "stream": "answers come whole, but for astream(); only False can be sent",
        "n": "an input has one output; give the input several times",
    },
    "OpenAI": {
        "prompt": "the prompts are the input",
        "stream": "answers come whole, but for astream(); only False can be sent",
        "n": "whether a prompt has one text or a list of them is for the whole model: give it to OpenAI",
    },
}

# https://platform.openai.com/docs/api-reference/chat/create, completions/create, embeddings/create
_OF_THE_API: Final = """
    audio best_of dimensions echo encoding_format extra_body frequency_penalty function_call functions input
    logit_bias logprobs max_completion_tokens max_tokens messages metadata modalities model moderation n
    parallel_tool_calls prediction presence_penalty prompt prompt_cache_key prompt_cache_options
    prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store
    stream stream_options suffix temperature tool_choice tools top_logprobs top_p user verbosity
    web_search_options
"""
# Under their documented names; servers ignore unknown ones.
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


def complete_options(owner: type, kind: type[ModelOptions], options: Any, **defaults: Any) -> dict[str, Any]:
    """Return `options` with the default of each option of `kind` that is left out.

    The key in `options` is hidden in place: a traceback with its frames' variables must not show it. That is
    why a constructor calls this first.

    Args:
        owner: the class that the options are for.
        kind: the options that its constructor takes beside its named parameters.
        options: the keyword arguments of its constructor.
        defaults: those of this class that differ from the other models'.

    Raises:
        TypeError: `owner` has no option of that name.
    """
    for name in ("api_key", "openai_api_key"):
        if name in options:
            options[name] = Hidden(options[name])
    _rename_aliases(owner, options)
    options.setdefault("api_key", Hidden(None))
    for name in options:
        if name not in kind.__annotations__ and name != "model_name":
            raise TypeError(_unknown(owner, name))
    return {**{name: _DEFAULTS.get(name) for name in kind.__annotations__}, **defaults, **options}


_ALIASES: Final = {
    "openai_api_key": "api_key",
    "openai_api_base": "base_url",
    "openai_organization": "organization",
    "request_timeout": "timeout",
    "default_headers": "extra_headers",
}
"""LangChain's other names of options."""


def _rename_aliases(owner: type, options: Any) -> None:
    """Rename options that have LangChain's names, in place; `model_kwargs` are added to `extra_body`.

    Raises:
        TypeError: an option is given under both names.
    """
    for alias, name in _ALIASES.items():
        if alias in options:
            if name in options:
                raise TypeError(f"{owner.__name__}() got both {name} and {alias}, which are the same option")
            options[name] = options.pop(alias)
    if "model_kwargs" in options:
        options["extra_body"] = {**(options.get("extra_body") or {}), **(options.pop("model_kwargs") or {})}


def model_name(owner: type, model: str | None, settings: Any) -> str:
    """Return the model's name, which LangChain also calls `model_name`, and take that out of `settings`.

    Raises:
        TypeError: it is given twice, or not at all.
    """
    given = settings.pop("model_name", None)
    if (model is None) == (given is None):
        fault = "misses the name of the model" if model is None else "got both model and model_name"
        raise TypeError(f"{owner.__name__}() {fault}: give model")
    name: str = given if model is None else model
    return name


def _unknown(owner: type, name: str) -> str:
    message = f"{owner.__name__}() got an unexpected keyword argument {name!r}"
    close = get_close_matches(name, signature(owner).parameters, n=1)
    if close:
        return f"{message}; did you mean {close[0]!r}?"
    if name in _KNOWN and name not in _NOT_OFFERED.get(owner.__name__, ()):
        return f"{message}; for every request, it goes into extra_body={{{name!r}: …}}"
    return message


def sampling_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `settings` that are `SamplingOptions` and no `ModelOptions`."""
    # In a fixed order: requests that say the same are to have the same bytes.
    return {name: settings[name] for name in SamplingOptions.__annotations__ if name not in _OF_MODELS}


class OptionsSignature:
    """The signature of a model's class, with its options by name in place of `**options`.

    `help()` and notebooks read it; editors and type checkers read `Unpack`. It is computed on access.

    Args:
        kind: the options that the constructor takes beside its named parameters.
        defaults: those of this class that differ from the other models'.
    """

    def __init__(self, kind: type[ModelOptions], **defaults: Any) -> None:
        self._kind = kind
        self._defaults = defaults

    def __set_name__(self, owner: Any, name: str) -> None:
        self._constructor = owner.__init__

    def __get__(self, _instance: object, owner: Any) -> Signature:
        if owner.__init__ is not self._constructor:
            raise AttributeError("__signature__")  # a subclass whose constructor takes other arguments
        _, *named, _ = signature(self._constructor).parameters.values()
        defaults = {**_DEFAULTS, **self._defaults}
        options = (
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=defaults.get(name),
                annotation=getattr(kind, "__forward_arg__", kind),
            )
            for name, kind in self._kind.__annotations__.items()
        )
        return Signature([*named, *options])


def is_option(name: str) -> bool:
    """Whether `name` is an option of a request, of OpenAI's API or of a compatible server's.

    True for options of a model too: `check_options` refuses them with the place where they belong.
    """
    return name in _KNOWN or name in _OF_THE_CLIENT


def check_options(options: Mapping[str, Any], owner: str = "ChatOpenAI") -> dict[str, Any]:
    """Return `options` for a request's body, where `None` is not sent; unknown ones are left as they are.

    Args:
        options: by name.
        owner: the model's class, `ChatOpenAI` or `OpenAI`.

    Raises:
        ValueError: for a value out of the API's range, or an option that cannot be set like this.
        TypeError: for a value of the wrong type.
    """
    return {name: _check(name, value, owner) for name, value in options.items()}


def merge_options(
    own: Mapping[str, Any], extra_body: Mapping[str, Any], given: Mapping[str, Any], owner: str = "ChatOpenAI"
) -> dict[str, Any]:
    """Return the members of a request's body: a model's `own` options and `extra_body`, under those `given`.

    Raises:
        ValueError, TypeError: for a given option, as `check_options` does.
    """
    checked = check_options(given, owner)
    extra = {**extra_body, **checked.pop("extra_body", {})}
    options = {**own, **checked}
    return {**{name: value for name, value in options.items() if value is not None}, **extra}


def check_extra_body(extra: Mapping[str, Any] | None, owner: str = "ChatOpenAI") -> dict[str, Any]:
    """Return `extra`; raise ValueError if it has a member that batchrt sets itself."""
    extra = dict(extra or {})
    for name, value in extra.items():
        _check_offered(name, value, owner)
    return extra


def lists_of(settings: Mapping[str, Any], *, own_path: bool = False) -> ListOptions:
    """Return the settings of lists from complete `settings`.

    Raises:
        ValueError, TypeError: one of them makes no sense.
    """
    size: int | None = settings["max_batch_size"]
    size = BATCH_SIZE if size is None else size
    short, long = lingering(settings["linger"], settings["max_linger"], shared=settings["share_lists"])
    check_lists(size, short, long)
    return ListOptions(max_batch_size=size, linger=short, max_linger=long, own_path=own_path)


def check_lists(max_batch_size: int, linger: float, max_linger: float) -> None:
    """Raise ValueError or TypeError for a list's length below 1 or a negative time."""
    _whole("max_batch_size", max_batch_size, 1)
    for name, seconds in (("linger", linger), ("max_linger", max_linger)):
        if _number(name, seconds) < 0:
            raise ValueError(f"{name} must be 0 seconds or more, not {seconds}")


def check_count(n: int | None) -> int | None:
    """Return `n`; raise ValueError or TypeError if it is not a number of outputs."""
    return None if n is None else _whole("n", n, 1)


def _check_offered(name: str, value: object, owner: str) -> None:
    if name == "stream" and value is False:
        return  # some servers stream by default
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
