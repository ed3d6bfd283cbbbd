"""Options: types, defaults, checks before a request is sent."""

from __future__ import annotations

import inspect
import traceback
from typing import Any

import pytest

from batchrt import ChatOpenAI, OpenAI, OpenAIEmbeddings
from batchrt.providers.completions.model import CompletionOptions
from batchrt.providers.options import ModelOptions, SamplingOptions, check_extra_body, check_options

MODELS: list[tuple[Any, Any]] = [
    (ChatOpenAI, SamplingOptions),
    (OpenAI, CompletionOptions),
    (OpenAIEmbeddings, ModelOptions),
]


def test_check_options_leaves_good_values_as_they_are() -> None:
    """None stands for "not sent"; what is not known goes through."""
    options = {
        "model": "m", "temperature": 0, "top_p": 1.0, "max_tokens": 1, "seed": -5, "stop": "x",
        "frequency_penalty": -2, "presence_penalty": None, "reasoning_effort": "low", "user": "u",
    }  # fmt: skip
    assert check_options(options) == options
    assert check_options({"stop": ("a", "b")}) == {"stop": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "value", "kind", "says"),
    [
        ("temperature", 2.1, ValueError, "temperature must be from 0 to 2, not 2.1"),
        ("temperature", float("nan"), ValueError, "temperature"),
        ("temperature", "0.5", TypeError, "temperature must be a number, not str"),
        ("temperature", True, TypeError, "not bool"),
        ("top_p", -0.1, ValueError, "top_p must be from 0 to 1"),
        ("frequency_penalty", 3, ValueError, "from -2 to 2"),
        ("max_tokens", 0, ValueError, "max_tokens must be 1 or more, not 0"),
        ("max_completion_tokens", 1.5, TypeError, "whole number, not float"),
        ("seed", "1", TypeError, "seed must be a whole number"),
        ("stop", [1], TypeError, "stop must be a string or a list of strings"),
        ("model", "", ValueError, "model must be the name"),
        ("model", 5, TypeError, "model must be a string"),
        ("n", 2, ValueError, "an input has one output"),
        ("stream", True, ValueError, "answers come whole"),
        ("messages", [], ValueError, "the messages are the input"),
        ("timeout", 5, ValueError, "timeout belongs to the model as a whole"),
        ("extra_body", {"n": 2}, ValueError, "n cannot be set"),
    ],
)
def test_check_options_names_bad_values(name: str, value: Any, kind: type[Exception], says: str) -> None:
    """With what they may be."""
    with pytest.raises(kind, match=says):
        check_options({name: value})


@pytest.mark.parametrize("owner", ["ChatOpenAI", "OpenAI"])
def test_check_options_takes_stream_false_alone(owner: str) -> None:
    """There are servers that stream unless they are told not to; nothing else can be said about it."""
    assert check_options({"stream": False}, owner) == {"stream": False}
    assert check_extra_body({"stream": False}, owner) == {"stream": False}
    for value in (True, None, 0, "false", 1):
        with pytest.raises(ValueError, match="stream cannot be set"):
            check_options({"stream": value}, owner)


def test_check_extra_body_refuses_members_that_change_the_answer() -> None:
    """An answer that streams could not be read."""
    assert check_extra_body(None) == {}
    assert check_extra_body({"top_k": 5}) == {"top_k": 5}
    with pytest.raises(ValueError, match="stream cannot be set"):
        check_extra_body({"stream": True})


@pytest.mark.parametrize(("model", "kind"), MODELS)
def test_options_signature_names_every_option_once(model: Any, kind: Any) -> None:
    """`help()` and notebooks see each option by name, with its default."""
    signature = inspect.signature(model)
    assert set(kind.__annotations__) < set(signature.parameters)
    for name, parameter in signature.parameters.items():
        positional = name == "model"
        assert parameter.kind is (parameter.POSITIONAL_OR_KEYWORD if positional else parameter.KEYWORD_ONLY)
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    assert defaults["timeout"] == 600.0
    assert defaults["max_retries"] == 2
    assert defaults["max_in_flight"] == "unchanged"
    assert defaults["max_response_bytes"] == (256 if model is OpenAIEmbeddings else 64) * 2**20
    assert signature.parameters["timeout"].annotation == "float | None"


@pytest.mark.parametrize(("model", "kind"), MODELS)
def test_options_are_documented_each(model: Any, kind: Any) -> None:
    """A typed set of options describes all keys that it adds to its bases."""
    bases = [one for one in (ModelOptions, SamplingOptions, CompletionOptions) if _extends(kind, one)]
    words = "\n".join(inspect.cleandoc(base.__doc__ or "") for base in bases)
    for name in kind.__annotations__:
        assert f"\n    {name}: " in words, name


def _extends(kind: Any, base: Any) -> bool:
    return bool(kind.__optional_keys__ >= base.__optional_keys__)


@pytest.mark.parametrize(("model", "kind"), MODELS)
def test_options_that_stand_for_their_default_change_nothing(model: Any, kind: Any) -> None:
    """A default that is given explicitly means the same as an option that is left out."""
    parameters = inspect.signature(model).parameters.values()
    given = {parameter.name: parameter.default for parameter in parameters if parameter.name != "model"}
    one, other = model("m", api_key="sk-abcdefgh"), model("m", **given | {"api_key": "sk-abcdefgh"})
    assert one.quota is other.quota
    assert one._options == other._options
    assert one._client.max_retries == other._client.max_retries
    assert repr(one) == repr(other)


@pytest.mark.parametrize(("model", "kind"), MODELS)
def test_options_keep_limits_that_are_left_out_and_lift_those_that_are_none(model: Any, kind: Any) -> None:
    """`None` lifts a limit; a limit that is left out, or "unchanged", stays as it is."""
    key = {"api_key": f"sk-of-this-test-and-{model.__name__}"}
    quota = model("m", requests_per_minute=60, max_in_flight=3, **key).quota
    limits = {"requests_per_minute": 60, "max_in_flight": 3}
    assert quota.statistics().limits == limits
    assert model("m", max_in_flight="unchanged", **key).quota.statistics().limits == limits
    assert model("m", max_in_flight=None, **key).quota is quota
    assert quota.statistics().limits == {"requests_per_minute": 60}
    model("m", requests_per_minute=None, **key)
    assert not quota.statistics().limits


@pytest.mark.parametrize(("model", "kind"), MODELS)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("max_retrys", "'max_retrys'; did you mean 'max_retries'?"),
        ("requests_per_minutes", "did you mean 'requests_per_minute'?"),
        ("apikey", "did you mean 'api_key'?"),
        ("top_k_per_token", "got an unexpected keyword argument 'top_k_per_token'$"),
        ("chat_template_kwargs", r"goes into extra_body=\{'chat_template_kwargs': …\}"),
    ],
)
def test_options_with_an_unknown_name_are_a_type_error(model: Any, kind: Any, name: str, says: str) -> None:
    """The message has the closest name, or says where an option of a server goes."""
    with pytest.raises(TypeError, match=rf"^{model.__name__}\(\) .*{says}"):
        model("m", **{name: 1})


def test_options_with_an_unknown_name_do_not_show_the_key() -> None:
    """A traceback with the variables of its frames hides the key also where the constructor fails at once."""
    options = {"api_key": "sk-hidden-from-view", "temprature": 1}
    with pytest.raises(TypeError, match="did you mean 'temperature'") as caught:
        ChatOpenAI("m", **options)  # type: ignore[arg-type]
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    frames = [
        frame for frame in told.stack if frame.name != "test_options_with_an_unknown_name_do_not_show_the_key"
    ]
    assert frames
    assert "sk-hidden-from-view" not in str([frame.locals for frame in frames])


def test_options_signature_is_not_that_of_a_subclass_with_its_own_constructor() -> None:
    """A subclass shows the parameters that it takes."""

    class Own(ChatOpenAI):
        def __init__(self, name: str) -> None:
            super().__init__(name, api_key="sk-abcdefgh")

    class Same(ChatOpenAI):
        pass

    assert list(inspect.signature(Own).parameters) == ["name"]
    assert inspect.signature(Same) == inspect.signature(ChatOpenAI)


LANGCHAIN: dict[str, Any] = {
    "model_name": "m",
    "openai_api_key": "sk-canary-0123456789",
    "openai_api_base": "http://127.0.0.1:9/v1",
    "request_timeout": 5,
    "default_headers": {"x-team": "a"},
    "openai_organization": "o",
}


@pytest.mark.parametrize("kind", [ChatOpenAI, OpenAI, OpenAIEmbeddings])
def test_options_have_langchains_names_too(kind: Any) -> None:
    """The model is the same as under our own names."""
    model = kind(**LANGCHAIN, model_kwargs={"user": "u"}, extra_body={"a": 1})
    assert repr(model) == repr(kind("m", base_url="http://127.0.0.1:9/v1"))
    assert list(model._client.secrets) == ["sk-canary-0123456789"]
    arguments = model._arguments.get()
    assert arguments["extra_headers"] == {"x-team": "a"}
    assert (arguments["timeout"], arguments["organization"]) == (5, "o")
    assert arguments["extra_body"] == {"a": 1, "user": "u"}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "misses the name of the model"),
        ({"model": "m", "model_name": "m"}, "both model and model_name"),
        (
            {"model": "m", "openai_api_key": "sk-canary-1", "api_key": "sk-canary-2"},
            "both api_key and openai_api_key",
        ),
        ({"model": "m", "openai_api_base": "a", "base_url": "b"}, "both base_url and openai_api_base"),
        ({"model": "m", "openai_api_bas": "a"}, "openai_api_bas"),
    ],
)
@pytest.mark.parametrize("kind", [ChatOpenAI, OpenAI, OpenAIEmbeddings])
def test_options_are_given_once(kind: Any, arguments: dict[str, Any], match: str) -> None:
    """And no key is in the error, or in the variables of its traceback."""
    with pytest.raises(TypeError, match=match) as caught:
        kind(**arguments, default_headers={})
    for frame, _ in traceback.walk_tb(caught.value.__traceback__):
        if "batchrt/providers" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename:
            assert "sk-canary" not in repr(frame.f_locals)
    assert "sk-canary" not in str(caught.value)


def test_options_streaming_and_lists_exclude_each_other() -> None:
    """There is no stream of a list."""
    with pytest.raises(ValueError, match="native_batch"):
        ChatOpenAI("m", base_url="http://127.0.0.1:9/v1", streaming=True, native_batch=True)
