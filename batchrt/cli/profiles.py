"""Profiles: settings of a command from files, each with its origin."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NamedTuple, get_type_hints

from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from batchrt import Price
from batchrt.cli.errors import UsageError
from batchrt.cli.options import EmbedSettings, JobSettings, RunSettings
from batchrt.cli.profile_options import OPTIONS, SHARED, Command
from batchrt.cli.settings_file import SettingsFile, unknown_name
from batchrt.providers.http.secrets import is_credential

__all__ = ["Profile", "Setting", "load_profile"]

_TABLES: Final = ("headers", "options", "prices")
_KEYS: Final = ("key_env", "key_file")
_NOT_OF_VECTORS: Final = frozenset(("model", *OPTIONS["run"])) - frozenset(SHARED)
"""Keys at the top of a file that are not for `embed`, which has a table of its own."""
_SETTINGS: Final[Mapping[Command, type[JobSettings]]] = {"run": RunSettings, "embed": EmbedSettings}
_PRICES: Final = TypeAdapter(dict[str, float], config={"strict": True})


class Setting(NamedTuple):
    """Hold a value and its origin.

    Attributes:
        value: as the file has it.
        origin: the file, and the table in it.
        file: the file itself.
    """

    value: Any
    origin: str
    file: SettingsFile


@dataclass(slots=True)
class Profile:
    """Hold the settings of a command from all files.

    Attributes:
        name: of the profile that was chosen, or `None`.
        options: by the option's name.
        headers, parameters, prices: by their own names; the parameters are those of `--option`.
        key: the file of the API key (`key_file`) or its variable (`key_env`), if either is given.
    """

    name: str | None = None
    options: dict[str, Setting] = field(default_factory=dict)
    headers: dict[str, Setting] = field(default_factory=dict)
    parameters: dict[str, Setting] = field(default_factory=dict)
    prices: dict[str, Setting] = field(default_factory=dict)
    key: tuple[str, Setting] | None = None

    def defaults(self) -> dict[str, Any]:
        """Return the values as they would be given on the command line, by option."""
        found = {name: setting.value for name, setting in self.options.items()}
        if "max_concurrency" in found:
            found["max_concurrency"] = str(found["max_concurrency"])
        if self.headers:
            found["headers"] = [f"{name}:{setting.value}" for name, setting in self.headers.items()]
        if self.parameters:
            found["options"] = [f"{name}={json.dumps(each.value)}" for name, each in self.parameters.items()]
        return found


def load_profile(files: list[SettingsFile], command: Command, name: str | None) -> Profile:
    """Return the settings for `command` in `files`, of which later ones override earlier ones.

    Args:
        files: the files.
        command: the command.
        name: of the profile, whose settings override those at the top of each file; by default the one that
            a file's `profile` names.

    Raises:
        UsageError: a file has a key or a value that it cannot have, or no file has that profile.
    """
    for file in files:
        _check(file)
    if name is None:
        name = next((file.data["profile"] for file in reversed(files) if "profile" in file.data), None)
    profile = Profile(name)
    for file in files:
        _add(profile, file, file.data, "", command)
    if name is None:
        return profile
    known = {each for file in files for each in file.data.get("profiles", {})}
    if name not in known:
        where = ", ".join(str(file.path) for file in files) or "no settings file"
        raise UsageError(f"there is no profile {name!r} ({where}): {unknown_name(name, known)}")
    for file in files:
        if name in file.data.get("profiles", {}):
            _add(profile, file, file.data["profiles"][name], f"profiles.{name}.", command)
    return profile


def _add(
    profile: Profile, file: SettingsFile, table: Mapping[str, Any], place: str, command: Command
) -> None:
    """Put the settings of a table, and of the command's own table in it, over those before."""
    left_out = _NOT_OF_VECTORS if command == "embed" else frozenset()
    _put(profile, file, {key: value for key, value in table.items() if key not in left_out}, place)
    if command == "embed":
        _put(profile, file, table.get("embed", {}), f"{place}embed.")


def _put(profile: Profile, file: SettingsFile, table: Mapping[str, Any], place: str) -> None:
    inside = f"{file.prefix}{place}".removesuffix(".")
    origin = f"{file.path}{f' [{inside}]' if inside else ''}"
    if "base_url" in table:
        # A key belongs to an address: that of another one is not sent to this one.
        profile.key = None
    for key, value in table.items():
        if key in _KEYS:
            profile.key = (key, Setting(value, origin, file))
        elif key in OPTIONS["run"] or key in OPTIONS["embed"]:
            profile.options[key] = Setting(value, origin, file)
    groups = {"headers": profile.headers, "options": profile.parameters, "prices": profile.prices}
    for name, group in groups.items():
        for key, value in table.get(name, {}).items():
            group[key] = Setting(_price(value) if name == "prices" else value, origin, file)


# Checks: each key and value of a file, whatever the command and the profile


def _check(file: SettingsFile) -> None:
    data = file.data
    _check_table(file, data, "", ("profile", "profiles", "embed"))
    if not isinstance(data.get("profile", ""), str):
        raise file.error("profile", "must be the name of a profile")
    for name, table in _tables(file, data, "", "profiles"):
        if not isinstance(table, dict):
            raise file.error(f"profiles.{name}", f"must be a table of settings, not {table!r}")
        _check_table(file, table, f"profiles.{name}.", ("embed",))


def _check_table(file: SettingsFile, table: Mapping[str, Any], place: str, more: tuple[str, ...]) -> None:
    command: Command = "embed" if place.endswith("embed.") else "run"
    known = (*OPTIONS[command], *_TABLES, *_KEYS, *more)
    hints = get_type_hints(_SETTINGS[command])
    for key, value in table.items():
        if key in ("api_key", "key"):
            raise file.error(
                f"{place}{key}",
                "is no place for a key: put it into a file that others cannot read (chmod 600) and name that "
                'by key_file = "…", or name the environment variable that has it by key_env = "…"',
            )
        if key not in known:
            raise file.error(f"{place}{key}", f"is no setting: {unknown_name(key, known)}")
        if key in _KEYS and not (isinstance(value, str) and value.strip()):
            raise file.error(f"{place}{key}", f"must be {_KEY_FORMS[key]}, not {value!r}")
        if key in OPTIONS[command]:
            _check_value(file, f"{place}{key}", value, hints[key], _least(command, key))
    if set(_KEYS) <= table.keys():
        raise file.error(f"{place}key_env", "and key_file name two keys; leave one out")
    _check_address(file, table, place)
    _check_groups(file, table, place)
    if "embed" in more and "embed" in table:
        if not isinstance(table["embed"], dict):
            raise file.error(f"{place}embed", "must be a table of settings")
        _check_table(file, table["embed"], f"{place}embed.", ())


_KEY_FORMS: Final = {"key_env": "the name of an environment variable", "key_file": "the path of a file"}


def _least(command: Command, key: str) -> float | None:
    """Return the least value of an option, if it has one."""
    shown = _SETTINGS[command].__dataclass_fields__[key].metadata.get("shown")
    least: float | None = getattr(shown, "min", None)
    return least


def _check_value(file: SettingsFile, key: str, value: Any, hint: Any, least: float | None) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(hint if least is None else Annotated[hint, Ge(least)])
    try:
        adapter.validate_python(value, strict=True)
    except (ValidationError, TypeError) as error:
        problem = _problem_of(error) if isinstance(error, ValidationError) else str(error)
        raise file.error(key, f"cannot be {value!r}: {problem}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise file.error(key, f"must be a finite number, not {value!r}")


def _problem_of(error: ValidationError) -> str:
    """Return what a value should be: for an option of several types, each of them."""
    problems = [each["msg"].removeprefix("Input ").removeprefix("should be ") for each in error.errors()]
    return f"should be {' or '.join(dict.fromkeys(problems))}"


def _check_address(file: SettingsFile, table: Mapping[str, Any], place: str) -> None:
    url = table.get("base_url")
    if isinstance(url, str) and "@" in url.partition("://")[2].partition("/")[0]:
        raise file.error(f"{place}base_url", "has a password in it, which this file is no place for")


def _check_groups(file: SettingsFile, table: Mapping[str, Any], place: str) -> None:
    """Check the tables of headers, parameters and prices."""
    for name, value in _tables(file, table, place, "headers"):
        if is_credential(name.lower()):
            raise file.error(
                f"{place}headers.{name}",
                "is a credential, which this file is no place for; give an API key by key_file or key_env, "
                "and any other by --header",
            )
        if not isinstance(value, str):
            raise file.error(f"{place}headers.{name}", f"must be text, not {value!r}")
    for name, value in _tables(file, table, place, "options"):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise file.error(f"{place}options.{name}", "has a value that JSON has not") from None
    for name, value in _tables(file, table, place, "prices"):
        try:
            _price(_PRICES.validate_python(value))
        except ValidationError:
            form = 'numbers per million tokens, as prices."m" = {input = 0.25, output = 2.0}'
            raise file.error(f"{place}prices.{name}", f"must be {form}") from None
        except TypeError:
            unknown = next((key for key in value if key not in _PRICE_PARTS), None)
            problem = "lacks input" if unknown is None else f"has no {unknown}: "
            more = "" if unknown is None else unknown_name(unknown, _PRICE_PARTS)
            raise file.error(f"{place}prices.{name}", f"{problem}{more}") from None
        except ValueError as error:
            raise file.error(f"{place}prices.{name}", f"cannot be used: {error}") from None


def _price(parts: Mapping[str, Any]) -> Price:
    return Price(**parts)


_PRICE_PARTS: Final = ("input", "output", "cached_input", "cache_write", "input_audio", "output_audio")


def _tables(file: SettingsFile, table: Mapping[str, Any], place: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the members of a table in a table, if there is one."""
    inner = table.get(name, {})
    if not isinstance(inner, dict):
        raise file.error(f"{place}{name}", f"must be a table, not {inner!r}")
    yield from inner.items()
