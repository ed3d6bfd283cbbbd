"""Keys of profiles: read from private files or the environment, and led nowhere without the user's word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batchrt.cli.errors import UsageError
from batchrt.cli.keys import check_trust, masked, read_key, trust
from batchrt.cli.profiles import Profile, Setting, load_profile
from batchrt.cli.settings_file import SettingsFile, read_settings_file, user_folder


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))


def file_of(tmp_path: Path, text: str = "", *, is_found: bool = True) -> SettingsFile:
    path = tmp_path / "batchrt.toml"
    path.write_text(text)
    return read_settings_file(path, is_found=is_found)


def profile_of(tmp_path: Path, text: str, *, is_found: bool = True) -> Profile:
    return load_profile([file_of(tmp_path, text, is_found=is_found)], "run", None)


def key_in(tmp_path: Path, content: bytes, mode: int = 0o600, name: str = "key.txt") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    path.chmod(mode)
    file = file_of(tmp_path)
    return read_key("key_file", Setting(name, "batchrt.toml", file)).get_secret_value()


@pytest.mark.parametrize("content", [b"sk-1234", b"  sk-1234\r\n", b"sk-1234\n\n"])
def test_key_is_the_files_only_line(tmp_path: Path, content: bytes) -> None:
    """Without the blanks around it."""
    assert key_in(tmp_path, content) == "sk-1234"


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb", "ключ".encode(), b"\xff\xfe", b"k\x00"])
def test_key_is_ascii_on_one_line(tmp_path: Path, content: bytes) -> None:
    """The error does not show the content."""
    with pytest.raises(UsageError, match=r"key\.txt .*: is not a key alone") as caught:
        key_in(tmp_path, content)
    assert repr(content.decode("latin-1")) not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601])
def test_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The message has the remedy."""
    with pytest.raises(UsageError, match=rf"others can read it; chmod 600 {tmp_path / 'key.txt'}$"):
        key_in(tmp_path, b"sk-1234", mode)


def test_key_file_may_be_read_only_absolute_or_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path begins at the settings file's folder."""
    assert key_in(tmp_path, b"sk-1", 0o400) == "sk-1"
    monkeypatch.setenv("HOME", str(tmp_path))
    file = file_of(tmp_path)
    for name in (str(tmp_path / "key.txt"), "~/key.txt"):
        assert read_key("key_file", Setting(name, "x", file)).get_secret_value() == "sk-1"


def test_key_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """It is not there, or no file."""
    file = file_of(tmp_path)
    with pytest.raises(UsageError, match=r"none .*: cannot be read: no such file"):
        read_key("key_file", Setting("none", "x", file))
    with pytest.raises(UsageError, match=r"cannot be read: is a directory"):
        read_key("key_file", Setting(".", "x", file))
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(UsageError, match=r"pipe .*: is no file"):
        read_key("key_file", Setting("pipe", "x", file))


def test_key_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set is an error."""
    setting = Setting("SOME_KEY", "batchrt.toml", file_of(tmp_path))
    monkeypatch.setenv("SOME_KEY", " sk-1\n")
    assert read_key("key_env", setting).get_secret_value() == "sk-1"
    for value in ("", " "):
        monkeypatch.setenv("SOME_KEY", value)
        with pytest.raises(UsageError, match=r"SOME_KEY is not set, which key_env in batchrt\.toml names"):
            read_key("key_env", setting)


def test_masked_keys_show_their_end_if_they_are_long() -> None:
    """A short one is not shown at all."""
    assert masked("sk-proj-0123456789abcdef") == "****cdef"
    assert masked("sk-123") == "****"


@pytest.mark.parametrize(
    "text",
    [
        'base_url = "https://other.test/v1"',
        'base_url = "https://localhost.other.test/v1"',
        'base_url = "https://localhost@other.test/v1"'.replace("localhost@", ""),
        'base_url = "no url"',
        'key_env = "OTHER"',
        'key_file = "k"',
        'base_url = "http://localhost/v1"\nkey_env = "OTHER"',
    ],
)
def test_trust_is_needed_for_addresses_and_keys_of_found_files(tmp_path: Path, text: str) -> None:
    """Once; and again when they change, but not for other settings."""
    profile = profile_of(tmp_path, text)
    with pytest.raises(UsageError, match="which decides where your key and your rows are sent") as caught:
        check_trust(profile)
    assert f"{tmp_path / 'batchrt.toml'} sets " in str(caught.value)
    assert trust([profile]) == [str(tmp_path / "batchrt.toml")]
    check_trust(profile)
    check_trust(profile_of(tmp_path, f"max_retries = 5\n{text}"))
    changed = profile_of(tmp_path, 'base_url = "https://third.test/v1"')
    with pytest.raises(UsageError, match="if you trust it"):
        check_trust(changed)
    check_trust(profile)
    assert (user_folder() / "trusted.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "text",
    [
        'model = "m"\n[headers]\nX-Team = "a"',
        'base_url = "http://localhost:8000/v1"',
        'base_url = "http://127.0.0.1:8000/v1"',
        'base_url = "http://[::1]:8000/v1"',
    ],
)
def test_trust_is_not_needed_for_this_machine(tmp_path: Path, text: str) -> None:
    """Nor for settings that lead nowhere."""
    profile = profile_of(tmp_path, text)
    check_trust(profile)
    assert trust([profile]) == []


def test_trust_is_not_needed_for_files_that_are_named(tmp_path: Path) -> None:
    """By `--config`, or in the user's own folder."""
    check_trust(profile_of(tmp_path, 'base_url = "https://other.test/v1"', is_found=False))


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"PATH": 5}', '{"PATH": null}'])
def test_trust_record_that_is_broken_counts_as_none(tmp_path: Path, content: str) -> None:
    """It is written anew."""
    profile = profile_of(tmp_path, 'base_url = "https://other.test/v1"')
    user_folder().mkdir(parents=True)
    (user_folder() / "trusted.json").write_text(content.replace("PATH", str(tmp_path / "batchrt.toml")))
    with pytest.raises(UsageError):
        check_trust(profile)
    trust([profile])
    check_trust(profile)


def test_trust_that_cannot_be_recorded_says_so(tmp_path: Path) -> None:
    """With the path."""
    (tmp_path / "own").write_text("a file")
    with pytest.raises(UsageError, match=r"trusted\.json: cannot be written"):
        trust([profile_of(tmp_path, 'base_url = "https://other.test/v1"')])
