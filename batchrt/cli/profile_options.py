"""The options `--profile` and `--config`, whose settings are the defaults of other options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, cast

import typer

from batchrt.cli.errors import UsageError, option_of

if TYPE_CHECKING:
    from batchrt.cli.profiles import Profile

__all__ = ["OPTIONS", "PARAMETERS", "SHARED", "Command", "extra_settings", "variable_of", "with_origin"]

Command: TypeAlias = Literal["run", "embed"]

SHARED: Final = (
    *("base_url", "max_concurrency", "requests_per_minute", "tokens_per_minute", "max_retries", "patience"),
    *("max_wait", "timeout", "max_tokens_total", "max_cost", "confirm_above", "published_prices"),
    "tokenizer",
)
OPTIONS: Final[Mapping[Command, tuple[str, ...]]] = {
    "run": ("model", *SHARED, "temperature", "max_tokens"),
    "embed": (
        "model",
        *SHARED,
        *("dimensions", "server", "max_batch_size", "max_batch_tokens", "truncate"),
    ),
}
"""The options of each command that files and `BATCHRT_…` may set; the others belong to one job."""

_CHOICES: Final = "batchrt profile choices"
_LOADED: Final = "batchrt profile"


def variable_of(name: str) -> str:
    """Return the environment variable that sets the option `name`."""
    return f"BATCHRT_{name.upper()}"


def _choose(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> None:
    """Note an option; with both of them known, make the profile's settings the defaults of the command."""
    choices = context.meta.setdefault(_CHOICES, {})
    choices[parameter.name] = value
    if len(choices) < len(PARAMETERS) or context.resilient_parsing:
        return
    from batchrt.cli.settings_file import find_files

    files = find_files(choices["config"])
    if not files and choices["profile"] is None:
        return
    # Imports pydantic, which a command without settings files does without.
    from batchrt.cli.profiles import load_profile

    profile = load_profile(files, cast("Command", context.info_name), choices["profile"])
    defaults = profile.defaults()
    if os.environ.get("OPENAI_BASE_URL"):  # the environment goes before files
        defaults.pop("base_url", None)
    context.meta[_LOADED] = profile
    context.default_map = {**(context.default_map or {}), **defaults}


def _parameter(name: str, metavar: str, text: str) -> Parameter:
    shown = typer.Option(
        f"--{name}",
        metavar=metavar,
        help=text,
        is_eager=True,
        callback=_choose,
        envvar=variable_of(name),
        show_envvar=False,
    )
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, shown])


PARAMETERS: Final = (
    _parameter("profile", "NAME", "The profile of the settings files to use (see batchrt config)."),
    _parameter("config", "FILE", "The settings file, in place of those that are found."),
)


def _applies(context: typer.Context, name: str) -> bool:
    """Whether the value of an option is that of the files."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT_MAP"


def extra_settings(context: typer.Context) -> dict[str, Any]:
    """Return the settings of the profile that no option has: prices, and the API key of its address.

    Raises:
        UsageError: the key cannot be read, or the user has not trusted the file that was found.
    """
    profile: Profile | None = context.meta.get(_LOADED)
    if profile is None:
        return {}
    from batchrt.cli.keys import check_trust, read_key

    prices = {name: setting.value for name, setting in profile.prices.items()}
    overridden = "base_url" in profile.options and not _applies(context, "base_url")
    named = context.get_parameter_source("base_url")
    if overridden or (named is not None and named.name in ("COMMANDLINE", "ENVIRONMENT")):
        # The key belongs to the address of the files, and goes to no other.
        return {"prices": prices}
    check_trust(profile)
    return {"prices": prices, "api_key": None if profile.key is None else read_key(*profile.key)}


def with_origin(context: typer.Context, error: UsageError) -> UsageError:
    """Return an error about an option with the file or the environment variable that set it, if any."""
    profile: Profile | None = context.meta.get(_LOADED)
    for name in context.params:
        if f"{option_of(name)} " not in f"{error} ":
            continue
        source = context.get_parameter_source(name)
        if source is not None and source.name == "ENVIRONMENT":
            return UsageError(f"{error} (it is set by {variable_of(name)})")
        if profile is not None and name in profile.options and _applies(context, name):
            return UsageError(f"{error} (it is set in {profile.options[name].origin})")
    return error
