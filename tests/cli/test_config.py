"""`batchrt config`: each setting with its origin, and no key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def row(text: str, name: str, command: str = "run") -> tuple[str, str]:
    """Return the value and the origin of a setting."""
    part = text.split(f"\nbatchrt {command}\n")[1].split("\nbatchrt ", maxsplit=1)[0]
    found = re.search(rf"^  {re.escape(name)}  +(\S+(?: \S+)*)(?:  +(.*))?$", part, re.MULTILINE)
    assert found is not None, part
    return found[1], found[2]


@pytest.mark.usefixtures("project")
def test_config_without_files_shows_the_defaults(command: Command) -> None:
    """And where files would be."""
    text = command("config").out
    assert text.startswith("files: none (batchrt.toml here or above, or in ")
    assert row(text, "model") == ("gpt-5-mini", "default")
    assert row(text, "model", "embed") == ("text-embedding-3-small", "default")
    assert row(text, "temperature") == ("-", "default")
    assert row(text, "API key") == ("none", "OPENAI_API_KEY")


def test_config_shows_values_with_their_origins(
    command: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of files, profiles and the environment."""
    path = project / "batchrt.toml"
    path.write_text(
        'model = "a"\nbase_url = "http://localhost:1/v1"\n[headers]\nX-Secretive = "hush"\n'
        "[options]\nseed = 7\n[prices.a]\ninput = 0.25\noutput = 2\n"
        '[profiles.x]\nmax_retries = 9\n[profiles.x.embed]\nmodel = "v"\n'
    )
    path.chmod(0o644)
    monkeypatch.setenv("BATCHRT_MAX_TOKENS", "77")
    text = command("config", "--profile", "x").out
    assert text.startswith(f"files: {path}\nprofile: x (of x)\n")
    assert row(text, "model") == ("a", str(path))
    assert row(text, "max_retries") == ("9", f"{path} [profiles.x]")
    assert row(text, "model", "embed") == ("v", f"{path} [profiles.x.embed]")
    assert row(text, "max_tokens") == ("77", "BATCHRT_MAX_TOKENS")
    assert row(text, "headers.X-Secretive") == ("****", str(path))
    assert row(text, "options.seed") == ("7", str(path))
    assert row(text, "prices.a") == ("input 0.25, output 2", str(path))
    assert "hush" not in text
    assert "profile: none (of x)" in command("config").out


def test_config_masks_keys(command: Command, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment, of a file, and passwords in addresses."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-environment-0123456789")
    assert row(command("config").out, "API key") == ("****6789", "OPENAI_API_KEY")
    path, key = project / "batchrt.toml", project / "key"
    path.write_text('key_file = "key"\n')
    path.chmod(0o644)
    key.write_text("sk-proj-of-the-file-abcdefgh")
    key.chmod(0o600)
    text = command("config").out
    assert row(text, "API key") == ("****efgh", f"key (key_file in {path})")
    assert "not usable: " in text
    key.chmod(0o644)
    assert row(command("config").out, "API key")[0] == "not usable"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:hush@host/v1")
    text = command("config").out
    assert row(text, "base_url") == ("https://****@host/v1", "OPENAI_BASE_URL")
    assert row(text, "API key") == ("****6789", "OPENAI_API_KEY")
    assert "hush" not in text
    assert "of-the-file" not in text


def test_config_trusts_the_file_that_was_found(
    command: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once is enough."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project / "own"))
    path = project / "batchrt.toml"
    path.write_text('base_url = "https://other.test/v1"')
    path.chmod(0o644)
    assert "  not usable: " in command("config").out
    assert command("config", "--trust").out == f"trusted: {path}\n"
    assert "not usable" not in command("config").out
    path.write_text("max_retries = 1")
    assert command("config", "--trust").out == "trusted: nothing needs it\n"


def test_config_mistakes_are_told(command: Command, project: Path) -> None:
    """In one line, with the file and its line."""
    path = project / "batchrt.toml"
    path.write_text("\nmodle = 1")
    path.chmod(0o644)
    result = command("config")
    assert result.code == 2
    assert result.complaint.startswith(f"{path}:2: modle is no setting: did you mean model?")
