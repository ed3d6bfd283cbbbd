"""API keys of profiles: from a file that others cannot read, or from the environment."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from batchrt.cli.errors import UsageError
from batchrt.cli.settings_file import user_folder
from batchrt.providers.http.secrets import Hidden

if TYPE_CHECKING:
    from batchrt.cli.profiles import Profile, Setting

__all__ = ["check_trust", "masked", "read_key", "trust"]

_MOST_BYTES: Final = 1 << 16
_FEWEST_SHOWN: Final = 20
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


def masked(key: str) -> str:
    """Return a key such that it can be recognised but not used."""
    return f"****{key[-4:]}" if len(key) >= _FEWEST_SHOWN else "****"


def read_key(name: str, setting: Setting) -> Hidden:
    """Return the API key that a `key_env` or `key_file` names.

    Raises:
        UsageError: there is none, or others can read the file.
    """
    if name == "key_env":
        key = Hidden(os.environ.get(setting.value, "").strip())
        if not key.get_secret_value():
            raise UsageError(f"{setting.value} is not set, which key_env in {setting.origin} names")
        if mistake := key.mistake():
            raise UsageError(f"{setting.value}, which key_env in {setting.origin} names, {mistake}")
        return key
    path = setting.file.path.parent / Path(setting.value).expanduser()
    return Hidden(_read_private(path, f"{path} (key_file in {setting.origin})"))


def _read_private(path: Path, name: str) -> str:
    try:
        # Opening a named pipe would wait for its writer.
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            _check_private(status, path, name)
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    key = content.decode("ascii", "replace").strip()
    if not key or not (key.isascii() and key.isprintable()):
        raise UsageError(f"{name}: is not a key alone, on a line of its own")
    return key


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_private(status: os.stat_result, path: Path, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{name}: is no file")
    if os.name == "nt":  # access lists say it there, and a user's folder is private
        return
    if status.st_uid not in (os.getuid(), 0):
        raise UsageError(f"{name}: belongs to another user")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"{name}: others can read it; chmod 600 {path}")


# Trust: a file that was found, in a folder of any origin, may not lead a key to an address of its choice


def check_trust(profile: Profile) -> None:
    """Check that the user knows where their key is sent by a file that they have not named.

    Raises:
        UsageError: a file that was found sets an address other than this machine's, or a key, and
            `batchrt config --trust` has not been called since.
    """
    for file, claims in _claims(profile).items():
        if _digest(claims) not in _trusted(Path(file)):
            what = " and ".join(f"{name} = {value!r}" for name, value in claims)
            raise UsageError(
                f"{file} sets {what}, which decides where your key and your rows are sent; if you trust it, "
                "run batchrt config --trust once, or name the file by --config"
            )


def trust(profiles: list[Profile]) -> list[str]:
    """Trust the addresses and keys that files which were found set, and return these files' paths."""
    paths: list[str] = []
    for profile in profiles:
        for file, claims in _claims(profile).items():
            _remember(Path(file), _digest(claims))
            paths.append(file)
    return list(dict.fromkeys(paths))


def _claims(profile: Profile) -> dict[str, list[tuple[str, str]]]:
    """Return what files that were found say about the address and the key, by their paths."""
    named = [("base_url", profile.options["base_url"])] if "base_url" in profile.options else []
    if profile.key is not None:
        named.append(profile.key)
    claims: dict[str, list[tuple[str, str]]] = {}
    for name, setting in named:
        if setting.file.is_found and not (name == "base_url" and _is_local(setting.value)):
            claims.setdefault(str(setting.file.path), []).append((name, setting.value))
    return claims


def _is_local(url: str) -> bool:
    with suppress(ValueError):
        parts = urlsplit(url)
        return parts.scheme == "http+unix" or parts.hostname in _LOCAL
    return False


def _digest(claims: list[tuple[str, str]]) -> str:
    return sha256(json.dumps(claims).encode()).hexdigest()


def _record() -> Path:
    return user_folder() / "trusted.json"


def _all_trusted() -> dict[str, list[str]]:
    try:
        found = json.loads(_record().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _trusted(path: Path) -> list[str]:
    digests = _all_trusted().get(str(path), [])
    return digests if isinstance(digests, list) else []


def _remember(path: Path, digest: str) -> None:
    record = _record()
    trusted = _all_trusted()
    trusted[str(path)] = [*_trusted(path), digest]
    try:
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        record.write_text(json.dumps(trusted, indent=1), "utf-8")
        record.chmod(0o600)
    except OSError as error:
        raise UsageError(f"{record}: cannot be written: {(error.strerror or str(error)).lower()}") from None
