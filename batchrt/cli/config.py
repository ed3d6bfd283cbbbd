"""The command `batchrt config`: each setting, its value and its origin."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, Final

import typer

from batchrt.cli.errors import UsageError
from batchrt.cli.keys import check_trust, masked, read_key, trust
from batchrt.cli.options import EmbedSettings, RunSettings, option
from batchrt.cli.profile_options import OPTIONS, Command, variable_of
from batchrt.cli.settings_file import find_files, user_folder

if TYPE_CHECKING:
    from batchrt.cli.profiles import Profile

__all__ = ["ConfigSettings", "show_config"]

_COMMANDS: Final[tuple[Command, ...]] = ("run", "embed")
_OPENAI_URL: Final = "OPENAI_BASE_URL"
_PASSWORD: Final = re.compile(r"//[^/@]*@")
_OPENAI_KEY: Final = "OPENAI_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSettings:
    """Hold the options of `batchrt config`."""

    profile: str | None = option(
        None, metavar="NAME", help="The profile to show.", envvar="BATCHRT_PROFILE", show_envvar=False
    )
    config: str | None = option(
        None, metavar="FILE", help="The only file to read.", envvar="BATCHRT_CONFIG", show_envvar=False
    )
    trust: bool = option(
        False, "--trust", help="Trust the address and the key that the file found here names."
    )


def show_config(settings: ConfigSettings) -> int:
    """Show the settings of each command and return the exit code.

    Raises:
        UsageError: a file cannot be read, or has a mistake.
    """
    from batchrt.cli.profiles import load_profile  # pydantic, which --help does without

    files = find_files(settings.config)
    profiles = {command: load_profile(files, command, settings.profile) for command in _COMMANDS}
    names = [str(file.path) for file in files]
    if settings.trust:
        trusted = trust(list(profiles.values()))
        typer.echo(f"trusted: {', '.join(trusted) or 'nothing needs it'}")
        return 0
    typer.echo(f"files: {', '.join(names) or f'none (batchrt.toml here or above, or in {user_folder()})'}")
    known = sorted({name for file in files for name in file.data.get("profiles", {})})
    if known:
        typer.echo(f"profile: {profiles['run'].name or 'none'} (of {', '.join(known)})")
    for command, profile in profiles.items():
        typer.echo(f"\nbatchrt {command}")
        rows = [*_options(command, profile), *_others(profile), _key(profile)]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for name, value, origin in rows:
            typer.echo(f"  {name:{widths[0]}}  {value:{widths[1]}}  {origin}".rstrip())
        try:
            check_trust(profile)
        except UsageError as problem:
            typer.echo(f"  not usable: {problem}")
    return 0


def _options(command: Command, profile: Profile) -> Iterator[tuple[str, str, str]]:
    """Yield the name, value and origin of each option."""
    kind = RunSettings if command == "run" else EmbedSettings
    for name in OPTIONS[command]:
        variable = variable_of(name)
        if name == "base_url" and not os.environ.get(variable):
            variable = _OPENAI_URL
        if os.environ.get(variable):
            yield name, _PASSWORD.sub("//****@", os.environ[variable]), variable
        elif name in profile.options:
            value, origin, _ = profile.options[name]
            yield name, _shown(value), origin
        else:
            default = kind.__dataclass_fields__[name].default
            yield name, "-" if default in (None, MISSING) else _shown(default), "default"


def _others(profile: Profile) -> Iterator[tuple[str, str, str]]:
    """Yield the same of headers, whose values may be secrets, parameters and prices."""
    for name, setting in profile.headers.items():
        yield f"headers.{name}", "****", setting.origin
    for name, setting in profile.parameters.items():
        yield f"options.{name}", _shown(setting.value), setting.origin
    for name, setting in profile.prices.items():
        price = setting.value
        yield f"prices.{name}", f"input {price.input:g}, output {price.output:g}", setting.origin


def _key(profile: Profile) -> tuple[str, str, str]:
    """Return the same of the API key that is sent to the address in force."""
    is_overridden = os.environ.get(_OPENAI_URL) or os.environ.get(variable_of("base_url"))
    if profile.key is not None and not is_overridden:
        name, setting = profile.key
        try:
            key = read_key(name, setting).get_secret_value()
        except UsageError as problem:
            return "API key", "not usable", str(problem)
        return "API key", masked(key), f"{setting.value} ({name} in {setting.origin})"
    key = os.environ.get(_OPENAI_KEY, "").strip()
    return "API key", masked(key) if key else "none", _OPENAI_KEY


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
