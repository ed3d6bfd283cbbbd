"""Settings of files and of the environment as defaults of a command's options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchrt import ChatOpenAI
from batchrt.cli import run
from batchrt.cli.options import RunSettings
from batchrt.testing import MockProvider
from batchrt.testing.serving.server import MockServer
from tests.cli.conftest import Command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder with an input."""
    (tmp_path / "in.jsonl").write_text('{"n": "a"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """Keep the settings of each run, which is that of a mock."""
    found: list[RunSettings] = []

    def chat(settings: Any) -> ChatOpenAI:
        found.append(settings)
        return ChatOpenAI("m", base_url="http://mock/v1", transport=MockProvider().transport())

    monkeypatch.setattr(run, "chat_model", chat)
    return found


RUN = ("run", "in.jsonl", "-p", "{n}")


def settings_file(folder: Path, text: str, name: str = "batchrt.toml") -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_settings_of_files_environment_and_options_override_each_other(
    command: Command, project: Path, seen: list[RunSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order."""
    settings_file(
        project,
        'model = "file"\ntemperature = 1\nmax_retries = 7\nmax_concurrency = 3\npublished_prices = false\n'
        '[headers]\nX-Team = "a:b"\n[options]\ntop_p = 0.5\nstop = ["x"]\n'
        "[prices.file]\ninput = 1\noutput = 2",
    )
    assert command(*RUN).code == 0
    assert (seen[0].model, seen[0].temperature, seen[0].max_retries) == ("file", 1.0, 7)
    assert (seen[0].max_concurrency, seen[0].published_prices) == (3, False)
    assert seen[0].headers == {"X-Team": "a:b"}
    assert seen[0].options == {"top_p": 0.5, "stop": ["x"]}
    monkeypatch.setenv("BATCHRT_MODEL", "environment")
    monkeypatch.setenv("BATCHRT_MAX_RETRIES", "6")
    monkeypatch.setenv("BATCHRT_PUBLISHED_PRICES", "1")
    monkeypatch.setenv("BATCHRT_TIMEOUT", "")
    assert command(*RUN, "--max-retries", 5, "--header", "X-Other: c").code == 0
    assert (seen[1].model, seen[1].temperature, seen[1].max_retries) == ("environment", 1.0, 5)
    assert (seen[1].published_prices, seen[1].timeout) == (True, None)
    assert seen[1].headers == {"X-Other": "c"}


@pytest.mark.usefixtures("seen")
def test_settings_prices_give_the_cost(command: Command, project: Path) -> None:
    """By the model's name, and before published ones."""
    settings_file(project, 'model = "gpt-5-mini"\n[prices.gpt-5-mini]\ninput = 1e6\noutput = 0')
    text = command(*RUN).err
    assert "\ncost: " in text
    assert "genai-prices" not in text


def test_settings_of_a_profile_are_chosen_by_its_name(
    command: Command, project: Path, seen: list[RunSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an option, the environment, or the file, in any place of the command line."""
    text = 'model = "top"\n[profiles.x]\nmodel = "x"\n[profiles.y]\nmodel = "y"\n'
    path = settings_file(project, text)
    other = settings_file(project, 'model = "other"\n[profiles.x]\nmodel = "z"', "other.toml")
    for arguments, model in (
        ((), "top"),
        (("--profile", "x"), "x"),
        (("--config", other), "other"),
        (("--config", other, "--profile", "x"), "z"),
        (("--profile", "x", "--config", other), "z"),
    ):
        assert command(*RUN, *arguments).code == 0
        assert seen.pop().model == model
    assert command(RUN[0], "--profile", "y", *RUN[1:]).code == 0
    assert seen.pop().model == "y"
    monkeypatch.setenv("BATCHRT_PROFILE", "x")
    assert command(*RUN).code == 0
    assert seen.pop().model == "x"
    monkeypatch.setenv("BATCHRT_CONFIG", str(other))
    assert command(*RUN).code == 0
    assert seen.pop().model == "z"
    path.unlink()
    monkeypatch.delenv("BATCHRT_CONFIG")
    assert "there is no profile 'x' (no settings file)" in command(*RUN).complaint


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("MAX_RETRIES", "abc", "(it is set by BATCHRT_MAX_RETRIES)"),
        ("MAX_TOKENS", "0", "(it is set by BATCHRT_MAX_TOKENS)"),
        ("TEMPERATURE", "hot", "(it is set by BATCHRT_TEMPERATURE)"),
        ("PUBLISHED_PRICES", "perhaps", "(it is set by BATCHRT_PUBLISHED_PRICES)"),
        ("MAX_CONCURRENCY", "many", "--max-concurrency must be a positive whole number or auto, not 'many'"),
        ("PATIENCE", "nan", "--patience must be a number of seconds"),
        ("PATIENCE", "-1", "not -1 (it is set by BATCHRT_PATIENCE)"),
        ("CONFIG", "none.toml", "none.toml: cannot be read"),
    ],
)
@pytest.mark.usefixtures("project", "seen")
def test_settings_nonsense_in_the_environment_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    """The message names the variable or the option."""
    monkeypatch.setenv(f"BATCHRT_{name}", value)
    result = command(*RUN)
    assert result.code == 2
    assert problem in result.complaint


@pytest.mark.usefixtures("project")
def test_settings_of_an_address_are_named_by_their_origin(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An option, a variable of ours, the variable of OpenAI's clients, or a file."""
    url = "must be a URL such as https://host/v1 or http://localhost:8000/v1"
    asked = (*RUN, "-m", "m", "-o", "out.jsonl")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    path = settings_file(tmp_path, 'base_url = "file"', "named.toml")
    named = command(*asked, "--config", path)
    assert named.complaint == f"--base-url {url} (it is set in {path})"
    monkeypatch.setenv("OPENAI_BASE_URL", "nonsense")
    assert command(*asked).complaint == f"OPENAI_BASE_URL {url}"
    assert command(*asked, "--base-url", "x").complaint == f"--base-url {url}"
    monkeypatch.setenv("BATCHRT_BASE_URL", "nonsense")
    told = f"--base-url {url} (it is set by BATCHRT_BASE_URL)"
    assert command(*asked).complaint == told


@pytest.mark.usefixtures("project")
def test_settings_of_a_key_are_named_by_their_origin(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The variable, and the file that names it; the key is not shown."""
    asked = (*RUN, "-m", "m", "-o", "out.jsonl")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\nx")
    told = "has a line break as its character 10; it must be the key alone, on one line"
    assert command(*asked).complaint == f"OPENAI_API_KEY {told}"
    monkeypatch.setenv("MY_KEY", "sk-secret\nx")
    path = settings_file(tmp_path, 'base_url = "http://127.0.0.1:9/v1"\nkey_env = "MY_KEY"', "named.toml")
    complaint = command(*asked, "--config", path).complaint
    assert complaint == f"MY_KEY, which key_env in {path} names, {told}"


@pytest.mark.usefixtures("seen")
def test_settings_errors_of_later_checks_name_the_file(command: Command, project: Path) -> None:
    """Unless an option overrides it."""
    path = settings_file(project, "requests_per_minute = -3")
    told = f"--requests-per-minute must be a number above 0, not -3 (it is set in {path})"
    assert command(*RUN).complaint == told
    assert command(*RUN, "--rpm", -4).complaint == "--requests-per-minute must be a number above 0, not -4"


@pytest.mark.usefixtures("project")
def test_settings_help_and_report_need_no_file(command: Command, project: Path) -> None:
    """A mistake in the file does not keep from the help."""
    settings_file(project, "modle = 'a'")
    assert command("run", "--help").code == 0
    assert command("--help").code == 0
    assert "modle is no setting" in command(*RUN).complaint


def test_settings_key_is_sent_to_its_address_alone(
    command: Command, project: Path, mock_server: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address of the command line or the environment gets the environment's key, not the file's."""
    secrets: list[set[str]] = []
    key = project / "key"
    key.write_text("sk-of-the-file\n")
    key.chmod(0o600)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    url = mock_server.url

    def used(*arguments: object) -> set[str]:
        assert command(*RUN, "-q", *arguments).code == 0
        return {secret for secret in secrets.pop() if " " not in secret}

    original = ChatOpenAI.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        secrets.append(set(self._client.secrets))

    monkeypatch.setattr(ChatOpenAI, "__init__", init)
    settings_file(project, f'base_url = "{url}/v1"\nkey_file = "key"')
    assert "if you trust it, run batchrt config --trust once" in command(*RUN).complaint
    assert command("config", "--trust").code == 0
    assert used() == {"sk-of-the-file"}
    monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
    assert used() == {"sk-of-the-environment"}
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setenv("BATCHRT_BASE_URL", f"{url}/v1")
    assert used() == {"sk-of-the-environment"}
    monkeypatch.delenv("BATCHRT_BASE_URL")
    assert used("--base-url", f"{url}/v1") == {"sk-of-the-environment"}
    key.chmod(0o644)
    assert "others can read it; chmod 600" in command(*RUN).complaint


def test_settings_of_vectors_are_those_of_their_table(command: Command, project: Path) -> None:
    """`embed` takes the model of its own table."""
    settings_file(project, 'model = "chat"\nmax_tokens = 5\n[embed]\nmodel = "mock"\ndimensions = 3')
    result = command("embed", "in.jsonl", "--column", "n", "-q")
    assert result.code == 0
    assert len(json.loads(result.out)["embedding"]) == 3
